//! The lists of algorithms that a side offers, and their fingerprint, HASSH: the MD5 of four of them
//! (<https://github.com/salesforce/hassh>).

use md5::{Digest, Md5};
use mirror_packet::text::hex;

use crate::Direction;

/// The longest packet that every implementation accepts (RFC 4253, section 6.1).
const MAX_PACKET: usize = 35_000;

/// The result of reading the packet at the beginning of a stream behind the banner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A packet with this payload, and its length with all that belongs to it.
    Packet(&'a [u8], usize),
    /// More bytes are needed.
    More,
    /// There is none.
    No,
}

/// Reads a packet that is not encrypted (RFC 4253, section 6).
#[must_use]
pub fn packet(bytes: &[u8]) -> Next<'_> {
    let Some((len, behind)) = bytes.split_first_chunk::<4>() else { return Next::More };
    let len = u32::from_be_bytes(*len) as usize;
    if !(2..=MAX_PACKET).contains(&len) {
        return Next::No;
    }
    let Some((padding, payload)) = behind.get(..len).and_then(<[u8]>::split_first) else { return Next::More };
    match payload.len().checked_sub(usize::from(*padding)).and_then(|len| payload.get(..len)) {
        Some(payload) => Next::Packet(payload, 4 + len),
        None => Next::No,
    }
}

/// The fingerprint of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hassh {
    /// The MD5 of `string`, in lower-case hexadecimal digits.
    pub hash: String,
    /// Key exchange, encryption, message authentication and compression in the side's own direction, separated by
    /// semicolons.
    pub string: Vec<u8>,
}

impl Hassh {
    /// Reads a `SSH_MSG_KEXINIT` (RFC 4253, section 7.1). Returns `None` for another message or a malformed one.
    #[must_use]
    pub fn of(payload: &[u8], direction: Direction) -> Option<Self> {
        const KEXINIT: u8 = 20;
        const COOKIE: usize = 16;
        let mut rest = payload.strip_prefix(&[KEXINIT])?.get(COOKIE..)?;
        let mut lists = [&[][..]; 8];
        for list in &mut lists {
            let (len, behind) = rest.split_first_chunk::<4>()?;
            (*list, rest) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        }
        let [kex, _, to_server, to_client, mac_to_server, mac_to_client, zip_to_server, zip_to_client] =
            lists;
        let string = match direction {
            Direction::ToServer => [kex, to_server, mac_to_server, zip_to_server],
            Direction::ToClient => [kex, to_client, mac_to_client, zip_to_client],
        }
        .join(&b';');
        let hash = hex(&Md5::digest(&string));
        Some(Self { hash, string })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kexinit(lists: [&[u8]; 10]) -> Vec<u8> {
        let mut payload = vec![20];
        payload.extend([7; 16]);
        for list in lists {
            payload.extend((list.len() as u32).to_be_bytes());
            payload.extend_from_slice(list);
        }
        payload.extend([0; 5]);
        payload
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((payload.len() + 1 + 6) as u32).to_be_bytes().to_vec();
        bytes.push(6);
        bytes.extend_from_slice(payload);
        bytes.extend([0; 6]);
        bytes
    }

    #[test]
    fn each_side_is_known_by_the_lists_of_its_direction() {
        let lists: [&[u8]; 10] = [b"k1,k2", b"h", b"e>", b"e<", b"m>", b"m<", b"c>", b"c<", b"", b""];
        let payload = kexinit(lists);
        let client = Hassh::of(&payload, Direction::ToServer).unwrap();
        assert_eq!(client.string, b"k1,k2;e>;m>;c>");
        assert_eq!(client.hash, format!("{:x}", Md5::digest(b"k1,k2;e>;m>;c>")));
        assert_eq!(Hassh::of(&payload, Direction::ToClient).unwrap().string, b"k1,k2;e<;m<;c<");
        assert_eq!(Hassh::of(&payload[..60], Direction::ToServer), None);
        assert_eq!(Hassh::of(b"\x15", Direction::ToServer), None);
    }

    #[test]
    fn a_packet_is_read_once_it_is_whole() {
        let bytes = framed(b"\x15");
        for len in 0..bytes.len() {
            assert_eq!(packet(&bytes[..len]), Next::More, "{len}");
        }
        assert_eq!(packet(&bytes), Next::Packet(b"\x15", bytes.len()));
        assert_eq!(packet(b"\xff\xff\xff\xff"), Next::No);
        assert_eq!(packet(&[0, 0, 0, 2, 9, 9]), Next::No);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = packet(&bytes);
            let _ = Hassh::of(&[&[20], &bytes[..]].concat(), Direction::ToServer);
        }
    }
}
