//! Which worker analyses a flow.
//!
//! Both directions of a flow can come in by different queues: the NIC knows outer headers only. So each flow
//! has an owner among the workers of its device, by its symmetric hash; whoever receives a frame of another's
//! flow hands it over. The hash is the one that the program chooses among a queue's sockets by, and the
//! owner is always a worker of the socket that the program would choose: on a device with one queue nothing
//! is handed over.
//!
//! The mirror session is no part of the hash: copies of a packet that two sessions have mirrored meet at one
//! worker. Fragments have the hash of their addresses and protocol, so those of a datagram meet, too; what they
//! become has ports, and goes on to the owner of its flow.

use mirror_xdp_common::hash::FlowHash;

/// Who owns which flow.
#[derive(Clone, Copy, Debug)]
pub struct Affinity {
    workers: u32,
}

impl Affinity {
    /// Over so many workers, numbered as [`mirror_device::afxdp::Opened::ports`] is.
    #[must_use]
    pub const fn over(workers: u32) -> Self {
        Self { workers }
    }

    /// The number of a flow's owner.
    #[must_use]
    pub const fn owner(self, hash: FlowHash) -> usize {
        // The socket is hash · sockets / 2³², rounded down, in the program; and workers = sockets · queues.
        ((hash.0 as u64 * self.workers as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_owner_is_of_the_socket_that_the_program_chooses(
            hash: u32, queues in 1_u32..64, sockets in 1_u32..64,
        ) {
            let owner = Affinity::over(queues * sockets).owner(FlowHash(hash)) as u32;
            let chosen = ((u64::from(hash) * u64::from(sockets)) >> 32) as u32;
            prop_assert_eq!(owner / queues, chosen);
        }
    }
}
