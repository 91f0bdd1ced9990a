//! Answers: OK, an error, or a set of rows.

use super::command::{CHANGE_USER, EXECUTE, FETCH, FIELD_LIST, LOGIN, PREPARE, QUERY};
use super::{Part, State, login};
use crate::service::{Open, Requests, Status, Verdict};

/// Another result follows (`SERVER_MORE_RESULTS_EXISTS`).
const MORE_RESULTS: u16 = 8;

/// Processes a packet of the server.
pub(super) fn packet(
    state: &mut State,
    number: u8,
    payload: &[u8],
    len: u64,
    requests: &mut Requests,
) -> Verdict {
    let Some(open) = requests.front() else { return Verdict::Next };
    let is_login = matches!(open.kind, LOGIN | CHANGE_USER);
    if !open.is_answered() && number != 1 && open.kind != LOGIN {
        // It belongs to an earlier request.
        return Verdict::Next;
    }
    let Some(open) = requests.answer(len) else { return Verdict::Next };
    if is_login {
        return sign_in(state, payload, open);
    }
    if state.part == Part::First {
        state.part = first(payload, open);
    } else {
        state.part = next(state.part, payload, open);
    }
    Verdict::Next
}

/// Processes an answer to a login. There may be questions before its result.
fn sign_in(state: &State, payload: &[u8], open: &mut Open) -> Verdict {
    match payload.first() {
        Some(0) => {
            open.status = Status::Ok;
            open.finish();
            if login::is_compressed(state) { Verdict::Done } else { Verdict::Next }
        }
        Some(0xff) => {
            fail(payload, open);
            Verdict::Next
        }
        _ => {
            open.status = Status::Ok;
            Verdict::Next
        }
    }
}

/// Processes the first packet of a result.
fn first(payload: &[u8], open: &mut Open) -> Part {
    match (open.kind, payload) {
        (_, [0xff, ..]) => {
            fail(payload, open);
            Part::Rest
        }
        (PREPARE, [0, ..]) => {
            // A description with columns announces a set of rows.
            let columns = payload.get(5..7).is_some_and(|columns| columns != [0, 0]);
            finish(open, if columns { Status::Rows } else { Status::Ok })
        }
        (FIELD_LIST, _) => finish(open, Status::Ok),
        (FETCH, _) => {
            open.status = Status::Ok;
            next(Part::Rows, payload, open)
        }
        (_, [0, rest @ ..]) => {
            let (rows, behind) = integer(rest).unwrap_or_default();
            let behind = integer(behind).map_or(behind, |(_, behind)| behind);
            if open.status == Status::None {
                open.status = Status::Ok;
                open.rows = Some(rows).filter(|_| matches!(open.kind, QUERY | EXECUTE));
            }
            end(behind.first_chunk(), open)
        }
        // The client sends a file.
        (_, [0xfb, ..]) => Part::First,
        (QUERY | EXECUTE | 10, _) => {
            open.status = Status::Rows;
            match integer(payload) {
                Some((columns, [])) if columns > 0 => {
                    Part::Columns(u16::try_from(columns).unwrap_or(u16::MAX))
                }
                _ => Part::Rest,
            }
        }
        _ => finish(open, Status::Ok),
    }
}

/// Processes a further packet of a result.
fn next(part: Part, payload: &[u8], open: &mut Open) -> Part {
    let is_end = matches!(payload, [0xfe, ..]) && payload.len() < 0xff_ffff;
    match part {
        _ if matches!(payload, [0xff, ..]) => {
            fail(payload, open);
            Part::Rest
        }
        Part::Columns(left) if left > 1 => Part::Columns(left - 1),
        Part::Columns(_) => Part::FirstRow,
        // The end of the descriptions, which newer servers leave out; theirs of the rows is longer.
        Part::FirstRow if is_end && payload.len() <= 5 => {
            open.rows = Some(0);
            Part::Rows
        }
        Part::FirstRow | Part::Rows if is_end => {
            open.rows = Some(open.rows.unwrap_or(0));
            let flags = match payload {
                [_, _, _, low, high] => Some([*low, *high]),
                [_, rest @ ..] => integer(rest)
                    .and_then(|(_, rest)| integer(rest))
                    .and_then(|(_, rest)| rest.first_chunk().copied()),
                [] => None,
            };
            end(flags.as_ref(), open)
        }
        Part::FirstRow | Part::Rows => {
            open.rows = Some(open.rows.unwrap_or(0) + 1);
            Part::Rows
        }
        Part::First | Part::Rest => part,
    }
}

fn fail(payload: &[u8], open: &mut Open) {
    let code =
        payload.get(1..3).and_then(|code| code.first_chunk()).map_or(0, |code| u16::from_le_bytes(*code));
    open.fail(itoa::Buffer::new().format(code).as_bytes());
    open.finish();
}

fn finish(open: &mut Open, status: Status) -> Part {
    open.status = status;
    open.finish();
    Part::Rest
}

/// Ends a result with these flags.
fn end(flags: Option<&[u8; 2]>, open: &mut Open) -> Part {
    if flags.is_some_and(|flags| u16::from_le_bytes(*flags) & MORE_RESULTS != 0) {
        return Part::First;
    }
    open.finish();
    Part::Rest
}

/// Reads an integer of variable length, and returns what is behind it.
fn integer(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let len = match first {
        0..=0xfa => return Some((first.into(), rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let (bytes, rest) = rest.split_at_checked(len)?;
    Some((bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)), rest))
}
