//! TLS handshakes in pieces of both sides, and the events written for them. The first byte of a piece is its
//! direction and its length.

use mirror_packet::Direction;
use mirror_protocols::tls::{Event, Handshake, MAX_CERTIFICATE, MAX_HELLO};

pub(crate) fn fuzz(bytes: &[u8]) {
    let mut handshake = Handshake::new();
    let mut rest = bytes;
    while let Some((&head, behind)) = rest.split_first() {
        let direction = if head & 1 == 0 { Direction::ToServer } else { Direction::ToClient };
        let (piece, behind) = behind.split_at(usize::from(head >> 1).min(behind.len()));
        let _ = handshake.push(direction, piece);
        rest = behind;
    }
    let messages = handshake.messages();
    let _ = messages.is_recorded();
    assert!(
        messages.parts().iter().map(|part| part.len()).sum::<usize>() <= 2 * (MAX_HELLO + MAX_CERTIFICATE)
    );
    serde_json::to_vec(&Event::new(&messages)).expect("every handshake has a JSON form");
}
