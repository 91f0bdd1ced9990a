//! The analyzers of a worker, and which of them follows which flow.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::builtin::{Dns, Http, Quic, Ssh, StartTls, Tls};
use super::{Analyzer, Context, Direction, Enabled, Event, Filter, Interest, Use};
use crate::fair::Shares;
use crate::flow::{FlowIndex, FlowKeyHasher};
use crate::indicators::Indicators;
use crate::packet::Packet;
use crate::protocol::detect::AppProto;
use crate::record::Conversation;

/// Bytes of memory that the states of all flows hold for one analyzer, besides themselves.
const MAX_HELD: usize = 32 << 20;

/// Analyzers of a worker, a bit for each.
pub(super) type Set = u16;

/// There are more analyzers than a worker can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has at most {MAX} analyzers of its user; register fewer", MAX = Analyzers::MAX_REGISTERED)]
pub struct TooMany;

/// Registers a user's analyzers with those of a worker.
pub type Register = fn(&mut Analyzers) -> Result<(), TooMany>;

/// What every worker of this process registers.
static REGISTER: OnceLock<Register> = OnceLock::new();

/// Has every worker that is made from now on register analyzers. Of several calls, the first counts.
///
/// # Errors
///
/// Those of `register`: then none of the workers would have what it is to have.
pub fn register_everywhere(register: Register) -> Result<(), TooMany> {
    register(&mut Analyzers::default())?;
    REGISTER.get_or_init(|| register);
    Ok(())
}

/// Which analyzers follow a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Those that have a state of the flow.
    known: Set,
    /// Those that want packets.
    packets: Set,
    /// Those that want the data of each direction.
    data: [Set; 2],
}

impl Following {
    /// Whether any analyzer wants data of a direction.
    #[must_use]
    pub const fn wants_data(&self, direction: Direction) -> bool {
        self.data[direction as usize] != 0
    }

    /// Whether any analyzer wants packets.
    #[must_use]
    pub const fn wants_packets(&self) -> bool {
        self.packets != 0
    }

    const fn add(&mut self, analyzer: Set, packets: bool) {
        self.data[0] |= analyzer;
        self.data[1] |= analyzer;
        if packets {
            self.packets |= analyzer;
        }
    }

    const fn remove(&mut self, analyzer: Set) {
        self.data[0] &= !analyzer;
        self.data[1] &= !analyzer;
        self.packets &= !analyzer;
    }

    /// All that have a state of the flow, or want data.
    const fn followers(self) -> Set {
        self.known | self.data[0] | self.data[1]
    }
}

/// The analyzers of a worker: those that are built in, and those that its user registered.
#[derive(Debug)]
pub struct Analyzers {
    dns: Registered<Dns>,
    http: Registered<Http>,
    ssh: Registered<Ssh>,
    tls: Registered<Tls>,
    quic: Registered<Quic>,
    start_tls: Registered<StartTls>,
    registered: Vec<Box<dyn Erased>>,
    /// Flows that the worker has at most, and what its hosts are hashed by.
    max_flows: usize,
    hasher: FlowKeyHasher,
    enabled: Enabled,
}

/// The bits of the analyzers that are built in.
pub(super) const DNS: u32 = 0;
pub(super) const HTTP: u32 = 1;
pub(super) const SSH: u32 = 2;
pub(super) const TLS: u32 = 3;
pub(super) const QUIC: u32 = 4;
const START_TLS: u32 = 5;
/// The first bit of others.
const REGISTERED: u32 = 8;

impl Default for Analyzers {
    fn default() -> Self {
        let of = |application| Filter::all().application(application);
        Self {
            dns: Registered::new(Dns::default(), of(AppProto::Dns)),
            http: Registered::new(Http::default(), of(AppProto::Http)),
            ssh: Registered::new(Ssh::default(), of(AppProto::Ssh)),
            tls: Registered::new(Tls::default(), of(AppProto::Tls)),
            quic: Registered::new(Quic::default(), of(AppProto::Quic)),
            start_tls: Registered::new(
                StartTls,
                of(AppProto::Smtp).application(AppProto::Ftp).application(AppProto::Imap),
            ),
            registered: Vec::new(),
            max_flows: 0,
            hasher: FlowKeyHasher::new(0),
            enabled: Enabled::default(),
        }
    }
}

/// Calls a method of the analyzer with a bit.
macro_rules! call {
    ($of:expr, $analyzer:ident => $call:expr) => {{
        let $analyzer = &mut $of;
        $call
    }};
    ($analyzers:expr, $bit:expr, $analyzer:ident => $call:expr) => {
        match $bit {
            DNS => Some(call!($analyzers.dns, $analyzer => $call)),
            HTTP => Some(call!($analyzers.http, $analyzer => $call)),
            SSH => Some(call!($analyzers.ssh, $analyzer => $call)),
            TLS => Some(call!($analyzers.tls, $analyzer => $call)),
            QUIC => Some(call!($analyzers.quic, $analyzer => $call)),
            START_TLS => Some(call!($analyzers.start_tls, $analyzer => $call)),
            bit => $analyzers.registered.get_mut(bit.wrapping_sub(REGISTERED) as usize).map(|$analyzer| $call),
        }
    };
}

impl Analyzers {
    /// How many analyzers can be registered besides those that are built in.
    pub const MAX_REGISTERED: usize = (Set::BITS - REGISTERED) as usize;

    /// The analyzers of a new worker with so many flows at most; the seed keys the hash of hosts.
    pub(crate) fn of_worker(max_flows: usize, seed: u64) -> Self {
        let hasher = FlowKeyHasher::new(seed);
        let mut analyzers = Self { max_flows, hasher, ..Self::default() };
        for bit in DNS..=START_TLS {
            call!(analyzers, bit, analyzer => analyzer.prepare(max_flows, hasher));
        }
        if let Some(register) = REGISTER.get() {
            // It did the same to others before, and succeeded.
            let _ = register(&mut analyzers);
        }
        analyzers
    }

    /// Says which of those that are built in run. Those that do not any more say nothing from now on, also of
    /// flows that they follow; those that run again follow flows whose application is recognised from now on.
    pub const fn enable(&mut self, enabled: Enabled) {
        self.enabled = enabled;
    }

    /// How often the state of a flow was given up for want of memory.
    pub(crate) fn forgotten(&self) -> u64 {
        let registered: u64 = self.registered.iter().map(|analyzer| analyzer.forgotten()).sum();
        let Self { dns, http, ssh, tls, quic, start_tls, .. } = self;
        registered
            + dns.forgotten
            + http.forgotten
            + ssh.forgotten
            + tls.forgotten
            + quic.forgotten
            + start_tls.forgotten
    }

    /// Has names and fingerprints looked for: flows that have one raise an alert.
    pub(crate) fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.dns.analyzer.watch.set(indicators);
        self.http.analyzer.watch.set(indicators);
        self.tls.analyzer.watch.set(indicators);
        self.quic.analyzer.watch.set(indicators);
    }

    /// Adds an analyzer that gets the flows which `filter` wants.
    ///
    /// # Errors
    ///
    /// Where there are [`Analyzers::MAX_REGISTERED`] already.
    pub fn register<A: Analyzer>(&mut self, analyzer: A, filter: Filter) -> Result<(), TooMany> {
        if self.registered.len() == Self::MAX_REGISTERED {
            return Err(TooMany);
        }
        let mut registered = Registered::new(analyzer, filter);
        registered.prepare(self.max_flows, self.hasher);
        self.registered.push(Box::new(registered));
        Ok(())
    }

    /// Who follows a flow from its first packet on.
    pub(crate) fn begin(&self, conversation: impl FnOnce() -> Conversation) -> Following {
        let mut following = Following::default();
        if self.registered.is_empty() {
            return following;
        }
        let conversation = conversation();
        for (bit, analyzer) in (REGISTERED..).zip(&self.registered) {
            let filter = analyzer.filter();
            if !filter.asks_for_application() && filter.wants(&conversation, None) {
                following.add(1 << bit, filter.wants_packets());
            }
        }
        following
    }

    /// Adds those that were waiting for the application of a flow to be known.
    pub(crate) fn recognised(
        &self,
        following: &mut Following,
        application: AppProto,
        conversation: impl FnOnce() -> Conversation,
    ) {
        // What their filters say, without asking them.
        let built_in = match application {
            AppProto::Dns => 1 << DNS,
            AppProto::Http => 1 << HTTP,
            AppProto::Ssh => 1 << SSH,
            AppProto::Tls => 1 << TLS,
            AppProto::Quic => 1 << QUIC,
            AppProto::Smtp | AppProto::Ftp | AppProto::Imap => 1 << START_TLS,
            _ => 0,
        };
        following.add(built_in & self.enabled.set(), false);
        if self.registered.is_empty() {
            return;
        }
        let conversation = conversation();
        for (bit, analyzer) in (REGISTERED..).zip(&self.registered) {
            let filter = analyzer.filter();
            if filter.asks_for_application() && filter.wants(&conversation, Some(application)) {
                following.add(1 << bit, filter.wants_packets());
            }
        }
    }

    /// Hands a packet to those that want packets of its flow.
    pub(crate) fn packet(
        &mut self,
        following: &mut Following,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) {
        for bit in bits(following.packets) {
            following.known |= 1 << bit;
            let interest = call!(self, bit, analyzer => analyzer.packet(index, direction, packet, context));
            if interest != Some(Interest::More) {
                following.remove(1 << bit);
            }
        }
    }

    /// Hands data to those that want it. Says how many of the bytes none of them needs any more; with
    /// `hold`, others may come that need them all.
    pub(crate) fn data(
        &mut self,
        following: &mut Following,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        hold: bool,
        context: &mut Context<'_>,
    ) -> Use {
        let mut used = match event {
            Event::Data { bytes, .. } if !hold => bytes.len(),
            _ => 0,
        };
        let mut restart = None;
        self.retire(following, index, context);
        let wanting = following.data[direction as usize];
        following.known |= wanting;
        // What one alone has used, nobody needs.
        let alone = !hold && wanting.is_power_of_two();
        for bit in bits(wanting) {
            match call!(self, bit, analyzer => analyzer.data(index, direction, event, alone, context)) {
                Some(Use::Used(of_this)) => used = used.min(of_this),
                Some(Use::Close) => following.data[direction as usize] &= !(1 << bit),
                Some(Use::Done) | None => following.remove(1 << bit),
                Some(Use::Restart(of_this)) => {
                    following.remove(1 << bit);
                    restart = Some(of_this);
                }
            }
        }
        let left = following.data[direction as usize];
        if !alone && used > 0 {
            for bit in bits(left) {
                call!(self, bit, analyzer => analyzer.advance(index, direction, used));
            }
        }
        match restart {
            Some(used) => Use::Restart(used),
            None if left == 0 && !hold => Use::Close,
            None => Use::Used(used),
        }
    }

    /// Has those that do not run any more forget a flow, if there are some.
    #[inline]
    fn retire(&mut self, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        let off = !self.enabled.set();
        if following.followers() & off != 0 {
            self.forget(off, following, index, context);
        }
    }

    /// Has these forget a flow, without a word.
    #[cold]
    fn forget(&mut self, off: Set, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        context.muted = true;
        for bit in bits(following.known & off) {
            call!(self, bit, analyzer => analyzer.end(index, context));
        }
        context.muted = false;
        following.known &= !off;
        following.remove(off);
    }

    /// Tells those that know a flow that it ended.
    pub(crate) fn end(&mut self, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        self.retire(following, index, context);
        for bit in bits(following.known) {
            call!(self, bit, analyzer => analyzer.end(index, context));
        }
        *following = Following::default();
    }
}

/// The numbers of the bits that are set.
fn bits(set: Set) -> impl Iterator<Item = u32> {
    let mut left = set;
    std::iter::from_fn(move || {
        let bit = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (bit < Set::BITS).then_some(bit)
    })
}

/// An analyzer with its filter and the states of the flows that it follows.
struct Registered<A: Analyzer> {
    analyzer: A,
    filter: Filter,
    /// The place in `states` that each flow of the table has, plus one; 0 where it has none.
    places: Vec<u32>,
    states: Vec<State<A::Flow>>,
    free: Vec<u32>,
    hasher: FlowKeyHasher,
    /// What the states hold, by their places.
    shares: Shares,
    /// How often a state was given up for want of memory.
    forgotten: u64,
}

#[derive(Debug, Default)]
struct State<F> {
    flow: F,
    /// How many of the bytes that are kept of each direction this analyzer has used already: others may
    /// need them still.
    ahead: [usize; 2],
    /// Bytes that the state holds in [`Registered::shares`], where it has entered it.
    held: usize,
}

impl<F> State<F> {
    /// What the state holds, where that is not what was entered.
    fn changed(&self, held: impl FnOnce(&F) -> usize) -> Option<usize> {
        Some(held(&self.flow)).filter(|&held| held != self.held)
    }
}

impl<A: Analyzer> Registered<A> {
    fn new(analyzer: A, filter: Filter) -> Self {
        Self {
            analyzer,
            filter,
            places: Vec::new(),
            states: Vec::new(),
            free: Vec::new(),
            hasher: FlowKeyHasher::new(0),
            shares: Shares::new(MAX_HELD),
            forgotten: 0,
        }
    }

    /// Reserves memory for as many flows as there can be, which is touched as they come: growing would leave
    /// what was outgrown behind.
    fn prepare(&mut self, max_flows: usize, hasher: FlowKeyHasher) {
        self.hasher = hasher;
        self.places.reserve_exact(max_flows);
        self.states.reserve_exact(max_flows);
        self.free.reserve_exact(max_flows);
    }

    fn state(&mut self, index: FlowIndex) -> (&mut A, &mut State<A::Flow>) {
        let at = index.get();
        if self.places.len() <= at {
            self.places.resize(at + 1, 0);
        }
        if self.places[at] == 0 {
            let place = self.free.pop().unwrap_or_else(|| {
                self.states.push(State::default());
                self.states.len() as u32 - 1
            });
            self.places[at] = place + 1;
        }
        (&mut self.analyzer, &mut self.states[self.places[at] as usize - 1])
    }

    fn packet(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> Interest {
        let (analyzer, state) = self.state(index);
        let interest = analyzer.packet(&mut state.flow, direction, packet, context);
        if let Some(held) = state.changed(A::held) {
            self.charge(index, direction, held, context);
        }
        interest
    }

    /// Hands data on; says how many of all the bytes were used. Where nobody else follows, they are not kept.
    // Of its own: what an analyzer needs would otherwise be made ready for all of them whenever data comes.
    #[inline(never)]
    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
    ) -> Use {
        let (analyzer, state) = self.state(index);
        let ahead = &mut state.ahead[direction as usize];
        let (event, len) = match event {
            Event::Data { bytes, new } => {
                let new = new.saturating_sub(*ahead);
                (Event::Data { bytes: bytes.get(*ahead..).unwrap_or_default(), new }, bytes.len())
            }
            Event::Gap { .. } => {
                *ahead = 0;
                (event, 0)
            }
            Event::End { bytes, acknowledged } => {
                (Event::End { bytes: bytes.get(*ahead..).unwrap_or_default(), acknowledged }, 0)
            }
        };
        let outcome = match analyzer.data(&mut state.flow, direction, event, context) {
            Use::Used(used) => {
                let used = *ahead + used;
                *ahead = if alone { used.saturating_sub(len) } else { used };
                Use::Used(used)
            }
            Use::Restart(used) => Use::Restart(*ahead + used),
            other => other,
        };
        if let Some(held) = state.changed(A::held) {
            self.charge(index, direction, held, context);
        }
        outcome
    }

    /// Takes note of what a flow's state holds now, and has others give up theirs where that is too much.
    #[inline(never)]
    fn charge(&mut self, index: FlowIndex, direction: Direction, held: usize, context: &Context<'_>) {
        let place = self.places[index.get()] as usize - 1;
        let before = std::mem::replace(&mut self.states[place].held, held);
        if held == 0 {
            return self.shares.leave(place);
        }
        if before == 0 {
            let host = context.head.owner(index, direction).host(&self.hasher);
            self.shares.enter(place, host);
        }
        self.shares.charge(place, held);
        while let Some(other) = self.shares.to_give_back(place) {
            let state = &mut self.states[other];
            self.analyzer.forget(&mut state.flow);
            state.held = 0;
            self.shares.leave(other);
            self.forgotten += 1;
        }
    }

    /// Takes note that the first `used` bytes that were kept of a direction are kept no longer.
    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize) {
        let ahead = &mut self.state(index).1.ahead[direction as usize];
        *ahead = ahead.saturating_sub(used);
    }

    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>) {
        let Some(place) = self.places.get_mut(index.get()).map(std::mem::take).filter(|&place| place > 0)
        else {
            return;
        };
        let state = &mut self.states[place as usize - 1];
        self.analyzer.end(&mut state.flow, context);
        if state.held > 0 {
            self.shares.leave(place as usize - 1);
        }
        *state = State::default();
        self.free.push(place - 1);
    }
}

impl<A: Analyzer> fmt::Debug for Registered<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// A registered analyzer of whatever type.
trait Erased: fmt::Debug + Send {
    fn filter(&self) -> &Filter;
    fn prepare(&mut self, max_flows: usize, hasher: FlowKeyHasher);
    fn forgotten(&self) -> u64;
    fn packet(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> Interest;
    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
    ) -> Use;
    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize);
    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>);
}

impl<A: Analyzer> Erased for Registered<A> {
    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn prepare(&mut self, max_flows: usize, hasher: FlowKeyHasher) {
        self.prepare(max_flows, hasher);
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn packet(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) -> Interest {
        self.packet(index, direction, packet, context)
    }

    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
    ) -> Use {
        self.data(index, direction, event, alone, context)
    }

    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize) {
        self.advance(index, direction, used);
    }

    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>) {
        self.end(index, context);
    }
}
