//! Entry point, maps, and the conversion of the outcome into the verdict.
#![expect(unsafe_code, reason = "globals are read as volatile, map values are raw pointers")]

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{debug, trace};
use mirror_xdp_common::capture::{self, CaptureHeader, flags};
use mirror_xdp_common::counters::{Counter, CounterArray, Fate};
use mirror_xdp_common::filter::{self, action, direction, vni_counter};
use mirror_xdp_common::frame::Frame as _;
use mirror_xdp_common::hash::{FlowHash, FlowHashKey, HashWords};
use mirror_xdp_common::inner::{Fragment, InnerHeaders};
use mirror_xdp_common::outer::{self, Mirrored, Ports};
use mirror_xdp_common::wire::{MacAddresses, TcpFlags, protocol};

use crate::forget::forget;
use crate::memo::{Decided, Key, Place};
use crate::packet::Packet;
use crate::policy::{self, Policy};
use crate::{shunt, vni};

/// Replaced by the number of sockets when the program is loaded.
const SOCKETS_TOTAL: u32 = 1;

/// UDP ports of mirror traffic; user space sets them before loading.
#[unsafe(no_mangle)]
pub(crate) static PORTS: Global<Ports> = Global::new(Ports::NONE);

/// Secret key of the flow hash; user space sets it before loading.
#[unsafe(no_mangle)]
static HASH_KEY: Global<[u64; FlowHashKey::WORDS]> = Global::new([0; FlowHashKey::WORDS]);

/// The key of the flow hash.
struct HashKey;

impl HashWords for HashKey {
    #[inline(always)]
    fn word<const AT: usize>(&self) -> u64 {
        const { assert!(AT < FlowHashKey::WORDS) };
        let words = (&raw const HASH_KEY).cast::<u64>();
        // SAFETY: a global is laid out as what it holds, and this word is within it.
        unsafe { words.add(AT).read_volatile() }
    }
}

/// The number of sockets of a queue; user space sets it before loading.
#[unsafe(no_mangle)]
static SOCKETS_PER_QUEUE: Global<u32> = Global::new(1);

/// The counters of all outcomes, one array per CPU.
#[map]
static COUNTERS: PerCpuArray<CounterArray> = PerCpuArray::with_max_entries(1, 0);

/// The sockets, those of queue 0 first.
#[map]
pub(crate) static SOCKETS: XskMap = XskMap::with_max_entries(SOCKETS_TOTAL, 0);

/// The outer headers of the frame that this CPU handles.
#[map]
pub(crate) static MIRRORED: PerCpuArray<Mirrored> = PerCpuArray::with_max_entries(1, 0);

/// The facts about a frame after its headers were parsed.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    key: Key,
    pub(crate) hash: FlowHash,
    original_len: u32,
    /// Offset from the start of the inner frame.
    transport_offset: u32,
    protocol: u8,
    fragment: Fragment,
    is_complete: bool,
}

impl Facts {
    #[inline(always)]
    pub(crate) fn new(mirrored: &Mirrored, inner: &InnerHeaders, macs: MacAddresses) -> Self {
        Self {
            key: Key::new(mirrored, inner, macs),
            hash: inner.flow_hash(&HashKey),
            original_len: inner.original_len(mirrored.inner_len) as u32,
            transport_offset: inner.transport_offset as u32,
            protocol: inner.protocol,
            fragment: inner.fragment,
            is_complete: inner.is_complete(),
        }
    }
}

/// The facts about the frame that this CPU handles.
#[map]
pub(crate) static FACTS: PerCpuArray<Facts> = PerCpuArray::with_max_entries(1, 0);

/// The counters of this CPU.
#[derive(Clone, Copy)]
struct Counters(*mut CounterArray);

impl Counters {
    #[inline(always)]
    fn add(self, counter: Counter) {
        // SAFETY: the array belongs to this CPU, and no other program on it interrupts this one.
        unsafe { (*self.0)[counter as usize] += 1 };
    }
}

/// The program.
#[xdp(frags)]
pub(crate) fn capture(context: XdpContext) -> u32 {
    handle(&context)
}

/// Handles one frame and returns the verdict.
#[inline(always)]
pub(crate) fn handle(context: &XdpContext) -> u32 {
    let Some(counters) = COUNTERS.get_ptr_mut(0).map(Counters) else {
        return xdp_action::XDP_ABORTED;
    };
    counters.add(Counter::Seen);
    let outcome = run(context, counters);
    counters.add(outcome);
    match outcome.fate() {
        Fate::Passed => {
            trace!(context, "passed: {}", outcome.name());
            xdp_action::XDP_PASS
        }
        // `run` has already told the kernel which socket.
        Fate::Redirected => xdp_action::XDP_REDIRECT,
        Fate::Dropped | Fate::Shunted | Fate::Seen | Fate::Noted => {
            debug!(context, "dropped: {}", outcome.name());
            xdp_action::XDP_DROP
        }
    }
}

/// Handles one frame and returns the counter of its fate.
#[inline(always)]
fn run(context: &XdpContext, counters: Counters) -> Counter {
    match try_run(context, counters) {
        Ok(()) => Counter::Redirected,
        Err(reason) => reason,
    }
}

#[inline(always)]
fn try_run(context: &XdpContext, counters: Counters) -> Result<(), Counter> {
    let mut packet = Packet::new(context);
    let mirrored = outer::decapsulate(&packet, &PORTS.load())?;
    let mirrored = forget(&MIRRORED, &mirrored).ok_or(Counter::NoHeadroom)?;
    // From here on the frame no longer goes to the kernel.
    if mirrored.flags & flags::VXLAN_GPE != 0 {
        counters.add(Counter::VxlanGpe);
    }
    if mirrored.flags & flags::VXLAN_GROUP_POLICY != 0 {
        counters.add(Counter::VxlanGroupPolicy);
    }
    // Bytes behind the datagram are the padding of a short Ethernet frame, or a trailer.
    packet.truncate(mirrored.inner_offset + mirrored.inner_len).map_err(|()| Counter::NoHeadroom)?;
    packet.move_front(mirrored.inner_offset, capture::LEN).map_err(|()| Counter::NoHeadroom)?;
    // The inner headers are parsed only now. The frame ends where the inner one does, so no bytes behind it
    // are taken for a part of it. The headers also begin at the same place for all outer headers, so the
    // verifier need not follow them once for each form of those.
    let macs: MacAddresses = packet.header(capture::LEN).unwrap_or_default();
    let inner = InnerHeaders::parse(&packet, capture::LEN);
    let facts = forget(&FACTS, &Facts::new(mirrored, &inner, macs)).ok_or(Counter::NoHeadroom)?;
    let hash = facts.hash;
    if packet.is_split() && !facts.is_complete {
        counters.add(Counter::InnerNotLinear);
    }
    // SAFETY: the helper takes no arguments.
    let now = unsafe { bpf_ktime_get_ns() };

    let decided = decide(mirrored, facts, counters)?;
    let vni = vni::Counted::frame(decided.vni_slot, mirrored.inner_len, now).ok_or(Counter::NoSocket)?;
    if decided.vni_slot == 0 && decided.action != action::VNI_NOT_ADMITTED {
        counters.add(Counter::VniUncounted);
    }
    if decided.rule != 0 {
        policy::count_rule(decided.rule, mirrored.inner_len);
    }
    let original_len = facts.original_len as usize;
    let mut bits = mirrored.flags;
    match decided.action {
        action::ACCEPT | action::TRUNCATE => {}
        action::SAMPLE => {
            if sampled_out(hash, decided.parameter) {
                vni.add(vni_counter::SAMPLED_OUT);
                return Err(Counter::SampledOut);
            }
            bits |= flags::SAMPLED;
        }
        action::SHUNT => {
            vni.add(vni_counter::SHUNTED);
            return Err(Counter::RuleShunted);
        }
        action::VNI_NOT_ADMITTED => {
            vni.add(vni_counter::NOT_ADMITTED);
            return Err(Counter::VniNotAdmitted);
        }
        _ => {
            vni.add(vni_counter::REJECTED);
            return Err(Counter::FilterRejected);
        }
    }
    if decided.shunt != shunt::NOT_SHUNTED && !ends_connection(&packet, facts) {
        shunt::count(decided.shunt, original_len, now);
        vni.add(vni_counter::SHUNTED);
        return Err(Counter::FlowShunted);
    }

    let socket = context.rx_queue_index() * SOCKETS_PER_QUEUE.load() + fan_out(hash);
    let undelivered = |counter| {
        vni.add(vni_counter::UNDELIVERED);
        counter
    };
    // The kernel remembers the socket, and uses it when the verdict is to redirect.
    SOCKETS.redirect(socket, 0).map_err(|_| undelivered(Counter::NoSocket))?;
    if original_len > mirrored.inner_len {
        bits |= flags::TRUNCATED;
    }
    if decided.action == action::TRUNCATE && mirrored.inner_len > decided.parameter as usize {
        let len = capture::LEN + decided.parameter as usize;
        packet.truncate(len).map_err(|()| undelivered(Counter::NoHeadroom))?;
        bits |= flags::SNAPPED;
    }
    match facts.fragment {
        Fragment::Whole => {}
        Fragment::First => bits |= flags::FRAGMENT,
        Fragment::Later => bits |= flags::FRAGMENT | flags::LATER_FRAGMENT,
    }
    match decided.direction {
        direction::INGRESS => bits |= flags::INGRESS,
        direction::EGRESS => bits |= flags::EGRESS,
        _ => {}
    }
    let header = CaptureHeader {
        flags: bits,
        vni: mirrored.vni,
        outer_source: mirrored.source,
        outer_destination: mirrored.destination,
        gateway: mirrored.gateway,
        original_len: facts.original_len,
        flow_hash: hash,
        rule: u32::from(decided.rule),
        time: now,
    };
    packet.write_front(header.encode()).map_err(|()| undelivered(Counter::HeadersNotLinear))
}

/// Returns the earlier decision on such packets, or decides now.
#[inline(always)]
fn decide(mirrored: &Mirrored, facts: &Facts, counters: Counters) -> Result<Decided, Counter> {
    let key = &facts.key;
    let generation = policy::generation();
    let shunt_generation = shunt::generation(facts.hash);
    let place = Place::of(facts.hash, key);
    if let Some(place) = &place {
        if let Some(decided) = place.recall(key, generation, shunt_generation) {
            return Ok(decided);
        }
    }
    counters.add(Counter::Judged);
    // User space has filled the tables before the program was attached.
    let policy = Policy::of(generation).ok_or(Counter::NoSocket)?;
    if !filter::admits(&policy, mirrored.sender) {
        // Not stored: a flood of such frames would displace the other entries.
        return Err(Counter::SourceNotAdmitted);
    }
    let slot = vni::slot(mirrored.vni, filter::Compiled::tables(&policy));
    let judgement = filter::judge(&policy, slot, &key.question());
    let may_be_shunted = shunt_generation != 0 && key.may_be_shunted();
    let shunt = if may_be_shunted { shunt::place(&key.shunt) } else { shunt::NOT_SHUNTED };
    let decided = Decided::new(generation, shunt_generation, slot, shunt, judgement);
    if let Some(place) = &place {
        place.remember(key, &decided);
    }
    Ok(decided)
}

/// Returns whether a flow is outside of a sample of one in `n`.
#[inline(always)]
fn sampled_out(hash: FlowHash, n: u32) -> bool {
    n > 1 && filter::sample_value(hash) % n != 0
}

/// Returns whether a packet ends its TCP connection. User space sees such packets even of shunted flows.
#[inline(always)]
fn ends_connection(packet: &Packet<'_>, facts: &Facts) -> bool {
    facts.protocol == protocol::TCP
        && packet
            .header::<TcpFlags>(capture::LEN + facts.transport_offset as usize + TcpFlags::OFFSET)
            .is_some_and(TcpFlags::ends)
}

/// Returns the number of the socket of a queue that receives a flow.
#[inline(always)]
fn fan_out(hash: FlowHash) -> u32 {
    (u64::from(hash.0) * u64::from(SOCKETS_PER_QUEUE.load()) >> 32) as u32
}
