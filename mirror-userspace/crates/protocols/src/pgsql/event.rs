//! The object `pgsql` of a request, as Suricata 7 writes it. Passwords and what proves them are left out.

use std::fmt;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::Messages;
use super::details::{
    COMPLETED, DATA, ERROR, EXTENDED, KIND, MESSAGE, PARAMETER, PARAMETERS, PASSWORD, PROCESS, QUERY, SASL,
    SASL_MECHANISM, STARTUP, TERMINATE, TLS, TLS_ACCEPTED, field,
};
use crate::eve::EveWriter;
use crate::pack;
use crate::service::ServiceEvent;
use crate::text::Bytes;

/// Writes the event of a request.
pub(super) fn write(
    event: &ServiceEvent<'_, Messages>,
    writer: &mut impl EveWriter,
) -> serde_json::Result<()> {
    let literals = writer.literals();
    let service = event.object(literals);
    let Some([kind, number @ ..]) = pack::get(event.details, KIND).and_then(<[u8]>::first_chunk::<5>) else {
        return writer.service(None::<&()>, Some(&service));
    };
    let details = event.details;
    let statement = service.statement();
    let object = Object {
        tx_id: u32::from_ne_bytes(*number),
        request: Request { kind: *kind, details, statement },
        response: Some(Response { details }).filter(Response::is_some),
    };
    // Steps of a login, and the end of a connection, are no requests of the service.
    writer.service(Some(&object), Some(&service).filter(|_| !event.operation.is_empty()))
}

#[derive(Serialize)]
struct Object<'a> {
    tx_id: u32,
    request: Request<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Response<'a>>,
}

struct Request<'a> {
    kind: u8,
    details: &'a [u8],
    statement: Option<&'a str>,
}

impl Serialize for Request<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.kind {
            TLS => map.serialize_entry("message", "SSL Request")?,
            STARTUP => {
                map.serialize_entry("protocol_version", "3.0")?;
                let parameters = pack::get(self.details, PARAMETERS).unwrap_or_default();
                map.serialize_entry("startup_parameters", &Startup(parameters))?;
            }
            PASSWORD => map.serialize_entry("password", "?")?,
            SASL => {
                let mechanism = match pack::get(self.details, SASL_MECHANISM) {
                    Some(b"SCRAM-SHA-256") => "scram_SHA256",
                    Some(b"SCRAM-SHA-256-PLUS") => "scram_SHA256_plus",
                    _ => "unknown",
                };
                map.serialize_entry("sasl_authentication_mechanism", mechanism)?;
            }
            QUERY => map.serialize_entry("simple_query", self.statement.unwrap_or_default())?,
            EXTENDED => map.serialize_entry("extended_query", self.statement.unwrap_or_default())?,
            TERMINATE => map.serialize_entry("message", "termination_message")?,
            _ => {}
        }
        map.end()
    }
}

/// Names and values, each with a zero at its end.
struct Startup<'a>(&'a [u8]);

impl Startup<'_> {
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut texts = self.0.split(|&byte| byte == 0);
        std::iter::from_fn(move || Some((texts.next().filter(|name| !name.is_empty())?, texts.next()?)))
    }
}

impl Serialize for Startup<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some((_, user)) = self.pairs().find(|&(name, _)| name == b"user") {
            map.serialize_entry("user", &Bytes(user))?;
        }
        let others: Vec<_> = self
            .pairs()
            .filter(|&(name, _)| name != b"user")
            .map(|(name, value)| Pair(name, value))
            .collect();
        if !others.is_empty() {
            map.serialize_entry("optional_parameters", &others)?;
        }
        map.end()
    }
}

/// An object with one member. Its name is in lower case, with underscores between words.
struct Pair<'a>(&'a [u8], &'a [u8]);

impl Serialize for Pair<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name: String = match self.0 {
            b"DateStyle" => "date_style".into(),
            b"TimeZone" => "time_zone".into(),
            b"IntervalStyle" => "interval_style".into(),
            name => String::from_utf8_lossy(name).to_lowercase(),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&name, &Bytes(self.1))?;
        map.end()
    }
}

struct Response<'a> {
    details: &'a [u8],
}

impl Response<'_> {
    fn is_some(&self) -> bool {
        pack::values(self.details).any(|(tag, _)| !matches!(tag, KIND | PARAMETERS | SASL_MECHANISM))
    }
}

impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let get = |tag| pack::get(self.details, tag);
        if let Some([accepted]) = get(TLS_ACCEPTED) {
            map.serialize_entry("ssl_accepted", &(*accepted != 0))?;
        }
        for message in
            pack::values(self.details).filter(|&(tag, _)| tag == MESSAGE).map(|(_, message)| message)
        {
            match message {
                [0, 0, 0, 5, salt @ ..] => {
                    map.serialize_entry("authentication_md5_password", &Escaped(salt))?;
                }
                [0, 0, 0, kind, ..] => map.serialize_entry("message", authentication(*kind))?,
                _ => {}
            }
        }
        let parameters: Vec<_> = pack::values(self.details)
            .filter(|&(tag, _)| tag == PARAMETER)
            .filter_map(|(_, text)| {
                let mut texts = text.split(|&byte| byte == 0);
                Some(Pair(texts.next()?, texts.next()?))
            })
            .collect();
        if !parameters.is_empty() {
            map.serialize_entry("parameter_status", &parameters)?;
        }
        if let Some(process) = get(PROCESS).and_then(<[u8]>::first_chunk) {
            map.serialize_entry("process_id", &u32::from_be_bytes(*process))?;
        }
        if let Some(data) = get(DATA).and_then(<[u8]>::first_chunk::<18>) {
            let [columns @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = data;
            let [rows, size] = [2, 10].map(|at| {
                data.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |number| u64::from_ne_bytes(*number))
            });
            map.serialize_entry("field_count", &u16::from_ne_bytes(*columns))?;
            map.serialize_entry("data_rows", &rows)?;
            map.serialize_entry("data_size", &size)?;
        }
        if let Some(completed) = get(COMPLETED) {
            map.serialize_entry("command_completed", &Bytes(completed))?;
        }
        if let Some(error) = get(ERROR) {
            for (kind, name) in [
                (b'S', "severity_localizable"),
                (b'V', "severity_non_localizable"),
                (b'C', "code"),
                (b'M', "message"),
                (b'F', "file"),
                (b'L', "line"),
                (b'R', "routine"),
            ] {
                let text = field(error, kind);
                if !text.is_empty() {
                    map.serialize_entry(name, &Bytes(text))?;
                }
            }
        }
        map.end()
    }
}

/// Bytes as `\xNN` each.
struct Escaped<'a>(&'a [u8]);

impl Serialize for Escaped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
    }
}

/// Returns the name of a message of authentication.
const fn authentication(kind: u8) -> &'static str {
    match kind {
        0 => "authentication_ok",
        2 => "authentication_kerberos_v5",
        3 => "authentication_cleartext_password",
        6 => "authentication_scm_credential",
        7 => "authentication_gss",
        8 => "authentication_gss_continue",
        9 => "authentication_sspi",
        10 => "authentication_sasl",
        11 => "authentication_sasl_continue",
        12 => "authentication_sasl_final",
        _ => "authentication_unknown",
    }
}
