//! The fields of an X.509 certificate (RFC 5280) that records contain.

use std::net::{Ipv4Addr, Ipv6Addr};

use mirror_packet::text::Text;
use sha1::{Digest as _, Sha1};
use time::OffsetDateTime;
use x509_parser::certificate::X509CertificateParser;
use x509_parser::extensions::GeneralName;
use x509_parser::nom::Parser as _;

/// A certificate in the form of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Subject: distinguished name in the order of the certificate.
    pub subject: String,
    /// Issuer, in the same form.
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
    /// Parses a certificate in DER. Returns `None` if it is not one.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        // Records contain nothing of its extensions.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (_, certificate) = parser.parse(der).ok()?;
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

/// Returns the alternative names of the subject of a certificate in DER (RFC 5280, section 4.2.1.6): host names, addresses
/// and URIs as text. Others are left out.
#[must_use]
pub fn alternative_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509CertificateParser::new().parse(der) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(alternative_name).collect()
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).to_string()),
            16 => bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn pairs(bytes: &[u8], upper: bool) -> String {
    let mut text = String::with_capacity(3 * bytes.len());
    for &byte in bytes {
        let mut pair = Text::<3>::new();
        if !text.is_empty() {
            pair.byte(b':');
        }
        pair.hex(byte);
        text.push_str(pair.as_str());
    }
    if upper {
        text.make_ascii_uppercase();
    }
    text
}

fn date(time: OffsetDateTime) -> String {
    let mut text = Text::<19>::new();
    text.digits(time.year().unsigned_abs(), 4);
    for (before, value) in [
        (b'-', u8::from(time.month())),
        (b'-', time.day()),
        (b'T', time.hour()),
        (b':', time.minute()),
        (b':', time.second()),
    ] {
        text.byte(before);
        text.digits(value.into(), 2);
    }
    text.as_str().to_owned()
}
