//! The kernel's side as user space sees it: [`program`] loads and attaches the XDP program and reads its
//! maps; [`attached`] finds out what is attached to an interface already, and takes it off.

pub mod program;
