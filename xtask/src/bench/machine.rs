//! The machine that figures were measured on; without it a figure means nothing.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::command::output;

/// The machine and the software on it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    /// The kernel's frequency governor, or `none`, as in most virtual machines.
    pub(super) governor: String,
    /// True for a virtual machine, as reported by the CPU's flags.
    pub(super) is_virtual: bool,
    pub(super) rustc: String,
    pub(super) commit: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let said = |program: &str, arguments: &[&str]| {
            let text = output(Command::new(program).args(arguments)).unwrap_or_default();
            text.lines().next().unwrap_or_default().trim().to_owned()
        };
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.unwrap_or_default() / 1024,
            kernel: said("uname", &["-r"]),
            governor: governor.map_or_else(|_| "none".to_owned(), |name| name.trim().to_owned()),
            is_virtual: field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            rustc: said("rustc", &["--version"]),
            commit: said("git", &["describe", "--always", "--dirty"]),
        }
    }
}
