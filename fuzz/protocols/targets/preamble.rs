//! Preambles of both sides, cut as the first byte says. The second byte is the server's port.

use mirror_packet::Direction;
use mirror_protocols::detect::{Endpoints, Transport};
use mirror_protocols::preamble::{MAX_PREAMBLE, Preamble, Verdict, tls_begins, write_relayed};

pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(([cut, port], rest)) = bytes.split_first_chunk() else { return };
    let endpoints =
        Endpoints { transport: Transport::Tcp, client_port: 40_000, server_port: u16::from(*port) };
    let mut preamble = Preamble::default();
    let (mut packed, mut both) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (number, piece) in rest.chunks(usize::from(cut >> 1) + 1).enumerate() {
        let answers = cut & 1 == 1 && number % 2 == 1;
        let direction = if answers { Direction::ToClient } else { Direction::ToServer };
        let held = &mut both[direction as usize];
        held.extend_from_slice(piece);
        let mut used = 0;
        while used < held.len() {
            match preamble.look(endpoints, direction, &held[used..]) {
                Verdict::Preamble { len, relayed, .. } => {
                    assert!(len > 0 && len <= held.len() - used);
                    used += len;
                    if let Some(relayed) = relayed {
                        relayed.pack(&mut packed);
                    }
                }
                Verdict::More => {
                    assert!(held.len() - used < MAX_PREAMBLE);
                    break;
                }
                Verdict::Protocol | Verdict::Opening(_) => {
                    assert!(!preamble.is_open(direction));
                    let _ = tls_begins(direction, &held[used..]);
                    used = held.len();
                }
            }
        }
        held.drain(..used);
    }
    write_relayed(&packed, |_, object| serde_json::to_vec(object).map(drop))
        .expect("every preamble has a JSON form");
}
