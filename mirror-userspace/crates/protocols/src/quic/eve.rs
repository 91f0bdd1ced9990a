//! The `quic` object of EVE records, as Suricata 7 writes it.

use std::cell::Cell;

use mirror_packet::Direction;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::google;
use super::version::Version;
use crate::text::{Bytes, Text};
use crate::tls::{
    Carrier, ClientHello, Extensions, Ja3, ServerHello, extension, ja4, kinds, meant, version_name,
};

/// The event of a hello; serializes as the `quic` object.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    version: Version,
    content: Content<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    /// Only the version is known.
    Version,
    Client(ClientHello<'a>),
    Server(ServerHello<'a>),
    /// The hello of a client in one of Google's versions.
    Google(&'a [u8]),
}

impl<'a> Event<'a> {
    /// Creates the event of a [hello](super::Hello).
    #[must_use]
    pub fn new(version: Version, direction: Direction, body: &'a [u8]) -> Self {
        let content = match direction {
            _ if version.is_google() => Some(Content::Google(body)),
            Direction::ToServer => ClientHello::parse(body).map(Content::Client),
            Direction::ToClient => ServerHello::parse(body).map(Content::Server),
        };
        Self { version, content: content.unwrap_or(Content::Version) }
    }

    /// Creates the event of a flow that ended without a hello.
    #[must_use]
    pub const fn of_version(version: Version) -> Self {
        Self { version, content: Content::Version }
    }

    /// Returns the server name that the client requested.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        match self.content {
            Content::Client(hello) => hello.extensions.server_name(),
            Content::Google(hello) => google::value(hello, *b"SNI\0"),
            Content::Server(_) | Content::Version => None,
        }
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", &Text(self.version))?;
        if let Some(name) = self.server_name() {
            map.serialize_entry("sni", &Bytes(name))?;
        }
        match &self.content {
            Content::Version => {}
            Content::Google(hello) => {
                if let Some(agent) = google::value(hello, *b"UAID") {
                    map.serialize_entry("ua", &Bytes(agent))?;
                }
            }
            Content::Client(hello) => {
                map.serialize_entry("ja3", &Ja3::client(hello))?;
                map.serialize_entry("ja4", &ja4(hello, Carrier::Quic))?;
                extensions(&mut map, &hello.extensions)?;
            }
            Content::Server(hello) => {
                map.serialize_entry("ja3s", &Ja3::server(hello))?;
                extensions(&mut map, &hello.extensions)?;
            }
        }
        map.end()
    }
}

fn extensions<M: SerializeMap>(map: &mut M, all: &Extensions<'_>) -> Result<(), M::Error> {
    if kinds(*all).next().is_none() { Ok(()) } else { map.serialize_entry("extensions", &List(all)) }
}

/// The extensions of a hello.
struct List<'a>(&'a Extensions<'a>);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A repeated extension has the values of the first, which are written only once. Each repetition takes
        // four bytes in the hello, and would otherwise repeat all values in the event.
        let mut valued = [false; VALUED.len()];
        let mut first = |kind: u16| {
            let place = VALUED.iter().position(|&valued| valued == kind);
            place.and_then(|place| valued.get_mut(place)).is_some_and(|seen| !std::mem::replace(seen, true))
        };
        let all = self.0;
        serializer.collect_seq(kinds(*all).map(|kind| Extension { kind, all, valued: first(kind) }))
    }
}

/// The extensions whose values are written.
const VALUED: [u16; 4] =
    [extension::SERVER_NAME, extension::ALPN, extension::SIGNATURE_ALGORITHMS, extension::SUPPORTED_VERSIONS];

/// An extension of a hello.
struct Extension<'a> {
    kind: u16,
    all: &'a Extensions<'a>,
    /// Its values are written.
    valued: bool,
}

impl Serialize for Extension<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = extension_name(self.kind) {
            map.serialize_entry("name", name)?;
        }
        map.serialize_entry("type", &self.kind)?;
        match self.kind {
            _ if !self.valued => {}
            extension::SERVER_NAME => values(&mut map, self.all.server_name().into_iter().map(Bytes))?,
            extension::ALPN => values(&mut map, self.all.application_protocols().map(Bytes))?,
            extension::SIGNATURE_ALGORITHMS => {
                values(&mut map, meant(self.all.signature_algorithms()).map(Decimal))?;
            }
            extension::SUPPORTED_VERSIONS => {
                // A server names one version, without a length in front.
                let chosen = self.all.find(self.kind).and_then(|data| data.try_into().ok());
                let versions = chosen.map(u16::from_be_bytes).into_iter();
                let versions = meant(versions.chain(self.all.supported_versions()));
                values(&mut map, versions.map(|version| Text(version_name(version))))?;
            }
            _ => {}
        }
        map.end()
    }
}

/// A number as a JSON string.
struct Decimal(u16);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(itoa::Buffer::new().format(self.0))
    }
}

fn values<M: SerializeMap>(map: &mut M, values: impl Iterator<Item: Serialize>) -> Result<(), M::Error> {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    map.serialize_entry("values", &Once(Cell::new(Some(values))))
}

/// Values that are serialized once, as they come.
struct Once<I>(Cell<Option<I>>);

impl<I: Iterator<Item: Serialize>> Serialize for Once<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.take().into_iter().flatten())
    }
}

/// Returns the name of an extension in IANA's registry.
const fn extension_name(kind: u16) -> Option<&'static str> {
    Some(match kind {
        0 => "server_name",
        1 => "max_fragment_length",
        2 => "client_certificate_url",
        3 => "trusted_ca_keys",
        4 => "truncated_hmac",
        5 => "status_request",
        6 => "user_mapping",
        7 => "client_authz",
        8 => "server_authz",
        9 => "cert_type",
        10 => "supported_groups",
        11 => "ec_point_formats",
        12 => "srp",
        13 => "signature_algorithms",
        14 => "use_srtp",
        15 => "heartbeat",
        16 => "alpn",
        17 => "status_request_v2",
        18 => "signed_certificate_timestamp",
        19 => "client_certificate_type",
        20 => "server_certificate_type",
        21 => "padding",
        22 => "encrypt_then_mac",
        23 => "extended_master_secret",
        24 => "token_binding",
        25 => "cached_info",
        26 => "tls_lts",
        27 => "compress_certificate",
        28 => "record_size_limit",
        29 => "pwd_protect",
        30 => "pwd_clear",
        31 => "password_salt",
        32 => "ticket_pinning",
        33 => "tls_cert_with_extern_psk",
        34 => "delegated_credentials",
        35 => "session_ticket",
        36 => "tlmsp",
        37 => "tlmsp_proxying",
        38 => "tlmsp_delegate",
        39 => "supported_ekt_ciphers",
        41 => "pre_shared_key",
        42 => "early_data",
        43 => "supported_versions",
        44 => "cookie",
        45 => "psk_key_exchange_modes",
        47 => "certificate_authorities",
        48 => "oid_filters",
        49 => "post_handshake_auth",
        50 => "signature_algorithms_cert",
        51 => "key_share",
        52 => "transparency_info",
        54 => "connection_id",
        55 => "external_id_hash",
        56 => "external_session_id",
        57 => "quic_transport_parameters",
        58 => "ticket_request",
        59 => "dnssec_chain",
        0xff01 => "renegotiation_info",
        _ => return None,
    })
}
