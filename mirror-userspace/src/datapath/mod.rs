//! The kernel's side as user space sees it: [`program`] loads and attaches the XDP program and reads its
//! maps; [`attached`] tells what is attached to an interface already, and takes it off.

pub mod attached;
mod link;
pub mod program;

pub use program::Mode;
