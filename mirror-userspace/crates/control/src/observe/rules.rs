//! The rules that raise alerts, for clients that ask what they cost.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_signatures::engine::Engine;
use serde::{Deserialize, Serialize};

/// The rules in force, which a reload replaces.
#[derive(Clone, Debug, Default)]
pub struct RulesInForce(Arc<Mutex<Option<Arc<Engine>>>>);

impl RulesInForce {
    /// Replaces the rules. Returns those that were in force.
    pub fn set(&self, rules: Option<Arc<Engine>>) -> Option<Arc<Engine>> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), rules)
    }

    /// Returns the rules, if there are any.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Engine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The order of rules by their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The time that verifying took
    #[default]
    Time,
    /// How often a pattern or header was found
    Candidates,
    /// How often the content was verified
    Verified,
    /// How often the rule matched
    Matched,
}

/// The cost of a rule since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCost {
    /// The group.
    pub gid: u32,
    /// The number.
    pub sid: u32,
    /// The revision.
    pub rev: u32,
    /// How often its pattern or header was found.
    pub candidates: u64,
    /// How often its content was verified.
    pub verified: u64,
    /// How often it matched.
    pub matched: u64,
    /// How often it was isolated for a minute, because verifying it took too many steps.
    pub isolated: u64,
    /// The time that verifying it took, extrapolated from samples.
    pub nanoseconds: u64,
    /// Its message.
    pub msg: String,
}

/// Returns the rules that cost most, at most `limit`.
pub(super) fn costs(engine: &Engine, order: Order, limit: usize) -> Vec<RuleCost> {
    let mut costs = engine.profiles().costs();
    let size = |(rule, cost): &(u32, mirror_signatures::profile::Cost)| {
        let size = match order {
            Order::Time => cost.nanoseconds,
            Order::Candidates => cost.candidates,
            Order::Verified => cost.verified,
            Order::Matched => cost.matched,
        };
        (Reverse(size), *rule)
    };
    costs.sort_unstable_by_key(size);
    costs.truncate(limit);
    let named = |(rule, cost): (u32, mirror_signatures::profile::Cost)| {
        let rule = &engine.signatures().get(rule as usize)?.rule;
        Some(RuleCost {
            gid: rule.id.gid,
            sid: rule.id.sid,
            rev: rule.id.rev,
            candidates: cost.candidates,
            verified: cost.verified,
            matched: cost.matched,
            isolated: cost.isolated,
            nanoseconds: cost.nanoseconds,
            msg: rule.message.to_string(),
        })
    };
    costs.into_iter().filter_map(named).collect()
}
