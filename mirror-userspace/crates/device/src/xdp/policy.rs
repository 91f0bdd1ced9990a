//! The compiled policy in the kernel: replaced as a whole while the program runs, and what it counted.
//!
//! The tables are there twice. The program reads at the beginning of each frame which copy is in force,
//! so the other can be written at leisure, once no frame can be left that began when it was in force; one
//! write then switches.

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

use super::grace;
use super::program::Error;

/// The types of map values as aya takes them.
type TablesValue = [u64; size_of::<Tables>() / 8];
type RowValue = [u64; size_of::<Row>() / 8];

/// Update only what is not there.
const BPF_NOEXIST: u64 = 1;

/// Why a policy is not in force. The one before still is.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is too large.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The kernel refused a table.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// What was counted of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The set's name.
    pub set: String,
    /// The rule; `None` for the packets that no rule of the set matched.
    pub rule: Option<Rule>,
    /// Its identifier, as it is in capture headers.
    pub id: u16,
    /// Packets that it decided on.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
}

/// What was counted of a VNI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VniCount {
    /// The VNI; `None` for those that had no counters of their own, together.
    pub vni: Option<Vni>,
    /// The counters, see [`vni_counter`].
    pub counters: VniCounters,
}

/// What tells a rule from others: its set's name and all that it says. `None` is the set itself.
type Identity = (String, Option<Rule>);

/// The policy's maps, and what is in them.
pub(super) struct PolicyMaps {
    generation_map: Array<MapData, u32>,
    tables: Array<MapData, TablesValue>,
    rows: Array<MapData, RowValue>,
    rule_counters: PerCpuArray<MapData, RuleCounters>,
    vnis: BpfHashMap<MapData, u32, u32>,
    vni_counters: PerCpuArray<MapData, VniCounters>,
    generation: u32,
    rule_ids: HashMap<Identity, u16>,
    /// Slots of VNIs that were given out.
    vni_slots: u32,
    policy: Policy,
    /// Who is to know the identifiers of rules before they are in force.
    kept: Option<Arc<KeptRules>>,
}

impl PolicyMaps {
    /// Takes the maps of a loaded object. The program finds no frame's policy before [`Self::replace`].
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

    /// Has the identifiers of rules told to a store: those in force now, and those of other policies before
    /// they are.
    pub(super) fn tell(&mut self, kept: Arc<KeptRules>) {
        tell(&kept, &self.rule_ids);
        self.kept = Some(kept);
    }

    /// Puts a policy in force. Frames are judged by the one before until the last moment, and by this one
    /// from then on. Rules that are in both keep their counters.
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

    /// How many policies have been in force.
    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }

    /// What was counted of each rule in force, in the order in which they are tried, set by set; of each
    /// set last what no rule matched.
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

    /// What was counted under an identifier by all CPUs.
    fn rule_count(&self, id: u16) -> Result<RuleCounters, MapError> {
        let mut sum = RuleCounters::default();
        for one_cpu in self.rule_counters.get(&id.into(), 0)?.iter() {
            sum[0] += one_cpu[0];
            sum[1] += one_cpu[1];
        }
        Ok(sum)
    }

    /// Says what was counted of the rules that are not in force any more: nobody can ask later.
    fn tell_of_gone(&self, in_force: &HashMap<Identity, u16>) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let gone = self.rule_ids.iter().filter(|(identity, _)| !in_force.contains_key(*identity));
        let mut gone: Vec<_> = gone.collect();
        if gone.is_empty() {
            return;
        }
        // Frames that are being judged by them still are counted, too.
        grace::wait();
        gone.sort_unstable_by_key(|(_, id)| **id);
        for ((set, rule), id) in gone {
            let Ok([packets, bytes]) = self.rule_count(*id) else { continue };
            let Some(rule) = rule else {
                tracing::info!("set {set} is in force no longer: no rule of it had {packets} packets");
                continue;
            };
            let number = rule.number;
            tracing::info!(
                "rule {number} of set {set} is in force no longer: it had {packets} packets, {bytes} bytes"
            );
        }
    }

    /// What was counted of each VNI that is known, in ascending order, and at the end of all others.
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

/// Tells a store which identifiers rules have.
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

/// Gives rules and VNIs their places in the kernel's counters.
struct Allocator<'a> {
    in_force: &'a HashMap<Identity, u16>,
    /// Identifiers that cannot be given to a new rule.
    taken: HashSet<u16>,
    rule_ids: HashMap<Identity, u16>,
    last_id: u16,
    vnis: &'a mut BpfHashMap<MapData, u32, u32>,
    vni_slots: &'a mut u32,
    failed: Option<MapError>,
}

impl Allocator<'_> {
    /// An identifier that nothing in force has. There are always some, since a policy has room for less
    /// than half of them.
    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = (self.last_id + 1) % MAX_RULE_IDS as u16;
            if self.last_id != 0 && self.taken.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The slot of a VNI that the program knows of, having learned it or been told.
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
            // Learned in this very moment, or refused.
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
