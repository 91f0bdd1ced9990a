//! Commands: which of them name a key, and which carry secrets.

use crate::service::Dialect;

/// The meaning of the arguments of a command.
pub(super) struct Form {
    pub(super) dialect: Dialect,
    /// The first one is a key, or a channel.
    pub(super) has_key: bool,
}

/// Commands with passwords among their arguments.
const SECRET: &[&[u8]] = &[b"AUTH", b"HELLO", b"ACL", b"CONFIG", b"MIGRATE", b"SENTINEL"];

/// Commands whose first argument is no key.
const WITHOUT_KEY: &[&[u8]] = &[
    b"PING",
    b"ECHO",
    b"SELECT",
    b"QUIT",
    b"INFO",
    b"CLIENT",
    b"COMMAND",
    b"CLUSTER",
    b"KEYS",
    b"SCAN",
    b"EVAL",
    b"EVALSHA",
    b"FCALL",
    b"SCRIPT",
    b"FUNCTION",
    b"MULTI",
    b"EXEC",
    b"DISCARD",
    b"WATCH",
    b"DBSIZE",
    b"FLUSHDB",
    b"FLUSHALL",
    b"TIME",
    b"SLOWLOG",
    b"DEBUG",
    b"MONITOR",
    b"REPLCONF",
    b"PSYNC",
    b"WAIT",
    b"LATENCY",
    b"MEMORY",
    b"OBJECT",
    b"MODULE",
    b"PUBSUB",
];

/// Returns what the arguments of a command in capitals are.
pub(super) fn form(operation: &[u8]) -> Form {
    if SECRET.contains(&operation) {
        Form { dialect: Dialect::Secret, has_key: false }
    } else if WITHOUT_KEY.contains(&operation) {
        Form { dialect: Dialect::Words, has_key: false }
    } else {
        Form { dialect: Dialect::Key, has_key: true }
    }
}

/// Returns true for a command that subscribes to channels, or ends that; its answers have its name.
pub(super) fn subscribes(operation: &[u8]) -> bool {
    let name = operation.iter().rev().take(b"subscribe".len());
    name.len() == b"subscribe".len()
        && operation.len() <= b"punsubscribe".len()
        && name.zip(b"subscribe".iter().rev()).all(|(byte, of)| byte.eq_ignore_ascii_case(of))
}
