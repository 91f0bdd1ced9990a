//! Rules whose verification is given up again and again, because it takes too many steps: they are left out for a
//! while, so that the others go on.

use mirror_packet::SECOND;

/// Verifications that are given up within [`PERIOD`] before their rule is isolated.
pub(super) const OFTEN: u32 = 64;
/// Nanoseconds for which a rule is observed, and for which it is isolated.
pub(super) const PERIOD: u64 = 60 * SECOND;
/// Rules that are observed at a time.
const MOST: usize = 64;

#[derive(Debug)]
struct Suspect {
    rule: u32,
    /// The time of its first verification that was given up, or of its isolation.
    since: u64,
    given_up: u32,
}

/// The rules that are observed or isolated.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Suspect>);

impl Suspects {
    /// Returns true if a rule is isolated.
    #[inline]
    pub(super) fn is_isolated(&self, rule: u32, now: u64) -> bool {
        let is_it = |one: &Suspect| one.rule == rule && one.given_up >= OFTEN && !one.is_over(now);
        !self.0.is_empty() && self.0.iter().any(is_it)
    }

    /// Notes that a verification was given up. Returns true if the rule is isolated from now on.
    #[cold]
    pub(super) fn note(&mut self, rule: u32, now: u64) -> bool {
        self.0.retain(|one| !one.is_over(now));
        let place = self.0.iter().position(|one| one.rule == rule).or_else(|| {
            let has_room = self.0.len() < MOST;
            has_room.then(|| {
                self.0.push(Suspect { rule, since: now, given_up: 0 });
                self.0.len() - 1
            })
        });
        let Some(suspect) = place.and_then(|place| self.0.get_mut(place)) else { return false };
        suspect.given_up += 1;
        let is_isolated = suspect.given_up == OFTEN;
        if is_isolated {
            suspect.since = now;
        }
        is_isolated
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Suspect {
    const fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.since) >= PERIOD
    }
}
