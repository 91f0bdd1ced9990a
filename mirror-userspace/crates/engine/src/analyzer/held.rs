//! The memory that the states of flows hold for all analyzers of a worker. Hosts share it (`fair`), and analyzers
//! do: whoever uses it up, the same bound holds.

use mirror_packet::FlowKeyHasher;
use mirror_packet::fair::Shares;

/// Bytes that the states of flows hold for all analyzers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalyzerMemory {
    /// The bound for few states. Each state adds 512 bytes.
    pub few: usize,
    /// The bound for many states.
    pub many: usize,
}

/// The state of a flow for an analyzer.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateOf {
    /// The number of the analyzer.
    pub(super) number: u32,
    /// The state's place among those of the analyzer.
    pub(super) place: u32,
}

/// Bytes that a state may hold without taking any from others, up to the bound for many states. A request or a hello
/// takes less.
const EACH: usize = 512;

/// The states that hold memory.
#[derive(Debug)]
pub(super) struct Held {
    /// The bounds of what few states hold in total, and of what many do.
    bounds: AnalyzerMemory,
    hasher: FlowKeyHasher,
    shares: Shares,
    /// The states by their numbers in `shares`.
    states: Vec<StateOf>,
    /// Numbers that are not in use.
    free: Vec<u32>,
    /// States that are to give their memory back. They are not in `shares` any more.
    condemned: Vec<StateOf>,
    /// The number of states that gave their memory back.
    forgotten: u64,
}

impl Held {
    /// Creates the set without states.
    pub(super) fn new(bounds: AnalyzerMemory, hasher: FlowKeyHasher) -> Self {
        Self {
            bounds,
            hasher,
            shares: Shares::new(bounds.few),
            states: Vec::new(),
            free: Vec::new(),
            condemned: Vec::new(),
            forgotten: 0,
        }
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Returns access for the analyzer with this number.
    pub(super) const fn of(&mut self, analyzer: u32) -> HeldBy<'_> {
        HeldBy { analyzer, all: self }
    }

    /// Returns true if there are states that are to give their memory back.
    pub(super) const fn has_condemned(&self) -> bool {
        !self.condemned.is_empty()
    }

    /// Returns a state that is to give its memory back.
    pub(super) fn next_condemned(&mut self) -> Option<StateOf> {
        self.condemned.pop()
    }
}

/// The memory of all analyzers, for one of them.
#[derive(Debug)]
pub(super) struct HeldBy<'a> {
    analyzer: u32,
    all: &'a mut Held,
}

impl HeldBy<'_> {
    pub(super) const fn hasher(&self) -> &FlowKeyHasher {
        &self.all.hasher
    }

    /// Enters the state at a place of the analyzer, whose data comes from the host with this hash. Returns its
    /// number.
    pub(super) fn enter(&mut self, place: u32, host: u16) -> u32 {
        let Held { states, free, shares, .. } = &mut *self.all;
        let state = StateOf { number: self.analyzer, place };
        let number = if let Some(number) = free.pop() {
            states[number as usize] = state;
            number
        } else {
            states.push(state);
            states.len() as u32 - 1
        };
        shares.enter(number as usize, host);
        number
    }

    /// Sets the bytes that a state holds. If all hold too much, condemns others.
    pub(super) fn charge(&mut self, number: u32, held: usize) {
        self.all.shares.charge(number as usize, held);
        let AnalyzerMemory { few, many } = self.all.bounds;
        let states = self.all.states.len() - self.all.free.len();
        self.all.shares.set_bound(many.min(few + EACH * states));
        while let Some(other) = self.all.shares.to_give_back(number as usize) {
            self.all.condemned.push(self.all.states[other]);
            self.leave(other as u32);
            self.all.forgotten += 1;
        }
    }

    /// Removes a state.
    pub(super) fn leave(&mut self, number: u32) {
        self.all.shares.leave(number as usize);
        self.all.free.push(number);
    }
}
