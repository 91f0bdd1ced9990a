//! Keywords about the rule and its alerts.

use super::Builder;
use super::content::quoted;
use crate::diagnostic::shown;
use crate::number::{split_once, unsigned};
use crate::rule::Target;

/// Returns text without the backslashes of escapes.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut escaped = false;
    for byte in text {
        if *byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        if escaped && !matches!(byte, b';' | b'"' | b'\\' | b':' | b'/') {
            bytes.push(b'\\');
        }
        escaped = false;
        bytes.push(*byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn msg(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    // The quotes are usual, not required.
    let text = match quoted(value) {
        Ok((_, true)) => return Err("a message cannot be negated".to_owned()),
        Ok((text, false)) => text,
        Err(_) if value.contains(&b'"') => {
            return Err(format!("{} has a quote that is not closed", shown(value)));
        }
        Err(_) => value,
    };
    if builder.message.replace(unescaped(text).into()).is_some() {
        return Err("it is given twice".to_owned());
    }
    Ok(())
}

/// Reads a number of a rule.
pub(super) fn identifier(slot: &mut Option<u32>, value: &[u8], least: u64) -> Result<(), String> {
    let number = unsigned(value, u64::from(u32::MAX))?;
    if number < least {
        return Err(format!("it must be at least {least}"));
    }
    if slot.replace(number as u32).is_some() {
        return Err("it is given twice".to_owned());
    }
    Ok(())
}

pub(super) fn classtype(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let name = String::from_utf8_lossy(value).to_lowercase();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{} is no name of a class", shown(value)));
    }
    let name = builder.shared.intern(&name);
    if builder.class.replace(name).is_some() {
        return Err("it is given twice".to_owned());
    }
    Ok(())
}

pub(super) fn priority(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let number = unsigned(value, 255)?;
    if number == 0 {
        return Err("the highest priority is 1".to_owned());
    }
    if builder.priority.replace(number as u8).is_some() {
        return Err("it is given twice".to_owned());
    }
    Ok(())
}

pub(super) fn reference(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (system, name) = split_once(value, b",").ok_or("write `reference:system,name`")?;
    let system = builder.shared.intern(&String::from_utf8_lossy(system.trim_ascii()).to_lowercase());
    builder.references.push((system, unescaped(name.trim_ascii()).into()));
    Ok(())
}

pub(super) fn metadata(builder: &mut Builder<'_>, value: &[u8]) {
    for field in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|field| !field.is_empty()) {
        let space = field.iter().position(u8::is_ascii_whitespace).unwrap_or(field.len());
        let (key, value) = (field.get(..space).unwrap_or_default(), field.get(space..).unwrap_or_default());
        let key = builder.shared.intern(&String::from_utf8_lossy(key));
        let value = builder.shared.intern(&String::from_utf8_lossy(value.trim_ascii()));
        builder.metadata.push((key, value));
    }
}

pub(super) fn target(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let target = match value {
        b"src_ip" => Target::Source,
        b"dest_ip" => Target::Destination,
        _ => return Err(format!("{} is unknown here; use `src_ip` or `dest_ip`", shown(value))),
    };
    if builder.target.replace(target).is_some_and(|before| before != target) {
        return Err("two sides are given".to_owned());
    }
    Ok(())
}

/// `tag:session`: an alert keeps all packets of its flow in the store, from before it to the flow's end, so the number
/// only has to be valid.
pub(super) fn tag(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let fields: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let (count, unit) = match fields.as_slice() {
        [b"session"] => (&b"256"[..], &b"packets"[..]),
        [b"session", count, unit] => (*count, *unit),
        [b"host", ..] => return Err("packets of a host's other flows are not kept; use `session`".to_owned()),
        _ => return Err("write `tag:session,COUNT,packets` or the like".to_owned()),
    };
    if !matches!(unit, b"packets" | b"seconds" | b"bytes") {
        return Err(format!("{} is unknown here; use packets, seconds or bytes", shown(unit)));
    }
    unsigned(count, u64::from(u32::MAX))?;
    builder.tag = Some(builder.at());
    Ok(())
}
