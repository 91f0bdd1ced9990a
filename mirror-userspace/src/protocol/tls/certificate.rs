//! What records say of an X.509 certificate (RFC 5280).

use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A certificate in the form of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is about: distinguished name in the order of the certificate.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Serial number: pairs of upper-case hexadecimal digits, separated by colons.
    pub serial: String,
    /// SHA-1 of the certificate: pairs of lower-case hexadecimal digits, separated by colons.
    pub fingerprint: String,
    /// Beginning of its validity, UTC.
    pub not_before: String,
    /// End of its validity, UTC.
    pub not_after: String,
}

impl Certificate {
    /// Reads a certificate in DER; `None` where it is none.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: pairs(certificate.raw_serial(), true),
            fingerprint: pairs(&Sha1::digest(der), false),
            not_before: date(validity.not_before.to_datetime()),
            not_after: date(validity.not_after.to_datetime()),
        })
    }
}

fn pairs(bytes: &[u8], upper: bool) -> String {
    let mut text = String::with_capacity(3 * bytes.len());
    for byte in bytes {
        let colon = if text.is_empty() { "" } else { ":" };
        let _ = if upper { write!(text, "{colon}{byte:02X}") } else { write!(text, "{colon}{byte:02x}") };
    }
    text
}

fn date(time: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
