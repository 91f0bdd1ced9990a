//! Bounds on the cost of an expression. The time and stack that libpcap's compiler takes grow at least with
//! the square of its output: a list of some thousand ports takes it minutes, and may kill the process. So an
//! expression is checked before libpcap sees it, and libpcap's output is checked before libpcap optimizes it.

use std::ops::Range;

/// Maximum length of an expression in bytes.
const MAX_TEXT: usize = 4096;
/// Maximum number of instructions that libpcap makes of an expression, as estimated from its words. That many
/// take libpcap a second, and 256 KiB of stack.
const MAX_ESTIMATE: usize = 12_288;
/// Maximum number of instructions before a single optimization. That many take a second, too.
const MAX_PLAIN: u64 = 6_000;
/// Maximum number of instructions that run on a frame. The kernel accepts no longer filters either
/// (`BPF_MAXINSNS`).
pub(super) const MAX_PROGRAM: usize = 4096;
/// Maximum number of look-ups of hosts and networks; each compilation looks each name up anew.
const MAX_NAMES: usize = 64;

/// Keywords of libpcap's grammar: each yields few instructions, and none is a name.
const KEYWORDS: [&str; 60] = [
    "address1",
    "address2",
    "address3",
    "address4",
    "ah",
    "aarp",
    "and",
    "arp",
    "atalk",
    "broadcast",
    "byte",
    "carp",
    "decnet",
    "direction",
    "dir",
    "dst",
    "esp",
    "ether",
    "fddi",
    "gateway",
    "geneve",
    "greater",
    "host",
    "icmp",
    "icmp6",
    "igmp",
    "igrp",
    "inbound",
    "ip",
    "ip6",
    "ipx",
    "iso",
    "len",
    "less",
    "link",
    "llc",
    "mask",
    "mpls",
    "multicast",
    "net",
    "netbeui",
    "not",
    "or",
    "outbound",
    "pim",
    "port",
    "portrange",
    "pppoed",
    "pppoes",
    "proto",
    "ra",
    "rarp",
    "sctp",
    "src",
    "stp",
    "ta",
    "tcp",
    "udp",
    "vlan",
    "vrrp",
];

/// The reason why an expression costs too much.
pub(super) struct TooMuch {
    pub(super) what: String,
    pub(super) allowed: &'static str,
}

const SHORTER: &str = "write networks and ranges of ports instead of many hosts and ports";

/// Checks the words of a text that is compiled `times` times.
pub(super) fn weigh(text: &str, words: &[&Range<usize>], times: usize) -> Result<(), TooMuch> {
    if text.len() > MAX_TEXT {
        let what = format!("has {} bytes, more than {MAX_TEXT}", text.len());
        return Err(TooMuch { what, allowed: SHORTER });
    }
    let (mut estimate, mut names, mut of_ports) = (0, 0, false);
    for word in words.iter().filter_map(|word| text.get((*word).clone())) {
        if word == "protochain" {
            let what = "`protochain` is a loop, which would run on each frame".to_owned();
            return Err(TooMuch { what, allowed: "name the protocol itself, such as `ip6 proto 50`" });
        }
        estimate += instructions(word);
        // Names of ports come from a file.
        of_ports = matches!(word, "port" | "portrange" | "proto") || of_ports && !is_subject(word);
        names += usize::from(!of_ports && is_name(word));
    }
    if estimate > MAX_ESTIMATE {
        let what = format!("is too long: about {estimate} instructions, more than {MAX_ESTIMATE}");
        return Err(TooMuch { what, allowed: SHORTER });
    }
    if names * times > MAX_NAMES {
        let what = format!("has {names} names to look up, {times} times each, more than {MAX_NAMES} in all");
        return Err(TooMuch { what, allowed: "write their addresses" });
    }
    Ok(())
}

/// Checks libpcap's output before it is optimized.
pub(super) fn weigh_plain(instructions: usize, times: usize) -> Result<(), TooMuch> {
    let cost = (instructions as u64).pow(2).saturating_mul(times as u64);
    if cost <= MAX_PLAIN.pow(2) {
        return Ok(());
    }
    let most = (MAX_PLAIN.pow(2) / times as u64).isqrt();
    let again =
        if times > 1 { ", since it is compiled with each combination of its other conditions" } else { "" };
    Err(TooMuch {
        what: format!("is too long: {instructions} instructions, more than {most}{again}"),
        allowed: SHORTER,
    })
}

/// Checks the optimized program.
pub(super) fn weigh_program(instructions: usize) -> Result<(), TooMuch> {
    if instructions <= MAX_PROGRAM {
        return Ok(());
    }
    let what = format!("is too long: {instructions} instructions, more than {MAX_PROGRAM}");
    Err(TooMuch { what, allowed: SHORTER })
}

/// Estimates the number of instructions that a word yields: 32 for an address, 64 for a port, 96 for a range
/// of ports. The estimate grows with the word's length, since a longer word may do more.
fn instructions(word: &str) -> usize {
    let least = if matches!(word, "(" | ")" | "!" | "&" | "|") || KEYWORDS.contains(&word) {
        8
    } else if word.contains('-') {
        96
    } else if word.contains(['.', ':']) {
        32
    } else {
        64
    };
    least + 2 * word.len()
}

/// Returns whether other values follow this word.
fn is_subject(word: &str) -> bool {
    KEYWORDS.contains(&word) && !matches!(word, "and" | "or" | "not")
}

/// Returns whether libpcap would look a word up.
fn is_name(word: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'\\');
    word.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && word.bytes().all(letter)
        && !KEYWORDS.contains(&word)
        // The offsets and values of fields have such names.
        && !["tcp-", "icmp-", "icmp6-"].iter().any(|prefix| word.starts_with(prefix))
}
