//! Messages of the client.

use super::State;
use super::details::{
    EXTENDED, KIND, PARAMETERS, PASSWORD, QUERY, SASL, SASL_MECHANISM, STARTUP, TERMINATE, TLS,
};
use crate::service::{Dialect, HEAD, Message, Request, Requests};

/// The protocol version of a start-up: 3.
const VERSION: u16 = 3;

/// Processes a message.
pub(super) fn message(state: &mut State, message: Message<'_>, requests: &mut Requests) {
    match message.bytes {
        [0, _, _, _, 4, 0xd2, 0x16, 0x2f | 0x30, ..] => {
            state.asked_for_tls = true;
            push(state, TLS, Request { operation: b"SSL request", ..Request::default() }, requests);
        }
        [0, _, _, _, 4, 0xd2, 0x16, 0x2e, ..] => {
            let request = Request { operation: b"Cancel request", silent: true, ..Request::default() };
            push(state, TERMINATE, request, requests);
        }
        [0, _, _, _, high, low, _, _, parameters @ ..] if u16::from_be_bytes([*high, *low]) == VERSION => {
            startup(state, parameters, requests);
        }
        [kind, _, _, _, _, content @ ..] => typed(state, *kind, content, requests),
        _ => {}
    }
}

/// Adds a request with its number and its kind as details.
fn push(state: &mut State, kind: u8, request: Request<'_>, requests: &mut Requests) {
    state.requests = state.requests.wrapping_add(1);
    let number = state.requests;
    requests.push(Request { kind, ..request });
    if let Some(open) = requests.back() {
        let [a, b, c, d] = number.to_ne_bytes();
        open.detail(KIND, &[kind, a, b, c, d]);
    }
}

fn startup(state: &mut State, parameters: &[u8], requests: &mut Requests) {
    let value = |name: &[u8]| {
        let mut texts = parameters.split(|&byte| byte == 0);
        while let (Some(of), Some(value)) = (texts.next(), texts.next()) {
            if of == name {
                return value;
            }
        }
        &[]
    };
    let database = value(b"database");
    let mut statement = std::mem::take(&mut requests.draft);
    statement.clear();
    statement.extend_from_slice(value(b"user"));
    statement.push(b'/');
    statement.extend_from_slice(database);
    let request =
        Request { operation: b"Startup", object: database, statement: &statement, ..Request::default() };
    push(state, STARTUP, request, requests);
    statement.clear();
    requests.draft = statement;
    if let Some(open) = requests.back() {
        open.detail(PARAMETERS, parameters);
    }
}

fn typed(state: &mut State, kind: u8, content: &[u8], requests: &mut Requests) {
    match kind {
        b'Q' => {
            let statement = content.strip_suffix(&[0]).unwrap_or(content);
            let request =
                Request { operation: b"Query", statement, dialect: Dialect::Sql, ..Request::default() };
            push(state, QUERY, request, requests);
        }
        b'P' => {
            // Of several statements before Sync, the first counts.
            if requests.draft.is_empty() {
                let statement = content.split(|&byte| byte == 0).nth(1).unwrap_or_default();
                requests.draft.extend_from_slice(statement.get(..HEAD).unwrap_or(statement));
            }
            state.extended = true;
        }
        b'B' | b'D' | b'E' | b'C' => state.extended = true,
        b'S' if state.extended => {
            state.extended = false;
            let mut statement = std::mem::take(&mut requests.draft);
            let request = Request {
                operation: b"Extended",
                statement: &statement,
                dialect: Dialect::Sql,
                ..Request::default()
            };
            push(state, EXTENDED, request, requests);
            statement.clear();
            requests.draft = statement;
        }
        b'F' => push(state, QUERY, Request { operation: b"Function call", ..Request::default() }, requests),
        b'p' => password(state, content, requests),
        b'X' => {
            push(state, TERMINATE, Request { silent: true, ..Request::default() }, requests);
        }
        _ => {}
    }
}

/// Adds a step of the login. Its secrets are left out.
fn password(state: &mut State, content: &[u8], requests: &mut Requests) {
    let mechanism = content.split(|&byte| byte == 0).next().unwrap_or_default();
    let is_sasl = mechanism.starts_with(b"SCRAM-");
    push(state, if is_sasl { SASL } else { PASSWORD }, Request::default(), requests);
    if is_sasl && let Some(open) = requests.back() {
        open.detail(SASL_MECHANISM, mechanism);
    }
}
