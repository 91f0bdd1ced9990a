//! XDP features of an interface's driver: the kernel's netdev family, Linux 6.3 and newer.

use super::generic::{Family, Message, attribute, request};
use super::{Error, Netlink};

/// Numbers of `include/uapi/linux/netdev.h`.
mod uapi {
    pub(super) const CMD_DEV_GET: u8 = 1;
    pub(super) const A_DEV_IFINDEX: u16 = 1;
    pub(super) const A_DEV_XDP_FEATURES: u16 = 3;
    pub(super) const A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
}

/// The XDP features of a driver, `NETDEV_XDP_ACT_…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    bits: u64,
    /// The most buffers of a frame with zero-copy; 1 if only frames of one buffer are received.
    pub zero_copy_segments: u32,
}

impl XdpFeatures {
    /// Makes features from the kernel's encoding.
    #[must_use]
    pub const fn new(bits: u64, zero_copy_segments: u32) -> Self {
        Self { bits, zero_copy_segments }
    }

    /// Returns whether XDP programs run in the driver.
    #[must_use]
    pub const fn native(self) -> bool {
        self.bits & 1 != 0
    }

    /// Returns whether programs may redirect frames, including to `AF_XDP` sockets.
    #[must_use]
    pub const fn redirect(self) -> bool {
        self.bits & 1 << 1 != 0
    }

    /// Returns whether the interface sends frames that programs redirect to it.
    #[must_use]
    pub const fn transmit(self) -> bool {
        self.bits & 1 << 2 != 0
    }

    /// Returns whether the NIC writes frames directly into the memory of `AF_XDP` sockets.
    #[must_use]
    pub const fn zero_copy(self) -> bool {
        self.bits & 1 << 3 != 0
    }

    /// Returns whether programs receive frames of several buffers.
    #[must_use]
    pub const fn multi_buffer(self) -> bool {
        self.bits & 1 << 5 != 0
    }
}

#[derive(Clone, Debug)]
struct Netdev;

impl Family for Netdev {
    const NAME: &'static str = "netdev";
}

impl Netlink {
    /// Returns the XDP features of the interface with this index; `None` if this kernel does not report them.
    pub async fn xdp_features(&self, index: u32) -> Result<Option<XdpFeatures>, Error> {
        let wanted = vec![attribute(uapi::A_DEV_IFINDEX, &index.to_ne_bytes())];
        let answer = request(&self.ethtool, Message::<Netdev>::new(uapi::CMD_DEV_GET, wanted)).await;
        match answer {
            Ok(answer) => Ok(answer.and_then(|answer| features(&answer))),
            // With a system error number, the interface is gone or the request was refused. Without one the
            // family is unknown: a kernel before 6.3.
            Err(error) if error.raw_os_error().is_some() => {
                Err(Error::Refused { what: "to report its XDP features", source: error })
            }
            Err(_) => Ok(None),
        }
    }
}

fn features(answer: &Message<Netdev>) -> Option<XdpFeatures> {
    let bits = answer.get_u64(uapi::A_DEV_XDP_FEATURES)?;
    Some(XdpFeatures::new(bits, answer.get_u32(uapi::A_DEV_XDP_ZC_MAX_SEGS).unwrap_or(0)))
}

/// Recorded answers as bytes, for tests. A recording that is not whole panics.
#[cfg(any(test, feature = "recorded"))]
#[expect(clippy::missing_panics_doc, reason = "tests")]
pub(super) mod recorded {
    use netlink_packet_core::ParseableParametrized as _;
    use netlink_packet_generic::GenlHeader;

    use super::{Message, XdpFeatures};

    /// The features of a recorded answer.
    #[must_use]
    pub fn features(answer: &[u8]) -> Option<XdpFeatures> {
        let (header, attributes) = answer.split_at(4);
        let header = GenlHeader { cmd: header[0], version: header[1] };
        super::features(&Message::parse_with_param(attributes, header).expect("the recording is whole"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of ixgbe on Linux 6.18.
    #[test]
    fn features_are_read_from_the_answer() {
        let answer = Message::new(
            uapi::CMD_DEV_GET,
            vec![
                attribute(uapi::A_DEV_IFINDEX, &2_u32.to_ne_bytes()),
                attribute(uapi::A_DEV_XDP_FEATURES, &0x0f_u64.to_ne_bytes()),
                attribute(uapi::A_DEV_XDP_ZC_MAX_SEGS, &1_u32.to_ne_bytes()),
            ],
        );
        let features = features(&answer).unwrap();
        assert!(features.native() && features.redirect() && features.transmit() && features.zero_copy());
        assert!(!features.multi_buffer());
        assert_eq!(features.zero_copy_segments, 1);
    }
}
