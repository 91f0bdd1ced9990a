//! What an interface's driver can do with XDP. The kernel tells by netlink (Linux 6.3), which libbpf asks;
//! it is part of this binary anyway.
#![expect(unsafe_code, reason = "libbpf is C")]

use std::io;

use aya::util::KernelVersion;
use libbpf_sys::{bpf_xdp_query, bpf_xdp_query_opts};

/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_NDO_XMIT` of `include/uapi/linux/netdev.h`.
const BASIC: u64 = 1 << 0;
const NDO_XMIT: u64 = 1 << 2;

/// What the driver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// XDP programs run in the driver.
    pub(super) native: bool,
    /// Frames that XDP programs redirect to the interface are sent.
    pub(super) transmit: bool,
}

/// The features of the interface with this index; `None` where this kernel does not tell.
pub(super) fn of(interface: u32) -> io::Result<Option<Features>> {
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 3, 0)) {
        return Ok(None);
    }
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let mut options = bpf_xdp_query_opts {
        sz: size_of::<bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..bpf_xdp_query_opts::default()
    };
    // SAFETY: `options` is a valid structure of the size that it names; libbpf fills it.
    match unsafe { bpf_xdp_query(index, 0, &raw mut options) } {
        0 => Ok(Some(Features {
            native: options.feature_flags & BASIC != 0,
            transmit: options.feature_flags & NDO_XMIT != 0,
        })),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
