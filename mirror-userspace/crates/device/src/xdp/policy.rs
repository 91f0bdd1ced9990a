//! The compiled policy in the kernel, which is replaced as a whole while the program runs, and its counters.
//!
//! There are two copies of the tables. At the beginning of each frame, the program reads which copy is in
//! force. The other copy can be written at leisure, once no frame can be left that began while it was in
//! force; then a single write switches the copies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use mirror_rules::compile::{CompileError, CompiledPolicy, Places};
use mirror_rules::policy::Rule;
use mirror_rules::{KeptRules, Policy};
use mirror_xdp_common::Vni;
use mirror_xdp_common::filter::{
    MAX_CLASSES, MAX_RULE_IDS, MAX_VNIS, Row, RuleCounters, Tables, VniCounters, vni_counter,
};
use zerocopy::transmute_ref;

use super::error::Error;
use super::grace;

/// The types of map values as aya takes them.
type TablesValue = [u64; size_of::<Tables>() / 8];
type RowValue = [u64; size_of::<Row>() / 8];

/// Inserts only if the key does not exist.
const BPF_NOEXIST: u64 = 1;

/// The reasons why a policy could not be put in force. The previous one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is too large.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The kernel refused a table.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The counters of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The name of its set.
    pub set: String,
    /// The rule; `None` for the packets that no rule of the set matched.
    pub rule: Option<Rule>,
    /// Its identifier, as it is in capture headers.
    pub id: u16,
    /// Packets on which it decided.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
}

/// The counters of a VNI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VniCount {
    /// The VNI; `None` for all VNIs without counters of their own together.
    pub vni: Option<Vni>,
    /// The counters, see [`vni_counter`].
    pub counters: VniCounters,
}

/// The identity of a rule: its set's name and all of its contents. `None` is the set itself.
type Identity = (String, Option<Rule>);

/// The maps of the policy, and their contents.
pub(super) struct PolicyMaps {
    generation_map: Array<MapData, u32>,
    tables: Array<MapData, TablesValue>,
    rows: Array<MapData, RowValue>,
    rule_counters: PerCpuArray<MapData, RuleCounters>,
    vnis: BpfHashMap<MapData, u32, u32>,
    vni_counters: PerCpuArray<MapData, VniCounters>,
    generation: u32,
    rule_ids: HashMap<Identity, u16>,
    /// The number of VNI slots in use.
    vni_slots: u32,
    policy: Policy,
    /// The store that has to know the identifiers of rules before they are in force.
    kept: Option<Arc<KeptRules>>,
}

impl PolicyMaps {
    /// Takes the maps of a loaded object. The program finds no policy before [`Self::replace`].
    pub(super) fn take(ebpf: &mut aya::Ebpf) -> Result<Self, Error> {
        let mut map = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        Ok(Self {
            generation_map: map("GENERATION")?.try_into()?,
            tables: map("TABLES")?.try_into()?,
            rows: map("ROWS")?.try_into()?,
            rule_counters: map("RULE_COUNTERS")?.try_into()?,
            vnis: map("VNIS")?.try_into()?,
            vni_counters: map("VNI_COUNTERS")?.try_into()?,
            generation: 0,
            rule_ids: HashMap::new(),
            vni_slots: 0,
            policy: Policy::default(),
            kept: None,
        })
    }

    /// Reports the identifiers of rules to a store: those in force now, and those of later policies before
    /// they are in force.
    pub(super) fn tell(&mut self, kept: Arc<KeptRules>) {
        tell(&kept, &self.rule_ids);
        self.kept = Some(kept);
    }

    /// Puts a policy in force. The previous policy decides on frames until the last moment, and this one from
    /// then on. Rules that are in both keep their counters.
    pub(super) fn replace(&mut self, policy: &Policy) -> Result<(), PolicyError> {
        let generation = self.generation.wrapping_add(1).max(1);
        let mut allocator = Allocator {
            in_force: &self.rule_ids,
            taken: self.rule_ids.values().copied().collect(),
            rule_ids: HashMap::new(),
            last_id: 0,
            vnis: &mut self.vnis,
            vni_slots: &mut self.vni_slots,
            failed: None,
        };
        let compiled = CompiledPolicy::new(policy, generation, &mut allocator);
        let Allocator { rule_ids, failed, .. } = allocator;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let compiled = compiled?;

        grace::wait();
        let copy = generation & 1;
        for (class, row) in compiled.rows.iter().enumerate() {
            let row: &RowValue = transmute_ref!(row);
            self.rows.set(copy * MAX_CLASSES as u32 + class as u32, row, 0)?;
        }
        let tables: &TablesValue = transmute_ref!(&*compiled.tables);
        self.tables.set(copy, tables, 0)?;
        let new_ids = rule_ids.iter().filter(|(identity, _)| !self.rule_ids.contains_key(*identity));
        for &id in new_ids.map(|(_, id)| id) {
            self.rule_counters.set(id.into(), zeros()?, 0)?;
        }
        if let Some(kept) = &self.kept {
            tell(kept, &rule_ids);
        }
        self.generation_map.set(0, generation, 0)?;
        self.tell_of_gone(&rule_ids);
        self.generation = generation;
        self.rule_ids = rule_ids;
        self.policy = policy.clone();
        Ok(())
    }

    /// Returns the number of policies that have been in force.
    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the counters of each rule in force, in the order in which the rules are tried, set by set; the
    /// last of each set counts the packets that no rule matched.
    pub(super) fn rule_counts(&self) -> Result<Vec<RuleCount>, MapError> {
        let mut counts = Vec::new();
        for set in &self.policy.sets {
            for rule in set.rules.iter().cloned().map(Some).chain([None]) {
                let identity = (set.name.clone(), rule);
                let Some(&id) = self.rule_ids.get(&identity) else { continue };
                let [packets, bytes] = self.rule_count(id)?;
                let (set, rule) = identity;
                counts.push(RuleCount { set, rule, id, packets, bytes });
            }
        }
        Ok(counts)
    }

    /// Returns the counters of an identifier, summed over all CPUs.
    fn rule_count(&self, id: u16) -> Result<RuleCounters, MapError> {
        let mut sum = RuleCounters::default();
        for one_cpu in self.rule_counters.get(&id.into(), 0)?.iter() {
            sum[0] += one_cpu[0];
            sum[1] += one_cpu[1];
        }
        Ok(sum)
    }

    /// Logs the counters of rules that are no longer in force, since they cannot be read later.
    fn tell_of_gone(&self, in_force: &HashMap<Identity, u16>) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let gone = self.rule_ids.iter().filter(|(identity, _)| !in_force.contains_key(*identity));
        let mut gone: Vec<_> = gone.collect();
        if gone.is_empty() {
            return;
        }
        // Frames on which the old rules are still deciding are counted, too.
        grace::wait();
        gone.sort_unstable_by_key(|(_, id)| **id);
        for ((set, rule), id) in gone {
            let Ok([packets, bytes]) = self.rule_count(*id) else { continue };
            let Some(rule) = rule else {
                tracing::info!("set {set} is no longer in force: {packets} packets matched no rule of it");
                continue;
            };
            let number = rule.number;
            tracing::info!(
                "rule {number} of set {set} is no longer in force: it counted {packets} packets, {bytes} bytes"
            );
        }
    }

    /// Returns the counters of each known VNI, in ascending order, followed by those of all others.
    pub(super) fn vni_counts(&self) -> Result<Vec<VniCount>, MapError> {
        let mut slots: Vec<(u32, u32)> = self.vnis.iter().collect::<Result<_, _>>()?;
        slots.sort_unstable();
        let named = slots.into_iter().map(|(vni, slot)| (Vni::new(vni), slot));
        let mut counts = Vec::new();
        for (vni, slot) in named.chain([(None, 0)]) {
            let mut sum = VniCounters::default();
            for one_cpu in self.vni_counters.get(&slot, 0)?.iter() {
                for (counter, count) in one_cpu.iter().enumerate() {
                    if counter == vni_counter::LAST_SEEN {
                        sum[counter] = sum[counter].max(*count);
                    } else {
                        sum[counter] += count;
                    }
                }
            }
            counts.push(VniCount { vni, counters: sum });
        }
        Ok(counts)
    }
}

/// Reports the identifiers of rules to a store.
fn tell(kept: &KeptRules, ids: &HashMap<Identity, u16>) {
    for ((set, rule), &id) in ids {
        if let Some(rule) = rule {
            kept.learn(set, rule.number, id);
        }
    }
}

fn zeros() -> Result<PerCpuValues<RuleCounters>, MapError> {
    let cpus = nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
    Ok(PerCpuValues::try_from(vec![RuleCounters::default(); cpus])?)
}

/// Assigns rules and VNIs their places in the kernel's counters.
struct Allocator<'a> {
    in_force: &'a HashMap<Identity, u16>,
    /// Identifiers that cannot be assigned to a new rule.
    taken: HashSet<u16>,
    rule_ids: HashMap<Identity, u16>,
    last_id: u16,
    vnis: &'a mut BpfHashMap<MapData, u32, u32>,
    vni_slots: &'a mut u32,
    failed: Option<MapError>,
}

impl Allocator<'_> {
    /// Returns an identifier that nothing in force has. There is always one, since a policy has room for less
    /// than half of them.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = (self.last_id + 1) % MAX_RULE_IDS as u16;
            if self.last_id != 0 && self.taken.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Returns the slot of a VNI that the program has learned or was given.
    fn known(&self, vni: Vni) -> Result<Option<u32>, MapError> {
        match self.vnis.get(&vni.get(), 0) {
            Ok(slot) => Ok(Some(slot)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn slot(&mut self, vni: Vni) -> Result<Option<u32>, MapError> {
        if let Some(slot) = self.known(vni)? {
            return Ok(Some(slot));
        }
        if *self.vni_slots == MAX_VNIS as u32 {
            return Ok(None);
        }
        *self.vni_slots += 1;
        let slot = *self.vni_slots;
        match self.vnis.insert(vni.get(), slot, BPF_NOEXIST) {
            Ok(()) => Ok(Some(slot)),
            // The program has learned the VNI in this very moment, or the kernel refused.
            Err(error) => self.known(vni)?.map_or(Err(error), |slot| Ok(Some(slot))),
        }
    }
}

impl Places for Allocator<'_> {
    fn vni(&mut self, vni: Vni) -> Result<u32, CompileError> {
        match self.slot(vni) {
            Ok(slot) => slot.ok_or(CompileError::Vnis),
            Err(error) => {
                self.failed.get_or_insert(error);
                Ok(0)
            }
        }
    }

    fn rule(&mut self, set: &str, rule: Option<&Rule>) -> u16 {
        let identity = (set.to_owned(), rule.cloned());
        let id = self.in_force.get(&identity).copied().unwrap_or_else(|| self.free_id());
        self.rule_ids.insert(identity, id);
        id
    }
}
