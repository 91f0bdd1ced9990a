//! Formats a frame as one line in the style of tcpdump, and as a JSON object.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use mirror_packet::{
    self, CommunityId, Decoded, FlowKey, FrameInfo, Layer, LinkType, Packet, Segment, SessionKey, Transport,
    tcp_flags,
};
use mirror_rules::text::protocol_name;
use mirror_xdp_common::wire::protocol;
use serde::Serialize;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// A summary of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The time when the frame was seen, in nanoseconds since the epoch.
    pub time: u64,
    /// Its VNI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The outer source address: the mirrored interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer_src: Option<IpAddr>,
    /// Bytes on the wire.
    pub length: u32,
    /// The outermost IP packet in the frame.
    #[serde(flatten)]
    pub content: Content,
}

/// The content of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// An IP packet.
    Packet(Conversation),
    /// A fragment of an IP packet.
    Fragment {
        /// The constant `ip`.
        fragment: &'static str,
    },
    /// A frame that belongs to no flow.
    Refused {
        /// The reason.
        refused: &'static str,
        /// The EtherType or length field of the frame; absent if the frame is too short.
        #[serde(skip_serializing_if = "Option::is_none")]
        ethertype: Option<u16>,
    },
}

/// The endpoints and the transport of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conversation {
    /// Source address.
    pub src_ip: IpAddr,
    /// Source port, where the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Destination address.
    pub dest_ip: IpAddr,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest_port: Option<u16>,
    /// Transport protocol.
    pub proto: String,
    /// TCP flags, in tcpdump's notation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// Type and code of ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// Bytes of TCP or UDP payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<usize>,
    /// The Community ID of the flow.
    pub community_id: String,
}

impl Summary {
    /// Summarizes a frame.
    #[must_use]
    pub fn of(info: &FrameInfo, frame: &[u8]) -> Self {
        let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
        let content = match mirror_packet::decode(layer) {
            Ok(Decoded::Packet(packet)) => Content::Packet(Conversation::of(info, &packet)),
            Ok(Decoded::Fragment(_)) => Content::Fragment { fragment: "ip" },
            Err(refusal) => Content::Refused {
                refused: refusal.name(),
                ethertype: frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])),
            },
        };
        Self {
            time: info.time,
            vni: info.mirror.map(|mirror| mirror.vni.get()),
            outer_src: info.mirror.map(|mirror| mirror.outer_source.to_ip()),
            length: info.original_len.max(frame.len() as u32),
            content,
        }
    }
}

impl Conversation {
    fn of(info: &FrameInfo, packet: &Packet<'_>) -> Self {
        let has_ports = matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        let (tcp_flags, icmp, payload) = match packet.transport {
            Transport::Tcp(Segment { header, payload, missing, .. }) => {
                (Some(flags(header.flags())), None, Some(payload.len() + missing))
            }
            Transport::Udp { payload, .. } => (None, None, Some(payload.len())),
            Transport::Icmp { kind, .. } => (None, Some(kind), None),
            Transport::Sctp | Transport::Esp { .. } | Transport::Ip => (None, None, None),
        };
        let (key, _) = FlowKey::of_packet(packet, SessionKey::from(info.mirror));
        Self {
            src_ip: packet.source.to_ip(),
            src_port: has_ports.then_some(packet.source_port),
            dest_ip: packet.destination.to_ip(),
            dest_port: has_ports.then_some(packet.destination_port),
            proto: protocol_name(packet.protocol),
            tcp_flags,
            icmp,
            payload,
            community_id: CommunityId::of_key(&key).to_string(),
        }
    }
}

/// Formats the flags of a segment with tcpdump's letters.
fn flags(flags: u8) -> String {
    const PUSH: u8 = 0x08;
    let letters = [
        (tcp_flags::SYN, 'S'),
        (tcp_flags::FIN, 'F'),
        (tcp_flags::RST, 'R'),
        (PUSH, 'P'),
        (tcp_flags::ACK, '.'),
    ];
    let text: String =
        letters.iter().filter(|(bit, _)| flags & bit != 0).map(|&(_, letter)| letter).collect();
    if text.is_empty() { "none".to_owned() } else { text }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time / SECOND;
        let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
        write!(f, "{hours:02}:{minutes:02}:{:02}.{:06} ", seconds % 60, self.time % SECOND / 1000)?;
        if let Some(vni) = self.vni {
            write!(f, "vni {vni} ")?;
        }
        match &self.content {
            Content::Packet(conversation) => write!(f, "{conversation}")?,
            Content::Fragment { .. } => f.write_str("IP fragment")?,
            Content::Refused { refused, ethertype } => {
                match ethertype {
                    Some(0x0806) => f.write_str("ARP")?,
                    Some(ethertype) => write!(f, "ethertype {ethertype:#06x}")?,
                    None => f.write_str("frame")?,
                }
                write!(f, " ({refused})")?;
            }
        }
        write!(f, ", length {}", self.length)
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.src_ip.is_ipv6() { "IP6 " } else { "IP " })?;
        for (address, port, after) in
            [(self.src_ip, self.src_port, " > "), (self.dest_ip, self.dest_port, ": ")]
        {
            match port {
                Some(port) => write!(f, "{}{after}", SocketAddr::new(address, port))?,
                None => write!(f, "{address}{after}")?,
            }
        }
        f.write_str(&self.proto)?;
        if let Some(flags) = &self.tcp_flags {
            write!(f, " [{flags}]")?;
        }
        if let Some((kind, code)) = self.icmp {
            write!(f, " type {kind} code {code}")?;
        }
        if let Some(payload) = self.payload {
            write!(f, " payload {payload}")?;
        }
        Ok(())
    }
}

/// Appends the summary of a frame and a line feed.
pub fn write_line(out: &mut String, info: &FrameInfo, frame: &[u8]) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", Summary::of(info, frame));
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use mirror_packet::MirrorSession;
    use mirror_xdp_common::Vni;
    use mirror_xdp_tests::frames::Flow;
    use proptest::prelude::*;

    use super::*;

    fn info(len: usize) -> FrameInfo {
        FrameInfo {
            original_len: len as u32,
            ..FrameInfo::of(&[]).at(3_661 * SECOND + 42_000).mirrored(MirrorSession::new(
                Vni::new(7).unwrap(),
                "10.0.0.1".parse::<IpAddr>().unwrap().into(),
                "10.0.9.5".parse::<IpAddr>().unwrap().into(),
            ))
        }
    }

    #[test]
    fn a_datagram_is_told_as_tcpdump_does() {
        let flow = Flow {
            client: "10.1.2.3:4000".parse().unwrap(),
            server: "10.9.0.1:53".parse().unwrap(),
            vlans: Vec::new(),
        };
        let frame = flow.udp(b"hello");
        let summary = Summary::of(&info(frame.len()), &frame);
        assert_eq!(
            summary.to_string(),
            format!(
                "01:01:01.000042 vni 7 IP 10.1.2.3:4000 > 10.9.0.1:53: udp payload 5, length {}",
                frame.len()
            )
        );
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((json["vni"].as_u64(), json["dest_port"].as_u64()), (Some(7), Some(53)), "{json}");
    }

    #[test]
    fn what_is_no_packet_is_told_all_the_same() {
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        let line = Summary::of(&info(42), &arp).to_string();
        assert_eq!(line, "01:01:01.000042 vni 7 ARP (not_ip), length 42");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_line(frame in prop::collection::vec(any::<u8>(), 0..120)) {
            let mut text = String::new();
            write_line(&mut text, &info(frame.len()), &frame);
            prop_assert_eq!(text.lines().count(), 1);
        }
    }
}
