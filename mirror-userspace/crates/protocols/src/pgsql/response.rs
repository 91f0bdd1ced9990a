//! Messages of the server.

use super::State;
use super::details::{
    COMPLETED, DATA, ERROR, EXTENDED, MESSAGE, PARAMETER, PASSWORD, PROCESS, QUERY, SASL, STARTUP, TERMINATE,
    TLS, TLS_ACCEPTED, field,
};
use crate::service::{Message, Open, Requests, Status, Verdict, number};

/// Processes a message.
pub(super) fn message(state: &mut State, message: Message<'_>, requests: &mut Requests) -> Verdict {
    if let [answer @ (b'S' | b'N')] = message.bytes
        && state.asked_for_tls
    {
        state.asked_for_tls = false;
        let accepted = *answer == b'S';
        if let Some(open) = requests.front().filter(|open| open.kind == TLS) {
            open.finish();
            open.detail(TLS_ACCEPTED, &[accepted.into()]);
        }
        return if accepted { Verdict::Done } else { Verdict::Next };
    }
    let [kind, _, _, _, _, content @ ..] = message.bytes else { return Verdict::Next };
    if *kind == b'A' {
        // A notification, which answers nothing.
        return Verdict::Next;
    }
    let is_login = requests.front().is_some_and(|open| open.kind == STARTUP);
    if is_login {
        login(*kind, content, message.len, requests);
        return Verdict::Next;
    }
    if *kind == b'S' {
        return Verdict::Next;
    }
    // The steps of a login that has ended have no answers of their own.
    while let Some(open) = requests.front().filter(|open| matches!(open.kind, PASSWORD | SASL | TLS)) {
        open.finish();
    }
    if let Some(open) = requests.answer(message.len) {
        result(state, *kind, content, message.len, open);
    }
    Verdict::Next
}

/// Processes a message during the login. Its steps are requests behind the start-up, which waits for their result.
fn login(kind: u8, content: &[u8], len: u64, requests: &mut Requests) {
    let finished = matches!(kind, b'E' | b'Z');
    if let Some(open) = requests.answer(len) {
        match kind {
            b'E' => open.fail(field(content, b'C')),
            _ => open.status = Status::Ok,
        }
        if finished {
            open.finish();
        }
    }
    if let Some(open) = requests.back() {
        match kind {
            b'R' => open.detail(MESSAGE, content),
            b'S' => open.detail(PARAMETER, content),
            b'K' => open.detail(PROCESS, content.get(..4).unwrap_or_default()),
            b'E' => open.detail(ERROR, content),
            _ => {}
        }
    }
    if finished {
        while let Some(open) = requests.front().filter(|open| matches!(open.kind, PASSWORD | SASL)) {
            open.finish();
        }
    }
}

/// Processes a message of the answer to a query.
fn result(state: &mut State, kind: u8, content: &[u8], len: u64, open: &mut Open) {
    match kind {
        b'T' => {
            state.columns = content.first_chunk().map(|columns| u16::from_be_bytes(*columns));
            if open.status != Status::Error {
                open.status = Status::Rows;
            }
        }
        b'D' => {
            let columns = content.first_chunk().map_or(0, |columns| u16::from_be_bytes(*columns));
            state.size += len.saturating_sub(7 + 4 * u64::from(columns));
            open.rows = Some(open.rows.unwrap_or(0) + 1);
        }
        b'C' => {
            let tag = content.strip_suffix(&[0]).unwrap_or(content);
            open.detail(COMPLETED, tag);
            let rows =
                tag.rsplit(|&byte| byte == b' ').next().and_then(number).filter(|_| tag.contains(&b' '));
            open.rows = open.rows.or(rows);
        }
        b'E' => {
            open.fail(field(content, b'C'));
            open.detail(ERROR, content);
        }
        b'Z' => {
            if let Some(columns) = state.columns.take() {
                let mut data = [0; 18];
                let rows = open.rows.unwrap_or(0);
                let parts = columns
                    .to_ne_bytes()
                    .into_iter()
                    .chain(rows.to_ne_bytes())
                    .chain(state.size.to_ne_bytes());
                data.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
                open.detail(DATA, &data);
            }
            state.size = 0;
            open.finish();
        }
        _ => {}
    }
    if open.status == Status::None && matches!(open.kind, QUERY | EXTENDED | TERMINATE) {
        open.status = Status::Ok;
    }
}
