//! User space's access to the programs in the kernel. [`program`] loads and attaches the XDP program and
//! reads its counters; [`policy`] maintains its tables; [`shunt`] maintains the list of flows that the
//! program counts and drops; [`attached`] finds and detaches programs that are already attached to an
//! interface.

pub mod attached;
mod error;
mod grace;
mod link;
pub mod policy;
pub mod program;
pub mod shunt;

pub use crate::Mode;
