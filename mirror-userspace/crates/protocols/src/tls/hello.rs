//! The first message of each side (RFC 8446, section 4.1) and the extensions that it carries.

use crate::reader::{Reader, u16s};

/// Types of extensions that are parsed.
pub(crate) mod extension {
    pub(crate) const SERVER_NAME: u16 = 0;
    pub(crate) const SUPPORTED_GROUPS: u16 = 10;
    pub(crate) const EC_POINT_FORMATS: u16 = 11;
    pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(crate) const ALPN: u16 = 16;
    pub(crate) const SESSION_TICKET: u16 = 35;
    pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
}

/// Length of the random value of a hello, in bytes.
const RANDOM: usize = 32;

/// A client hello, without the header of the handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The `legacy_version` field.
    pub version: u16,
    /// The random value, 32 bytes.
    pub random: &'a [u8],
    /// Session to resume; empty if there is none.
    pub session_id: &'a [u8],
    ciphers: &'a [u8],
    /// Extensions in their order.
    pub extensions: Extensions<'a>,
}

impl<'a> ClientHello<'a> {
    /// Parses the body of a message. Returns `None` if it is malformed.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (hello, reader) = Self::without_extensions(body)?;
        Some(Self { extensions: Extensions::parse(reader)?, ..hello })
    }

    /// Parses the beginning of a body whose rest is missing. The extensions are those in front of the cut.
    #[must_use]
    pub fn parse_cut(body: &'a [u8]) -> Option<Self> {
        let (hello, mut reader) = Self::without_extensions(body)?;
        reader.u16()?;
        Some(Self { extensions: Extensions { reader }, ..hello })
    }

    fn without_extensions(body: &'a [u8]) -> Option<(Self, Reader<'a>)> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        let random = reader.bytes(RANDOM)?;
        let session_id = reader.vector8()?;
        let ciphers = reader.vector16()?;
        reader.vector8()?;
        Some((Self { version, random, session_id, ciphers, extensions: Extensions::default() }, reader))
    }

    /// Returns true if the server resumes the session that the client has named. Servers of TLS 1.3 only echo
    /// the identifier.
    #[must_use]
    pub fn resumes(&self, server: &ServerHello<'_>) -> bool {
        !self.session_id.is_empty() && self.session_id == server.session_id && !server.chosen().is_13()
    }

    /// Returns the cipher suites that the client offers, in its order of preference.
    pub fn ciphers(&self) -> impl Iterator<Item = u16> + 'a {
        u16s(self.ciphers)
    }
}

/// A server hello, without the header of the handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    /// The `version` field; from TLS 1.3 on it is not the chosen one, see [`ServerHello::chosen`].
    pub version: u16,
    /// The random value, 32 bytes.
    pub random: &'a [u8],
    /// Session that is or can be resumed; empty if there is none.
    pub session_id: &'a [u8],
    /// The chosen cipher suite.
    pub cipher: u16,
    /// Extensions in their order.
    pub extensions: Extensions<'a>,
}

impl<'a> ServerHello<'a> {
    /// Parses the body of a message. Returns `None` if it is malformed. The drafts of TLS 1.3 before the 22nd
    /// have neither session nor compression.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        let random = reader.bytes(RANDOM)?;
        let early_draft = matches!(version, 0x0304 | 0x7f00..=0x7f15);
        let session_id = if early_draft { &[] } else { reader.vector8()? };
        let cipher = reader.u16()?;
        if !early_draft {
            reader.u8()?;
        }
        let extensions = Extensions::parse(reader)?;
        Some(Self { version, random, session_id, cipher, extensions })
    }

    /// Returns the chosen version.
    #[must_use]
    pub fn chosen(&self) -> Version {
        let named = self.extensions.find(extension::SUPPORTED_VERSIONS).and_then(|data| u16s(data).next());
        match (named, self.version) {
            // The final version is never in this field.
            (None, Version::TLS_13) => Version::EARLIEST_DRAFTS,
            (Some(version), _) | (None, version) => Version(version),
        }
    }
}

/// The extensions of a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    reader: Reader<'a>,
}

impl<'a> Extensions<'a> {
    /// Parses the extensions, which a hello may lack.
    fn parse(mut reader: Reader<'a>) -> Option<Self> {
        if reader.rest().is_empty() {
            return Some(Self::default());
        }
        reader.vector16().map(|block| Self { reader: Reader::new(block) })
    }

    /// Returns the content of the first extension of that type.
    #[must_use]
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|extension| extension.0 == kind).map(|extension| extension.1)
    }

    /// Returns the server name that the client requests (RFC 6066, section 3).
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        const HOST_NAME: u8 = 0;
        let mut names = Reader::new(Reader::new(self.find(extension::SERVER_NAME)?).vector16()?);
        loop {
            let kind = names.u8()?;
            let name = names.vector16()?;
            if kind == HOST_NAME && !name.is_empty() {
                return Some(name);
            }
        }
    }

    /// Returns the application protocols: those offered, or the one chosen (RFC 7301).
    pub fn application_protocols(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let block = self.find(extension::ALPN).and_then(|data| Reader::new(data).vector16());
        let mut names = Reader::new(block.unwrap_or_default());
        std::iter::from_fn(move || names.vector8())
    }

    /// Returns the versions that the client offers (RFC 8446, section 4.2.1).
    pub fn supported_versions(&self) -> impl Iterator<Item = u16> + use<'a> {
        let block = self.find(extension::SUPPORTED_VERSIONS).and_then(|data| Reader::new(data).vector8());
        u16s(block.unwrap_or_default())
    }

    /// Returns the groups for the key exchange (RFC 8446, section 4.2.7).
    pub fn groups(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.u16_list(extension::SUPPORTED_GROUPS)
    }

    /// Returns the signature algorithms (RFC 8446, section 4.2.3).
    pub fn signature_algorithms(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.u16_list(extension::SIGNATURE_ALGORITHMS)
    }

    /// Returns the formats of points on elliptic curves (RFC 8422, section 5.1.2).
    #[must_use]
    pub fn point_formats(&self) -> &'a [u8] {
        self.find(extension::EC_POINT_FORMATS)
            .and_then(|data| Reader::new(data).vector8())
            .unwrap_or_default()
    }

    fn u16_list(&self, kind: u16) -> impl Iterator<Item = u16> + use<'a> {
        u16s(self.find(kind).and_then(|data| Reader::new(data).vector16()).unwrap_or_default())
    }
}

/// Types and contents of the complete extensions.
impl<'a> IntoIterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);
    type IntoIter = ExtensionIter<'a>;

    fn into_iter(self) -> ExtensionIter<'a> {
        ExtensionIter(self.reader)
    }
}

/// Iterates over [`Extensions`].
#[derive(Clone, Debug)]
pub struct ExtensionIter<'a>(Reader<'a>);

impl<'a> Iterator for ExtensionIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.0.u16()?, self.0.vector16()?))
    }
}

/// A version of TLS or SSL. Displays as Suricata names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u16);

impl Version {
    const TLS_13: u16 = 0x0304;
    /// Stands for TLS 1.3 before its 16th draft, which used the number of the final version.
    const EARLIEST_DRAFTS: Self = Self(0x7f00);
    /// No server has chosen a version.
    pub const UNDETERMINED: Self = Self(0);
    /// SSL 2.0, whose records have another form.
    pub const SSL_2: Self = Self(0x0002);

    /// Returns true for versions that have been in use, including the drafts of TLS 1.3 from the 16th on.
    #[must_use]
    pub const fn is_known(self) -> bool {
        matches!(self.0, 0x0300..=Self::TLS_13 | 0x7f10..=0x7f1c | 0xfb17 | 0xfb1a)
    }

    /// Returns true if everything behind the server hello is encrypted: TLS 1.3, its drafts and the
    /// experiments before it.
    #[must_use]
    pub const fn is_13(self) -> bool {
        matches!(self.0, Self::TLS_13 | 0x7e00..=0x7fff | 0xfb00..=0xfbff)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            0 => "UNDETERMINED",
            0x0002 => "SSLv2",
            0x0300 => "SSLv3",
            0x0301 => "TLSv1",
            0x0302 => "TLS 1.1",
            0x0303 => "TLS 1.2",
            Self::TLS_13 => "TLS 1.3",
            0x7f00..=0x7f0f => "TLS 1.3 draft-<16",
            draft @ 0x7f10..=0x7f1c => return write!(f, "TLS 1.3 draft-{}", draft & 0xff),
            // Facebook's.
            draft @ (0xfb17 | 0xfb1a) => return write!(f, "TLS 1.3 draft-{}-fb", draft & 0xff),
            other => return write!(f, "{other:#06x}"),
        };
        f.write_str(name)
    }
}
