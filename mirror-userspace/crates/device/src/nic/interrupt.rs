//! The interrupts of a NIC's queues and the CPUs that handle them: `/proc/interrupts`, `/proc/irq` and
//! `/sys`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Interface;

/// An interrupt of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// The driver's name of it.
    pub name: String,
    /// CPUs that may handle it, in the kernel's list format: `0,2-3`.
    pub cpus: String,
    /// The CPUs among these that handle it; empty if the kernel does not report them.
    pub effective: String,
    /// The number of interrupts, by CPU.
    pub counts: Vec<u64>,
}

impl Interrupt {
    /// Returns the CPUs that handle it.
    #[must_use]
    pub fn taken_by(&self) -> Vec<usize> {
        cpu_list(if self.effective.is_empty() { &self.cpus } else { &self.effective })
    }

    /// Returns whether it belongs to a queue, and not to the device as a whole.
    #[must_use]
    pub fn is_of_queue(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        // ena: `ens5-Tx-Rx-0`; intel: `eth0-TxRx-0`, `eth0-rx-0`; mlx5: `mlx5_comp0@pci:…`; virtio:
        // `virtio0-input.0`.
        ["tx-rx", "txrx", "-rx-", "comp", "input"].iter().any(|part| name.contains(part))
    }
}

/// Parses a list of CPUs such as `0,2-3`, without the parts that are invalid.
#[must_use]
pub fn cpu_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend((first..=last).take(1 << 16));
        }
    }
    cpus
}

/// Returns the directory of an interface in `/sys`; `None` if `/sys` belongs to another network namespace.
pub(super) fn sys(interface: &Interface) -> Option<PathBuf> {
    let directory = Path::new("/sys/class/net").join(&interface.name);
    let index = fs::read_to_string(directory.join("ifindex")).ok()?;
    (index.trim().parse() == Ok(interface.index)).then_some(directory)
}

/// Returns the NUMA node of the interface; `None` if all memory is equally near.
#[must_use]
pub fn numa_node(interface: &Interface) -> Option<u32> {
    let node = fs::read_to_string(sys(interface)?.join("device/numa_node")).ok()?;
    node.trim().parse().ok()
}

/// Returns the interrupts of an interface; empty if it has none, as a software interface.
#[must_use]
pub fn interrupts(interface: &Interface) -> Vec<Interrupt> {
    let Some(device) = sys(interface).map(|directory| directory.join("device")) else { return Vec::new() };
    // A virtio device's interrupts are those of the PCI device above it.
    let numbers = ["msi_irqs", "../msi_irqs"].iter().find_map(|path| fs::read_dir(device.join(path)).ok());
    let numbers: Vec<u32> = numbers
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut interrupts = parse(&text);
    interrupts.retain(|interrupt| numbers.contains(&interrupt.number));
    for interrupt in &mut interrupts {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        interrupt.cpus = read(affinity(interrupt.number));
        interrupt.effective = read(format!("/proc/irq/{}/effective_affinity_list", interrupt.number));
    }
    interrupts
}

fn affinity(interrupt: u32) -> String {
    format!("/proc/irq/{interrupt}/smp_affinity_list")
}

/// Sets the CPUs that may handle an interrupt, in the list format `0,2-3`.
pub fn set_affinity(interrupt: u32, cpus: &str) -> io::Result<()> {
    fs::write(affinity(interrupt), cpus)
}

/// Parses the numbered interrupts of the machine.
#[must_use]
pub fn parse(text: &str) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let cpus = lines.next().unwrap_or_default().split_whitespace().count();
    lines.filter_map(|line| interrupt(line, cpus)).collect()
}

/// ` 27:  5  0  PCI-MSIX-0000:00:05.0  1-edge  ens5-Tx-Rx-0`
fn interrupt(line: &str, cpus: usize) -> Option<Interrupt> {
    let (number, rest) = line.split_once(':')?;
    let number = number.trim().parse().ok()?;
    let mut words = rest.split_whitespace();
    let counts: Vec<u64> = words.by_ref().take(cpus).map_while(|word| word.parse().ok()).collect();
    let name = words.next_back().unwrap_or_default().to_owned();
    Some(Interrupt { number, name, cpus: String::new(), effective: String::new(), counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_read() {
        let text = "           CPU0       CPU1\n  1:          0          9   IO-APIC   1-edge      i8042\n \
                    26:          0          3  PCI-MSIX-0000:00:05.0   0-edge      ena-mgmnt@pci:0000:00:05.0\n \
                    27:    1234567          0  PCI-MSIX-0000:00:05.0   1-edge      ens5-Tx-Rx-0\n\
                    NMI:          0          0   Non-maskable interrupts\n";
        let read = parse(text);
        let told: Vec<_> =
            read.iter().map(|i| (i.number, i.name.as_str(), i.counts[0], i.is_of_queue())).collect();
        let management = "ena-mgmnt@pci:0000:00:05.0";
        assert_eq!(
            told,
            [(1, "i8042", 0, false), (26, management, 0, false), (27, "ens5-Tx-Rx-0", 1_234_567, true)]
        );
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpu_list("0,2-4\n"), [0, 2, 3, 4]);
        assert_eq!(cpu_list(""), [0_usize; 0]);
        assert_eq!(cpu_list("x,1"), [1]);
    }
}
