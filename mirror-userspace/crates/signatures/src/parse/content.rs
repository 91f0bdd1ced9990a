//! `content` and its modifiers, `pcre`, `isdataat`, `bsize` and other requirements of a buffer's bytes.

use super::builder::{Builder, Entry};
use super::draft::{Draft, Fast};
use crate::buffer::{BUFFERS, Buffer};
use crate::dataset::DatasetKind;
use crate::diagnostic::shown;
use crate::limits;
use crate::number::{Compare, split_once, unsigned};
use crate::pcre::{Expression, Options};
use crate::rule::{Base64, DatasetCommand, DatasetMatch, Entropy, EntropyCompare, Match, Number, Pcre};
use crate::transform::Transform;

/// Returns the text between the quotes of a value, and whether `!` is in front of them.
pub(super) fn quoted(value: &[u8]) -> Result<(&[u8], bool), String> {
    let (value, negated) = match value.strip_prefix(b"!") {
        Some(value) => (value.trim_ascii_start(), true),
        None => (value, false),
    };
    let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    inner.map(|inner| (inner, negated)).ok_or_else(|| format!("{} must be in double quotes", shown(value)))
}

/// Decodes a pattern: `|0D 0A|` are bytes in hexadecimal, a backslash escapes.
fn pattern(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut pattern = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'|' => {
                let before = pattern.len();
                let mut high: Option<u8> = None;
                loop {
                    let Some(byte) = bytes.next() else {
                        return Err("a `|` is missing behind the last one".to_owned());
                    };
                    match (byte, high) {
                        (b'|', None) => break,
                        (b' ', _) => {}
                        (b'|', Some(_)) => return Err("an odd number of hexadecimal digits".to_owned()),
                        (digit, _) => {
                            let Some(value) = char::from(digit).to_digit(16) else {
                                return Err(format!("{} is no hexadecimal digit", shown(&[digit])));
                            };
                            high = match high {
                                None => Some(value as u8),
                                Some(high) => {
                                    pattern.push(high << 4 | value as u8);
                                    None
                                }
                            };
                        }
                    }
                }
                if pattern.len() == before {
                    return Err("`||` contains no bytes".to_owned());
                }
            }
            b'\\' => match bytes.next() {
                Some(byte @ (b';' | b'\\' | b'"' | b':' | b'|' | b'\'')) => pattern.push(byte),
                Some(byte) => return Err(format!("`\\{}` is no escape here", byte.escape_ascii())),
                None => return Err("the pattern ends with a backslash".to_owned()),
            },
            b'"' => return Err("a `\"` in a pattern must be written `\\\"` or `|22|`".to_owned()),
            _ => pattern.push(byte),
        }
    }
    if pattern.is_empty() {
        return Err("the pattern is empty".to_owned());
    }
    if pattern.len() > limits::PATTERN {
        return Err(format!("a pattern has at most {} bytes", limits::PATTERN));
    }
    Ok(pattern)
}

pub(super) fn content(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    content_in(builder, value, None)
}

/// Adds a content of the selected buffer, or of `buffer`.
pub(super) fn content_in(
    builder: &mut Builder<'_>,
    value: &[u8],
    buffer: Option<Buffer>,
) -> Result<(), String> {
    let (text, negated) = quoted(value)?;
    let draft = Draft::new(pattern(text)?, negated, builder.at());
    builder.push(buffer, Entry::Content(draft));
    Ok(())
}

/// `tls.subject`, `tls.issuerdn` and `tls.fingerprint`, the old spellings with a value.
pub(super) fn named_content(builder: &mut Builder<'_>, value: &[u8], buffer: Buffer) -> Result<(), String> {
    if builder.selected().is_some() {
        return Err("this keyword cannot be used behind the keyword of a buffer".to_owned());
    }
    content_in(builder, value, Some(buffer))
}

pub(super) fn nocase(builder: &mut Builder<'_>) -> Result<(), String> {
    let draft = builder.last_content()?;
    set_once(&mut draft.nocase)
}

fn set_once(flag: &mut bool) -> Result<(), String> {
    if std::mem::replace(flag, true) {
        Err("it is given twice for the same content".to_owned())
    } else {
        Ok(())
    }
}

fn place_once(slot: &mut Option<Number>, number: Number) -> Result<(), String> {
    if slot.replace(number).is_some() {
        Err("it is given twice for the same content".to_owned())
    } else {
        Ok(())
    }
}

pub(super) fn position(builder: &mut Builder<'_>, keyword: &[u8], value: &[u8]) -> Result<(), String> {
    let number = builder.number(value, limits::OFFSET)?;
    let draft = builder.last_content()?;
    match (keyword, number) {
        (b"depth" | b"within", Number::Value(number)) if number <= 0 => {
            Err("it must be greater than 0".to_owned())
        }
        (b"offset", Number::Value(number)) if number < 0 => Err("it must not be negative".to_owned()),
        (b"depth", number) => place_once(&mut draft.depth, number),
        (b"offset", number) => place_once(&mut draft.offset, number),
        (b"distance", number) => place_once(&mut draft.distance, number),
        (_, number) => place_once(&mut draft.within, number),
    }
}

pub(super) fn startswith(builder: &mut Builder<'_>) -> Result<(), String> {
    set_once(&mut builder.last_content()?.starts)
}

pub(super) fn endswith(builder: &mut Builder<'_>) -> Result<(), String> {
    set_once(&mut builder.last_content()?.ends)
}

pub(super) fn fast_pattern(builder: &mut Builder<'_>, value: Option<&[u8]>) -> Result<(), String> {
    let at = builder.at();
    let draft = builder.last_content()?;
    let fast = match value {
        None => Fast { part: None, only: false, at },
        Some(value) if value.eq_ignore_ascii_case(b"only") => Fast { part: None, only: true, at },
        Some(value) => {
            let (first, count) = split_once(value, b",")
                .ok_or("write `fast_pattern`, `fast_pattern:only` or `fast_pattern:OFFSET,LENGTH`")?;
            let (first, count) = (unsigned(first, 254)?, unsigned(count, 255)?);
            if count == 0 {
                return Err("the length must be greater than 0".to_owned());
            }
            Fast { part: Some((first as u8, count as u8)), only: false, at }
        }
    };
    if draft.fast.replace(fast).is_some() {
        return Err("it is given twice for the same content".to_owned());
    }
    Ok(())
}

pub(super) fn pcre(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (text, negated) = quoted(value)?;
    let text = text.strip_prefix(b"/").ok_or("the expression must begin with `/`")?;
    let end = memchr::memrchr(b'/', text).ok_or("the expression must end with `/`")?;
    let (expression, flags) = (text.get(..end).unwrap_or_default(), text.get(end + 1..).unwrap_or_default());
    if memchr::memchr(b',', flags).is_some() {
        return Err("captures into variables are not supported".to_owned());
    }
    let mut options = Options::default();
    let mut relative = false;
    let mut buffer = None;
    for flag in flags {
        match flag {
            b'i' => options.nocase = true,
            b's' => options.dot_all = true,
            b'm' => options.lines = true,
            b'x' => options.extended = true,
            b'A' => options.anchored = true,
            b'E' => options.dollar_end = true,
            b'G' => options.ungreedy = true,
            b'R' => relative = true,
            // `B` has no effect in Suricata; `O` lifts a limit that is not configurable here.
            b'B' => {}
            b'O' => {
                return Err("the flag `O` would lift the limit of steps, which always holds here".to_owned());
            }
            letter => {
                let row = BUFFERS.iter().find(|row| row.letter == Some(*letter));
                let row = row.ok_or_else(|| format!("{} is no flag", shown(&[*letter])))?;
                if buffer.replace(row.buffer).is_some_and(|other| other != row.buffer) {
                    return Err("the flags name two buffers".to_owned());
                }
            }
        }
    }
    match (buffer, builder.selected()) {
        // The body of a response is a file as well.
        (Some(Buffer::HttpResponseBody), Some(Buffer::FileData)) => buffer = None,
        (Some(letter), Some(selected)) if letter != selected => {
            return Err(format!("the flags name another buffer than `{}` in front", selected.name()));
        }
        _ => {}
    }
    let expression = Expression::parse(expression, options)?;
    let expression = builder.shared.share(expression)?;
    builder.push(buffer, Entry::Other(Match::Pcre(Pcre { expression, relative, negated })));
    Ok(())
}

pub(super) fn isdataat(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (value, negated) = match value.strip_prefix(b"!") {
        Some(value) => (value, true),
        None => (value, false),
    };
    let mut fields = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let offset = builder.number(fields.next().unwrap_or_default(), 65_535)?;
    if matches!(offset, Number::Value(offset) if offset < 0) {
        return Err("the position must not be negative".to_owned());
    }
    let mut relative = false;
    for field in fields {
        match field {
            b"relative" => relative = true,
            b"rawbytes" => {}
            _ => return Err(format!("{} is unknown here; use `relative`", shown(field))),
        }
    }
    builder.require(Match::DataAt { offset, relative, negated });
    Ok(())
}

pub(super) fn bsize(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    if builder.is_payload() {
        return Err("it is about a buffer such as `http.uri`, whose keyword must be in front".to_owned());
    }
    let size = Compare::parse(value, u64::MAX)?;
    builder.require(Match::Size(size));
    Ok(())
}

pub(super) fn urilen(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (size, buffer) = match split_once(value, b",") {
        None => (value, Buffer::HttpUri),
        Some((size, kind)) => match kind.trim_ascii() {
            b"norm" => (size, Buffer::HttpUri),
            b"raw" => (size, Buffer::HttpUriRaw),
            kind => return Err(format!("{} is unknown here; use `norm` or `raw`", shown(kind))),
        },
    };
    let size = Compare::parse(size, 65_535)?;
    builder.push(Some(buffer), Entry::Other(Match::Size(size)));
    Ok(())
}

pub(super) fn absent(builder: &mut Builder<'_>, value: Option<&[u8]>) -> Result<(), String> {
    if builder.is_payload() {
        return Err("it is about a buffer such as `http.referer`, whose keyword must be in front".to_owned());
    }
    let or_else = match value {
        None => false,
        Some(b"or_else") => true,
        Some(value) => return Err(format!("{} is unknown here; use `or_else`", shown(value))),
    };
    builder.require(Match::Absent { or_else });
    Ok(())
}

pub(super) fn entropy(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut entropy = Entropy { bytes: 0, offset: 0, compare: EntropyCompare::Equal(0.0) };
    let mut compare = None;
    for field in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if let Some(bytes) = field.strip_prefix(b"bytes ") {
            entropy.bytes = unsigned(bytes, u64::from(u32::MAX))? as u32;
        } else if let Some(offset) = field.strip_prefix(b"offset ") {
            entropy.offset = unsigned(offset, u64::from(u32::MAX))? as u32;
        } else {
            let field = field.strip_prefix(b"value").unwrap_or(field).trim_ascii();
            if compare.replace(entropy_compare(field)?).is_some() {
                return Err("two values are given".to_owned());
            }
        }
    }
    entropy.compare = compare.ok_or("write `entropy:value >= 7.0` or the like")?;
    builder.require(Match::Entropy(Box::new(entropy)));
    Ok(())
}

/// Makes a comparison of a number.
type MakeEntropy = fn(f64) -> EntropyCompare;

fn entropy_compare(text: &[u8]) -> Result<EntropyCompare, String> {
    let number = |text: &[u8]| {
        let number = str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse::<f64>().ok());
        let number = number.filter(|number| (0.0..=8.0).contains(number));
        number.ok_or_else(|| format!("{} is not a number between 0.0 and 8.0", shown(text)))
    };
    let (text, negated) = match text.strip_prefix(b"!").filter(|rest| !rest.starts_with(b"=")) {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if let Some((low, high)) = split_once(text, b"-") {
        let (low, high) = (number(low)?, number(high)?);
        return Ok(if negated {
            EntropyCompare::Outside(low, high)
        } else {
            EntropyCompare::Between(low, high)
        });
    }
    if negated {
        return number(text).map(EntropyCompare::NotEqual);
    }
    let operators: [(&[u8], MakeEntropy); 6] = [
        (b"!=", EntropyCompare::NotEqual),
        (b"<=", EntropyCompare::LessOrEqual),
        (b">=", EntropyCompare::GreaterOrEqual),
        (b"<", EntropyCompare::Less),
        (b">", EntropyCompare::Greater),
        (b"=", EntropyCompare::Equal),
    ];
    for (operator, make) in operators {
        if let Some(rest) = text.strip_prefix(operator) {
            return number(rest).map(make);
        }
    }
    number(text).map(EntropyCompare::Equal)
}

pub(super) fn base64_decode(builder: &mut Builder<'_>, value: Option<&[u8]>) -> Result<(), String> {
    let mut base64 = Base64 { bytes: None, offset: 0, relative: false, matches: Box::default() };
    for field in value.unwrap_or_default().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if let Some(bytes) = field.strip_prefix(b"bytes") {
            let bytes = unsigned(bytes, 65_535)? as u32;
            if bytes == 0 {
                return Err("`bytes` must be greater than 0".to_owned());
            }
            base64.bytes = Some(bytes);
        } else if let Some(offset) = field.strip_prefix(b"offset") {
            base64.offset = unsigned(offset, 65_535)? as u32;
        } else if field == b"relative" {
            base64.relative = true;
        } else if !field.is_empty() {
            return Err(format!("{} is unknown here; use `bytes`, `offset` or `relative`", shown(field)));
        }
    }
    let place = builder.require(Match::Base64(Box::new(base64)));
    builder.last_base64 = Some(place);
    Ok(())
}

pub(super) fn base64_data(builder: &mut Builder<'_>) -> Result<(), String> {
    builder.select_base64()
}

pub(super) fn dataset(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    if builder.is_payload() {
        return Err("it is about a buffer such as `dns.query`, whose keyword must be in front".to_owned());
    }
    let mut fields = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let command = match fields.next().unwrap_or_default() {
        b"isset" => DatasetCommand::IsSet,
        b"isnotset" => DatasetCommand::IsNotSet,
        b"set" => DatasetCommand::Set,
        b"unset" => DatasetCommand::Unset,
        command => {
            return Err(format!("{} is no command; use isset, isnotset, set or unset", shown(command)));
        }
    };
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && name.len() <= 64)
        .ok_or("the name of the set is missing")?;
    let name = str::from_utf8(name).map_err(|_| format!("{} is not UTF-8", shown(name)))?;
    let (mut kind, mut load) = (None, None);
    for field in fields {
        let (key, value) = match field.iter().position(u8::is_ascii_whitespace) {
            Some(space) => {
                (field.get(..space).unwrap_or_default(), field.get(space..).unwrap_or_default().trim_ascii())
            }
            None => (field, &b""[..]),
        };
        match key {
            b"type" => {
                kind = Some(match value {
                    b"string" => DatasetKind::String,
                    b"md5" => DatasetKind::Md5,
                    b"sha256" => DatasetKind::Sha256,
                    b"ipv4" => DatasetKind::Ipv4,
                    b"ip" => DatasetKind::Ip,
                    _ => return Err(format!("{} is no type of a set", shown(value))),
                });
            }
            b"load" => {
                let path = str::from_utf8(value).ok().filter(|path| !path.is_empty());
                load = Some(path.ok_or_else(|| format!("{} is no name of a file", shown(value)))?.into());
            }
            // The set has the size of its members, which are bounded together.
            b"memcap" | b"hashsize" => {}
            b"save" | b"state" => return Err("sets are not written to files".to_owned()),
            _ => return Err(format!("{} is not supported", shown(key))),
        }
    }
    if load.is_some() && kind.is_none() {
        return Err("`load` wants the `type` of the members".to_owned());
    }
    let at = builder.place();
    let requirement = DatasetMatch { command, name: name.into(), kind, load, members: None, at };
    builder.require(Match::Dataset(Box::new(requirement)));
    Ok(())
}

pub(super) fn xor(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (key, negated) = quoted(value)?;
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = key
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty() && bytes.len() <= 255 && !negated);
    let bytes =
        bytes.ok_or_else(|| format!("{} is no key: hexadecimal digits of 1 to 255 bytes", shown(key)))?;
    builder.transform(Transform::Xor(bytes.into()))
}
