//! mirror-xdp in user space: loading the XDP program, receiving from `AF_XDP` sockets, keeping flows,
//! writing records; and the same over capture files.
#![deny(unsafe_code)]

pub mod cli;
pub mod protocol;
pub mod sink;
pub mod worker;
