//! mirror-xdp in user space. It loads the XDP program, receives frames from `AF_XDP` sockets, tracks flows
//! and writes records; it does the same for capture files.
#![deny(unsafe_code)]

pub mod cli;

pub use mirror_base as base;
pub use mirror_control as control;
pub use mirror_device as device;
pub use mirror_engine as engine;
pub use mirror_packet as packet;
pub use mirror_protocols as protocols;
pub use mirror_records as records;
pub use mirror_rules as rules;
pub use mirror_signatures as signatures;
pub use mirror_store as store;
