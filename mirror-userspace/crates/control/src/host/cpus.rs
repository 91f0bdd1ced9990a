//! The choice of CPUs for the workers.

use std::fs;
use std::str::FromStr;

use mirror_device::nic::Interface;
use mirror_device::nic::interrupt::{Interrupt, cpu_list, interrupts, numa_node};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A list of CPUs, as in `0-3,6`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl std::fmt::Display for CpuList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cpus: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&cpus.join(","))
    }
}

impl CpuList {
    /// Returns the CPUs, in the order in which they were named.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a list of CPUs such as 0-3,6");
        let number = |text: &str| match text.trim().parse() {
            Ok(cpu) if cpu < CpuSet::count() => Ok(cpu),
            _ => Err(wrong()),
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            for cpu in first..=last {
                if cpus.contains(&cpu) {
                    return Err(format!("CPU {cpu} is named twice"));
                }
                cpus.push(cpu);
            }
        }
        Ok(Self(cpus))
    }
}

/// Chooses CPUs for the workers of these interfaces if none are given: isolated CPUs if there are any, and
/// CPUs that do not handle the interfaces' interrupts if there are any. Empty if the kernel does not report
/// its CPUs.
pub fn choose<'i>(interfaces: impl Iterator<Item = &'i Interface>) -> Vec<usize> {
    let candidates = prefer_isolated(allowed(), &list("isolated"), &online());
    let taken: Vec<_> = interfaces.flat_map(|interface| taken(&interrupts(interface))).collect();
    without(candidates, &taken)
}

/// Returns the CPUs that receive from an interface: those that handle the interrupts of its queues, or all of
/// its interrupts if none is known to be a queue's.
fn taken(interrupts: &[Interrupt]) -> Vec<usize> {
    let any = interrupts.iter().any(Interrupt::is_of_queue);
    let receiving = interrupts.iter().filter(|interrupt| !any || interrupt.is_of_queue());
    receiving.flat_map(Interrupt::taken_by).collect()
}

/// Reads a list of CPUs from the kernel.
fn list(name: &str) -> Vec<usize> {
    cpu_list(&fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).unwrap_or_default())
}

/// Returns the CPUs that are online; empty if the kernel does not report them.
#[must_use]
pub fn online() -> Vec<usize> {
    list("online")
}

/// Returns the isolated CPUs that workers get by default.
#[must_use]
pub fn isolated() -> Vec<usize> {
    let isolated = list("isolated");
    let mut preferred = prefer_isolated(allowed(), &isolated, &online());
    preferred.retain(|cpu| isolated.contains(cpu));
    preferred
}

/// Returns the CPUs that this thread may run on; empty if the kernel does not report them.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// Prefers isolated CPUs, unless the affinity was set deliberately: a process may run on all other CPUs by
/// default.
fn prefer_isolated(allowed: Vec<usize>, isolated: &[usize], online: &[usize]) -> Vec<usize> {
    let both: Vec<_> = allowed.iter().copied().filter(|cpu| isolated.contains(cpu)).collect();
    if !both.is_empty() {
        return both;
    }
    let others = online.iter().filter(|cpu| !isolated.contains(cpu));
    if !isolated.is_empty() && others.eq(allowed.iter()) { isolated.to_vec() } else { allowed }
}

/// Returns the CPUs that are not busy, or all if all are busy.
fn without(cpus: Vec<usize>, busy: &[usize]) -> Vec<usize> {
    let idle: Vec<_> = cpus.iter().copied().filter(|cpu| !busy.contains(cpu)).collect();
    if idle.is_empty() { cpus } else { idle }
}

/// Returns the CPUs on the NUMA node of an interface; `None` if all memory is equally near.
#[must_use]
pub fn near(interface: &Interface) -> Option<Vec<usize>> {
    let node = numa_node(interface)?;
    let cpus = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).ok()?;
    Some(cpu_list(&cpus)).filter(|cpus| !cpus.is_empty())
}

/// Pins the calling thread to these CPUs. If the kernel refuses, the thread runs anywhere.
pub fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    let pinned = cpus.iter().try_for_each(|&cpu| set.set(cpu));
    if let Err(error) = pinned.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        tracing::warn!("cannot keep a worker on CPU {cpus:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use mirror_device::nic::interrupt::parse;

    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let list = |text: &str| text.parse::<CpuList>().map(|list| list.0);
        assert_eq!(list("0"), Ok(vec![0]));
        assert_eq!(list("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        for wrong in ["", "a", "3-1", "1,1", "-1", "0-99999999", "1,,2"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn isolated_cpus_are_preferred_unless_the_process_was_put_elsewhere() {
        let online = [0, 1, 2, 3];
        assert_eq!(prefer_isolated(vec![0, 1], &[2, 3], &online), [2, 3]);
        assert_eq!(prefer_isolated(vec![0], &[2, 3], &online), [0]);
        assert_eq!(prefer_isolated(vec![1, 2], &[2, 3], &online), [2]);
        assert_eq!(prefer_isolated(vec![0, 1, 2, 3], &[], &online), online);
    }

    #[test]
    fn cpus_that_take_interrupts_are_avoided_where_there_are_others() {
        assert_eq!(without(vec![0, 1], &[0]), [1]);
        assert_eq!(without(vec![0, 1], &[0, 1]), [0, 1]);
    }

    #[test]
    fn the_interrupts_of_queues_say_which_cpus_receive() {
        // From an ENA with two queues on a machine with four CPUs.
        let recorded = "            CPU0       CPU1       CPU2       CPU3
  8:          0          0          0          0  IO-APIC   8-edge      rtc0
 26:          0          0          0          5  PCI-MSIX-0000:00:06.0   0-edge      ena-mgmnt@pci:0000:00:06.0
 27:     912345          0          0          0  PCI-MSIX-0000:00:06.0   1-edge      ens6-Tx-Rx-0
 28:          0     876543          0          0  PCI-MSIX-0000:00:06.0   2-edge      ens6-Tx-Rx-1
NMI:          0          0          0          0  Non-maskable interrupts
";
        // As in `/proc/irq/…/effective_affinity_list`.
        let effective = [(26, "3"), (27, "0"), (28, "1")];
        let mut interrupts = parse(recorded);
        interrupts.retain(|interrupt| effective.iter().any(|(number, _)| *number == interrupt.number));
        for (interrupt, (_, cpu)) in interrupts.iter_mut().zip(effective) {
            (interrupt.cpus, interrupt.effective) = ("0-3".to_owned(), cpu.to_owned());
        }
        assert_eq!(taken(&interrupts), [0, 1]);
        assert_eq!(without(vec![0, 1, 2, 3], &taken(&interrupts)), [2, 3]);
        // If no name is recognised, all interrupts count.
        for interrupt in &mut interrupts {
            "nic".clone_into(&mut interrupt.name);
        }
        assert_eq!(without(vec![0, 1, 2, 3], &taken(&interrupts)), [2]);
    }
}
