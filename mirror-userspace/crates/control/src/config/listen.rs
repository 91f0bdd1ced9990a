//! The addresses and the token of the API.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mirror_base::secret::{self, SecretError};

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// No address.
    Off,
    /// A socket address.
    At(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let wrong =
            || format!("`{text}` is neither an address with a port, such as 127.0.0.1:9470, nor `off`");
        text.parse().map(Self::At).map_err(|_| wrong())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The settings of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The address of the whole API.
    pub api: Address,
    /// An additional address that serves health checks only.
    pub health: Address,
    /// The token that clients must know.
    pub token: Option<Token>,
    /// The directory of the records, whose free space is reported.
    pub log_dir: PathBuf,
}

/// The reasons to refuse a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read, or others have access to it.
    #[error("the API's token")]
    File(#[from] SecretError),
    /// The token is too short, or not valid in a header.
    #[error(
        "the API's token in {} is {what}; write one line of {} or more letters and digits, such as `openssl \
         rand -hex 32` makes",
        path.display(),
        Token::SHORTEST
    )]
    Weak {
        /// The file.
        path: PathBuf,
        /// A description of the problem.
        what: &'static str,
    },
}

/// The token that clients must know. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Bytes of the shortest token.
    const SHORTEST: usize = 16;

    /// Reads a token from the only line of a file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        secret::read(path, |bytes| Self::parse(path, bytes))
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TokenError> {
        let weak = |what| TokenError::Weak { path: path.to_owned(), what };
        let token = str::from_utf8(bytes).map_err(|_| weak("not valid UTF-8"))?.trim();
        if token.len() < Self::SHORTEST {
            return Err(weak("too short"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(weak("more than one word"));
        }
        Ok(Self(token.to_owned()))
    }

    /// Returns the value of the header `Authorization`.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Returns true if `said` is the token. The comparison takes the same time for any value of the same
    /// length.
    #[must_use]
    pub fn is(&self, said: &str) -> bool {
        let differs = self.0.bytes().zip(said.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
        self.0.len() == said.len() && std::hint::black_box(differs) == 0
    }
}

/// The default address of the API.
pub const DEFAULT: Address =
    Address::At(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9470));

/// Returns the address if other hosts can reach it.
#[must_use]
pub fn reachable(address: Address) -> Option<SocketAddr> {
    match address {
        Address::At(address) if !address.ip().to_canonical().is_loopback() => Some(address),
        Address::At(_) | Address::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused() {
        assert_eq!("off".parse(), Ok(Address::Off));
        assert_eq!("[::1]:80".parse::<Address>().unwrap().to_string(), "[::1]:80");
        for wrong in ["", "on", "127.0.0.1", "localhost:80", ":80", "1.2.3.4:65536"] {
            assert!(wrong.parse::<Address>().unwrap_err().contains("off"), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_read_from_files_and_known_only_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let token = Token::read(&path).unwrap();
        assert!(token.is("0123456789abcdef"));
        for wrong in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!token.is(wrong), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for weak in ["", "short", "0123456789abcdef 0123456789abcdef"] {
            fs::write(&path, weak).unwrap();
            assert!(Token::read(&path).unwrap_err().to_string().contains("openssl"), "{weak}");
        }
    }
}
