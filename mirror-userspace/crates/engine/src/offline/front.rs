//! The work on the frames of a capture file before they are spread over workers: everything in which frames of several
//! flows have a part.
//!
//! A frame goes to the worker of its flow, by the hash of a live capture. All frames that change the same flow must meet
//! one worker, or else the records would depend on the number of workers:
//!
//! - An ICMP error goes to the worker of the flow that it is about.
//! - Fragments have no ports. They are reassembled here, and the datagram goes to the worker of its flow.
//! - A copy proves that two sessions see the same two hosts, which concerns all flows between them. So duplicates are
//!   found here.
//! - A flow in tunnels may come by several of them, and none of their headers is that of the flow. So all tunnels within
//!   frames go to the first worker, and with them all packets that have their protocol and ports.

use mirror_packet::fragment::{Defragmenter, Fragment, Fragments};
use mirror_packet::{
    self, DecodeError, Decoded, FlowKey, FlowScope, FrameInfo, Layer, LinkType, Packet, SessionKey,
    Transport, TunnelPorts, Vlans,
};
use mirror_xdp_common::hash::{FlowHashKey, flow_hash};
use mirror_xdp_common::inner::{Fragment as FragmentKind, InnerHeaders, Network};
use mirror_xdp_common::wire::{Ipv6Header, protocol};

use crate::worker::WorkerConfig;
use crate::worker::affinity::Affinity;
use crate::worker::duplicates::{Duplicates, Place, Verdict};

/// The worker of all tunnels, and of frames that belong to no flow.
pub(super) const FIRST: usize = 0;

/// How a frame is analysed.
#[derive(Debug)]
pub(super) enum Treatment {
    /// As any frame.
    Plain,
    /// It is known whether the frame is a copy.
    Judged(Verdict),
    /// It holds a fragment of a datagram that is not complete.
    Waiting,
    /// It holds a fragment that was refused.
    Refused(DecodeError),
    /// It completes a datagram, which is in [`Front::datagram`].
    Whole { place: Place, vlans: Vlans, before: Fragments },
}

/// Assigns frames to workers.
#[derive(Debug)]
pub(super) struct Front {
    affinity: Affinity,
    hash_key: FlowHashKey,
    ports: TunnelPorts,
    scope: FlowScope,
    dedup: Option<Box<Duplicates>>,
    pub(super) defragmenter: Defragmenter,
    datagram: Vec<u8>,
}

impl Front {
    pub(super) fn new(
        workers: u32,
        config: &WorkerConfig,
        dedup: Option<Box<Duplicates>>,
        defragmenter: Defragmenter,
    ) -> Self {
        Self {
            affinity: Affinity::over(workers),
            hash_key: FlowHashKey::new(config.hash_seed),
            ports: config.tuning.tunnel_ports,
            scope: config.flow_scope,
            dedup,
            defragmenter,
            datagram: Vec::new(),
        }
    }

    pub(super) const fn ports(&self) -> &TunnelPorts {
        &self.ports
    }

    /// Returns the datagram that was reassembled last.
    pub(super) fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// Returns the worker of a frame, and how it is analysed there. `now` is the time that timers have, `headers` are the
    /// frame's, if they were parsed.
    #[inline]
    pub(super) fn assign(
        &mut self,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        now: u64,
        headers: Option<&InnerHeaders>,
    ) -> (usize, Treatment) {
        if self.dedup.is_none()
            && let Some(owner) = headers.and_then(|headers| self.owner_by_headers(headers))
        {
            return (owner, Treatment::Plain);
        }
        self.assign_any(info, link, frame, now)
    }

    /// Returns the worker of a usual frame: a TCP segment or a datagram without a tunnel, in a whole packet.
    #[inline]
    fn owner_by_headers(&self, headers: &InnerHeaders) -> Option<usize> {
        let is_usual = headers.has_ports
            && headers.fragment == FragmentKind::Whole
            && match headers.network {
                Network::Ipv4 => true,
                // Without extension headers.
                Network::Ipv6 => headers.transport_offset == headers.network_offset + Ipv6Header::LEN,
                Network::Other => false,
            };
        let &InnerHeaders { source_port, destination_port, .. } = headers;
        let is_usual = is_usual
            && match headers.protocol {
                protocol::TCP => true,
                protocol::UDP => !self.ports.may_be_of_tunnel(source_port, destination_port),
                _ => false,
            };
        is_usual.then(|| self.affinity.owner(headers.flow_hash(&self.hash_key)))
    }

    #[inline(never)]
    fn assign_any(
        &mut self,
        info: &FrameInfo,
        link: Option<LinkType>,
        frame: &[u8],
        now: u64,
    ) -> (usize, Treatment) {
        let Some(link) = link else { return (FIRST, Treatment::Plain) };
        let mut treatment = Treatment::Plain;
        let mut place = Place::from(info.mirror);
        if let (Some(dedup), Some(mirror), LinkType::Ethernet) = (&mut self.dedup, info.mirror, link) {
            let verdict = dedup.look(mirror, info.time, frame);
            match verdict {
                Verdict::New(known) => place = known,
                Verdict::Copy { .. } => return (self.owner_of_copy(info, frame), Treatment::Judged(verdict)),
            }
            treatment = Treatment::Judged(verdict);
        }
        let original_len = info.original_len as usize;
        if link == LinkType::Ethernet
            && let Some(packet) = mirror_packet::decode_usual(frame, original_len, &self.ports)
        {
            return (self.owner(&packet), treatment);
        }
        let ports = self.ports;
        match mirror_packet::decode_stepwise(Layer::frame(link, frame, original_len).with_ports(&ports)) {
            Ok(Decoded::Packet(packet)) => (self.owner(&packet), treatment),
            Ok(Decoded::Fragment(fragment)) if fragment.depth == 0 => {
                self.fragment(&fragment, place.within(self.scope), now)
            }
            Ok(Decoded::Fragment(_)) | Err(_) => (FIRST, treatment),
        }
    }

    /// Returns the worker of a packet, the outermost of its frame.
    #[inline]
    pub(super) fn owner(&self, packet: &Packet<'_>) -> usize {
        if let Transport::Icmp { error: true, cause, .. } = packet.transport {
            let key = cause.map(|cause| FlowKey::of_cause(&cause, packet, SessionKey::default()));
            return key.map_or(FIRST, |key| self.owner_of_flow(packet.depth, &key));
        }
        if packet.protocol == protocol::TCP && packet.depth == 0 {
            let (from, to) =
                ((packet.source, packet.source_port), (packet.destination, packet.destination_port));
            let hash = flow_hash(&self.hash_key, from.0, from.1, to.0, to.1, protocol::TCP);
            return self.affinity.owner(hash);
        }
        let (key, _) = FlowKey::of_packet(packet, SessionKey::default());
        self.owner_of_flow(packet.depth, &key)
    }

    /// Returns the worker of a flow. It depends on the flow only, not on the packet.
    #[inline]
    fn owner_of_flow(&self, depth: u8, key: &FlowKey) -> usize {
        let is_tunnel = match key.protocol() {
            protocol::UDP => self.ports.may_be_of_tunnel(key.low().1, key.high().1),
            protocol::IPV4 | protocol::IPV6 => true,
            _ => false,
        };
        if is_tunnel || depth > 0 { FIRST } else { self.affinity.owner(key.flow_hash(&self.hash_key)) }
    }

    /// Returns the worker of a copy, which counts it, and unites the flows that it belongs to.
    fn owner_of_copy(&self, info: &FrameInfo, frame: &[u8]) -> usize {
        let layer = Layer::frame(LinkType::Ethernet, frame, info.original_len as usize);
        match mirror_packet::decode(layer) {
            Ok(Decoded::Packet(packet)) => self.owner(&packet),
            Ok(Decoded::Fragment(_)) | Err(_) => FIRST,
        }
    }

    fn fragment(&mut self, fragment: &Fragment<'_>, place: Place, now: u64) -> (usize, Treatment) {
        let mut datagram = std::mem::take(&mut self.datagram);
        let whole = self.defragmenter.add(fragment, place.session, now, false, &mut datagram);
        let assigned = match whole {
            Ok(Some(before)) => {
                let ports = self.ports;
                let layer = Layer::datagram(&datagram, fragment).with_ports(&ports);
                let owner = match mirror_packet::decode_stepwise(layer) {
                    Ok(Decoded::Packet(packet)) => self.owner(&packet),
                    Ok(Decoded::Fragment(_)) | Err(_) => FIRST,
                };
                (owner, Treatment::Whole { place, vlans: fragment.vlans, before })
            }
            Ok(None) => (FIRST, Treatment::Waiting),
            Err(refusal) => (FIRST, Treatment::Refused(refusal)),
        };
        self.datagram = datagram;
        assigned
    }
}
