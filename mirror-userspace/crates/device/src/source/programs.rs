//! The TC programs in the kernel: loaded from the object inside this binary, attached, with typed access to
//! their maps.

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

/// The counters of both programs, summed over all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(SourceCounterArray);

impl Counts {
    /// Returns the value of a counter.
    #[must_use]
    pub const fn get(&self, counter: SourceCounter) -> u64 {
        self.0[counter as usize]
    }
}

/// The loaded programs. Dropping this detaches and unloads them.
pub(super) struct Programs {
    template: HashMap<MapData, u32, [u8; TEMPLATE_LEN]>,
    counters: PerCpuArray<MapData, SourceCounterArray>,
    /// The links at the mirrored interface.
    links: Vec<SchedClassifierLinkId>,
    ebpf: Ebpf,
}

impl Programs {
    /// Loads the programs into the kernel.
    pub(super) fn load(options: &Options, pair: &Pair) -> Result<Self, Error> {
        let target = Address::from(options.target);
        // In the layout of the program's `Config`.
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

    /// Sets the outer headers that the program uses from now on; without a template, it counts frames and
    /// does not send them.
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

    /// Attaches the program that receives the copies to the pair's far end.
    pub(super) fn attach_to_pair(&mut self, pair: &Pair) -> Result<(), Error> {
        attach(self.program(ENCAPSULATE)?, &pair.far.name, TcAttachType::Ingress, false).map(|_| ())
    }

    /// Attaches the program that makes the copies to the mirrored interface.
    pub(super) fn attach_to_interface(&mut self, interface: &str, pair: &Pair) -> Result<(), Error> {
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let link = attach(self.program(MIRROR)?, interface, direction, pair.alone)?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Detaches the programs from the mirrored interface. Copies in transit are still sent.
    pub(super) fn detach(&mut self) {
        for link in std::mem::take(&mut self.links) {
            if let Ok(program) = self.program(MIRROR) {
                // This fails if the interface, and with it the link, has disappeared.
                let _ = program.detach(link);
            }
        }
    }

    /// Returns the current counters.
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
/// On Linux 6.6 and newer it is a TCX link, which ends with this process. On older kernels it is a filter,
/// which a killed process leaves behind: `clean` removes such a filter, and may be set only if no other
/// source is running.
fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
    clean: bool,
) -> Result<SchedClassifierLinkId, Error> {
    let options = if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    } else {
        // This fails if another process has already added it, which is just as good.
        let _ = tc::qdisc_add_clsact(interface);
        if clean {
            // This fails if there is nothing to remove.
            let _ = qdisc_detach_program(interface, direction, MIRROR);
        }
        TcAttachOptions::Netlink(NlOptions { priority: 1, ..NlOptions::default() })
    };
    program.attach_with_options(interface, direction, options).map_err(Error::kernel(CANNOT_ATTACH))
}
