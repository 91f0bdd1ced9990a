//! Requests to generic netlink families without a library of their own: a command and its attributes. The
//! sibling modules know their meaning.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;

use ethtool::EthtoolHandle;
use futures_util::StreamExt as _;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, Nla as _, NlaBuffer, NlasIterator, Parseable as _, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

/// A generic netlink family.
pub(super) trait Family: Clone + Debug + Send + 'static {
    /// The name by which the kernel finds it.
    const NAME: &'static str;
}

/// A message of a family, with its attributes unparsed.
#[derive(Clone, Debug)]
pub(super) struct Message<F> {
    command: u8,
    attributes: Vec<DefaultNla>,
    family: PhantomData<F>,
}

impl<F: Family> Message<F> {
    pub(super) const fn new(command: u8, attributes: Vec<DefaultNla>) -> Self {
        Self { command, attributes, family: PhantomData }
    }

    /// Returns the value of the attribute of this kind.
    pub(super) fn get(&self, kind: u16) -> Option<Vec<u8>> {
        let attribute = self.attributes.iter().find(|attribute| attribute.kind() & !NLA_F_NESTED == kind)?;
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        Some(value)
    }

    /// Returns the value of a 64-bit attribute.
    pub(super) fn get_u64(&self, kind: u16) -> Option<u64> {
        Some(u64::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// Returns the value of a 32-bit attribute.
    pub(super) fn get_u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }
}

impl<F: Family> GenlFamily for Message<F> {
    fn family_name() -> &'static str {
        F::NAME
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl<F> Emitable for Message<F> {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl<F: Family> ParseableParametrized<[u8], GenlHeader> for Message<F> {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attribute = |nla: Result<NlaBuffer<&[u8]>, DecodeError>| DefaultNla::parse(&nla?);
        let attributes = NlasIterator::new(buffer).map(attribute).collect::<Result<_, _>>()?;
        Ok(Self::new(header.cmd, attributes))
    }
}

/// Makes an attribute with a value of any kind.
pub(super) fn attribute(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

/// Makes an attribute that contains others.
pub(super) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// Sends a request and returns the first message of its answer, if there is one.
///
/// A connection to generic netlink serves every family, so this uses the one for ethtool, which exists in any
/// case.
pub(super) async fn request<F: Family>(
    connection: &EthtoolHandle,
    message: Message<F>,
) -> io::Result<Option<Message<F>>> {
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut connection = connection.handle.clone();
    let mut answer = Box::pin(connection.request(request).await.map_err(io::Error::other)?);
    let mut first = None;
    while let Some(message) = answer.next().await {
        match message.map_err(io::Error::other)?.payload {
            NetlinkPayload::InnerMessage(message) => first = first.or(Some(message.payload)),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct Any;

    impl Family for Any {
        const NAME: &'static str = "any";
    }

    #[test]
    fn a_message_survives_the_wire() {
        let sent = Message::<Any>::new(
            3,
            vec![attribute(1, &7_u32.to_ne_bytes()), nested(2, &[attribute(1, b"eth0\0")])],
        );
        let mut wire = vec![0; sent.buffer_len()];
        sent.emit(&mut wire);
        let header = GenlHeader { cmd: 3, version: 1 };
        let got = Message::<Any>::parse_with_param(&wire, header).unwrap();
        assert_eq!(got.get_u32(1), Some(7));
        assert_eq!(got.get(2).unwrap().len(), 12);
        assert_eq!((got.get(3), got.get_u64(1)), (None, None));
    }

    #[test]
    fn a_cut_message_is_refused() {
        let header = GenlHeader { cmd: 3, version: 1 };
        assert!(Message::<Any>::parse_with_param(&[9, 0, 1, 0, 1], header).is_err());
    }
}
