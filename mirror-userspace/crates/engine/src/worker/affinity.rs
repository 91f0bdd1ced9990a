//! The assignment of flows to workers.
//!
//! The two directions of a flow can come in by different queues, since the NIC hashes outer headers only.
//! Each flow therefore has an owner among the workers of its device, selected by its symmetric hash. A worker
//! that receives a frame of another worker's flow hands it over. The program selects among a queue's sockets
//! by the same hash, and the owner is always a worker of the socket that the program would select: on a
//! device with one queue nothing is handed over.
//!
//! The mirror session is not part of the hash: copies of a packet that two sessions have mirrored meet at one
//! worker. Fragments are hashed by their addresses and protocol, so those of a datagram meet, too. The
//! reassembled datagram has ports, and goes on to the owner of its flow.

use mirror_xdp_common::hash::FlowHash;

/// The owners of flows.
#[derive(Clone, Copy, Debug)]
pub struct Affinity {
    workers: u32,
}

impl Affinity {
    /// Creates the assignment for this many workers, numbered socket by socket.
    #[must_use]
    pub const fn over(workers: u32) -> Self {
        Self { workers }
    }

    /// Returns the number of a flow's owner.
    #[must_use]
    pub const fn owner(self, hash: FlowHash) -> usize {
        // The program computes the socket as hash · sockets / 2³², rounded down; and workers = sockets ·
        // queues.
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
