//! The protocol of text (`protocol.txt` of memcached): lines, and blocks of data behind some of them.

use crate::Direction::{self, ToServer};
use crate::service::{Dialect, Frame, Message, Request, Requests, Status, line, number};

/// Kinds of requests, by what ends their answer.
const ONE_LINE: u8 = 0;
const VALUES: u8 = 1;
/// A request whose block of data has not come yet.
const STORAGE: u8 = 2;
const META: u8 = 3;

const STORE: &[&[u8]] = &[b"set", b"add", b"replace", b"append", b"prepend", b"cas"];
const RETRIEVE: &[&[u8]] = &[b"get", b"gets", b"gat", b"gats"];
const OTHERS: &[&[u8]] = &[
    b"delete",
    b"incr",
    b"decr",
    b"touch",
    b"stats",
    b"version",
    b"verbosity",
    b"flush_all",
    b"quit",
    b"slabs",
    b"lru",
    b"cache_memlimit",
    b"shutdown",
    b"mg",
    b"ms",
    b"md",
    b"ma",
    b"mn",
    b"me",
    b"watch",
    b"lru_crawler",
];
const RESPONSES: &[&[u8]] = &[
    b"STORED",
    b"NOT_STORED",
    b"EXISTS",
    b"NOT_FOUND",
    b"DELETED",
    b"TOUCHED",
    b"OK",
    b"END",
    b"VALUE",
    b"STAT",
    b"VERSION",
    b"ERROR",
    b"CLIENT_ERROR",
    b"SERVER_ERROR",
    b"RESET",
    b"BUSY",
    b"HD",
    b"VA",
    b"EN",
    b"NF",
    b"NS",
    b"EX",
    b"MN",
];
/// The longest key.
const MAX_KEY: usize = 250;

/// Finds the end of a line.
pub(super) fn frame(bytes: &[u8]) -> Frame {
    match line(bytes) {
        Ok(line) if line.first().is_some_and(u8::is_ascii_alphanumeric) => Frame::Message(line.len() as u64),
        Ok(_) => Frame::No,
        Err(frame) => frame,
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| matches!(byte, b' ' | b'\r' | b'\n')).filter(|word| !word.is_empty())
}

/// Processes a command. Returns the bytes of the block of data behind it, with its end.
pub(super) fn request(message: Message<'_>, requests: &mut Requests) -> u64 {
    let line = message.bytes;
    let Some(operation) = words(line).next() else { return 0 };
    let arguments = line.get(operation.len()..).unwrap_or_default().trim_ascii();
    let is_storage = STORE.contains(&operation) || operation == b"ms";
    let has_key = is_storage
        || RETRIEVE.contains(&operation)
        || matches!(operation, b"delete" | b"incr" | b"decr" | b"touch" | b"mg" | b"md" | b"ma");
    let key = if matches!(operation, b"gat" | b"gats") { 2 } else { 1 };
    let silent = operation == b"quit" || arguments.ends_with(b" noreply");
    let kind = match operation {
        _ if is_storage => STORAGE,
        b"stats" => VALUES,
        [b'm', _] => META,
        _ if RETRIEVE.contains(&operation) => VALUES,
        _ => ONE_LINE,
    };
    requests.push(Request {
        kind,
        operation,
        object: words(line).nth(key).filter(|_| has_key).unwrap_or_default(),
        statement: arguments,
        dialect: if has_key { Dialect::Key } else { Dialect::Words },
        silent,
        ..Request::default()
    });
    let len = match operation {
        b"ms" => words(line).nth(2),
        _ if is_storage => words(line).nth(4),
        _ => None,
    };
    len.and_then(number).map_or(0, |len| len.saturating_add(2))
}

/// Processes a block of data.
pub(super) fn block(direction: Direction, message: Message<'_>, requests: &mut Requests) {
    if direction == ToServer {
        requests.complete();
    } else if let Some(open) = requests.answer(message.len)
        && open.kind == META
    {
        open.finish();
    }
}

/// Processes a line of a response. Returns the bytes of the block of data behind it, with its end.
pub(super) fn response(message: Message<'_>, requests: &mut Requests) -> u64 {
    let line = message.bytes;
    let word = words(line).next().unwrap_or_default();
    let block = match word {
        b"VALUE" => words(line).nth(3),
        b"VA" => words(line).nth(1),
        _ => None,
    };
    let block = block.and_then(number).map_or(0, |len| len.saturating_add(2));
    let Some(open) = requests.answer(message.len) else { return block };
    match word {
        b"VALUE" | b"VA" | b"STAT" => {
            open.rows = Some(open.rows.unwrap_or(0) + 1);
            open.status = Status::Ok;
            if word == b"VA" && block == 0 {
                open.finish();
            }
            return block;
        }
        b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" | b"NOT_FOUND" | b"NOT_STORED" | b"EXISTS" | b"NS"
        | b"EX" => {
            open.fail(word);
        }
        _ => {
            open.status = Status::Ok;
            if open.kind == VALUES && open.rows.is_none() {
                open.rows = Some(0);
            }
        }
    }
    open.finish();
    block
}

fn is_key(word: &[u8]) -> bool {
    word.len() <= MAX_KEY && word.iter().all(|&byte| byte > b' ' && byte != 0x7f)
}

/// Returns the words of the first line, unless it is no line of text.
fn first_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = line(bytes).ok()?.strip_suffix(b"\r\n")?;
    line.iter().all(|&byte| byte >= b' ').then_some(line)
}

/// Matches a command that stores: name, key, and three or four numbers.
pub(super) fn is_storage(bytes: &[u8]) -> bool {
    if !bytes.first().is_some_and(|byte| b"sarpc".contains(byte)) {
        return false;
    }
    let Some(line) = first_line(bytes) else { return false };
    let mut words = words(line);
    let is_store = words.next().is_some_and(|word| STORE.contains(&word));
    is_store && words.next().is_some_and(is_key) && (0..3).all(|_| words.next().and_then(number).is_some())
}

/// Matches a command that retrieves: name and keys, but no request of HTTP.
pub(super) fn is_retrieval(bytes: &[u8]) -> bool {
    if bytes.first() != Some(&b'g') {
        return false;
    }
    let Some(line) = first_line(bytes) else { return false };
    let mut words = words(line);
    let is_retrieve = words.next().is_some_and(|word| RETRIEVE.contains(&word));
    let mut keys = words.peekable();
    is_retrieve
        && keys.peek().is_some_and(|key| !key.starts_with(b"/"))
        && keys.all(|key| is_key(key) && !key.starts_with(b"HTTP/"))
}

/// Matches any command.
pub(super) fn is_command(bytes: &[u8]) -> bool {
    let Some(line) = first_line(bytes) else { return false };
    words(line).next().is_some_and(|word| [STORE, RETRIEVE, OTHERS].iter().any(|list| list.contains(&word)))
}

/// Matches any response.
pub(super) fn is_response(bytes: &[u8]) -> bool {
    let Some(line) = first_line(bytes) else { return false };
    words(line).next().is_some_and(|word| RESPONSES.contains(&word) || number(word).is_some())
}
