//! Losses of the store over time. The manifest gets a line for each period in which packets were lost, so
//! that a reader can distinguish such a period from one without traffic.

use super::manifest::Event;

/// Nanoseconds without another loss after which a period of losses is over.
const OVER: u64 = 10_000_000_000;
/// Nanoseconds after which a period that continues is reported, in case no later report is possible.
const LONG: u64 = 60_000_000_000;

/// Tracks the sum of lost packets.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    /// The sum at the last look, and the time of it.
    sum: u64,
    looked: u64,
    /// Losses that are not reported yet.
    open: Option<Lost>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    from: u64,
    to: u64,
    packets: u64,
}

impl Losses {
    pub(super) const fn new(now: u64) -> Self {
        Self { sum: 0, looked: now, open: None }
    }

    /// Takes the sum at the time `now`, and returns an event if one is due. After recording the event, the
    /// caller calls [`Losses::told`]. `last` means that this is the last look.
    pub(super) fn look(&mut self, sum: u64, now: u64, last: bool) -> Option<Event> {
        if sum > self.sum {
            let open = self.open.get_or_insert(Lost { from: self.looked, to: now, packets: 0 });
            open.packets += sum - self.sum;
            open.to = now;
        }
        (self.sum, self.looked) = (sum, now);
        let Lost { from, to, packets } = self.open?;
        let over = last || now.saturating_sub(to) >= OVER || now.saturating_sub(from) >= LONG;
        over.then_some(Event::Lost { from, to, packets })
    }

    /// Confirms that the event returned last was recorded.
    pub(super) const fn told(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_time_of_losses_is_told_once_when_it_is_over() {
        let mut losses = Losses::new(0);
        let mut look = |sum, second, last| {
            let event = losses.look(sum, second * SECOND, last);
            if event.is_some() {
                losses.told();
            }
            event
        };
        let lost = |from, to, packets| Some(Event::Lost { from: from * SECOND, to: to * SECOND, packets });
        assert_eq!(look(0, 1, false), None);
        assert_eq!(look(5, 2, false), None);
        assert_eq!(look(7, 3, false), None);
        assert_eq!(look(7, 4, false), None);
        assert_eq!(look(7, 13, false), lost(1, 3, 7));
        assert_eq!(look(7, 30, false), None);
        assert_eq!(look(8, 31, true), lost(30, 31, 1));
        assert_eq!(look(8, 32, true), None);
    }

    #[test]
    fn what_goes_on_is_told_in_parts_and_nothing_twice() {
        let mut losses = Losses::new(0);
        let mut told = 0;
        for second in 1..=300 {
            if let Some(Event::Lost { packets, .. }) =
                losses.look(second * 10, second * SECOND, second == 300)
            {
                losses.told();
                told += packets;
            }
        }
        assert_eq!(told, 3000);
    }
}
