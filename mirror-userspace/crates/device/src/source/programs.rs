//! The TC programs in the kernel: loaded from the object inside this binary, attached, their maps behind
//! types.

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_detach_program};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use mirror_xdp_common::Address;
use mirror_xdp_common::source::{SourceCounter, SourceCounterArray, TEMPLATE_LEN, Template};

use super::pair::Pair;
use super::{Error, Options};

const CANNOT_LOAD: &str = "the kernel does not load the programs of the mirror source";
const CANNOT_ATTACH: &str = "the kernel does not attach the programs of the mirror source";
const CANNOT_USE: &str = "the kernel refuses an operation on a map of the mirror source";

const MIRROR: &str = "mirror";
const ENCAPSULATE: &str = "encapsulate";

/// The counters of both programs, added up over all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(SourceCounterArray);

impl Counts {
    /// How often this happened.
    #[must_use]
    pub const fn get(&self, counter: SourceCounter) -> u64 {
        self.0[counter as usize]
    }
}

/// The programs. Dropping this detaches and unloads them.
pub(super) struct Programs {
    template: HashMap<MapData, u32, [u8; TEMPLATE_LEN]>,
    counters: PerCpuArray<MapData, SourceCounterArray>,
    /// At the mirrored interface.
    links: Vec<SchedClassifierLinkId>,
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs into the kernel.
    pub(super) fn load(options: &Options, pair: &Pair) -> Result<Self, Error> {
        if crate::objects::SOURCE.is_empty() {
            return Err(Error::NotBuilt);
        }
        let target = Address::from(options.target);
        // As the program's `Config`.
        let config = [target.high, target.low, u64::from(pair.near), u64::from(options.port)];
        let mut ebpf = EbpfLoader::new()
            .override_global("CONFIG", &config, true)
            .load(crate::objects::SOURCE)
            .map_err(Error::kernel(CANNOT_LOAD))?;
        let template = ebpf.take_map("TEMPLATE").ok_or_else(|| lacks("TEMPLATE"))?;
        let counters = ebpf.take_map("COUNTERS").ok_or_else(|| lacks("COUNTERS"))?;
        let mut programs = Self {
            template: template.try_into().map_err(Error::kernel(CANNOT_LOAD))?,
            counters: counters.try_into().map_err(Error::kernel(CANNOT_LOAD))?,
            links: Vec::new(),
            ebpf,
        };
        for name in [MIRROR, ENCAPSULATE] {
            programs.program(name)?.load().map_err(Error::kernel(CANNOT_LOAD))?;
        }
        Ok(programs)
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, Error> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| lacks(name))?;
        program.try_into().map_err(Error::kernel(CANNOT_LOAD))
    }

    /// Gives the program the envelope to use from now on; without one, frames are counted and not sent.
    pub(super) fn set_template(&mut self, template: Option<&Template>) -> Result<(), Error> {
        let result = match template {
            Some(template) => {
                let bytes: [u8; TEMPLATE_LEN] = zerocopy::transmute!(*template);
                self.template.insert(0, bytes, 0)
            }
            None => self.template.remove(&0),
        };
        result.map_err(Error::kernel(CANNOT_USE))
    }

    /// Attaches what takes the copies to the pair's far end.
    pub(super) fn attach_to_pair(&mut self, pair: &Pair) -> Result<(), Error> {
        attach(self.program(ENCAPSULATE)?, &pair.far.name, TcAttachType::Ingress, false).map(|_| ())
    }

    /// Attaches what makes the copies to the mirrored interface.
    pub(super) fn attach_to_interface(&mut self, interface: &str, pair: &Pair) -> Result<(), Error> {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let link = attach(self.program(MIRROR)?, interface, direction, pair.alone)?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Takes the programs off the mirrored interface. Copies that are on their way still are sent.
    pub(super) fn detach(&mut self) {
        for link in std::mem::take(&mut self.links) {
            if let Ok(program) = self.program(MIRROR) {
                // Fails where the interface has gone, and with it the link.
                let _ = program.detach(link);
            }
        }
    }

    /// The counters as they stand.
    pub(super) fn counts(&self) -> Result<Counts, Error> {
        let mut sum = SourceCounterArray::default();
        for one_cpu in self.counters.get(&0, 0).map_err(Error::kernel(CANNOT_USE))?.iter() {
            for (sum, count) in sum.iter_mut().zip(one_cpu) {
                *sum += count;
            }
        }
        Ok(Counts(sum))
    }
}

fn lacks(name: &str) -> Error {
    Error::Kernel { what: CANNOT_LOAD, cause: format!("the object lacks `{name}`: rebuild it") }
}

/// Attaches a program in front of all others, so that none of them can hide frames from it.
///
/// As a TCX link, which ends with this process, where the kernel has those (6.6). Older kernels have
/// filters, which a killed process leaves behind: `clean` removes such a filter, and is to be set only
/// where no other source is running.
fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    clean: bool,
) -> Result<SchedClassifierLinkId, Error> {
    let options = if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    } else {
        // Fails where somebody else has added it already, which is as good.
        let _ = tc::qdisc_add_clsact(interface);
        if clean {
            // Fails where there is nothing to remove.
            let _ = qdisc_detach_program(interface, direction, MIRROR);
        }
        TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
    };
    program.attach_with_options(interface, direction, options).map_err(Error::kernel(CANNOT_ATTACH))
}
