//! The buffers of a transaction that the record of an alert has, as the record of the transaction has them.

use crate::buffer::Buffer;

/// Bytes of a buffer that a record has at most.
const LONGEST: usize = 1024;

/// Where a buffer is in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The buffer.
    pub buffer: Buffer,
    /// The object of the protocol.
    pub object: &'static str,
    /// The object within, if there is one.
    pub group: Option<&'static str>,
    /// The key.
    pub key: &'static str,
}

const fn field(buffer: Buffer, object: &'static str, key: &'static str) -> Field {
    Field { buffer, object, group: None, key }
}

const fn grouped(buffer: Buffer, object: &'static str, group: &'static str, key: &'static str) -> Field {
    Field { buffer, object, group: Some(group), key }
}

/// All fields, in the order of the records.
pub const FIELDS: &[Field] = &[
    field(Buffer::HttpHost, "http", "hostname"),
    field(Buffer::HttpUriRaw, "http", "url"),
    field(Buffer::HttpUserAgent, "http", "http_user_agent"),
    field(Buffer::HttpContentType, "http", "http_content_type"),
    field(Buffer::HttpReferer, "http", "http_refer"),
    field(Buffer::HttpMethod, "http", "http_method"),
    field(Buffer::HttpProtocol, "http", "protocol"),
    field(Buffer::HttpStatCode, "http", "status"),
    field(Buffer::HttpLocation, "http", "redirect"),
    field(Buffer::DnsQuery, "dns", "rrname"),
    field(Buffer::TlsCertSubject, "tls", "subject"),
    field(Buffer::TlsCertIssuer, "tls", "issuerdn"),
    field(Buffer::TlsCertSerial, "tls", "serial"),
    field(Buffer::TlsCertFingerprint, "tls", "fingerprint"),
    field(Buffer::TlsSni, "tls", "sni"),
    grouped(Buffer::Ja3Hash, "tls", "ja3", "hash"),
    grouped(Buffer::Ja3String, "tls", "ja3", "string"),
    grouped(Buffer::Ja3sHash, "tls", "ja3s", "hash"),
    grouped(Buffer::Ja3sString, "tls", "ja3s", "string"),
    field(Buffer::QuicSni, "quic", "sni"),
    field(Buffer::QuicVersion, "quic", "version"),
    field(Buffer::SshProto, "ssh", "proto_version"),
    field(Buffer::SshSoftware, "ssh", "software_version"),
];

/// Adds the buffers of records to those that rules inspect, where rules inspect transactions of the same protocol.
pub(crate) fn with_those_of_records(wanted: u128) -> u128 {
    let is_wanted = |field: &&Field| {
        FIELDS.iter().any(|other| other.object == field.object && wanted & 1 << other.buffer as u32 != 0)
    };
    FIELDS.iter().filter(is_wanted).fold(wanted, |wanted, field| wanted | 1 << field.buffer as u32)
}

/// Appends the buffers of a record to `out`: the index into [`FIELDS`], the length, and the bytes of each.
pub(crate) fn pack<'b>(out: &mut Vec<u8>, parts: impl Iterator<Item = (Buffer, &'b [u8])>) {
    for (buffer, bytes) in parts {
        let Some(index) = FIELDS.iter().position(|field| field.buffer == buffer) else { continue };
        let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
        out.push(index as u8);
        out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        out.extend_from_slice(bytes);
    }
}

/// Returns packed buffers.
pub fn unpack(mut packed: &[u8]) -> impl Iterator<Item = (&'static Field, &[u8])> {
    std::iter::from_fn(move || {
        let (&[index, high, low], rest) = packed.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        packed = rest;
        Some((FIELDS.get(usize::from(index))?, bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_records_come_out_as_they_went_in() {
        let mut packed = Vec::new();
        let long = vec![b'x'; LONGEST + 1];
        let parts: [(Buffer, &[u8]); 3] =
            [(Buffer::HttpHost, b"a.example"), (Buffer::HttpCookie, b"secret"), (Buffer::HttpUriRaw, &long)];
        pack(&mut packed, parts.into_iter());
        let found: Vec<_> = unpack(&packed).map(|(field, bytes)| (field.key, bytes.len())).collect();
        assert_eq!(found, [("hostname", 9), ("url", LONGEST)]);
        // Bytes that end early are no panic.
        for end in 0..packed.len() {
            assert!(unpack(&packed[..end]).count() <= 2);
        }
    }

    #[test]
    fn buffers_of_records_are_wanted_where_rules_inspect_the_protocol() {
        let wanted = with_those_of_records(1 << Buffer::HttpUserAgent as u32);
        assert!(wanted & 1 << Buffer::HttpHost as u32 != 0);
        assert!(wanted & 1 << Buffer::TlsSni as u32 == 0);
        assert_eq!(with_those_of_records(0), 0);
    }
}
