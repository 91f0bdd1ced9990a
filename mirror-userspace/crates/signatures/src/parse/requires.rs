//! `requires`: what a rule expects of the version of Suricata.

use super::keywords;
use crate::diagnostic::shown;
use crate::number::digits_of;

/// The version of Suricata whose rules are understood, for `requires`.
const VERSION: (u64, u64, u64) = (7, 0, 10);

/// Reads `requires`. Returns what does not hold here, or `None`.
pub(super) fn unmet(value: &[u8]) -> Result<Option<String>, String> {
    let mut unmet = None;
    let mut has_version = false;
    for field in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        let space = field.iter().position(u8::is_ascii_whitespace);
        let (key, value) = space.map_or((field, &b""[..]), |space| {
            (field.get(..space).unwrap_or_default(), field.get(space..).unwrap_or_default().trim_ascii())
        });
        let met = match key {
            b"version" if has_version => return Err("two versions are given".to_owned()),
            b"version" => {
                has_version = true;
                version(value)?
            }
            b"keyword" => keywords::is_known(value),
            b"" => return Err("write `requires:version >= 7.0.3` or the like".to_owned()),
            // Features are parts that Suricata is built with, and unknown requirements are those of later versions.
            _ => false,
        };
        if !met && unmet.is_none() {
            unmet = Some(format!("{} does not hold here", shown(field)));
        }
    }
    Ok(unmet)
}

/// Returns true if one of the alternatives holds for [`VERSION`].
fn version(text: &[u8]) -> Result<bool, String> {
    let mut met = false;
    for alternative in text.split(|byte| *byte == b'|') {
        let mut words = alternative.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut all = true;
        let mut count = 0;
        while let Some(word) = words.next() {
            let len = word.iter().take_while(|byte| matches!(byte, b'<' | b'>' | b'=')).count();
            let (operator, number) = word.split_at(len);
            let number = if number.is_empty() { words.next().unwrap_or_default() } else { number };
            let mut parts = [0; 3];
            let fields: Vec<&[u8]> = number.split(|byte| *byte == b'.').collect();
            if fields.len() > parts.len() {
                return Err(format!("{} is no version", shown(number)));
            }
            for (part, digits) in parts.iter_mut().zip(fields) {
                let digits = digits.split(|byte| *byte == b'-').next().unwrap_or_default();
                *part = digits_of(digits, 10).ok_or_else(|| format!("{} is no version", shown(number)))?;
            }
            let other = (parts[0], parts[1], parts[2]);
            all &= match operator {
                b">=" => VERSION >= other,
                b">" => VERSION > other,
                b"<=" => VERSION <= other,
                b"<" => VERSION < other,
                _ => return Err(format!("{} is no comparison of versions", shown(word))),
            };
            count += 1;
        }
        if count == 0 {
            return Err("a version is missing".to_owned());
        }
        met |= all;
    }
    Ok(met)
}
