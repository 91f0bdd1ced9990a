//! BPF links of other processes. aya lists them, but provides neither their interface nor a way to detach
//! them. These few calls therefore go to libbpf, which is part of this binary anyway (libxdp needs it).
#![expect(unsafe_code, reason = "libbpf is C")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use libbpf_sys::{
    BPF_LINK_TYPE_XDP, bpf_link_detach, bpf_link_get_fd_by_id, bpf_link_get_info_by_fd, bpf_link_info,
};

/// A link that attaches an XDP program to an interface.
#[derive(Debug)]
pub(super) struct XdpLink {
    fd: OwnedFd,
    interface: u32,
}

impl XdpLink {
    /// Opens the link with this identifier; `None` if it is gone or is not an XDP link.
    pub(super) fn by_id(id: u32) -> Option<Self> {
        // SAFETY: the call takes a number and returns a new file descriptor, or a negative number.
        let fd = unsafe { bpf_link_get_fd_by_id(id) };
        if fd < 0 {
            return None;
        }
        // SAFETY: as stated, `fd` is a file descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = bpf_link_info::default();
        let mut length = u32::try_from(size_of::<bpf_link_info>()).ok()?;
        // SAFETY: `info` is a valid structure of `length` bytes; the kernel fills it.
        let done = unsafe { bpf_link_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut length) };
        if done != 0 || info.type_ != BPF_LINK_TYPE_XDP {
            return None;
        }
        // SAFETY: the type shows that this member of the union is in use; any bit pattern is a valid number.
        let interface = unsafe { info.__bindgen_anon_1.xdp.ifindex };
        Some(Self { fd, interface })
    }

    /// Returns the index of the interface; 0 if the link is already detached.
    pub(super) const fn interface(&self) -> u32 {
        self.interface
    }

    /// Detaches the program. The link stays with its owner, attached to nothing.
    pub(super) fn detach(&self) -> io::Result<()> {
        // SAFETY: the call takes a file descriptor, which is open as long as `self.fd` lives.
        match unsafe { bpf_link_detach(self.fd.as_raw_fd()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
