//! Checks that find out whether a start with a configuration would fail: missing or wrong files, addresses
//! that cannot both be listened on, settings that exclude each other.
//!
//! `mirror-xdp run` makes these checks before it starts, and `config check` makes them on any machine.
//! Interfaces, ports that other programs use and the like are therefore not checked.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use mirror_base::one_line;
use mirror_base::secret::SecretError;
use mirror_device::afxdp::ZeroCopy;
use mirror_engine::indicators::FileError;
use mirror_records::sink::{Destination, Modes, Rotation};
use mirror_rules::policy::UnknownVnis;
use mirror_signatures::sources::LoadError;
use mirror_store::{KeyError, StoreKey};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use url::Url;

use super::listen::{self, Address, Token, TokenError};
use super::{Checked, Config, Diagnostic, ModeChoice};

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// The start fails: the mistake, and the remedy.
    Diagnostic(String, String),
    /// The start may fail: this user lacks the permissions to find out.
    Warning(String, String),
}

impl Finding {
    fn mistake(what: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Diagnostic(what.into(), allowed.into())
    }

    fn warning(what: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Warning(what.into(), allowed.into())
    }

    /// Turns an error into a mistake. If its message gives the remedy, it does so after a semicolon.
    fn of(error: &(dyn std::error::Error + 'static), otherwise: &str) -> Self {
        let text = one_line(error);
        let (what, allowed) = text.split_once("; ").unwrap_or((&text, otherwise));
        Self::mistake(what, allowed)
    }
}

/// The keys that a finding is about, and the function that looks for it. The finding is reported at the first
/// key.
type Check = (&'static [&'static str], fn(&Config) -> Vec<Finding>);

const CHECKS: &[Check] = &[
    (&["capture.log_dir"], |config| one(directory(&config.capture.log_dir))),
    (&["admission.mode", "admission.vnis", "filter.sets"], |config| one(strict(config))),
    (&["receive.zero_copy", "receive.xdp_mode"], |config| one(zero_copy(config))),
    (&["store.key"], |config| one(config.store.key.as_deref().and_then(key))),
    (&["store.upload"], |config| one(upload(config))),
    (&["api.token_file"], |config| one(config.api.token_file.as_deref().and_then(token))),
    (&["api.listen", "api.token_file"], |config| one(open(config))),
    (&["api.health", "api.listen"], |config| one(both(config))),
    (&["eve.output", "capture.log_dir"], |config| one(output(config))),
    (&["alerts.file"], indicators),
    (&["signatures.files"], signatures),
    (&["signatures.tenants"], |config| {
        // Otherwise the line of the files reports what is wrong.
        if config.signatures.sources.files.is_empty() { signatures(config) } else { Vec::new() }
    }),
];

fn one(finding: Option<Finding>) -> Vec<Finding> {
    finding.into_iter().collect()
}

/// Makes all checks and adds their findings. Keys that the file does not have are skipped, and so are those
/// that have mistakes already.
pub(super) fn check(path: &Path, checked: &mut Checked, is_overridden: impl Fn(&str) -> bool) {
    let wrong: Vec<_> = checked.mistakes.iter().map(|mistake| mistake.key.clone()).collect();
    // A mistake may be in an element of a list.
    let is_wrong = |key: &str| wrong.iter().any(|wrong| wrong.starts_with(key));
    for (keys, find) in CHECKS {
        if keys.iter().any(|key| is_overridden(key) || is_wrong(key)) {
            continue;
        }
        let key = keys[0];
        let Some(&line) = checked.lines.get(key) else { continue };
        for finding in find(&checked.config) {
            let (list, what, allowed) = match finding {
                Finding::Diagnostic(what, allowed) => (&mut checked.mistakes, what, allowed),
                Finding::Warning(what, advice) => (&mut checked.warnings, what, advice),
            };
            list.push(Diagnostic::new(path, line, key, &what, &allowed));
        }
    }
}

/// Reports a configuration that would admit no frame at all.
fn strict(config: &Config) -> Option<Finding> {
    let policy = &config.policy;
    let none = policy.vnis.is_empty() && policy.bindings.is_empty();
    (policy.unknown_vnis == UnknownVnis::Drop && none).then(|| {
        Finding::mistake(
            "\"strict\" without any VNI: no frame would be admitted",
            "name some in admission.vnis or filter.sets, or write \"learn\"",
        )
    })
}

/// Reports zero-copy reception in generic mode, which cannot do it.
fn zero_copy(config: &Config) -> Option<Finding> {
    let receive = &config.receive;
    (receive.xdp_mode == ModeChoice::Generic && receive.zero_copy == ZeroCopy::Required).then(|| {
        Finding::mistake(
            "\"required\" with xdp_mode = \"generic\", which always copies",
            "write \"auto\", or another xdp_mode",
        )
    })
}

fn key(path: &Path) -> Option<Finding> {
    let error = StoreKey::load(path).err()?;
    Some(match &error {
        KeyError::File(file) => secret(file),
        KeyError::NoKey(_) => Finding::of(&error, ""),
    })
}

/// Reports that the directory to which segments are copied cannot be made.
fn upload(config: &Config) -> Option<Finding> {
    let url = Url::parse(&config.store.settings.upload.as_ref()?.to_string()).ok()?;
    if url.scheme() == "file" { directory(&url.to_file_path().ok()?) } else { None }
}

fn token(path: &Path) -> Option<Finding> {
    let error = Token::read(path).err()?;
    Some(match &error {
        TokenError::File(file) => secret(file),
        TokenError::Weak { .. } => Finding::of(&error, ""),
    })
}

/// Reports an unusable file of a secret. The file may be fine for another user, so a permission error is a
/// warning only.
fn secret(error: &SecretError) -> Finding {
    match error {
        SecretError::Unreadable { path, source } if source.kind() == ErrorKind::PermissionDenied => {
            let what = format!("this user cannot read {}", path.display());
            Finding::warning(what, "run the check as the user who captures")
        }
        SecretError::Foreign { path, owner } => {
            let what = format!("{} belongs to user {owner}", path.display());
            Finding::warning(what, "only that user can use it; change its owner to root")
        }
        other => Finding::of(other, "make it, or leave the key out"),
    }
}

/// Reports that other hosts could reach the API without a token.
fn open(config: &Config) -> Option<Finding> {
    let address = listen::reachable(config.api.listen).filter(|_| config.api.token_file.is_none())?;
    Some(Finding::mistake(
        format!("other hosts can reach the API on {address}, and there is no token"),
        "write token_file = \"/etc/mirror-xdp/token\", or an address of this host alone, such as 127.0.0.1",
    ))
}

/// Reports that one address would be listened on twice.
fn both(config: &Config) -> Option<Finding> {
    let (Address::At(health), Address::At(listen)) = (config.api.health, config.api.listen) else {
        return None;
    };
    let overlap = |a: SocketAddr, b: SocketAddr| {
        let any = |address: SocketAddr| address.ip().is_unspecified();
        // A socket that listens on all IPv6 addresses also listens on all IPv4 addresses.
        let one_family = a.is_ipv4() == b.is_ipv4();
        let all = |a: SocketAddr, b: SocketAddr| any(a) && (one_family || a.is_ipv6() && b.is_ipv4());
        a.port() == b.port() && (a.ip() == b.ip() || all(a, b) || all(b, a))
    };
    (health.port() != 0 && overlap(health, listen)).then(|| {
        Finding::mistake(
            format!("{health} is taken by the API, which listens on {listen}"),
            "write another port; health checks are answered by the API, too",
        )
    })
}

/// Reports that the file of records cannot be made.
fn output(config: &Config) -> Option<Finding> {
    let log_dir = &config.capture.log_dir;
    let output = &config.eve.output;
    let Destination::File { path, .. } =
        Destination::named(output, log_dir, Rotation::default(), Modes::default())
    else {
        return None;
    };
    if path.is_dir() {
        let what = format!("{} is a directory", path.display());
        return Some(Finding::mistake(what, "name a file in it"));
    }
    // The check of the log directory reports what is wrong with that directory.
    path.parent().filter(|parent| !log_dir.starts_with(parent)).and_then(directory)
}

/// Reports that a directory cannot be made or written to. If it is missing, its nearest existing parent
/// decides.
fn directory(path: &Path) -> Option<Finding> {
    const ALLOWED: &str = "name a directory that can be made and written to";
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        let shown = ancestor.display();
        match fs::metadata(ancestor) {
            Ok(metadata) if metadata.is_dir() => return writable(ancestor),
            Ok(_) => return Some(Finding::mistake(format!("{shown} is not a directory"), ALLOWED)),
            Err(error) => match error.kind() {
                // A symbolic link may dangle.
                ErrorKind::NotFound if fs::symlink_metadata(ancestor).is_ok() => {
                    return Some(Finding::mistake(format!("{shown} is a link to nothing"), ALLOWED));
                }
                ErrorKind::NotFound | ErrorKind::NotADirectory => {}
                ErrorKind::PermissionDenied => return Some(unknown(ancestor)),
                _ => return Some(Finding::mistake(format!("{shown}: {error}"), ALLOWED)),
            },
        }
    }
    None
}

fn writable(directory: &Path) -> Option<Finding> {
    match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => None,
        Err(Errno::EACCES) => Some(unknown(directory)),
        Err(error) => {
            let what = format!("{} cannot be written to: {}", directory.display(), error.desc());
            Some(Finding::mistake(what, "name a directory that can be made and written to"))
        }
    }
}

fn unknown(directory: &Path) -> Finding {
    let what = format!("this user cannot write to {}", directory.display());
    Finding::warning(what, "the user who captures has to")
}

/// Reports the mistakes in the file of indicators, line by line.
fn indicators(config: &Config) -> Vec<Finding> {
    let Err(error) = config.alerts.load() else { return Vec::new() };
    match error {
        FileError::Unreadable { path, source } if source.kind() == ErrorKind::PermissionDenied => {
            let what = format!("this user cannot read {}", path.display());
            vec![Finding::warning(what, "the user who captures has to")]
        }
        FileError::Lines { path, wrong } => {
            let at = |line| format!("{}:{line}", path.display());
            wrong
                .into_iter()
                .map(|(line, wrong)| Finding::mistake(format!("{}: {}", at(line), wrong.what), wrong.allowed))
                .collect()
        }
        error @ FileError::Unreadable { .. } => {
            vec![Finding::of(&error, "make it, or leave the key out")]
        }
    }
}

/// Reports rule files that cannot be loaded, and what is refused in them, which keeps no capture from starting.
fn signatures(config: &Config) -> Vec<Finding> {
    let sources = &config.signatures.sources;
    if sources.is_empty() {
        return Vec::new();
    }
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(LoadError::Read { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
            let what = format!("this user cannot read {}", path.display());
            return vec![Finding::warning(what, "the user who captures has to")];
        }
        Err(error) => return vec![Finding::of(&error, "make it, or leave the name out")],
    };
    let report = &loaded.rules.report;
    let mut findings: Vec<_> = (loaded.refused.iter())
        .map(|(path, refusal)| {
            Finding::warning(format!("{}:{refusal}", path.display()), "the line has no effect")
        })
        .collect();
    if report.refused_count > 0 {
        let what = format!("{} of {} rules are refused", report.refused_count, report.total);
        findings.push(Finding::warning(what, "`mirror-xdp rules check` names them"));
    }
    for tenant in &sources.tenants {
        let of_tenant = report.without.iter().filter(|one| one.tenant == tenant.name);
        let count = of_tenant.clone().count();
        if let Some(first) = of_tenant.map(|one| &one.refusal).next() {
            let what = format!("{count} rules are not in force for tenant \"{}\": {first}", tenant.name);
            findings.push(Finding::warning(what, "change its variables if they are to be"));
        }
    }
    findings
}
