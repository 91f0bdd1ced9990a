//! Settings of an interface over netlink: ethtool's channels, rings and features, and the MTU.

use std::io;

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolMessage, EthtoolRingAttr};
use futures_util::{Stream, TryStreamExt as _};
use netlink_packet_core::DefaultNla;
use netlink_packet_generic::GenlMessage;
use rtnetlink::LinkUnspec;

use super::generic::{Family, Message, attribute, nested, request};
use super::{Error, Netlink};

/// Numbers of `include/uapi/linux/ethtool_netlink.h`.
mod uapi {
    pub(super) const MSG_FEATURES_SET: u8 = 12;
    pub(super) const MSG_RINGS_SET: u8 = 16;
    pub(super) const MSG_CHANNELS_SET: u8 = 18;
    pub(super) const A_HEADER: u16 = 1;
    pub(super) const A_HEADER_DEV_NAME: u16 = 2;
    pub(super) const A_RINGS_RX: u16 = 6;
    pub(super) const A_CHANNELS_RX_COUNT: u16 = 6;
    pub(super) const A_CHANNELS_COMBINED_COUNT: u16 = 9;
    pub(super) const A_FEATURES_WANTED: u16 = 3;
    pub(super) const A_BITSET_BITS: u16 = 3;
    pub(super) const A_BITSET_BITS_BIT: u16 = 1;
    pub(super) const A_BITSET_BIT_NAME: u16 = 2;
    pub(super) const A_BITSET_BIT_VALUE: u16 = 3;
}

/// A number that a driver allows to be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// The current value.
    pub current: u32,
    /// The maximum value.
    pub maximum: u32,
}

/// The channels of an interface: a channel is an interrupt with the queues that it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Channels that only receive.
    pub rx: Setting,
    /// Channels that receive and send.
    pub combined: Setting,
}

impl Channels {
    /// Returns the number of receive queues in use.
    #[must_use]
    pub const fn receiving(&self) -> u32 {
        self.rx.current.saturating_add(self.combined.current)
    }

    /// Returns the largest possible number of receive queues.
    #[must_use]
    pub fn most(&self) -> u32 {
        if self.combined.maximum > 0 { self.combined.maximum } else { self.rx.maximum }
    }

    /// Returns the keyword of `ethtool -L` that sets the number of receive queues.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        if self.combined.maximum > 0 { "combined" } else { "rx" }
    }
}

/// The ring sizes of a driver, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// The receive ring of each queue.
    pub rx: Setting,
    /// The transmit ring of each queue.
    pub tx: Setting,
}

/// A feature of a driver, as `ethtool -k` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name of the feature.
    pub name: String,
    /// `true` if the feature is on.
    pub active: bool,
    /// `true` if it can be changed.
    pub changeable: bool,
}

#[derive(Clone, Debug)]
struct Ethtool;

impl Family for Ethtool {
    const NAME: &'static str = "ethtool";
}

fn header(interface: &str) -> DefaultNla {
    let name = [interface.as_bytes(), b"\0"].concat();
    nested(uapi::A_HEADER, &[attribute(uapi::A_HEADER_DEV_NAME, &name)])
}

/// Returns the attributes of the single message with which an interface answers.
async fn answer<E>(
    stream: Result<impl Stream<Item = Result<GenlMessage<EthtoolMessage>, E>>, E>,
) -> Option<Vec<EthtoolAttr>> {
    let mut stream = Box::pin(stream.ok()?);
    Some(stream.try_next().await.ok()??.payload.nlas)
}

impl Netlink {
    /// Returns the channels of an interface; `None` if its driver does not report them.
    pub async fn channels(&self, interface: &str) -> Option<Channels> {
        let attributes = answer(self.ethtool.clone().channel().get(Some(interface)).execute().await).await?;
        Some(channels(&attributes))
    }

    /// Returns the rings of an interface; `None` if its driver does not report them.
    pub async fn rings(&self, interface: &str) -> Option<Rings> {
        let attributes = answer(self.ethtool.clone().ring().get(Some(interface)).execute().await).await?;
        Some(rings(&attributes))
    }

    /// Returns the features of the driver.
    pub async fn features(&self, interface: &str) -> Vec<Feature> {
        let attributes = answer(self.ethtool.clone().feature().get(Some(interface)).execute().await).await;
        features(&attributes.unwrap_or_default())
    }

    async fn set(&self, command: u8, what: &'static str, attributes: Vec<DefaultNla>) -> Result<(), Error> {
        match request(&self.ethtool, Message::<Ethtool>::new(command, attributes)).await {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Refused { what, source }),
        }
    }

    /// Sets the number of receive queues. The interface loses frames that arrive meanwhile.
    pub async fn set_channels(&self, interface: &str, channels: &Channels, count: u32) -> Result<(), Error> {
        let kind = if channels.combined.maximum > 0 {
            uapi::A_CHANNELS_COMBINED_COUNT
        } else {
            uapi::A_CHANNELS_RX_COUNT
        };
        let attributes = vec![header(interface), attribute(kind, &count.to_ne_bytes())];
        self.set(uapi::MSG_CHANNELS_SET, "to set the channels", attributes).await
    }

    /// Sets the size of each receive ring, in frames.
    pub async fn set_rx_ring(&self, interface: &str, frames: u32) -> Result<(), Error> {
        let attributes = vec![header(interface), attribute(uapi::A_RINGS_RX, &frames.to_ne_bytes())];
        self.set(uapi::MSG_RINGS_SET, "to set the size of the rings", attributes).await
    }

    /// Switches a feature of the driver on or off.
    pub async fn set_feature(&self, interface: &str, name: &str, active: bool) -> Result<(), Error> {
        let mut bit = vec![attribute(uapi::A_BITSET_BIT_NAME, &[name.as_bytes(), b"\0"].concat())];
        if active {
            bit.push(attribute(uapi::A_BITSET_BIT_VALUE, &[]));
        }
        let bits = nested(uapi::A_BITSET_BITS, &[nested(uapi::A_BITSET_BITS_BIT, &bit)]);
        let attributes = vec![header(interface), nested(uapi::A_FEATURES_WANTED, &[bits])];
        self.set(uapi::MSG_FEATURES_SET, "to change a feature", attributes).await?;
        // The kernel accepts the request, but may not be able to fulfil it.
        let now = self.features(interface).await;
        if now.iter().any(|feature| feature.name == name && feature.active == active) {
            return Ok(());
        }
        let source = io::Error::other("the driver keeps it as it is");
        Err(Error::Refused { what: "to change a feature", source })
    }

    /// Sets the MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        Ok(self.links.link().change(message).execute().await?)
    }

    /// Sets the interface up or down.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        Ok(self.links.link().change(message.build()).execute().await?)
    }
}

fn channels(attributes: &[EthtoolAttr]) -> Channels {
    let mut channels = Channels::default();
    for attribute in attributes {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(count)) => channels.rx.current = *count,
            EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(count)) => channels.rx.maximum = *count,
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => {
                channels.combined.current = *count;
            }
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(count)) => {
                channels.combined.maximum = *count;
            }
            _ => {}
        }
    }
    channels
}

fn rings(attributes: &[EthtoolAttr]) -> Rings {
    let mut rings = Rings::default();
    for attribute in attributes {
        match attribute {
            EthtoolAttr::Ring(EthtoolRingAttr::Rx(frames)) => rings.rx.current = *frames,
            EthtoolAttr::Ring(EthtoolRingAttr::RxMax(frames)) => rings.rx.maximum = *frames,
            EthtoolAttr::Ring(EthtoolRingAttr::Tx(frames)) => rings.tx.current = *frames,
            EthtoolAttr::Ring(EthtoolRingAttr::TxMax(frames)) => rings.tx.maximum = *frames,
            _ => {}
        }
    }
    rings
}

fn features(attributes: &[EthtoolAttr]) -> Vec<Feature> {
    let mut features: Vec<Feature> = Vec::new();
    for attribute in attributes {
        match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => {
                // All features are listed, those that can be changed with a value.
                for bit in bits.iter().filter(|bit| bit.value) {
                    named(&mut features, &bit.name).changeable = true;
                }
            }
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
                for bit in bits.iter().filter(|bit| bit.value) {
                    named(&mut features, &bit.name).active = true;
                }
            }
            _ => {}
        }
    }
    features
}

/// Returns the feature of this name, after adding it if necessary.
fn named<'f>(features: &'f mut Vec<Feature>, name: &str) -> &'f mut Feature {
    let known = features.iter().position(|feature| feature.name == name);
    let index = known.unwrap_or(features.len());
    if known.is_none() {
        features.push(Feature { name: name.to_owned(), active: false, changeable: false });
    }
    &mut features[index]
}

/// Recorded answers as bytes, for tests: the generic netlink header and the attributes. A recording
/// that is not whole panics.
#[cfg(any(test, feature = "recorded"))]
pub(super) mod recorded {
    use ethtool::{EthtoolAttr, EthtoolMessage};
    use netlink_packet_core::ParseableParametrized as _;
    use netlink_packet_generic::GenlHeader;

    use super::{Channels, Feature, Rings};

    fn attributes(answer: &[u8]) -> Vec<EthtoolAttr> {
        let (header, attributes) = answer.split_at(4);
        let header = GenlHeader { cmd: header[0], version: header[1] };
        EthtoolMessage::parse_with_param(attributes, header).expect("the recording is whole").nlas
    }

    /// The channels of a recorded answer.
    #[must_use]
    pub fn channels(answer: &[u8]) -> Channels {
        super::channels(&attributes(answer))
    }

    /// The rings of a recorded answer.
    #[must_use]
    pub fn rings(answer: &[u8]) -> Rings {
        super::rings(&attributes(answer))
    }

    /// The features of a recorded answer.
    #[must_use]
    pub fn features(answer: &[u8]) -> Vec<Feature> {
        super::features(&attributes(answer))
    }
}

#[cfg(test)]
mod tests {
    use ethtool::EthtoolFeatureBit;

    use super::*;

    /// The answer of ENA on an instance with 8 CPUs.
    #[test]
    fn channels_are_read_from_the_answer() {
        let answer = [
            EthtoolChannelAttr::CombinedMax(8),
            EthtoolChannelAttr::CombinedCount(4),
            EthtoolChannelAttr::OtherCount(1),
        ];
        let channels = channels(&answer.map(EthtoolAttr::Channel));
        assert_eq!((channels.receiving(), channels.most(), channels.word()), (4, 8, "combined"));
    }

    /// The answer of a veth: separate channels for receiving and for sending.
    #[test]
    fn separate_channels_count_as_well() {
        let answer = [
            EthtoolChannelAttr::RxMax(4),
            EthtoolChannelAttr::TxMax(4),
            EthtoolChannelAttr::RxCount(1),
            EthtoolChannelAttr::TxCount(1),
        ];
        let channels = channels(&answer.map(EthtoolAttr::Channel));
        assert_eq!((channels.receiving(), channels.most(), channels.word()), (1, 4, "rx"));
    }

    #[test]
    fn features_are_those_that_are_active_or_can_be() {
        let bit = |name: &str, value| EthtoolFeatureBit { index: 1, name: name.to_owned(), value };
        let answer = [
            EthtoolFeatureAttr::Hw(vec![
                bit("rx-gro-hw", true),
                bit("rx-lro", true),
                bit("highdma", false),
                bit("rx-all", false),
            ]),
            EthtoolFeatureAttr::Active(vec![bit("rx-gro-hw", true), bit("highdma", true)]),
        ];
        let features = features(&answer.map(EthtoolAttr::Feature));
        let told: Vec<_> = features.iter().map(|f| (f.name.as_str(), f.active, f.changeable)).collect();
        assert_eq!(told, [("rx-gro-hw", true, true), ("rx-lro", false, true), ("highdma", true, false)]);
    }
}
