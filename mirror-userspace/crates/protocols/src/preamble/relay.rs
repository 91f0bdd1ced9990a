//! The values of preambles that the records of a connection have: the objects `proxy` and `socks`.

use std::net::IpAddr;

use mirror_packet::text::ip_address;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Proxy, Request, Target};
use crate::pack;
use crate::reader::Reader;
use crate::text::Bytes;

/// The value of a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed<'a> {
    /// A load balancer has named the client.
    Proxy(Proxy<'a>),
    /// The client has asked a proxy for a destination.
    Socks(Request<'a>),
}

/// The longest packed value.
pub(super) const MAX_PACKED: usize = 300;

const PROXY: u8 = 1;
const SOCKS: u8 = 2;

const NONE: u8 = 0;
const IPV4: u8 = 4;
const IPV6: u8 = 6;
const NAME: u8 = 3;

impl<'a> Relayed<'a> {
    /// Appends the packed value to those of the same connection. Nothing is allocated if there is room for 300
    /// bytes.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let mut value = Buffer { bytes: [0; MAX_PACKED], len: 0 };
        let tag = match self {
            Self::Proxy(proxy) => {
                value.put(&[proxy.version]);
                match proxy.endpoints {
                    Some([(source, from), (destination, to)]) => {
                        value.address(source);
                        value.address(destination);
                        value.put(&from.to_be_bytes());
                        value.put(&to.to_be_bytes());
                    }
                    None => value.put(&[NONE]),
                }
                value.put(proxy.vpc_endpoint.unwrap_or_default());
                PROXY
            }
            Self::Socks(request) => {
                value.put(&[request.version]);
                value.put(&request.port.to_be_bytes());
                match request.target {
                    Target::Name(name) => {
                        value.put(&[NAME]);
                        value.put(name);
                    }
                    Target::Address(address) => value.address(address),
                }
                SOCKS
            }
        };
        pack::put(out, tag, value.bytes.get(..value.len).unwrap_or_default());
    }

    fn unpack(tag: u8, value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let version = reader.u8()?;
        match tag {
            PROXY => {
                let endpoints = match address_of(&mut reader) {
                    Some(source) => {
                        let destination = address_of(&mut reader)?;
                        Some([(source, reader.u16()?), (destination, reader.u16()?)])
                    }
                    None => None,
                };
                let vpc_endpoint = Some(reader.rest()).filter(|it| !it.is_empty());
                Some(Self::Proxy(Proxy { version, endpoints, vpc_endpoint }))
            }
            SOCKS => {
                let port = reader.u16()?;
                let target = match reader.rest() {
                    [NAME, name @ ..] => Target::Name(name),
                    _ => Target::Address(address_of(&mut reader)?),
                };
                Some(Self::Socks(Request { version, target, port }))
            }
            _ => None,
        }
    }
}

/// A buffer of fixed size. What does not fit is left out.
struct Buffer {
    bytes: [u8; MAX_PACKED],
    len: usize,
}

impl Buffer {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.put(&[IPV4]);
                self.put(&address.octets());
            }
            IpAddr::V6(address) => {
                self.put(&[IPV6]);
                self.put(&address.octets());
            }
        }
    }
}

fn address_of(reader: &mut Reader<'_>) -> Option<IpAddr> {
    match reader.u8()? {
        IPV4 => reader.array::<4>().map(IpAddr::from),
        IPV6 => reader.array::<16>().map(IpAddr::from),
        _ => None,
    }
}

/// Calls `write` with the name and the object of each field that packed values are. Of several PROXY headers, the
/// first counts: a client may send more of them. Of several SOCKS requests, the last is the destination.
///
/// # Errors
///
/// Returns the error of `write`.
pub fn write_relayed<E>(
    packed: &[u8],
    mut write: impl FnMut(&'static str, &Object<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut proxy, mut socks) = (None, None);
    for value in pack::values(packed).filter_map(|(tag, value)| Relayed::unpack(tag, value)) {
        match value {
            Relayed::Proxy(_) => proxy = proxy.or(Some(value)),
            Relayed::Socks(_) => socks = Some(value),
        }
    }
    for (name, value) in [("proxy", proxy), ("socks", socks)] {
        if let Some(value) = value {
            write(name, &Object(value))?;
        }
    }
    Ok(())
}

/// The object of a value in records.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a>(Relayed<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0 {
            Relayed::Proxy(Proxy { version, endpoints, vpc_endpoint }) => {
                map.serialize_entry("version", &version)?;
                if let Some([(source, from), (destination, to)]) = endpoints {
                    entry(&mut map, "src_ip", source)?;
                    map.serialize_entry("src_port", &from)?;
                    entry(&mut map, "dest_ip", destination)?;
                    map.serialize_entry("dest_port", &to)?;
                }
                if let Some(identifier) = vpc_endpoint {
                    map.serialize_entry("vpce_id", &Bytes(identifier))?;
                }
            }
            Relayed::Socks(Request { version, target, port }) => {
                map.serialize_entry("version", &version)?;
                match target {
                    Target::Name(name) => map.serialize_entry("dest_name", &Bytes(name))?,
                    Target::Address(address) => entry(&mut map, "dest_ip", address)?,
                }
                map.serialize_entry("dest_port", &port)?;
            }
        }
        map.end()
    }
}

/// Writes an address as other fields of records have it.
fn entry<M: SerializeMap>(map: &mut M, name: &'static str, value: IpAddr) -> Result<(), M::Error> {
    map.serialize_entry(name, ip_address(value).as_str())
}
