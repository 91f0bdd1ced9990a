//! Commands (`COM_…` in the manual of the client/server protocol).

use super::{Part, State, word};
use crate::service::{Dialect, Request, Requests, is_sql};

pub(super) const QUIT: u8 = 1;
pub(super) const INIT_DB: u8 = 2;
pub(super) const QUERY: u8 = 3;
pub(super) const FIELD_LIST: u8 = 4;
pub(super) const STATISTICS: u8 = 9;
pub(super) const CHANGE_USER: u8 = 17;
pub(super) const PREPARE: u8 = 22;
pub(super) const EXECUTE: u8 = 23;
pub(super) const SEND_LONG_DATA: u8 = 24;
pub(super) const CLOSE: u8 = 25;
pub(super) const FETCH: u8 = 28;
/// Stands for the login, which is no command.
pub(super) const LOGIN: u8 = 0xff;

/// Queries with attributes (`CLIENT_QUERY_ATTRIBUTES`).
const QUERY_ATTRIBUTES: u32 = 1 << 27;

/// Returns the name of a command.
const fn name(command: u8) -> &'static str {
    match command {
        0 => "Sleep",
        QUIT => "Quit",
        INIT_DB => "Use Database",
        QUERY => "Query",
        FIELD_LIST => "Show Fields",
        5 => "Create Database",
        6 => "Drop Database",
        7 => "Refresh",
        8 => "Shutdown",
        STATISTICS => "Statistics",
        10 => "Show Processlist",
        11 => "Connect",
        12 => "Kill Server Thread",
        13 => "Dump Debuginfo",
        14 => "Ping",
        15 => "Insert Delayed",
        CHANGE_USER => "Change User",
        18 => "Send Binlog",
        19 => "Send Table",
        20 => "Slave Connect",
        21 => "Register Slave",
        PREPARE => "Prepare Statement",
        EXECUTE => "Execute Statement",
        SEND_LONG_DATA => "Send BLOB",
        CLOSE => "Close Statement",
        26 => "Reset Statement",
        27 => "Set Option",
        FETCH => "Fetch Data",
        30 => "Send Binlog GTID",
        31 => "Reset Connection",
        _ => "Unknown",
    }
}

/// Returns true for a command of the manual.
pub(super) const fn is_known(command: u8) -> bool {
    matches!(command, 1..=31)
}

/// Returns true if the payload of a query, behind its command, begins a statement; also behind attributes.
pub(super) fn is_statement(payload: &[u8]) -> bool {
    is_sql(payload.strip_prefix(&[0, 1]).unwrap_or(payload))
}

/// Adds the request of a command.
pub(super) fn request(state: &mut State, payload: &[u8], requests: &mut Requests) {
    let Some((&command, arguments)) = payload.split_first() else { return };
    // Its answer may have had more packets than were waited for.
    if let Some(open) = requests.back().filter(|open| open.is_answered()) {
        open.finish();
    }
    state.part = Part::First;
    let (object, statement, dialect) = match command {
        QUERY => (&[][..], attributed(state, arguments), Dialect::MySql),
        PREPARE => (&[][..], arguments, Dialect::MySql),
        INIT_DB => (arguments, arguments, Dialect::Plain),
        FIELD_LIST => {
            (arguments.split(|&byte| byte == 0).next().unwrap_or_default(), &[][..], Dialect::Plain)
        }
        CHANGE_USER => (word(arguments), &[][..], Dialect::Plain),
        _ => (&[][..], &[][..], Dialect::Plain),
    };
    requests.push(Request {
        kind: command,
        operation: name(command).as_bytes(),
        object,
        statement,
        dialect,
        silent: matches!(command, QUIT | SEND_LONG_DATA | CLOSE),
        ..Request::default()
    });
}

/// Returns the statement of a query, which may follow attributes. It is unknown if there are values of attributes.
fn attributed<'a>(state: &State, arguments: &'a [u8]) -> &'a [u8] {
    let has = state.capabilities.is_none_or(|capabilities| capabilities & QUERY_ATTRIBUTES != 0);
    match arguments {
        [0, 1, statement @ ..] if has => statement,
        [1..=31, 1, ..] if has => &[],
        statement => statement,
    }
}
