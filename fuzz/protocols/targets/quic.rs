//! QUIC datagrams of both sides, and the events written for them. The first bytes of a datagram are its
//! direction and its length.

use mirror_packet::Direction;
use mirror_protocols::quic::{Connection, Event};

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut connection = Connection::new();
    let mut scratch = Vec::new();
    let mut rest = bytes;
    while let Some(([from, len], behind)) = rest.split_first_chunk() {
        let direction = if from & 1 == 0 { Direction::ToServer } else { Direction::ToClient };
        let len = usize::from(*len) + 256 * usize::from(from >> 1 & 7);
        let (datagram, behind) = behind.split_at(len.min(behind.len()));
        if let Some(hello) = connection.push(direction, datagram, &mut scratch) {
            let event = Event::new(hello.version, hello.direction, hello.body);
            serde_json::to_vec(&event).expect("every hello has a JSON form");
        }
        rest = behind;
    }
}
