//! Keywords about packets and flows, not about content.

use mirror_packet::Direction;
use mirror_xdp_common::{Address, Vni};

use super::builder::Builder;
use crate::buffer::Application;
use crate::diagnostic::shown;
use crate::facts::Http2Fact;
use crate::number::{Compare, split_once, unsigned};
use crate::rule::{Bits, BitsMode, Condition, Flow, FlowState, IpOption, Session, Side};

/// The number of a comparison, and the condition that it becomes.
pub(super) fn compared(
    builder: &mut Builder<'_>,
    value: &[u8],
    max: u64,
    condition: fn(Compare) -> Condition,
) -> Result<(), String> {
    let compare = Compare::parse(value, max)?;
    builder.conditions.push(condition(compare));
    Ok(())
}

fn fields(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

pub(super) fn flow(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut flow = Flow::default();
    if builder.flow.is_some() {
        return Err("it is given twice".to_owned());
    }
    let twice = |field: &[u8]| format!("{} contradicts or repeats another word", shown(field));
    for field in fields(value) {
        let is_new = match field.to_ascii_lowercase().as_slice() {
            b"to_server" | b"from_client" => flow.direction.replace(Direction::ToServer).is_none(),
            b"to_client" | b"from_server" => flow.direction.replace(Direction::ToClient).is_none(),
            b"established" => flow.state.replace(FlowState::Established).is_none(),
            b"not_established" => flow.state.replace(FlowState::NotEstablished).is_none(),
            b"stateless" => flow.state.replace(FlowState::Stateless).is_none(),
            b"only_stream" => flow.stream.replace(true).is_none(),
            b"no_stream" => flow.stream.replace(false).is_none(),
            b"only_frag" => flow.reassembled.replace(true).is_none(),
            b"no_frag" => flow.reassembled.replace(false).is_none(),
            _ => return Err(format!("{} is unknown here", shown(field))),
        };
        if !is_new {
            return Err(twice(field));
        }
    }
    builder.flow = Some(flow);
    Ok(())
}

pub(super) fn ip_proto(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    const NAMES: [(&str, u64); 16] = [
        ("icmp", 1),
        ("igmp", 2),
        ("ipip", 4),
        ("tcp", 6),
        ("egp", 8),
        ("udp", 17),
        ("ipv6", 41),
        ("rsvp", 46),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("ipv6-icmp", 58),
        ("ospf", 89),
        ("pim", 103),
        ("vrrp", 112),
        ("sctp", 132),
    ];
    let end = value.iter().position(|byte| !matches!(byte, b'!' | b'<' | b'>' | b'=')).unwrap_or(value.len());
    let (operator, name) = value.split_at(end);
    let name = name.trim_ascii().to_ascii_lowercase();
    let value = match NAMES.iter().find(|row| row.0.as_bytes() == name) {
        Some((_, number)) => [operator, number.to_string().as_bytes()].concat(),
        None => value.to_vec(),
    };
    let compare = Compare::parse(&value, 255)?;
    builder.conditions.push(Condition::IpProtocol(compare));
    Ok(())
}

/// Reads flags behind an optional `+`, `*` or `!`; `bit` returns the bit of a letter.
fn bits(text: &[u8], bit: impl Fn(u8) -> Option<u8>) -> Result<Bits, String> {
    let (text, ignored) = match split_once(text, b",") {
        Some((text, ignored)) => (text, ignored),
        None => (text, &b""[..]),
    };
    let text = text.trim_ascii();
    let (mode, letters) = match text {
        // The sign may also follow.
        [b'+', rest @ ..] | [rest @ .., b'+'] => (BitsMode::All, rest),
        [b'*', rest @ ..] | [rest @ .., b'*'] => (BitsMode::Any, rest),
        [b'!', rest @ ..] => (BitsMode::Not, rest),
        _ => (BitsMode::Exactly, text),
    };
    let union = |letters: &[u8]| {
        letters.iter().try_fold(0, |bits, letter| match bit(letter.to_ascii_uppercase()) {
            Some(bit) => Ok(bits | bit),
            None => Err(format!("{} is no flag", shown(&[*letter]))),
        })
    };
    if letters.is_empty() {
        return Err("the flags are missing".to_owned());
    }
    Ok(Bits { mode, value: union(letters)?, ignored: union(ignored.trim_ascii())? })
}

pub(super) fn tcp_flags(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let bits = bits(value, |letter| {
        Some(match letter {
            b'F' => 0x01,
            b'S' => 0x02,
            b'R' => 0x04,
            b'P' => 0x08,
            b'A' => 0x10,
            b'U' => 0x20,
            b'E' | b'2' => 0x40,
            b'C' | b'1' => 0x80,
            b'0' => 0,
            _ => return None,
        })
    })?;
    builder.conditions.push(Condition::TcpFlags(bits));
    Ok(())
}

pub(super) fn fragbits(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let bits = bits(value, |letter| {
        Some(match letter {
            b'M' => 0x01,
            b'D' => 0x02,
            b'R' => 0x04,
            _ => return None,
        })
    })?;
    builder.conditions.push(Condition::FragmentBits(bits));
    Ok(())
}

pub(super) fn ipopts(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    // Types of RFC 791 and the registry of IANA.
    let option = match value.to_ascii_lowercase().as_slice() {
        b"any" => IpOption::Any,
        b"eol" => IpOption::Type(0),
        b"nop" => IpOption::Type(1),
        b"rr" => IpOption::Type(7),
        b"ts" => IpOption::Type(68),
        b"sec" => IpOption::Type(130),
        b"lsrr" => IpOption::Type(131),
        b"esec" => IpOption::Type(133),
        b"cipso" => IpOption::Type(134),
        b"satid" => IpOption::Type(136),
        b"ssrr" => IpOption::Type(137),
        _ => return Err(format!("{} is no option of IPv4", shown(value))),
    };
    builder.conditions.push(Condition::IpOption(option));
    Ok(())
}

pub(super) fn tcp_mss(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    // `MIN-MAX` is the older form of `MIN<>MAX`.
    let value = match split_once(value, b"-") {
        Some((low, high)) => [low, b"<>", high].concat(),
        None => value.to_vec(),
    };
    compared(builder, &value, 65_535, Condition::TcpMss)
}

fn side(text: &[u8]) -> Result<Side, String> {
    Ok(match text.to_ascii_lowercase().as_slice() {
        b"server" | b"toserver" => Side::Server,
        b"client" | b"toclient" => Side::Client,
        b"both" => Side::Both,
        b"either" => Side::Either,
        _ => return Err(format!("{} is no side of a flow", shown(text))),
    })
}

pub(super) fn stream_size(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let parts: Vec<&[u8]> = fields(value).collect();
    let [of, operator, number] = parts.as_slice() else {
        return Err("write `stream_size:SIDE,OPERATOR,NUMBER`".to_owned());
    };
    let side = side(of)?;
    let number = unsigned(number, u64::from(u32::MAX))?;
    let compare = match *operator {
        b"=" => Compare::Equal(number),
        b"!=" => Compare::NotEqual(number),
        b"<" => Compare::Less(number),
        b"<=" => Compare::LessOrEqual(number),
        b">" => Compare::Greater(number),
        b">=" => Compare::GreaterOrEqual(number),
        _ => return Err(format!("{} is no operator", shown(operator))),
    };
    builder.conditions.push(Condition::StreamSize(side, compare));
    Ok(())
}

/// `flow.pkts:SIDE,COMPARISON` and the like. `toclient` counts what goes to the client, which the server sent.
pub(super) fn counted(
    builder: &mut Builder<'_>,
    value: &[u8],
    of: Option<Side>,
    condition: fn(Side, Compare) -> Condition,
) -> Result<(), String> {
    let (of, compare) = if let Some(of) = of {
        (of, value)
    } else {
        let (of, compare) = split_once(value, b",").ok_or("write `SIDE,NUMBER`")?;
        let of = match side(of.trim_ascii())? {
            Side::Server => Side::Client,
            Side::Client => Side::Server,
            other => other,
        };
        (of, compare)
    };
    let compare = Compare::parse(compare, u64::MAX)?;
    builder.conditions.push(condition(of, compare));
    Ok(())
}

pub(super) fn app_layer_protocol(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (name, negated) = match value.strip_prefix(b"!") {
        Some(name) => (name.trim_ascii(), true),
        None => (value, false),
    };
    let name = name.to_ascii_lowercase();
    let application = if name == b"failed" {
        None
    } else {
        let application = Application::from_name(&name);
        Some(application.ok_or_else(|| format!("{} is no protocol that is recognised here", shown(&name)))?)
    };
    builder.conditions.push(Condition::Application { application, negated });
    Ok(())
}

pub(super) fn tls_version(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut versions = Vec::new();
    let mut negated = None;
    for field in fields(value) {
        let (name, not) = match field.strip_prefix(b"!") {
            Some(name) => (name.trim_ascii(), true),
            None => (field, false),
        };
        if negated.replace(not).is_some_and(|before| before != not) {
            return Err("either all versions are negated or none".to_owned());
        }
        let name = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")).unwrap_or(name);
        let name = name.to_ascii_lowercase();
        versions.push(match name.as_slice() {
            b"sslv2" => 0x0002,
            b"sslv3" => 0x0300,
            b"1.0" | b"tls1.0" => 0x0301,
            b"1.1" | b"tls1.1" => 0x0302,
            b"1.2" | b"tls1.2" => 0x0303,
            b"1.3" | b"tls1.3" => 0x0304,
            name if name.starts_with(b"0x") => unsigned(name, 0xffff)? as u16,
            _ => return Err(format!("{} is no version of TLS", shown(&name))),
        });
    }
    builder
        .conditions
        .push(Condition::TlsVersion { versions: versions.into(), negated: negated == Some(true) });
    Ok(())
}

/// The types of frames, from 0 on.
const FRAME_TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// The codes of errors, from 0 on.
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The settings, from 1 on.
const SETTINGS: [&str; 6] = [
    "SETTINGS_HEADER_TABLE_SIZE",
    "SETTINGS_ENABLE_PUSH",
    "SETTINGS_MAX_CONCURRENT_STREAMS",
    "SETTINGS_INITIAL_WINDOW_SIZE",
    "SETTINGS_MAX_FRAME_SIZE",
    "SETTINGS_MAX_HEADER_LIST_SIZE",
];

/// Returns the place of a name, or the number that is there instead.
fn named(value: &[u8], names: &[&str], first: u64, max: u64) -> Result<u64, String> {
    match names.iter().position(|name| name.as_bytes().eq_ignore_ascii_case(value)) {
        Some(place) => Ok(first + place as u64),
        None => unsigned(value, max).map_err(|_| format!("{} is not defined in HTTP/2", shown(value))),
    }
}

pub(super) fn http2_frame_type(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let number = named(value.trim_ascii(), &FRAME_TYPES, 0, 255)?;
    builder.conditions.push(Condition::Http2(Http2Fact::FrameType, Compare::Equal(number)));
    Ok(())
}

pub(super) fn http2_error(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let number = named(value.trim_ascii(), &ERRORS, 0, u64::from(u32::MAX))?;
    builder.conditions.push(Condition::Http2(Http2Fact::Error, Compare::Equal(number)));
    Ok(())
}

/// Reads the name of a setting, and a comparison of its value. Without one, the setting has to be there.
pub(super) fn http2_settings(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let value = value.trim_ascii();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let end = value.iter().position(|byte| !is_name(byte)).unwrap_or(value.len());
    let (name, compared) = value.split_at(end);
    let setting = named(name, &SETTINGS, 1, 65_535)? as u16;
    let compare = match compared.trim_ascii() {
        [] => Compare::GreaterOrEqual(0),
        compared => Compare::parse(compared, u64::from(u32::MAX))?,
    };
    builder.conditions.push(Condition::Http2(Http2Fact::Setting(setting), compare));
    Ok(())
}

pub(super) fn iprep(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let parts: Vec<&[u8]> = fields(value).collect();
    let (side, category, score) = match parts.as_slice() {
        [side, category, operator, number] => (side, category, [*operator, *number].concat()),
        // Suricata 8: `isset` and `isnotset`.
        [side, category, b"isset"] => (side, category, b">=0".to_vec()),
        [_, _, b"isnotset"] => return Err("`isnotset` is not supported".to_owned()),
        _ => return Err("write `iprep:SIDE,CATEGORY,OPERATOR,SCORE`".to_owned()),
    };
    let side = match *side {
        b"any" => Side::Either,
        b"both" => Side::Both,
        b"src" => Side::Client,
        b"dst" => Side::Server,
        side => return Err(format!("{} is no side; use any, src, dst or both", shown(side))),
    };
    let category =
        str::from_utf8(category).ok().filter(|name| !name.is_empty()).ok_or("the category is missing")?;
    let score = Compare::parse(&score, 127)?;
    builder.conditions.push(Condition::Reputation { side, category: category.into(), score });
    Ok(())
}

pub(super) fn vni(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (ranges_text, negated) = match value.strip_prefix(b"!") {
        Some(text) => (text, true),
        None => (value, false),
    };
    let max = u64::from(Vni::MAX.get());
    let mut ranges = Vec::new();
    for field in fields(ranges_text) {
        let (first, last) = split_once(field, b"-").unwrap_or((field, field));
        let (first, last) = (unsigned(first, max)? as u32, unsigned(last, max)? as u32);
        if last < first {
            return Err(format!("{} is out of order", shown(field)));
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    builder.conditions.push(Condition::Vni { ranges: merged.into(), negated });
    Ok(())
}

pub(super) fn session(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut fields = fields(value);
    let source = fields.next().unwrap_or_default();
    let address: Option<std::net::IpAddr> = str::from_utf8(source).ok().and_then(|text| text.parse().ok());
    let address =
        address.ok_or_else(|| format!("{} is no address of a mirrored interface", shown(source)))?;
    let source = match address {
        std::net::IpAddr::V4(address) => Address::from_v4(address.to_bits()),
        std::net::IpAddr::V6(address) => {
            let bits = address.to_bits();
            Address::from_words((bits >> 64) as u64, bits as u64)
        }
    };
    let vni = match fields.next() {
        Some(vni) => Some(unsigned(vni, u64::from(Vni::MAX.get()))? as u32),
        None => None,
    };
    if fields.next().is_some() {
        return Err("write `mirror.session:ADDRESS` or `mirror.session:ADDRESS,VNI`".to_owned());
    }
    builder.conditions.push(Condition::Session(Session { source, vni }));
    Ok(())
}
