//! The host that a capture runs on: its CPUs, its memory, the privileges of this process, and the UDP port of mirror
//! traffic, which is reserved so that the kernel answers nothing.

pub mod cpus;
pub mod memory;
pub mod port;
pub mod privilege;

pub use cpus::CpuList;
