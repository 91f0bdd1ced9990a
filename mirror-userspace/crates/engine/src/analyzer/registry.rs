//! The analyzers of a worker, and their assignment to flows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use mirror_packet::{FlowKeyHasher, Packet};
use mirror_protocols::detect::{AppProto, OptIn};
use mirror_protocols::protocols;
use mirror_records::Conversation;

use super::builtin::StartTls;
use super::held::{AnalyzerMemory, Held, HeldBy, StateOf};
use super::{Analyzer, Consumed, Context, Direction, Enabled, Event, Filter, Interest};
use crate::FlowIndex;
use crate::indicators::Indicators;

/// A set of the analyzers that follow a flow, one bit for each: [`SLOTS`] bits for built-in ones, whose numbers the
/// flow has, one for each of those that the user registered, and [`INSPECTION`].
type Set = u16;

/// The number of built-in analyzers that may follow a flow, one after the other. Only HTTP and protocols that negotiate
/// TLS make way for another one, so ordinary flows have at most four. Where two ends agree on more protocols than these,
/// the last are not analysed.
const SLOTS: usize = 7;

/// A set of built-in analyzers, one bit for each number.
pub(super) type BuiltinSet = u64;

/// More analyzers were registered than a worker can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has at most {MAX} registered analyzers; register fewer", MAX = Analyzers::MAX_REGISTERED)]
pub struct TooMany;

/// The bit of the rules, which take what analyzers take. They are no analyzer, see [`crate::inspection`].
const INSPECTION: Set = 1 << (Set::BITS - 1);

const _: () = assert!(SLOTS + Analyzers::MAX_REGISTERED < Set::BITS as usize, "widen `Set`");
const _: () = assert!(REGISTERED <= BuiltinSet::BITS, "widen `BuiltinSet`");

/// A function that registers a user's analyzers with those of a worker.
pub type Register = fn(&mut Analyzers) -> Result<(), TooMany>;

/// The registration function of every worker of this process.
static REGISTER: OnceLock<Register> = OnceLock::new();

/// Sets the function by which every new worker registers analyzers. Of several calls, the first counts.
///
/// # Errors
///
/// Fails if `register` fails. In that case, no worker uses it.
pub fn register_everywhere(register: Register) -> Result<(), TooMany> {
    register(&mut Analyzers::default())?;
    REGISTER.get_or_init(|| register);
    Ok(())
}

/// The analyzers that follow a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Those that have a state for the flow.
    known: Set,
    /// Those that want packets.
    packets: Set,
    /// Those that want the data of each direction.
    data: [Set; 2],
    /// The numbers of built-in analyzers, for those of the first [`SLOTS`] bits that are in one of the sets.
    slots: [u8; SLOTS],
}

impl Following {
    /// Returns true if any analyzer wants data of a direction.
    #[must_use]
    pub const fn wants_data(&self, direction: Direction) -> bool {
        self.data[direction as usize] != 0
    }

    /// Returns true if any analyzer wants packets.
    #[must_use]
    pub const fn wants_packets(&self) -> bool {
        self.packets != 0
    }

    /// Returns true if rules want the data of a direction.
    #[must_use]
    pub(crate) const fn wants_inspection(&self, direction: Direction) -> bool {
        self.data[direction as usize] & INSPECTION != 0
    }

    /// Adds the rules to those that want data of a stream, or packets of another flow.
    pub(crate) const fn begin_inspection(&mut self, is_stream: bool) {
        if is_stream {
            self.data[0] |= INSPECTION;
            self.data[1] |= INSPECTION;
        } else {
            self.packets |= INSPECTION;
        }
    }

    /// Removes the rules from those that want data of a direction.
    pub(crate) const fn end_inspection(&mut self, direction: Direction) {
        self.data[direction as usize] &= !INSPECTION;
    }

    /// Adds the built-in analyzer of a number to those that want data.
    fn add_builtin(&mut self, number: u32) {
        let used = self.followers();
        let is_used = |slot: &usize| used & 1 << slot != 0;
        let has = |slot: &usize| is_used(slot) && u32::from(self.slots[*slot]) == number;
        // If none is free, see `SLOTS`.
        if let Some(slot) = (0..SLOTS).find(has).or_else(|| (0..SLOTS).find(|slot| !is_used(slot))) {
            self.slots[slot] = number as u8;
            self.add(1 << slot, false);
        }
    }

    /// Returns the number of the analyzer that has a bit.
    fn number(&self, bit: u32) -> u32 {
        let registered = || REGISTERED + bit - SLOTS as u32;
        self.slots.get(bit as usize).map_or_else(registered, |&number| number.into())
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

    /// Returns all that have a state for the flow, or want data.
    const fn followers(self) -> Set {
        (self.known | self.data[0] | self.data[1]) & !INSPECTION
    }
}

/// The analyzers of a worker: the built-in ones, and those that its user registered.
#[derive(Debug)]
pub struct Analyzers {
    builtin: Builtin,
    registered: Vec<Box<dyn Erased>>,
    /// Maximum number of flows of the worker.
    max_flows: usize,
    enabled: Enabled,
    /// Those that were switched off, and may still follow flows.
    retired: BuiltinSet,
    /// The protocols to recognise in addition to those that are on by default.
    opt_in: OptIn,
    held: Held,
}

impl Default for Analyzers {
    fn default() -> Self {
        Self {
            builtin: Builtin::default(),
            registered: Vec::new(),
            max_flows: 0,
            held: Held::new(AnalyzerMemory { few: 0, many: 0 }, FlowKeyHasher::new(0)),
            enabled: Enabled::none(),
            retired: 0,
            opt_in: OptIn::default(),
        }
    }
}

/// Makes everything that lists the built-in analyzers: one for each row of the table of protocols, and that of
/// STARTTLS.
macro_rules! builtin {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine { $($engine_variant:ident $engine_name:ident, $engine_content:literal;)* }
     detected $detected:tt) => {
        /// The numbers of the built-in analyzers: of their bits in a [`BuiltinSet`].
        #[expect(non_camel_case_types, reason = "the names are those of the rows")]
        #[derive(Clone, Copy)]
        #[repr(u32)]
        enum Number {
            $($engine_name,)*
            $($name,)*
            start_tls,
            Registered,
        }

        /// The same numbers, for patterns.
        #[expect(non_upper_case_globals, reason = "the names are those of the rows")]
        mod bit {
            use super::Number;

            $(pub(super) const $engine_name: u32 = Number::$engine_name as u32;)*
            $(pub(super) const $name: u32 = Number::$name as u32;)*
            pub(super) const start_tls: u32 = Number::start_tls as u32;
        }

        /// The built-in analyzers.
        #[derive(Debug)]
        struct Builtin {
            $($engine_name: Registered<super::builtin::$engine_variant>,)*
            $($name: Registered<mirror_protocols::$folder::$type>,)*
            start_tls: Registered<StartTls>,
        }

        impl Default for Builtin {
            fn default() -> Self {
                Self {
                    $($engine_name: Registered::of(AppProto::$engine_variant),)*
                    $($name: Registered::of(AppProto::$variant),)*
                    start_tls: Registered::new(StartTls, Filter::all()),
                }
            }
        }

        /// Returns the number of the built-in analyzer that wants the flows of an application.
        const fn wanting(application: AppProto) -> Option<u32> {
            match application {
                $(AppProto::$engine_variant => Some(bit::$engine_name),)*
                $(AppProto::$variant => Some(bit::$name),)*
                AppProto::Http2 => Some(bit::http),
                AppProto::Smtp | AppProto::Ftp | AppProto::Imap | AppProto::Rdp => Some(bit::start_tls),
                _ => None,
            }
        }

        /// The analyzers that can be switched off: names, which are also those of their events, and sets.
        pub(super) const OPTIONAL: &[(AppProto, BuiltinSet)] = &[
            $((AppProto::$engine_variant, 1 << bit::$engine_name),)*
            $((AppProto::$variant, 1 << bit::$name),)*
        ];
    };
}
protocols! { builtin () }

/// The first number of registered analyzers.
const REGISTERED: u32 = Number::Registered as u32;

/// Calls a method of the analyzer with a given number.
macro_rules! call {
    ($analyzers:expr, $number:expr, $analyzer:ident => $call:expr) => {
        protocols! { dispatch ($analyzers, $number, $analyzer => $call) }
    };
}

/// Expands to a direct call for each built-in analyzer.
macro_rules! dispatch {
    (($analyzers:expr, $number:expr, $analyzer:ident => $call:expr)
     folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine { $($engine_variant:ident $engine_name:ident, $engine_content:literal;)* }
     detected $detected:tt) => {
        match $number {
            $(bit::$engine_name => {
                let $analyzer = &mut $analyzers.builtin.$engine_name;
                Some($call)
            })*
            $(bit::$name => {
                let $analyzer = &mut $analyzers.builtin.$name;
                Some($call)
            })*
            bit::start_tls => {
                let $analyzer = &mut $analyzers.builtin.start_tls;
                Some($call)
            }
            number => {
                let registered = &mut $analyzers.registered;
                registered.get_mut(number.wrapping_sub(REGISTERED) as usize).map(|$analyzer| $call)
            }
        }
    };
}

impl Analyzers {
    /// The number of analyzers that can be registered besides the built-in ones.
    pub const MAX_REGISTERED: usize = 8;

    /// Creates the analyzers of a worker with at most `max_flows` flows, whose states hold at most this much. The
    /// seed keys the hash of hosts. Those that can be switched off are off, see [`Analyzers::enable`].
    pub(crate) fn of_worker(max_flows: usize, memory: AnalyzerMemory, seed: u64) -> Self {
        let held = Held::new(memory, FlowKeyHasher::new(seed));
        let mut analyzers = Self { max_flows, held, ..Self::default() };
        for number in 0..REGISTERED {
            call!(analyzers, number, analyzer => analyzer.prepare(max_flows));
        }
        if let Some(register) = REGISTER.get() {
            // The same call succeeded before, in `register_everywhere`.
            let _ = register(&mut analyzers);
        }
        analyzers
    }

    /// Sets the built-in analyzers that run. Analyzers that are switched off emit nothing from now on, also
    /// for flows that they follow. Analyzers that are switched on follow flows whose application is
    /// recognised from now on.
    pub fn enable(&mut self, enabled: Enabled) {
        self.retired = (self.retired | self.enabled.set()) & !enabled.set();
        self.enabled = enabled;
        self.opt_in = enabled.opt_in();
    }

    /// Returns the protocols to recognise in addition to those that are on by default.
    pub(crate) const fn opt_in(&self) -> OptIn {
        self.opt_in
    }

    /// Returns the number of flow states that were released for lack of memory.
    pub(crate) const fn forgotten(&self) -> u64 {
        self.held.forgotten()
    }

    /// Sets the indicators: flows that have one of these names or fingerprints raise an alert.
    pub(crate) fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        for number in 0..REGISTERED + self.registered.len() as u32 {
            call!(self, number, analyzer => analyzer.watch_for(indicators));
        }
    }

    /// Adds an analyzer for the flows that `filter` selects.
    ///
    /// # Errors
    ///
    /// Fails if [`Analyzers::MAX_REGISTERED`] analyzers are registered already.
    pub fn register<A: Analyzer>(&mut self, analyzer: A, filter: Filter) -> Result<(), TooMany> {
        if self.registered.len() == Self::MAX_REGISTERED {
            return Err(TooMany);
        }
        let mut registered = Registered::new(analyzer, filter);
        registered.prepare(self.max_flows);
        self.registered.push(Box::new(registered));
        Ok(())
    }

    /// Returns the analyzers that follow a flow from its first packet on.
    pub(crate) fn begin(&self, conversation: impl FnOnce() -> Conversation) -> Following {
        let mut following = Following::default();
        if self.registered.is_empty() {
            return following;
        }
        let conversation = conversation();
        for (bit, analyzer) in (SLOTS..).zip(&self.registered) {
            let filter = analyzer.filter();
            if !filter.asks_for_application() && filter.wants(&conversation, None) {
                following.add(1 << bit, filter.wants_packets());
            }
        }
        following
    }

    /// Adds the analyzers that waited for the flow's application to be recognised.
    pub(crate) fn recognised(
        &self,
        following: &mut Following,
        application: AppProto,
        conversation: impl FnOnce() -> Conversation,
    ) {
        if let Some(number) = wanting(application).filter(|&number| self.enabled.has(number)) {
            following.add_builtin(number);
        }
        if application == AppProto::Quic {
            // All behind its handshake is encrypted.
            following.packets &= !INSPECTION;
        }
        if self.registered.is_empty() {
            return;
        }
        let conversation = conversation();
        for (bit, analyzer) in (SLOTS..).zip(&self.registered) {
            let filter = analyzer.filter();
            if filter.asks_for_application() && filter.wants(&conversation, Some(application)) {
                following.add(1 << bit, filter.wants_packets());
            }
        }
    }

    /// Adds the analyzer that looks for TLS in a flow whose protocol may negotiate it.
    pub(crate) fn look_for_tls(following: &mut Following) {
        following.add_builtin(bit::start_tls);
    }

    /// Passes a packet to the analyzers that want packets of its flow.
    pub(crate) fn packet(
        &mut self,
        following: &mut Following,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
    ) {
        for bit in bits(following.packets & !INSPECTION) {
            following.known |= 1 << bit;
            let number = following.number(bit);
            let interest = call!(self, number, analyzer => {
                analyzer.packet(index, direction, packet, context, &mut self.held.of(number))
            });
            self.give_back();
            if interest != Some(Interest::More) {
                following.remove(1 << bit);
            }
        }
    }

    /// Passes an event to the analyzers that want the data. Returns the number of bytes that none of them
    /// needs any more. With `hold`, all bytes are still needed, since analyzers that join later may want
    /// them.
    pub(crate) fn data(
        &mut self,
        following: &mut Following,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        hold: bool,
        context: &mut Context<'_>,
    ) -> Consumed {
        let mut used = match event {
            Event::Data { bytes, .. } if !hold => bytes.len(),
            _ => 0,
        };
        let mut restart = None;
        self.retire(following, index, context);
        let wanting = following.data[direction as usize] & !INSPECTION;
        following.known |= wanting;
        // A single analyzer's used bytes are needed by no other.
        let alone = !hold && wanting.is_power_of_two();
        for bit in bits(wanting) {
            let number = following.number(bit);
            let outcome = call!(self, number, analyzer => {
                analyzer.data(index, direction, event, alone, context, &mut self.held.of(number))
            });
            self.give_back();
            match outcome {
                Some(Consumed::Used(of_this)) => used = used.min(of_this),
                Some(Consumed::Close) => following.data[direction as usize] &= !(1 << bit),
                Some(Consumed::Done) | None => following.remove(1 << bit),
                Some(Consumed::Restart(of_this)) => {
                    following.remove(1 << bit);
                    restart = Some(of_this);
                }
            }
        }
        let left = following.data[direction as usize];
        if !alone && used > 0 {
            for bit in bits(left & !INSPECTION) {
                call!(self, following.number(bit), analyzer => analyzer.advance(index, direction, used));
            }
        }
        match restart {
            Some(used) => Consumed::Restart(used),
            None if left == 0 && !hold => Consumed::Close,
            None => Consumed::Used(used),
        }
    }

    /// Releases the memory of states that are to give it back.
    #[inline]
    fn give_back(&mut self) {
        if self.held.has_condemned() {
            self.forget_condemned();
        }
    }

    #[cold]
    fn forget_condemned(&mut self) {
        while let Some(StateOf { number, place }) = self.held.next_condemned() {
            call!(self, number, analyzer => analyzer.forget(place));
        }
    }

    /// Removes analyzers that are switched off from a flow, if it has any.
    #[inline]
    fn retire(&mut self, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        if self.retired != 0 {
            self.forget_retired(following, index, context);
        }
    }

    /// Removes the analyzers that are switched off from a flow, without events.
    #[cold]
    fn forget_retired(&mut self, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        context.muted = true;
        for bit in bits(following.followers() & ((1 << SLOTS) - 1)) {
            let number = following.number(bit);
            if self.retired & 1 << number != 0 {
                // Without a state, nothing is ended.
                call!(self, number, analyzer => analyzer.end(index, context, &mut self.held.of(number)));
                following.known &= !(1 << bit);
                following.remove(1 << bit);
            }
        }
        context.muted = false;
    }

    /// Ends a flow for the analyzers that have a state for it.
    pub(crate) fn end(&mut self, following: &mut Following, index: FlowIndex, context: &mut Context<'_>) {
        self.retire(following, index, context);
        for bit in bits(following.known) {
            let number = following.number(bit);
            call!(self, number, analyzer => analyzer.end(index, context, &mut self.held.of(number)));
        }
        *following = Following::default();
    }
}

/// Returns the indices of the bits that are set.
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
    /// For each flow of the table, its index in `states` plus one; 0 if it has none.
    places: Vec<u32>,
    states: Vec<State<A::Flow>>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct State<F> {
    flow: F,
    /// Number of buffered bytes of each direction that this analyzer has already used, while others may still
    /// need them.
    ahead: [usize; 2],
    /// Bytes charged for the state in [`Held`], and its number there; 0 bytes if it has not entered.
    held: usize,
    number: u32,
}

impl<F> State<F> {
    /// Returns the size of the state, if it differs from the size that was entered.
    fn changed(&self, held: impl FnOnce(&F) -> usize) -> Option<usize> {
        Some(held(&self.flow)).filter(|&held| held != self.held)
    }
}

impl<A: Analyzer> Registered<A> {
    fn new(analyzer: A, filter: Filter) -> Self {
        Self { analyzer, filter, places: Vec::new(), states: Vec::new(), free: Vec::new() }
    }

    /// Creates an analyzer for the flows of an application.
    fn of(application: AppProto) -> Self
    where
        A: Default,
    {
        Self::new(A::default(), Filter::all().application(application))
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.analyzer.watch_for(indicators);
    }

    /// Reserves memory for the maximum number of flows. It is touched as flows come. Growing instead would
    /// leave the outgrown memory behind.
    fn prepare(&mut self, max_flows: usize) {
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
        held_by: &mut HeldBy<'_>,
    ) -> Interest {
        let (analyzer, state) = self.state(index);
        let interest = analyzer.packet(&mut state.flow, direction, packet, context);
        if let Some(held) = state.changed(A::held) {
            self.charge(index, direction, held, context, held_by);
        }
        interest
    }

    /// Passes an event on. Returns the number of all bytes that were used. `alone` is true if no other
    /// analyzer needs them.
    // Not inlined: otherwise the stack frame of one analyzer would be set up for all of them whenever data
    // comes.
    #[inline(never)]
    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) -> Consumed {
        let (analyzer, state) = self.state(index);
        let ahead = &mut state.ahead[direction as usize];
        let (event, len) = match event {
            Event::Data { bytes, new } => {
                let new = new.saturating_sub(*ahead);
                (Event::Data { bytes: bytes.get(*ahead..).unwrap_or_default(), new }, bytes.len())
            }
            Event::Gap { bytes, len } => {
                let bytes = bytes.get(std::mem::take(ahead)..).unwrap_or_default();
                (Event::Gap { bytes, len }, 0)
            }
            Event::End { bytes, acknowledged } => {
                (Event::End { bytes: bytes.get(*ahead..).unwrap_or_default(), acknowledged }, 0)
            }
        };
        let outcome = match analyzer.data(&mut state.flow, direction, event, context) {
            Consumed::Used(used) => {
                let used = *ahead + used;
                *ahead = if alone { used.saturating_sub(len) } else { used };
                Consumed::Used(used)
            }
            Consumed::Restart(used) => Consumed::Restart(*ahead + used),
            other => other,
        };
        if let Some(held) = state.changed(A::held) {
            self.charge(index, direction, held, context, held_by);
        }
        outcome
    }

    /// Charges for the memory that a flow's state holds now. Other states may have to give theirs back.
    #[inline(never)]
    fn charge(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        held: usize,
        context: &Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) {
        let place = self.places[index.get()] - 1;
        let state = &mut self.states[place as usize];
        let before = std::mem::replace(&mut state.held, held);
        if held == 0 {
            return held_by.leave(state.number);
        }
        if before == 0 {
            let host = context.head.owner(index, direction).host(held_by.hasher());
            state.number = held_by.enter(place, host);
        }
        held_by.charge(state.number, held);
    }

    /// Releases the memory of a state, which is not in [`Held`] any more.
    fn forget(&mut self, place: u32) {
        if let Some(state) = self.states.get_mut(place as usize) {
            self.analyzer.forget(&mut state.flow);
            state.held = 0;
        }
    }

    /// Accounts for the first `used` buffered bytes of a direction, which are dropped.
    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize) {
        let ahead = &mut self.state(index).1.ahead[direction as usize];
        *ahead = ahead.saturating_sub(used);
    }

    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>, held_by: &mut HeldBy<'_>) {
        let Some(place) = self.places.get_mut(index.get()).map(std::mem::take).filter(|&place| place > 0)
        else {
            return;
        };
        let state = &mut self.states[place as usize - 1];
        self.analyzer.end(&mut state.flow, context);
        if state.held > 0 {
            held_by.leave(state.number);
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

/// A registered analyzer of any type.
trait Erased: fmt::Debug + Send {
    fn filter(&self) -> &Filter;
    fn prepare(&mut self, max_flows: usize);
    fn forget(&mut self, place: u32);
    fn watch_for(&mut self, indicators: &Arc<Indicators>);
    fn packet(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) -> Interest;
    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) -> Consumed;
    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize);
    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>, held_by: &mut HeldBy<'_>);
}

impl<A: Analyzer> Erased for Registered<A> {
    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn prepare(&mut self, max_flows: usize) {
        self.prepare(max_flows);
    }

    fn forget(&mut self, place: u32) {
        self.forget(place);
    }

    fn watch_for(&mut self, indicators: &Arc<Indicators>) {
        self.watch_for(indicators);
    }

    fn packet(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        packet: &Packet<'_>,
        context: &mut Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) -> Interest {
        self.packet(index, direction, packet, context, held_by)
    }

    fn data(
        &mut self,
        index: FlowIndex,
        direction: Direction,
        event: Event<'_>,
        alone: bool,
        context: &mut Context<'_>,
        held_by: &mut HeldBy<'_>,
    ) -> Consumed {
        self.data(index, direction, event, alone, context, held_by)
    }

    fn advance(&mut self, index: FlowIndex, direction: Direction, used: usize) {
        self.advance(index, direction, used);
    }

    fn end(&mut self, index: FlowIndex, context: &mut Context<'_>, held_by: &mut HeldBy<'_>) {
        self.end(index, context, held_by);
    }
}
