//! The Community ID of a flow, version 1: a hash of the 5-tuple that tools agree on
//! (<https://github.com/corelight/community-id-spec>), with Suricata's reading of it for the protocols
//! without ports.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_xdp_common::Address;
use sha1::{Digest as _, Sha1};

use super::Conversation;

/// `1:` and the base64 form of a SHA-1 sum.
const LEN: usize = 2 + 28;

/// A Community ID as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunityId([u8; LEN]);

impl CommunityId {
    /// The Community ID with seed 0.
    #[must_use]
    pub fn of(flow: &Conversation) -> Self {
        let source = (flow.source, flow.source_port);
        let destination = (flow.destination, flow.destination_port);
        // Between ports of one address, Suricata compares their bytes in the wrong order on the machines
        // that it runs on, where the specification wants the lower port first. Its records are what ours
        // must be found with; such flows do not leave a host, so that no other tool sees them.
        let order = |(address, port): (Address, u16)| (address, port.swap_bytes());
        let (low, high) =
            if order(source) < order(destination) { (source, destination) } else { (destination, source) };
        let mut hash = Sha1::new();
        hash.update([0, 0]);
        hash_address(&mut hash, low.0, flow.ipv6);
        hash_address(&mut hash, high.0, flow.ipv6);
        hash.update([flow.protocol, 0]);
        hash.update(low.1.to_be_bytes());
        hash.update(high.1.to_be_bytes());
        let mut text = [0; LEN];
        text[..2].copy_from_slice(b"1:");
        STANDARD
            .encode_slice(hash.finalize(), &mut text[2..])
            .expect("the base64 form of 20 bytes takes 28 characters");
        Self(text)
    }

    /// The text form, `1:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base64 is ASCII")
    }
}

fn hash_address(hash: &mut Sha1, address: Address, ipv6: bool) {
    if ipv6 {
        hash.update(address.high.to_be_bytes());
        hash.update(address.low.to_be_bytes());
    } else {
        hash.update((address.low as u32).to_be_bytes());
    }
}
