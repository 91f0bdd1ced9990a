//! Every interface of the kernel that a capture uses, and nearly all unsafe code.
//!
//! It owns AF_XDP sockets ([`afxdp`]), the XDP programs and their tables ([`xdp`]), network interfaces and their drivers
//! ([`nic`]) and the mirror source's TC programs ([`source`]). It uses `mirror-packet`, `mirror-rules`, the hooks of
//! `mirror-engine`, and `mirror-base`.

pub mod afxdp;
mod mode;
pub mod nic;
pub mod objects;
pub mod source;
pub mod xdp;

pub use mode::Mode;
