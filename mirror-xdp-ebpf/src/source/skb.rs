//! A frame of the TC programs: the kernel's socket buffer behind its helpers. This is the only place with
//! unsafe code that touches frames.
//!
//! Bytes are read and written by helpers instead of packet pointers, because the headers of a socket buffer
//! need not lie in its linear part.
#![expect(unsafe_code, reason = "the kernel's helpers take raw pointers")]

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_set_hash, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use mirror_xdp_common::frame::Frame;
use mirror_xdp_common::hash::FlowHash;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The frame that a program was called for.
pub(crate) struct Skb {
    context: TcContext,
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(context: TcContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    /// Returns the mark (`SO_MARK`), by which routing, filters and these programs recognise a frame.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: the kernel passed this context to the program; the field is readable.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&mut self, mark: u32) {
        self.context.set_mark(mark);
    }

    /// Removes the VLAN tag that the kernel keeps beside the frame; the next one in the frame takes its
    /// place. Returns `None` if there is no tag.
    #[inline(always)]
    pub(crate) fn pop_vlan(&mut self) -> Result<Option<[u8; 4]>, ()> {
        let Some(tag) = self.vlan() else { return Ok(None) };
        // SAFETY: the helper takes the context that the kernel passed to the program.
        if unsafe { bpf_skb_vlan_pop(self.raw()) } != 0 {
            return Err(());
        }
        Ok(Some(tag))
    }

    /// Returns the VLAN tag that the kernel keeps beside the frame, in its wire format: EtherType and control
    /// information, big-endian.
    #[inline(always)]
    pub(crate) fn vlan(&self) -> Option<[u8; 4]> {
        // SAFETY: as for the mark.
        let (present, protocol, control) =
            unsafe { ((*self.raw()).vlan_present, (*self.raw()).vlan_proto, (*self.raw()).vlan_tci) };
        if present == 0 {
            return None;
        }
        // The protocol is big-endian in the context, too.
        let ([p0, p1], [c0, c1]) = ((protocol as u16).to_ne_bytes(), (control as u16).to_be_bytes());
        Some([p0, p1, c0, c1])
    }

    /// Truncates the frame to `len` bytes.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, len: u32) -> Result<(), ()> {
        // SAFETY: the helper takes the context that the kernel passed to the program, and checks `len`.
        done(unsafe { bpf_skb_change_tail(self.raw(), len, 0) })
    }

    /// Makes room for `len` bytes, zeroed, in front of the frame.
    #[inline(always)]
    pub(crate) fn grow_front(&mut self, len: u32) -> Result<(), ()> {
        // SAFETY: as above.
        done(unsafe { bpf_skb_change_head(self.raw(), len, 0) })
    }

    /// Writes `value` at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: IntoBytes + Immutable>(&mut self, offset: usize, value: &T) -> Result<(), ()> {
        // A checksum over the whole frame, which some drivers deliver, stays valid.
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        self.context.store(offset, value, flags).map_err(|_| ())
    }

    /// Sets the hash by which the kernel chooses among an interface's queues.
    #[inline(always)]
    pub(crate) fn set_hash(&mut self, hash: FlowHash) {
        // SAFETY: as above.
        let _ = unsafe { bpf_set_hash(self.raw(), hash.0) };
    }

    /// Sends a copy by the interface with this index.
    #[inline(always)]
    pub(crate) fn send_copy(&self, interface: u32) -> Result<(), ()> {
        // SAFETY: as above.
        done(unsafe { bpf_clone_redirect(self.raw(), interface, 0) })
    }
}

#[inline(always)]
const fn done(result: i64) -> Result<(), ()> {
    if result == 0 { Ok(()) } else { Err(()) }
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> usize {
        self.context.len() as usize
    }

    #[inline(always)]
    fn header<T: FromBytes>(&self, offset: usize) -> Option<T> {
        // The helper checks the offset; every pattern of bits is a valid `T`.
        self.context.load(offset).ok()
    }
}
