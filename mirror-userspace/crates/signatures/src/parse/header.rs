//! The part of a rule in front of its options.

use std::sync::Arc;

use super::text::RuleText;
use super::{Failure, Shared};
use crate::buffer::Application;
use crate::diagnostic::shown;
use crate::rule::{Action, Endpoint, Header, Protocol};

fn action(word: &[u8]) -> Result<Action, String> {
    if word.eq_ignore_ascii_case(b"config") {
        return Err("rules that configure Suricata are not supported".to_owned());
    }
    Action::from_name(word)
        .ok_or_else(|| format!("{} is no action; use alert, drop, reject or pass", shown(word)))
}

fn protocol(word: &[u8]) -> Result<Protocol, String> {
    let word = word.to_ascii_lowercase();
    Ok(match word.as_slice() {
        b"ip" => Protocol::Ip,
        b"ipv4" | b"ip4" => Protocol::Ipv4,
        b"ipv6" | b"ip6" => Protocol::Ipv6,
        b"tcp" => Protocol::Tcp,
        b"tcp-pkt" => Protocol::TcpPacket,
        b"tcp-stream" => Protocol::TcpStream,
        b"udp" => Protocol::Udp,
        b"sctp" => Protocol::Sctp,
        b"icmp" => Protocol::Icmp,
        b"icmpv4" => Protocol::Icmpv4,
        b"icmpv6" => Protocol::Icmpv6,
        b"pkthdr" => return Err("events of Suricata's decoder do not exist here".to_owned()),
        word => match Application::from_name(word) {
            Some(application) => Protocol::Application(application),
            None => return Err(format!("{} is no protocol that is recognised here", shown(word))),
        },
    })
}

/// A word with its position.
type Word<'a> = (usize, &'a [u8]);

/// Returns the beginning and end of the next word of the header.
fn word(bytes: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    while bytes.get(*at).is_some_and(u8::is_ascii_whitespace) {
        *at += 1;
    }
    let start = *at;
    let mut depth = 0_usize;
    while let Some(byte) = bytes.get(*at) {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b'(' => break,
            // Spaces are part of a list.
            byte if byte.is_ascii_whitespace() && depth == 0 => break,
            _ => {}
        }
        *at += 1;
    }
    (start < *at).then_some((start, *at))
}

/// Parses the header. Returns the position of the parenthesis behind it as well.
pub(super) fn parse(text: &RuleText<'_>, shared: &mut Shared) -> Result<(Header, usize), Failure> {
    let bytes: &[u8] = &text.bytes;
    let mut at = 0;
    let mut next = |part: &'static str| {
        let missing = bytes.len().min(at);
        let found = word(bytes, &mut at);
        let (start, end) =
            found.ok_or_else(|| Failure::header(missing, part, format!("the {part} is missing")))?;
        Ok::<_, Failure>((start, bytes.get(start..end).unwrap_or_default()))
    };
    let (start, text_of_action) = next("action")?;
    let action = action(text_of_action).map_err(|reason| Failure::header(start, "action", reason))?;
    let (start, text_of_protocol) = next("protocol")?;
    let protocol = protocol(text_of_protocol).map_err(|reason| Failure::header(start, "protocol", reason))?;
    let source = next("source")?;
    let source_ports = next("source port")?;
    let (start, arrow) = next("direction")?;
    let is_bidirectional = match arrow {
        b"->" => false,
        b"<>" => true,
        _ => {
            let reason = format!("{} is no direction; use `->` or `<>`", shown(arrow));
            return Err(Failure::header(start, "direction", reason));
        }
    };
    let destination = next("destination")?;
    let destination_ports = next("destination port")?;
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    if bytes.get(at) != Some(&b'(') {
        return Err(Failure::header(at, "options", "a `(` must begin the options".to_owned()));
    }
    let mut list = |part: &'static str, (start, list): (usize, &[u8])| -> Result<Arc<str>, Failure> {
        match str::from_utf8(list) {
            Ok(list) if list.is_ascii() => Ok(shared.intern(list)),
            _ => Err(Failure::header(start, part, format!("{} is not ASCII", shown(list)))),
        }
    };
    let mut endpoint = |names: [&'static str; 2], addresses: Word<'_>, ports: Word<'_>| {
        Ok::<_, Failure>(Endpoint {
            addresses_at: text.place(addresses.0),
            ports_at: text.place(ports.0),
            addresses: list(names[0], addresses)?,
            ports: list(names[1], ports)?,
        })
    };
    let header = Header {
        action,
        protocol,
        source: endpoint(["source", "source port"], source, source_ports)?,
        is_bidirectional,
        destination: endpoint(["destination", "destination port"], destination, destination_ports)?,
    };
    Ok((header, at))
}
