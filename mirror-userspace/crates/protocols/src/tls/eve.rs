//! The `tls` object of EVE records, as Suricata 7 writes it.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::certificate::Certificate;
use super::fingerprint::{Carrier, Ja3, ja4};
use super::handshake::Messages;
use super::hello::{ClientHello, ServerHello, Version, extension};
use super::names::cipher_suite;
use crate::text::{Bytes, Text};

/// The event of a handshake; serializes as the `tls` object.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    client: Option<ClientHello<'a>>,
    /// The rest of the client's hello is missing.
    is_client_cut: bool,
    server: Option<ServerHello<'a>>,
    /// The server's certificate.
    pub certificate: Option<Certificate>,
    /// The client's certificate.
    pub client_certificate: Option<Certificate>,
    /// The chosen version; before there is one, that of the server's records.
    pub version: Version,
}

impl<'a> Event<'a> {
    /// Parses the messages.
    #[must_use]
    pub fn new(messages: &Messages<'a>) -> Self {
        let server = messages.server_hello.and_then(ServerHello::parse);
        Self {
            client: messages.client(),
            is_client_cut: messages.client_hello_cut,
            server,
            certificate: messages.server_certificate.and_then(Certificate::parse),
            client_certificate: messages.client_certificate.and_then(Certificate::parse),
            version: server.as_ref().map_or(messages.server_record, ServerHello::chosen),
        }
    }

    /// Returns the server name that the client requested.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        self.client?.extensions.server_name()
    }

    /// Returns the chosen cipher suite.
    #[must_use]
    pub fn cipher(&self) -> Option<u16> {
        self.server.map(|hello| hello.cipher)
    }

    /// Returns true if an earlier session was resumed: the client asked for it, and the server needed no
    /// certificate. Always false for TLS 1.3, which hides the certificate.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        let (Some(client), Some(server)) = (&self.client, &self.server) else { return false };
        let by_ticket = client.extensions.find(extension::SESSION_TICKET).is_some_and(|it| !it.is_empty());
        (by_ticket || client.resumes(server)) && self.certificate.is_none() && !self.version.is_13()
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let certificate = self.certificate.as_ref();
        if let Some(certificate) = certificate {
            map.serialize_entry("subject", &certificate.subject)?;
            map.serialize_entry("issuerdn", &certificate.issuer)?;
        }
        if self.is_resumed() {
            map.serialize_entry("session_resumed", &true)?;
        }
        if let Some(certificate) = certificate {
            map.serialize_entry("serial", &certificate.serial)?;
            map.serialize_entry("fingerprint", &certificate.fingerprint)?;
        }
        if let Some(name) = self.server_name() {
            map.serialize_entry("sni", &Bytes(name))?;
        }
        map.serialize_entry("version", &Text(self.version))?;
        if let Some(certificate) = certificate {
            map.serialize_entry("notbefore", &certificate.not_before)?;
            map.serialize_entry("notafter", &certificate.not_after)?;
        }
        // The fingerprints cover all of a hello.
        let whole = self.client.as_ref().filter(|_| !self.is_client_cut);
        if let Some(client) = whole {
            map.serialize_entry("ja3", &Ja3::client(client))?;
        }
        if let Some(server) = &self.server {
            map.serialize_entry("ja3s", &Ja3::server(server))?;
        }
        if let Some(client) = whole {
            map.serialize_entry("ja4", &ja4(client, Carrier::Tcp))?;
        }
        if let Some(certificate) = &self.client_certificate {
            map.serialize_entry("client", &ClientObject(certificate))?;
        }
        if let Some(server) = &self.server {
            match cipher_suite(server.cipher) {
                Some(name) => map.serialize_entry("cipher", name)?,
                None => map.serialize_entry("cipher", &Text(format_args!("{:#06x}", server.cipher)))?,
            }
        }
        for (key, extensions) in [
            ("client_alpns", self.client.map(|hello| hello.extensions)),
            ("server_alpns", self.server.map(|hello| hello.extensions)),
        ] {
            let names: Vec<_> =
                extensions.into_iter().flat_map(|it| it.application_protocols().map(Bytes)).collect();
            if !names.is_empty() {
                map.serialize_entry(key, &names)?;
            }
        }
        map.end()
    }
}

/// The `client` object: the certificate of a client.
struct ClientObject<'a>(&'a Certificate);

impl Serialize for ClientObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Certificate { subject, issuer, serial, fingerprint, not_before, not_after } = self.0;
        let mut map = serializer.serialize_map(Some(6))?;
        map.serialize_entry("subject", subject)?;
        map.serialize_entry("issuerdn", issuer)?;
        map.serialize_entry("fingerprint", fingerprint)?;
        map.serialize_entry("serial", serial)?;
        map.serialize_entry("notbefore", not_before)?;
        map.serialize_entry("notafter", not_after)?;
        map.end()
    }
}
