//! The admission and filter rules of a configuration, for mirrored frames of capture files. The compiled policy and
//! its evaluation are those of the XDP program.

use std::collections::HashMap;
use std::fmt;

use mirror_engine::offline::{Admitted, Gate};
use mirror_packet::MirrorDirection;
use mirror_rules::compile::{CompileError, CompiledPolicy, Places};
use mirror_rules::policy::Rule;
use mirror_rules::{KeptRules, Policy};
use mirror_xdp_common::Vni;
use mirror_xdp_common::counters::Counter;
use mirror_xdp_common::filter::{self, MAX_VNIS, Question, action, direction};
use mirror_xdp_common::hash::FlowHash;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::outer::Mirrored;
use mirror_xdp_common::wire::MacAddresses;

/// A policy in the form in which it decides on frames.
pub(super) struct Rules {
    compiled: CompiledPolicy,
    vnis: HashMap<Vni, u32>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("vnis", &self.vnis).finish_non_exhaustive()
    }
}

impl Rules {
    /// Compiles a policy. A store learns the identifiers of the rules whose frames it keeps.
    pub(super) fn new(policy: &Policy, kept: Option<&KeptRules>) -> Result<Self, CompileError> {
        let mut numbers = Numbers { vnis: HashMap::new(), last_rule: 0, kept };
        let compiled = CompiledPolicy::new(policy, 1, &mut numbers)?;
        Ok(Self { compiled, vnis: numbers.vnis })
    }
}

impl Gate for Rules {
    fn admit(
        &mut self,
        outer: &Mirrored,
        inner: &InnerHeaders,
        macs: MacAddresses,
        hash: FlowHash,
    ) -> Result<Admitted, Counter> {
        if !filter::admits(&self.compiled, outer.sender) {
            return Err(Counter::SourceNotAdmitted);
        }
        // Slot 0 is that of the VNIs that the configuration does not name.
        let slot = self.vnis.get(&outer.vni).copied().unwrap_or(0);
        let judgement = filter::judge(&self.compiled, slot, &Question::new(inner, macs));
        let parameter = judgement.parameter;
        let mut truncate = None;
        match judgement.action {
            action::ACCEPT => {}
            action::TRUNCATE => truncate = Some(parameter),
            action::SAMPLE if parameter <= 1 || filter::sample_value(hash).is_multiple_of(parameter) => {}
            action::SAMPLE => return Err(Counter::SampledOut),
            action::SHUNT => return Err(Counter::RuleShunted),
            action::VNI_NOT_ADMITTED => return Err(Counter::VniNotAdmitted),
            _ => return Err(Counter::FilterRejected),
        }
        let side = match judgement.direction {
            direction::INGRESS => Some(MirrorDirection::Ingress),
            direction::EGRESS => Some(MirrorDirection::Egress),
            _ => None,
        };
        Ok(Admitted { rule: judgement.rule.into(), truncate, side })
    }
}

/// Numbers VNIs and rules in the order in which they are compiled.
struct Numbers<'a> {
    vnis: HashMap<Vni, u32>,
    last_rule: u16,
    kept: Option<&'a KeptRules>,
}

impl Places for Numbers<'_> {
    fn vni(&mut self, vni: Vni) -> Result<u32, CompileError> {
        let next = self.vnis.len() + 1;
        if next > MAX_VNIS && !self.vnis.contains_key(&vni) {
            return Err(CompileError::Vnis);
        }
        Ok(*self.vnis.entry(vni).or_insert(next as u32))
    }

    fn rule(&mut self, set: &str, rule: Option<&Rule>) -> u16 {
        self.last_rule += 1;
        if let (Some(kept), Some(rule)) = (self.kept, rule) {
            kept.learn(set, rule.number, self.last_rule);
        }
        self.last_rule
    }
}
