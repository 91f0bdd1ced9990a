//! `flowbits`, `xbits`, `hostbits`, `flowint`, and the limits on alerts.

use super::Builder;
use crate::diagnostic::shown;
use crate::number::unsigned;
use crate::rule::{
    BitOperation, BitTrack, IntCompare, IntOperation, IntValue, State, Threshold, ThresholdKind, Track,
};

fn fields(value: &[u8]) -> Vec<&[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect()
}

fn name(text: &[u8]) -> Result<&str, String> {
    let valid = |name: &&str| !name.is_empty() && name.len() <= 255 && !name.contains(char::is_whitespace);
    str::from_utf8(text).ok().filter(valid).ok_or_else(|| format!("{} is no name", shown(text)))
}

fn operation(text: &[u8]) -> Result<BitOperation, String> {
    Ok(match text {
        b"set" => BitOperation::Set,
        b"unset" => BitOperation::Unset,
        b"toggle" => BitOperation::Toggle,
        b"isset" => BitOperation::IsSet,
        b"isnotset" => BitOperation::IsNotSet,
        _ => {
            return Err(format!(
                "{} is unknown here; use set, unset, toggle, isset or isnotset",
                shown(text)
            ));
        }
    })
}

pub(super) fn flowbits(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    match fields(value).as_slice() {
        [b"noalert"] => {
            builder.is_silent = true;
            Ok(())
        }
        [operation_text, names] => {
            let operation = operation(operation_text)?;
            let mut shared = Vec::new();
            for text in names.split(|byte| *byte == b'|').map(<[u8]>::trim_ascii) {
                let text = name(text)?;
                shared.push(builder.shared.intern(text));
            }
            if shared.len() > 1 && !matches!(operation, BitOperation::IsSet | BitOperation::IsNotSet) {
                return Err("alternatives of names are for `isset` and `isnotset`".to_owned());
            }
            builder.states.push(State::FlowBit { operation, names: shared.into() });
            Ok(())
        }
        _ => Err("write `flowbits:OPERATION,NAME` or `flowbits:noalert`".to_owned()),
    }
}

pub(super) fn xbits(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let fields = fields(value);
    if let [b"noalert"] = fields.as_slice() {
        builder.is_silent = true;
        return Ok(());
    }
    let [operation_text, name_text, options @ ..] = fields.as_slice() else {
        return Err("write `xbits:OPERATION,NAME,track ip_src`".to_owned());
    };
    let (mut track, mut expire) = (None, None);
    for option in options {
        let words: Vec<&[u8]> =
            option.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [b"track", b"ip_src"] => track = Some(BitTrack::Source),
            [b"track", b"ip_dst"] => track = Some(BitTrack::Destination),
            [b"track", b"ip_pair"] => track = Some(BitTrack::Pair),
            [b"expire", seconds] => expire = Some(at_least_one(seconds)?),
            _ => return Err(format!("{} is unknown here", shown(option))),
        }
    }
    let track = track.ok_or("`track` is missing: ip_src, ip_dst or ip_pair")?;
    host_bit(builder, operation_text, name_text, track, expire)
}

pub(super) fn hostbits(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let fields = fields(value);
    let (operation_text, name_text, track, expire) = match fields.as_slice() {
        [operation, name] => (operation, name, &&b"src"[..], None),
        [operation, name, track] => (operation, name, track, None),
        [operation, name, track, expire] => (operation, name, track, Some(at_least_one(expire)?)),
        _ => return Err("write `hostbits:OPERATION,NAME,src`".to_owned()),
    };
    let track = match *track {
        b"src" => BitTrack::Source,
        b"dst" => BitTrack::Destination,
        b"both" => BitTrack::Both,
        track => return Err(format!("{} is unknown here; use src, dst or both", shown(track))),
    };
    host_bit(builder, operation_text, name_text, track, expire)
}

fn host_bit(
    builder: &mut Builder<'_>,
    operation_text: &[u8],
    name_text: &[u8],
    track: BitTrack,
    expire: Option<u32>,
) -> Result<(), String> {
    let operation = operation(operation_text)?;
    let name = builder.shared.intern(name(name_text)?);
    builder.states.push(State::HostBit { operation, name, track, expire });
    Ok(())
}

fn at_least_one(text: &[u8]) -> Result<u32, String> {
    match unsigned(text, u64::from(u32::MAX))? {
        0 => Err("it must be greater than 0".to_owned()),
        number => Ok(number as u32),
    }
}

pub(super) fn flowint(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let fields = fields(value);
    let [name_text, operation_text, rest @ ..] = fields.as_slice() else {
        return Err("write `flowint:NAME,OPERATION,VALUE`".to_owned());
    };
    let mut operand = || match rest {
        [text] if text.first().is_some_and(u8::is_ascii_digit) => {
            unsigned(text, u64::from(u32::MAX)).map(|number| IntValue::Number(number as u32))
        }
        [text] => name(text).map(|name| IntValue::Name(builder.shared.intern(name))),
        _ => Err("one value is wanted".to_owned()),
    };
    let operation = match *operation_text {
        b"isset" if rest.is_empty() => IntOperation::IsSet,
        b"isnotset" | b"notset" if rest.is_empty() => IntOperation::IsNotSet,
        b"=" => IntOperation::Assign(operand()?),
        b"+" => IntOperation::Add(operand()?),
        b"-" => IntOperation::Subtract(operand()?),
        b"<" => IntOperation::Compare(IntCompare::Less, operand()?),
        b"<=" => IntOperation::Compare(IntCompare::LessOrEqual, operand()?),
        b">" => IntOperation::Compare(IntCompare::Greater, operand()?),
        b">=" => IntOperation::Compare(IntCompare::GreaterOrEqual, operand()?),
        b"==" => IntOperation::Compare(IntCompare::Equal, operand()?),
        b"!=" => IntOperation::Compare(IntCompare::NotEqual, operand()?),
        other => return Err(format!("{} is no operation", shown(other))),
    };
    let name = builder.shared.intern(name(name_text)?);
    builder.states.push(State::FlowInt { name, operation });
    Ok(())
}

/// Reads `threshold` and `detection_filter`.
pub(super) fn threshold(builder: &mut Builder<'_>, value: &[u8], is_filter: bool) -> Result<(), String> {
    let threshold = limits_of(value, is_filter)?;
    if builder.threshold.replace(threshold).is_some() {
        return Err("the rule has another `threshold` or `detection_filter`".to_owned());
    }
    Ok(())
}

fn limits_of(value: &[u8], is_filter: bool) -> Result<Threshold, String> {
    let (mut kind, mut track, mut count, mut seconds) = (None, None, None, None);
    for field in fields(value) {
        let words: Vec<&[u8]> =
            field.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        let is_new = match words.as_slice() {
            [b"type", word] if !is_filter => kind.replace(kind_of(word)?).is_none(),
            [b"track", word] => track.replace(track_of(word)?).is_none(),
            [b"count", number] => count.replace(at_least_one(number)?).is_none(),
            [b"seconds", number] => seconds.replace(at_least_one(number)?).is_none(),
            _ => return Err(format!("{} is unknown here", shown(field))),
        };
        if !is_new {
            return Err(format!("{} is given twice", shown(field)));
        }
    }
    let kind = if is_filter { Some(ThresholdKind::DetectionFilter) } else { kind };
    Ok(Threshold {
        kind: kind.ok_or("`type` is missing: limit, threshold or both")?,
        track: track.ok_or("`track` is missing: by_src, by_dst, by_both, by_rule or by_flow")?,
        count: count.ok_or("`count` is missing")?,
        seconds: seconds.ok_or("`seconds` is missing")?,
    })
}

fn kind_of(word: &[u8]) -> Result<ThresholdKind, String> {
    Ok(match word {
        b"limit" => ThresholdKind::Limit,
        b"threshold" => ThresholdKind::Threshold,
        b"both" => ThresholdKind::Both,
        _ => return Err(format!("{} is no type; use limit, threshold or both", shown(word))),
    })
}

fn track_of(word: &[u8]) -> Result<Track, String> {
    Ok(match word {
        b"by_src" => Track::Source,
        b"by_dst" => Track::Destination,
        b"by_both" => Track::Both,
        b"by_rule" => Track::Rule,
        b"by_flow" => Track::Flow,
        _ => {
            return Err(format!(
                "{} is unknown; use by_src, by_dst, by_both, by_rule or by_flow",
                shown(word)
            ));
        }
    })
}
