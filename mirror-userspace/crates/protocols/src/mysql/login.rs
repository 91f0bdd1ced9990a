//! The login: the server's greeting, the client's capabilities, user and database.

use super::command::LOGIN;
use super::{HEADER, State, word};
use crate::service::{Request, Requests, Verdict};

/// Capabilities of the protocol.
const CONNECT_WITH_DB: u32 = 1 << 3;
const COMPRESS: u32 = 1 << 5;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE: u32 = 1 << 15;
const AUTH_LENENC: u32 = 1 << 21;
const ZSTD: u32 = 1 << 26;

/// Bytes of a login in front of the user's name: capabilities, packet length, character set, zeros.
const FIXED: usize = 32;

/// Reads the capabilities in the server's first packet.
pub(super) fn greeting(state: &mut State, payload: &[u8]) {
    let Some((&10, rest)) = payload.split_first() else { return };
    // Behind the version: thread, the first part of the challenge, a zero.
    let flags = rest.get(word(rest).len() + 1 + 4 + 8 + 1..).unwrap_or_default();
    if let [low, second, _, _, _, third, high, ..] = *flags {
        state.offered = Some(u32::from_le_bytes([low, second, third, high]));
    }
}

/// Processes a packet of the client that begins no command: a login, or what follows it.
pub(super) fn request(state: &mut State, number: u8, payload: &[u8], requests: &mut Requests) -> Verdict {
    let is_login = number <= 2 && state.capabilities.is_none() && requests.back().is_none();
    let Some(flags) = payload.first_chunk().copied().map(u32::from_le_bytes).filter(|_| is_login) else {
        return Verdict::Next;
    };
    if flags & PROTOCOL_41 == 0 {
        return Verdict::Next;
    }
    if payload.len() == FIXED {
        return if flags & SSL != 0 { Verdict::Done } else { Verdict::Next };
    }
    state.capabilities = Some(flags & state.offered.unwrap_or(flags));
    let Some((user, database)) = names(flags, payload) else { return Verdict::Next };
    requests.draft.clear();
    requests.draft.extend_from_slice(user);
    if let Some(database) = database {
        requests.draft.push(b'/');
        requests.draft.extend_from_slice(database);
    }
    let statement = std::mem::take(&mut requests.draft);
    requests.push(Request {
        kind: LOGIN,
        operation: b"Login",
        object: database.unwrap_or_default(),
        statement: &statement,
        ..Request::default()
    });
    requests.draft = statement;
    Verdict::Next
}

/// Returns user and database.
fn names(flags: u32, payload: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let user = word(payload.get(FIXED..)?);
    let rest = payload.get(FIXED + user.len() + 1..).unwrap_or_default();
    let answer = match rest.first() {
        Some(&len) if flags & (AUTH_LENENC | SECURE) != 0 => 1 + usize::from(len),
        _ => word(rest).len() + 1,
    };
    let database = rest.get(answer..).filter(|_| flags & CONNECT_WITH_DB != 0).map(word);
    Some((user, database))
}

/// Returns true if the connection is compressed from its login on.
pub(super) const fn is_compressed(state: &State) -> bool {
    matches!(state.capabilities, Some(flags) if flags & (COMPRESS | ZSTD) != 0)
}

/// Matches a login: capabilities since 4.1, and zeros.
pub(super) fn probe(bytes: &[u8]) -> bool {
    let flags = bytes.get(HEADER..HEADER + 2);
    let zeros = bytes.get(HEADER + 9..HEADER + FIXED - 4);
    matches!(flags, Some([_, high]) if high & 2 != 0)
        && zeros.is_some_and(|zeros| zeros.iter().all(|&byte| byte == 0))
}
