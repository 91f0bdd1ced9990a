//! The kernel's side as user space sees it: [`program`] loads and attaches the XDP program and reads its
//! counters; [`policy`] keeps its tables, [`shunt`] its list of flows that nobody wants to see;
//! [`attached`] tells what is attached to an interface already, and takes it off.

pub mod attached;
mod grace;
mod link;
pub mod policy;
pub mod program;
pub mod shunt;

pub use crate::Mode;
