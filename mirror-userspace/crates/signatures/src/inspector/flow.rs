//! The state that inspection keeps for a flow.

use mirror_packet::Direction;

use super::memory::Slot;
use crate::limits;
use crate::plan::int_value;
use crate::rule::{BitOperation, IntCompare, IntOperation};

/// The state of a flow.
#[derive(Debug, Default)]
pub struct FlowState {
    /// The rules that the numbers in the state belong to.
    pub(super) generation: u32,
    pub(super) raw: [Raw; 2],
    /// Directions whose first packet was inspected, a bit each.
    pub(super) begun: u8,
    /// A rule lets the flow pass, or has taken it out of inspection.
    pub(super) is_passed: bool,
    /// Transactions whose bodies are on their way.
    pub(super) open: Vec<Open>,
    bits: Vec<u32>,
    numbers: Vec<(u32, u32)>,
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raw {
    /// The sequence number of the next new byte.
    next: Option<u32>,
    /// Bytes so far.
    pub(super) taken: usize,
    /// The data that waits for inspection.
    pub(super) slot: Option<Slot>,
    pub(super) is_closed: bool,
}

/// A transaction of which one direction has more to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) direction: Direction,
    pub(super) slot: Slot,
}

impl FlowState {
    /// Returns the bytes in front of sequence number `end` that were not there before.
    pub fn new_bytes<'b>(&mut self, direction: Direction, bytes: &'b [u8], end: u32) -> &'b [u8] {
        let raw = &mut self.raw[direction as usize];
        let Some(next) = raw.next.replace(end) else { return bytes };
        let len = end.wrapping_sub(next) as usize;
        if len > u32::MAX as usize / 2 {
            // The position does not go back.
            raw.next = Some(next);
            return &[];
        }
        bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default()
    }

    /// Returns true if no rule wants more of the payload of a direction.
    #[must_use]
    pub const fn is_closed(&self, direction: Direction) -> bool {
        self.raw[direction as usize].is_closed
    }

    pub(super) fn has_bit(&self, bit: u32) -> bool {
        self.bits.contains(&bit)
    }

    /// Changes a bit. A flow has a bounded number of them.
    pub(super) fn change_bit(&mut self, bit: u32, operation: BitOperation) {
        let place = self.bits.iter().position(|other| *other == bit);
        match (operation, place) {
            (BitOperation::Set | BitOperation::Toggle, None) if self.bits.len() < limits::FLOW_BITS => {
                self.bits.push(bit);
            }
            (BitOperation::Unset | BitOperation::Toggle, Some(place)) => {
                self.bits.swap_remove(place);
            }
            _ => {}
        }
    }

    fn number(&self, name: u32) -> Option<u32> {
        self.numbers.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// Tests a number.
    pub(super) fn test_number(&self, name: u32, operation: &IntOperation) -> bool {
        let value = self.number(name);
        match operation {
            IntOperation::IsSet => value.is_some(),
            IntOperation::IsNotSet => value.is_none(),
            IntOperation::Compare(compare, other) => {
                let other = int_value(other, |name| self.number(name));
                let (Some(value), Some(other)) = (value, other) else { return false };
                match compare {
                    IntCompare::Less => value < other,
                    IntCompare::LessOrEqual => value <= other,
                    IntCompare::Greater => value > other,
                    IntCompare::GreaterOrEqual => value >= other,
                    IntCompare::Equal => value == other,
                    IntCompare::NotEqual => value != other,
                }
            }
            IntOperation::Assign(_) | IntOperation::Add(_) | IntOperation::Subtract(_) => true,
        }
    }

    /// Changes a number.
    pub(super) fn change_number(&mut self, name: u32, operation: &IntOperation) {
        let before = self.number(name);
        let value = |value| int_value(value, |name| self.number(name));
        let after = match operation {
            IntOperation::Assign(other) => value(other),
            IntOperation::Add(other) => {
                value(other).map(|other| before.unwrap_or_default().saturating_add(other))
            }
            IntOperation::Subtract(other) => {
                value(other).map(|other| before.unwrap_or_default().saturating_sub(other))
            }
            IntOperation::IsSet | IntOperation::IsNotSet | IntOperation::Compare(..) => None,
        };
        let Some(after) = after else { return };
        if let Some((_, value)) = self.numbers.iter_mut().find(|(other, _)| *other == name) {
            *value = after;
        } else if self.numbers.len() < limits::FLOW_BITS {
            self.numbers.push((name, after));
        }
    }
}
