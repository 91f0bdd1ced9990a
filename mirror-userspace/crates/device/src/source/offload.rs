//! Switches transmit offloads off, by ethtool's netlink family. The `ethtool` crate reads features but cannot
//! set them; the message for that is defined here (`ETHTOOL_MSG_FEATURES_SET`,
//! `Documentation/networking/ethtool-netlink.rst` of the kernel).

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::Error;

const CANNOT_SET: &str = "cannot switch off the offloads of the veth pair";

/// Returns whether a feature leaves work on a frame to the device: segmentation, checksums, VLAN tags.
fn is_offload(name: &str) -> bool {
    name.starts_with("tx-")
        && ["segmentation", "checksum", "vlan", "gso"].iter().any(|word| name.contains(word))
}

/// Makes the kernel complete all frames before it passes them to this interface.
pub(super) async fn switch_off(interface: &str) -> Result<(), Error> {
    let (connection, mut ethtool, _) = ethtool::new_connection().map_err(Error::kernel(CANNOT_SET))?;
    tokio::spawn(connection);
    let features = ethtool.feature().get(Some(interface)).execute().await;
    let mut features = features.map_err(Error::kernel(CANNOT_SET))?.boxed();
    let (mut active, mut fixed) = (Vec::new(), Vec::new());
    while let Some(message) = features.try_next().await.map_err(Error::kernel(CANNOT_SET))? {
        for attribute in message.payload.nlas {
            match attribute {
                EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => active.extend(names(bits)),
                EthtoolAttr::Feature(EthtoolFeatureAttr::NoChange(bits)) => fixed.extend(names(bits)),
                _ => {}
            }
        }
    }
    active.retain(|name| is_offload(name) && !fixed.contains(name));
    let mut request =
        NetlinkMessage::from(GenlMessage::from_payload(SwitchOff { interface, features: active }.encode()));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answer = ethtool.handle.request(request).await.map_err(Error::kernel(CANNOT_SET))?;
    while let Some(message) = answer.next().await {
        let message = message.map_err(Error::kernel(CANNOT_SET))?;
        if let NetlinkPayload::Error(error) = message.payload
            && error.code.is_some()
        {
            return Err(Error::kernel(CANNOT_SET)(error.to_io()));
        }
    }
    Ok(())
}

fn names(bits: Vec<EthtoolFeatureBit>) -> impl Iterator<Item = String> {
    bits.into_iter().map(|bit| bit.name)
}

/// The features to switch off.
struct SwitchOff<'a> {
    interface: &'a str,
    features: Vec<String>,
}

/// Numbers of `include/uapi/linux/ethtool_netlink.h`.
mod uapi {
    pub(super) const MSG_FEATURES_SET: u8 = 12;
    pub(super) const VERSION: u8 = 1;
    pub(super) const FEATURES_HEADER: u16 = 1;
    pub(super) const FEATURES_WANTED: u16 = 3;
    pub(super) const HEADER_DEV_NAME: u16 = 2;
    pub(super) const HEADER_FLAGS: u16 = 3;
    pub(super) const FLAG_OMIT_REPLY: u32 = 2;
    pub(super) const BITSET_BITS: u16 = 3;
    pub(super) const BITSET_BITS_BIT: u16 = 1;
    pub(super) const BITSET_BIT_NAME: u16 = 2;
    /// `NLA_F_NESTED` of `include/uapi/linux/netlink.h`.
    pub(super) const NESTED: u16 = 1 << 15;
}

impl SwitchOff<'_> {
    fn encode(&self) -> FeaturesSet {
        let header = [
            string(uapi::HEADER_DEV_NAME, self.interface),
            DefaultNla::new(uapi::HEADER_FLAGS, uapi::FLAG_OMIT_REPLY.to_ne_bytes().to_vec()),
        ];
        // A bit that is listed without a value becomes 0; others stay.
        let bits: Vec<_> = self
            .features
            .iter()
            .map(|name| nested(uapi::BITSET_BITS_BIT, &[string(uapi::BITSET_BIT_NAME, name)]))
            .collect();
        FeaturesSet(vec![
            nested(uapi::FEATURES_HEADER, &header),
            nested(uapi::FEATURES_WANTED, &[nested(uapi::BITSET_BITS, &bits)]),
        ])
    }
}

fn string(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | uapi::NESTED, value)
}

/// The attributes of the message.
#[derive(Debug)]
struct FeaturesSet(Vec<DefaultNla>);

impl GenlFamily for FeaturesSet {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        uapi::MSG_FEATURES_SET
    }

    fn version(&self) -> u8 {
        uapi::VERSION
    }
}

impl Emitable for FeaturesSet {
    fn buffer_len(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for FeaturesSet {
    fn parse_with_param(_payload: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        // The reply is omitted, as requested.
        Ok(Self(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_are_told_from_other_features() {
        for name in ["tx-tcp-segmentation", "tx-checksum-ip-generic", "tx-vlan-hw-insert", "tx-gso-list"] {
            assert!(is_offload(name), "{name}");
        }
        for name in ["tx-scatter-gather", "rx-gro", "rx-vlan-hw-parse", "tx-lockless", "highdma"] {
            assert!(!is_offload(name), "{name}");
        }
    }
}
