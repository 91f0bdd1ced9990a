//! The definitions that the XDP program and user space share: recognition of mirrored frames ([`outer`]),
//! parsing of inner headers ([`inner`]), the symmetric [`hash`] of a flow, the [`capture`] header in front of
//! each inner frame, and the names of the [`counters`]; for the mirror [`source`], the outer headers that it
//! writes.
//!
//! Everything here is `no_std`, without allocation and without unsafe code. The parsers are generic over
//! [`frame::Frame`], so that the same code runs in the kernel on packet memory and in user space on a slice.
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod capture;
pub mod counters;
pub mod filter;
pub mod flags;
pub mod frame;
pub mod hash;
pub mod inner;
pub mod outer;
pub mod pktgen;
pub mod source;
pub mod wire;

pub use address::{Address, Vni};
