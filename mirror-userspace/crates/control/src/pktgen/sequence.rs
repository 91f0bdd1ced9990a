//! The sequence of frames that is sent over and over again: captured or synthetic frames with their
//! encapsulation, some of them malformed, and the offsets at which each frame's flow is rewritten for the
//! next lap.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use etherparse::PacketBuilder;
use mirror_packet::LinkType;
use mirror_packet::capture_file::CaptureFile;
use mirror_xdp_common::Vni;
use mirror_xdp_common::counters::Fate;
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::{Fragment, InnerHeaders, Network};
use mirror_xdp_common::outer::{Ports, decapsulate};
use mirror_xdp_common::pktgen::Rewrite;
use mirror_xdp_common::source::{FIRST_SOURCE_PORT, source_port};
use mirror_xdp_common::wire::{ETHERNET_LEN, UDP_LEN, VXLAN_LEN, VXLAN_PORT, protocol};

use super::encapsulation::{Encapsulation, Enveloped, Macs, Session, overhead, seal};
use super::malform::malform;
use super::random::Random;
use super::rate::{Rate, gaps};
use super::{Error, Oversize};

/// The most bytes of a sequence, which lies in the kernel's memory.
const MAX_BYTES: usize = 1 << 30;
/// The most bytes up to which a capture is repeated in the sequence, if repetition is required.
const MAX_REPEATED: usize = 64 << 20;
/// The most frames of a sequence.
const MAX_FRAMES: usize = 1 << 22;

/// The source of the frames.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// The frames of capture files, one file after the other.
    Capture(Vec<PathBuf>),
    /// UDP datagrams.
    Synthetic {
        /// Bytes of the inner frames, from the Ethernet header on and without a checksum at their end; used
        /// in turn.
        sizes: Vec<u16>,
        /// The number of flows.
        flows: u32,
    },
}

/// The frame sizes of "simple IMIX": 7 of 64, 4 of 594 and 1 of 1518 bytes on the wire, spread over twelve
/// frames. The checksum adds four bytes on the wire.
pub const IMIX: [u16; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 60, 590];

/// Ranges of numbers: the VNIs of the sessions, or their sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges<T>(Vec<(T, T)>);

/// A number that can be counted up.
pub trait Countable: Copy {
    /// Returns the count of numbers from this one to `last`; 0 if there is no such range.
    fn count_to(self, last: Self) -> u64;
    /// Returns the number that is `by` further.
    #[must_use]
    fn further(self, by: u64) -> Self;
}

impl Countable for Vni {
    fn count_to(self, last: Self) -> u64 {
        (u64::from(last.get()) + 1).saturating_sub(u64::from(self.get()))
    }

    fn further(self, by: u64) -> Self {
        Self::new(self.get().wrapping_add(by as u32) & Self::MAX.get()).unwrap_or(Self::MAX)
    }
}

impl Countable for IpAddr {
    fn count_to(self, last: Self) -> u64 {
        let count = match (self, last) {
            (Self::V4(first), Self::V4(last)) => {
                (u128::from(last.to_bits()) + 1).saturating_sub(u128::from(first.to_bits()))
            }
            (Self::V6(first), Self::V6(last)) => {
                last.to_bits().saturating_add(1).saturating_sub(first.to_bits())
            }
            _ => 0,
        };
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn further(self, by: u64) -> Self {
        match self {
            Self::V4(v4) => Self::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add(by as u32))),
            Self::V6(v6) => Self::V6(v6.to_bits().wrapping_add(u128::from(by)).into()),
        }
    }
}

impl<T: Countable> Ranges<T> {
    /// Makes ranges from the first and last number of each; `None` if there is no range, or one is empty.
    #[must_use]
    pub fn new(ranges: Vec<(T, T)>) -> Option<Self> {
        let good = !ranges.is_empty() && ranges.iter().all(|&(first, last)| first.count_to(last) > 0);
        good.then_some(Self(ranges))
    }

    /// Returns the count of all numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, &(first, last)| sum.saturating_add(first.count_to(last)))
    }

    /// Returns the number of this index; indices beyond the last start again at the first.
    pub(super) fn nth(&self, index: u64) -> Option<T> {
        let mut index = index % self.count().max(1);
        for &(first, last) in &self.0 {
            let count = first.count_to(last);
            if index < count {
                return Some(first.further(index));
            }
            index -= count;
        }
        None
    }
}

/// The destination of mirrored frames, and their hardware addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) macs: Macs,
}

/// The recipe by which captured frames become those that are sent.
#[derive(Clone, Debug)]
pub(super) struct Recipe<'a> {
    pub(super) encapsulation: Encapsulation,
    pub(super) port: u16,
    /// Replace the VNIs and sources of frames that were already mirrored.
    pub(super) vnis: Option<&'a Ranges<Vni>>,
    pub(super) sources: Option<&'a Ranges<IpAddr>>,
    /// Applies to all frames with `target_for_all`, else to those that were not mirrored already.
    pub(super) target: Target,
    pub(super) target_for_all: bool,
    pub(super) rate: Rate,
    pub(super) oversize: Oversize,
    /// Bytes of the longest frame that can be sent.
    pub(super) max_frame: usize,
    /// The remedy for longer frames, besides truncating them.
    pub(super) remedy: &'static str,
    /// The share of malformed frames, from 0 to 1.
    pub(super) malformed: f64,
    pub(super) seed: u64,
}

/// A frame of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Offset of its bytes in the sequence.
    pub(super) start: usize,
    pub(super) length: u32,
    /// The repetition of the capture that the frame belongs to.
    pub(super) lap: u32,
    /// Time until the next frame, see [`mirror_xdp_common::pktgen::FRACTION_BITS`].
    pub(super) gap: u64,
    pub(super) rewrite: Rewrite,
}

/// The frames that are sent, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Sequence {
    pub(super) bytes: Vec<u8>,
    pub(super) frames: Vec<Frame>,
    /// The number of repetitions of the capture in the sequence.
    pub(super) laps: u32,
    /// The number of frames in one repetition.
    pub(super) lap_frames: usize,
    /// Frames of the capture that were truncated to the longest that can be sent.
    pub(super) truncated: u64,
    /// Frames of the capture that cannot be sent because they are not Ethernet, or too short for it.
    pub(super) unsendable: u64,
}

/// A captured or synthetic frame.
#[derive(Clone, Debug)]
struct Input {
    bytes: Vec<u8>,
    /// Nanoseconds since the epoch.
    time: u64,
}

/// A frame on its way into the sequence.
struct Draft {
    /// The inner frame, or the frame itself if it is not encapsulated.
    inner: Vec<u8>,
    /// The source of the outer headers; `None` if the frame has none, or keeps its own.
    wrap: Option<Wrap>,
    headers: InnerHeaders,
}

struct Wrap {
    /// A frame that was already mirrored and keeps its outer headers.
    as_is: Option<Enveloped>,
    /// The session of a frame that was already mirrored.
    session: Option<Session>,
    source_port: u16,
    /// The frame is a resolver's answer, which has one source port whatever its flow.
    fixed_port: bool,
}

impl Sequence {
    pub(super) fn make(traffic: &Traffic, recipe: &Recipe<'_>) -> Result<Self, Error> {
        let mut sequence = Self::default();
        let inputs = match traffic {
            Traffic::Capture(files) => sequence.read(files)?,
            Traffic::Synthetic { sizes, flows } => synthesize(sizes, *flows, recipe.seed),
        };
        let drafts: Vec<_> = inputs.iter().map(|input| recipe.draft(&input.bytes)).collect();
        let drafts = sequence.fit(drafts, recipe)?;
        sequence.fill(&inputs, &drafts, recipe);
        Ok(sequence)
    }

    fn read(&mut self, files: &[PathBuf]) -> Result<Vec<Input>, Error> {
        let mut inputs = Vec::new();
        let mut bytes = 0;
        for path in files {
            let mut too_large = false;
            CaptureFile::open(path)?.for_each(|frame| {
                let ethernet = frame.link == Some(LinkType::Ethernet);
                if !ethernet || frame.bytes.len() < ETHERNET_LEN {
                    self.unsendable += 1;
                    return;
                }
                bytes += frame.bytes.len();
                too_large |= bytes > MAX_BYTES || inputs.len() >= MAX_FRAMES;
                if !too_large {
                    inputs.push(Input { bytes: frame.bytes.to_vec(), time: frame.time });
                }
            })?;
            if too_large {
                return Err(Error::TooLarge { path: path.clone() });
            }
        }
        if inputs.is_empty() {
            return Err(Error::NothingToSend { unsendable: self.unsendable });
        }
        Ok(inputs)
    }

    /// Ensures that no frame is too long.
    fn fit(&mut self, mut drafts: Vec<Draft>, recipe: &Recipe<'_>) -> Result<Vec<Draft>, Error> {
        let mut longest = 0;
        let mut count = 0;
        for draft in &mut drafts {
            if let Some(Wrap { as_is, .. }) = &mut draft.wrap {
                *as_is = as_is.take().filter(|frame| frame.bytes.len() <= recipe.max_frame);
                if as_is.is_some() {
                    continue;
                }
            }
            let around = draft.wrap.as_ref().map_or(0, |wrap| recipe.overhead(wrap));
            let length = around + draft.inner.len();
            if length > recipe.max_frame {
                longest = longest.max(length);
                count += 1;
                draft.inner.truncate(recipe.max_frame.saturating_sub(around));
            }
        }
        if count > 0 && recipe.oversize == Oversize::Refuse {
            let (frames, max, remedy) = (drafts.len(), recipe.max_frame, recipe.remedy);
            return Err(Error::Oversize { count, frames, longest, max, remedy });
        }
        self.truncated = count;
        Ok(drafts)
    }

    fn fill(&mut self, inputs: &[Input], drafts: &[Draft], recipe: &Recipe<'_>) {
        self.laps = recipe.laps(drafts);
        self.lap_frames = drafts.len();
        let first = inputs.first().map_or(0, |input| input.time);
        let span = inputs.iter().map(|input| input.time.saturating_sub(first)).max().unwrap_or_default();
        // The time from the last frame to the first of the next lap is the mean time between frames.
        let lap_period = span + span / (drafts.len() as u64 - 1).max(1);
        let mut times = Vec::new();
        let total = drafts.len() * self.laps as usize;
        let mut random = Random::new(recipe.seed);
        let broken = random.choose((recipe.malformed * total as f64).round() as usize, total);
        let mut broken = broken.into_iter();
        for lap in 0..self.laps {
            for (input, draft) in inputs.iter().zip(drafts) {
                let mut frame = recipe.wrap(draft, lap);
                if broken.next() == Some(true) {
                    malform(&mut frame, &mut random);
                }
                let start = self.bytes.len();
                self.bytes.extend(&frame.bytes);
                let length = frame.bytes.len() as u32;
                self.frames.push(Frame { start, length, lap, gap: 0, rewrite: frame.rewrite });
                times.push(u64::from(lap) * lap_period + input.time.saturating_sub(first));
            }
        }
        let period = lap_period.saturating_mul(u64::from(self.laps));
        let gaps = gaps(recipe.rate, self.frames.iter().map(|frame| frame.length), &times, period);
        for (frame, gap) in self.frames.iter_mut().zip(gaps) {
            frame.gap = gap;
        }
    }

    /// Returns the bytes of a frame.
    pub(super) fn bytes_of(&self, frame: &Frame) -> &[u8] {
        self.bytes.get(frame.start..frame.start + frame.length as usize).unwrap_or_default()
    }

    /// Returns the bytes of the longest frame.
    pub(super) fn longest(&self) -> u32 {
        self.frames.iter().map(|frame| frame.length).max().unwrap_or_default()
    }
}

impl Recipe<'_> {
    fn draft(&self, bytes: &[u8]) -> Draft {
        if self.encapsulation == Encapsulation::None {
            return Draft { inner: bytes.to_vec(), wrap: None, headers: InnerHeaders::parse(bytes, 0) };
        }
        match decapsulate(bytes, &Ports::default()) {
            Ok(outer) => {
                let end = outer.inner_offset + outer.inner_len;
                let inner = bytes.get(outer.inner_offset..end).unwrap_or_default().to_vec();
                // For GENEVE without VXLAN inside, this is an offset within its options.
                let udp = outer.inner_offset - VXLAN_LEN - UDP_LEN;
                let two = |at: usize| match bytes.get(at..at + 2) {
                    Some(&[high, low]) => u16::from_be_bytes([high, low]),
                    _ => 0,
                };
                let is_vxlan = two(udp + 2) == VXLAN_PORT;
                let port = if is_vxlan { two(udp) } else { 0 };
                let session = Session {
                    vni: outer.vni,
                    source: outer.source.to_ip(),
                    destination: outer.destination.to_ip(),
                    macs: macs(bytes),
                    port: VXLAN_PORT,
                };
                let headers = InnerHeaders::parse(&inner[..], 0);
                let fixed_port = port < FIRST_SOURCE_PORT || is_resolver(&headers);
                let keeps = self.encapsulation == Encapsulation::Aws
                    && self.vnis.is_none()
                    && self.sources.is_none()
                    && !self.target_for_all
                    && self.port == VXLAN_PORT;
                let source_ports = if is_vxlan { [udp as u16, 0] } else { [0; 2] };
                let rewrite = Rewrite { source_ports, ..Rewrite::default() };
                let as_is = Enveloped { bytes: bytes.to_vec(), inner: outer.inner_offset, udp, rewrite };
                let as_is = keeps.then_some(as_is);
                let wrap = Wrap { as_is, session: Some(session), source_port: port, fixed_port };
                Draft { inner, wrap: Some(wrap), headers }
            }
            // The frame is malformed already and stays as it is.
            Err(counter) if counter.fate() == Fate::Dropped => {
                Draft { inner: bytes.to_vec(), wrap: None, headers: InnerHeaders::default() }
            }
            Err(_) => {
                let headers = InnerHeaders::parse(bytes, 0);
                let fixed_port = is_resolver(&headers);
                let source_port = if fixed_port {
                    FIRST_SOURCE_PORT
                } else {
                    source_port(headers.flow_hash(&FlowHashKey::new(0)))
                };
                Draft {
                    inner: bytes.to_vec(),
                    wrap: Some(Wrap { as_is: None, session: None, source_port, fixed_port }),
                    headers,
                }
            }
        }
    }

    /// Returns the number of mirror sessions.
    fn sessions(&self) -> u64 {
        let vnis = self.vnis.map_or(1, Ranges::count);
        vnis.saturating_mul(self.sources.map_or(1, Ranges::count))
    }

    /// Returns the number of repetitions of the capture in the sequence: enough for every session to have its
    /// turn, and for the share of malformed frames to be right.
    fn laps(&self, drafts: &[Draft]) -> u32 {
        let bytes: usize = drafts.iter().map(|draft| draft.inner.len() + 128).sum();
        let most = (MAX_REPEATED / bytes.max(1)).min(MAX_FRAMES / drafts.len().max(1)).max(1);
        let for_sessions = if self.encapsulation == Encapsulation::None { 1 } else { self.sessions() };
        let for_malformed = if self.malformed > 0.0 {
            // At least ten malformed frames.
            (10.0 / (self.malformed * drafts.len() as f64)).ceil() as u64
        } else {
            1
        };
        for_sessions.max(for_malformed).clamp(1, most as u64) as u32
    }

    fn overhead(&self, wrap: &Wrap) -> usize {
        let ipv6 = match (&wrap.session, self.target_for_all) {
            (Some(session), false) => session.destination.is_ipv6(),
            _ => self.target.destination.is_ipv6(),
        };
        overhead(self.encapsulation, ipv6)
    }

    fn wrap(&self, draft: &Draft, lap: u32) -> Enveloped {
        let mut frame = match &draft.wrap {
            Some(wrap) => {
                let mut sealed = wrap.as_is.clone().unwrap_or_else(|| {
                    let session = self.session(draft, wrap, lap);
                    seal(self.encapsulation, &session, wrap.source_port, &draft.inner)
                });
                if wrap.fixed_port {
                    sealed.rewrite.source_ports = [0; 2];
                }
                sealed
            }
            None => Enveloped { bytes: draft.inner.clone(), ..Enveloped::default() },
        };
        locate(&draft.headers, &frame.bytes, frame.inner, &mut frame.rewrite);
        frame
    }

    /// Returns the session to which a frame's flow belongs in this lap.
    fn session(&self, draft: &Draft, wrap: &Wrap, lap: u32) -> Session {
        let target = self.target;
        let mut session = wrap.session.unwrap_or(Session {
            vni: Vni::new(1).unwrap_or_default(),
            source: target.source,
            destination: target.destination,
            macs: target.macs,
            port: self.port,
        });
        session.port = self.port;
        if self.target_for_all {
            session.destination = target.destination;
            session.macs = target.macs;
            if session.source.is_ipv6() != target.destination.is_ipv6() {
                session.source = target.source;
            }
        }
        let index =
            u64::from(draft.headers.flow_hash(&FlowHashKey::new(self.seed)).0).wrapping_add(u64::from(lap));
        if let Some(vni) = self.vnis.and_then(|vnis| vnis.nth(index)) {
            session.vni = vni;
        }
        let vnis = self.vnis.map_or(1, Ranges::count);
        if let Some(source) = self.sources.and_then(|sources| sources.nth(index / vnis)) {
            session.source = source;
        }
        session
    }
}

/// Returns whether a packet is an answer of a VPC's resolver, which the mirror does not hash.
fn is_resolver(headers: &InnerHeaders) -> bool {
    let resolver = headers.source.as_v4().is_some_and(|address| address & 0xff == 2);
    headers.protocol == protocol::UDP && headers.source_port == 53 && resolver
}

fn macs(frame: &[u8]) -> Macs {
    let six = |at: usize| frame.get(at..at + 6).and_then(|mac| mac.try_into().ok()).unwrap_or_default();
    Macs { destination: six(0), source: six(6) }
}

/// Locates the fields that a lap rewrites in the packet whose frame begins at `inner`.
fn locate(headers: &InnerHeaders, frame: &[u8], inner: usize, rewrite: &mut Rewrite) {
    let network = inner + headers.network_offset;
    let transport = inner + headers.transport_offset;
    // Beyond the end of a truncated frame, there is nothing to rewrite.
    let offset = |at: usize| if at < frame.len() { at as u16 } else { 0 };
    let checksum = |at: usize| match frame.get(at..at + 2) {
        // A UDP datagram without a checksum.
        None | Some([0, 0]) => 0,
        Some(_) => at as u16,
    };
    let first = !matches!(headers.fragment, Fragment::Later);
    match headers.network {
        Network::Ipv4 => {
            rewrite.addresses = [12, 16].map(|at| ipv4_address(frame, network + at));
            rewrite.ip_checksum = offset(network + 10);
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem. The sum
            // that ICMP's own checksum covers does not change, because the quoted header has its own
            // checksum.
            let kind = frame.get(transport).copied().unwrap_or_default();
            if first && headers.protocol == protocol::ICMP && matches!(kind, 3 | 4 | 5 | 11 | 12) {
                rewrite.quoted = [12, 16].map(|at| ipv4_address(frame, transport + 8 + at));
                rewrite.quoted_checksum = offset(transport + 8 + 10);
            }
        }
        Network::Ipv6 => {
            rewrite.addresses = [8, 24].map(|at| ipv6_address(frame, network + at));
            // Error messages, which quote the packet that caused them.
            let kind = frame.get(transport).copied().unwrap_or(u8::MAX);
            if first && headers.protocol == protocol::ICMPV6 && kind < 128 {
                rewrite.quoted = [8, 24].map(|at| ipv6_address(frame, transport + 8 + at));
            }
        }
        Network::Other => return,
    }
    if first {
        rewrite.transport_checksum = match headers.protocol {
            protocol::TCP => checksum(transport + 16),
            protocol::UDP => checksum(transport + 6),
            protocol::ICMPV6 => checksum(transport + 2),
            _ => 0,
        };
    }
}

/// Returns the offset of an IPv4 address at `at`; 0 for multicast and other addresses that denote no host.
fn ipv4_address(frame: &[u8], at: usize) -> u16 {
    let Some(Ok(octets)) = frame.get(at..at + 4).map(<[u8; 4]>::try_from) else { return 0 };
    let address = Ipv4Addr::from(octets);
    let fixed = address.is_multicast() || address.is_broadcast() || address.is_unspecified();
    if fixed { 0 } else { at as u16 }
}

/// Returns the offset of the last four bytes of an IPv6 address at `at`; 0 for multicast and other addresses
/// that denote no host.
fn ipv6_address(frame: &[u8], at: usize) -> u16 {
    let Some(Ok(octets)) = frame.get(at..at + 16).map(<[u8; 16]>::try_from) else { return 0 };
    let address = std::net::Ipv6Addr::from(octets);
    if address.is_multicast() || address.is_unspecified() { 0 } else { (at + 12) as u16 }
}

/// Makes UDP datagrams of `flows` flows, one of each size for each flow, as far as the limits of the sequence
/// allow.
fn synthesize(sizes: &[u16], flows: u32, seed: u64) -> Vec<Input> {
    /// Ethernet, IPv4, UDP.
    const HEADERS: usize = ETHERNET_LEN + 20 + 8;
    let mut random = Random::new(seed);
    let total = (flows as usize).saturating_mul(sizes.len()).min(MAX_FRAMES / 4);
    (0..total)
        .map(|index| {
            let flow = index % flows as usize;
            // Shifted by one in each turn, so that each flow has frames of each size.
            let size = sizes.get((index + index / flows as usize) % sizes.len()).copied().unwrap_or_default();
            let mut payload = vec![0; usize::from(size).saturating_sub(HEADERS)];
            for chunk in payload.chunks_mut(8) {
                let bytes = random.next().to_le_bytes();
                chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
            }
            let host = flow as u32;
            // Clients in 10.0.0.0/8, few servers in 11.0.0.0/8.
            let client = Ipv4Addr::from_bits(0x0a00_0001 + host).octets();
            let server = Ipv4Addr::from_bits(0x0b00_0001 + (host & 0xff)).octets();
            let port = 20_000 + (host % 40_000) as u16;
            let mut bytes = Vec::with_capacity(usize::from(size));
            PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2])
                .ipv4(client, server, 64)
                .udp(port, 9)
                .write(&mut bytes, &payload)
                .expect("a vector takes any number of bytes, and the payload is shorter than 64 KiB");
            Input { bytes, time: 0 }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv6};
    use mirror_xdp_common::inner::Cause;
    use mirror_xdp_common::pktgen::rewrite;
    use mirror_xdp_tests::frames::mirrored;
    use proptest::prelude::*;

    use super::super::encapsulation::checksum;
    use super::*;

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

    /// Asserts that all checksums of a frame are correct, including those in a packet that an ICMP error
    /// quotes.
    fn assert_right(frame: &[u8]) {
        let headers = InnerHeaders::parse(frame, 0);
        let segment = &frame[headers.transport_offset..headers.network_end];
        let pseudo = |addresses: std::ops::Range<usize>| {
            let length = (segment.len() as u16).to_be_bytes();
            let addresses = &frame[headers.network_offset..][addresses];
            [addresses, &[0, headers.protocol], &length, segment].concat()
        };
        match (headers.network, headers.protocol) {
            (Network::Ipv4, protocol) => {
                assert_eq!(checksum(&frame[headers.network_offset..headers.transport_offset]), 0, "IPv4");
                if protocol == protocol::ICMP {
                    assert_eq!(checksum(segment), 0, "ICMP");
                    assert_eq!(checksum(&segment[8..28]), 0, "quoted IPv4");
                } else {
                    assert_eq!(checksum(&pseudo(12..20)), 0, "over IPv4");
                }
            }
            (Network::Ipv6, _) => assert_eq!(checksum(&pseudo(8..40)), 0, "over IPv6"),
            (Network::Other, _) => panic!("{frame:02x?}"),
        }
    }

    /// Returns packets of all kinds whose checksums cover addresses, between two hosts.
    fn packets(a: u32, b: u32, payload: &[u8]) -> Vec<Vec<u8>> {
        let v4 = |host: u32| host.to_be_bytes();
        let v6 = |host: u32| std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(host)).octets();
        let ethernet = || PacketBuilder::ethernet2(MACS[0], MACS[1]);
        // This is a macro because the builder of each kind has its own type.
        macro_rules! build {
            ($builder:expr, $payload:expr) => {{
                let mut frame = Vec::new();
                $builder.write(&mut frame, $payload).unwrap();
                frame
            }};
        }
        let udp4 = build!(ethernet().ipv4(v4(a), v4(b), 64).udp(1, 2), payload);
        let udp6 = build!(ethernet().ipv6(v6(a), v6(b), 64).udp(1, 2), payload);
        let tcp4 = build!(ethernet().ipv4(v4(a), v4(b), 64).tcp(1, 2, 3, 4), payload);
        let tcp6 = build!(ethernet().ipv6(v6(a), v6(b), 64).tcp(1, 2, 3, 4), payload);
        let error4 = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        let icmp4 = build!(ethernet().ipv4(v4(b), v4(a), 64).icmpv4(error4), &udp4[14..]);
        let error6 = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
        let icmp6 = build!(ethernet().ipv6(v6(b), v6(a), 64).icmpv6(error6), &udp6[14..]);
        vec![udp4, udp6, tcp4, tcp6, icmp4, icmp6]
    }

    proptest! {
        /// However many laps there are, checksums stay correct, the packets of a flow stay together, and each
        /// lap has another flow.
        #[test]
        fn rewriting_makes_other_flows_and_nothing_else(
            a in 0x0a00_0000_u32..0x0b00_0000,
            b in 0x0a00_0000_u32..0x0b00_0000,
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            lap in 1_u32..0x00ff_ffff,
        ) {
            prop_assume!(a != b);
            for packet in packets(a, b, &payload) {
                assert_right(&packet);
                let mut rewritten = packet.clone();
                let before = InnerHeaders::parse(&packet[..], 0);
                let mut places = Rewrite::default();
                locate(&before, &packet, 0, &mut places);
                rewrite(&mut rewritten[..], &places, lap);
                assert_right(&rewritten);
                let after = InnerHeaders::parse(&rewritten[..], 0);
                prop_assert_ne!(after.source, before.source);
                prop_assert_ne!(after.destination, before.destination);
                prop_assert_eq!(after.source.low ^ before.source.low, after.destination.low ^ before.destination.low);
                // The packet that an error quotes went in the other direction.
                let (source, destination) = (after.destination, after.source);
                if before.has_cause {
                    prop_assert_eq!(after.cause, Cause { source, destination, ..before.cause });
                }
                let (source, destination, cause) = (before.source, before.destination, before.cause);
                let same = InnerHeaders { source, destination, cause, ..after };
                prop_assert_eq!(same, before);
                // Rewriting twice restores the frame: flipped bits are flipped back.
                rewrite(&mut rewritten[..], &places, lap);
                let back = InnerHeaders::parse(&rewritten[..], 0);
                prop_assert_eq!(back, before);
            }
        }

        /// Any damaged or short frame is rewritten without a panic, and keeps its length.
        #[test]
        fn any_bytes_can_be_rewritten(bytes in proptest::collection::vec(any::<u8>(), 14..200), lap in any::<u32>()) {
            let headers = InnerHeaders::parse(&bytes[..], 0);
            let mut places = Rewrite::default();
            locate(&headers, &bytes, 0, &mut places);
            let mut rewritten = bytes.clone();
            rewrite(&mut rewritten[..], &places, lap);
            // The hardware addresses and the EtherType stay as they are.
            prop_assert_eq!(&rewritten[..14], &bytes[..14]);
        }
    }

    fn recipe() -> Recipe<'static> {
        let documentation = |host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host));
        Recipe {
            encapsulation: Encapsulation::Aws,
            port: VXLAN_PORT,
            vnis: None,
            sources: None,
            target: Target {
                source: documentation(1),
                destination: documentation(2),
                macs: Macs { source: MACS[0], destination: MACS[1] },
            },
            target_for_all: false,
            rate: Rate::Max,
            oversize: Oversize::Refuse,
            max_frame: 1514,
            remedy: "",
            malformed: 0.0,
            seed: 0,
        }
    }

    #[test]
    fn the_mirrors_port_follows_the_flow_from_lap_to_lap() {
        let [udp, ..] = &packets(0x0a00_0001, 0x0a00_0002, b"")[..] else { panic!() };
        let recipe = recipe();
        let frame = recipe.wrap(&recipe.draft(udp), 0);
        let ports: Vec<_> = (0..200)
            .map(|lap| {
                let mut bytes = frame.bytes.clone();
                rewrite(&mut bytes[..], &frame.rewrite, lap);
                u16::from_be_bytes([bytes[frame.udp], bytes[frame.udp + 1]])
            })
            .collect();
        assert!(ports.iter().all(|&port| port >= FIRST_SOURCE_PORT));
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert!(different.len() > 64, "{different:?}");
    }

    #[test]
    fn a_frame_that_was_mirrored_keeps_its_session_unless_told_otherwise() {
        let inner = packets(0x0a00_0001, 0x0a00_0002, b"").swap_remove(0);
        let mirrored = mirrored(9).over_ipv6().vlan(3).carrying(&inner);
        let (vnis, sources) =
            (vnis(5..=5), Ranges::new(vec![([10, 1, 1, 1].into(), [10, 1, 1, 1].into())]).unwrap());
        let as_is = recipe();
        assert_eq!(as_is.wrap(&as_is.draft(&mirrored), 0).bytes, mirrored);
        let other = Recipe { vnis: Some(&vnis), target_for_all: true, sources: Some(&sources), ..recipe() };
        let frame = other.wrap(&other.draft(&mirrored), 0);
        let outer = decapsulate(&frame.bytes[..], &Ports::default()).unwrap();
        assert_eq!(outer.vni.get(), 5);
        assert_eq!(outer.source.to_ip(), IpAddr::V4(Ipv4Addr::new(10, 1, 1, 1)));
        assert_eq!(outer.destination.to_ip(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(frame.bytes[frame.inner..], inner);
    }

    fn vnis(range: std::ops::RangeInclusive<u32>) -> Ranges<Vni> {
        let vni = |number| Vni::new(number).unwrap();
        Ranges::new(vec![(vni(*range.start()), vni(*range.end()))]).unwrap()
    }
}
