//! `threshold.config`: limits on alerts and exceptions, beside the rules.

use crate::diagnostic::{Place, Refusal, shown};
use crate::number::unsigned;
use crate::rule::{Action, Threshold, ThresholdKind, Track};

/// An entry of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The group of the rules; 0 for all groups.
    pub gid: u32,
    /// The rule; 0 for all of the group.
    pub sid: u32,
    /// The effect.
    pub limit: Limit,
    /// The place in the file.
    pub at: Place,
}

/// The effect of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `suppress`: no alerts, or none of hosts.
    Suppress(Option<Hosts>),
    /// `threshold` or `event_filter`: replaces the threshold of the rule.
    Threshold(Threshold),
    /// `rate_filter`: another action while matches are frequent.
    Rate {
        /// The key by which matches are counted apart.
        track: Track,
        /// The number of matches.
        count: u32,
        /// The time in which they happen.
        seconds: u32,
        /// The action from then on.
        action: Action,
        /// The seconds until the action of the rule returns.
        timeout: u32,
    },
}

/// The hosts of `suppress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The side that is compared.
    pub side: SuppressedSide,
    /// The addresses, which [`crate::variables`] resolves.
    pub addresses: Box<str>,
}

/// The side that `suppress` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressedSide {
    /// `by_src`.
    Source,
    /// `by_dst`.
    Destination,
    /// `by_either`.
    Either,
}

/// Parses a file. Names what it refuses.
#[must_use]
pub fn parse(text: &[u8]) -> (Vec<Entry>, Vec<Refusal>) {
    let (mut entries, mut refused) = (Vec::new(), Vec::new());
    for (place, line) in super::lines(text) {
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        match entry(keyword, rest, place) {
            Ok(entry) => entries.push(entry),
            Err(reason) => refused.push(Refusal {
                line: place.line,
                column: place.column,
                sid: None,
                keyword: String::from_utf8_lossy(keyword).into_owned(),
                reason,
            }),
        }
    }
    (entries, refused)
}

/// Splits at commas that are in no list of addresses.
fn fields(text: &[u8]) -> Vec<&[u8]> {
    let mut depth = 0_usize;
    let separators = text.split(|byte| {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        *byte == b',' && depth == 0
    });
    separators.map(<[u8]>::trim_ascii).collect()
}

#[derive(Default)]
struct Fields<'a> {
    gid: Option<u32>,
    sid: Option<u32>,
    kind: Option<ThresholdKind>,
    track: Option<&'a [u8]>,
    count: Option<u32>,
    seconds: Option<u32>,
    timeout: Option<u32>,
    action: Option<Action>,
    ip: Option<&'a [u8]>,
}

fn entry(keyword: &[u8], rest: &[u8], at: Place) -> Result<Entry, String> {
    let mut read = Fields::default();
    let number = |text: &[u8]| unsigned(text, u64::from(u32::MAX)).map(|number| number as u32);
    for field in fields(rest) {
        let space = field.iter().position(u8::is_ascii_whitespace).unwrap_or(field.len());
        let (key, value) = field.split_at(space);
        let value = value.trim_ascii();
        match key {
            b"gen_id" => read.gid = Some(number(value)?),
            b"sig_id" => read.sid = Some(number(value)?),
            b"count" => read.count = Some(number(value)?),
            b"seconds" => read.seconds = Some(number(value)?),
            b"timeout" => read.timeout = Some(number(value)?),
            b"track" => read.track = Some(value),
            b"ip" => read.ip = Some(value),
            b"type" => {
                read.kind = Some(match value {
                    b"limit" => ThresholdKind::Limit,
                    b"threshold" => ThresholdKind::Threshold,
                    b"both" => ThresholdKind::Both,
                    _ => return Err(format!("{} is no type; use limit, threshold or both", shown(value))),
                });
            }
            b"new_action" => {
                read.action = Some(match value {
                    b"alert" => Action::Alert,
                    b"drop" => Action::Drop,
                    b"pass" => Action::Pass,
                    b"reject" => Action::Reject,
                    _ => {
                        return Err(format!(
                            "{} is no action; use alert, drop, pass or reject",
                            shown(value)
                        ));
                    }
                });
            }
            _ => return Err(format!("{} is unknown here", shown(field))),
        }
    }
    let gid = read.gid.ok_or("`gen_id` is missing")?;
    let sid = read.sid.ok_or("`sig_id` is missing")?;
    let limit = match keyword {
        b"suppress" => suppress(&read)?,
        b"threshold" | b"event_filter" => {
            unused(&[
                ("ip", read.ip.is_some()),
                ("timeout", read.timeout.is_some()),
                ("new_action", read.action.is_some()),
            ])?;
            Limit::Threshold(Threshold {
                kind: read.kind.ok_or("`type` is missing")?,
                track: track(&read)?,
                count: positive(read.count, "count")?,
                seconds: positive(read.seconds, "seconds")?,
            })
        }
        b"rate_filter" => {
            unused(&[("ip", read.ip.is_some()), ("type", read.kind.is_some())])?;
            Limit::Rate {
                track: track(&read)?,
                count: positive(read.count, "count")?,
                seconds: positive(read.seconds, "seconds")?,
                action: read.action.ok_or("`new_action` is missing")?,
                timeout: read.timeout.ok_or("`timeout` is missing")?,
            }
        }
        _ => return Err("use suppress, threshold, event_filter or rate_filter".to_owned()),
    };
    Ok(Entry { gid, sid, limit, at })
}

fn suppress(read: &Fields<'_>) -> Result<Limit, String> {
    unused(&[
        ("type", read.kind.is_some()),
        ("count", read.count.is_some()),
        ("seconds", read.seconds.is_some()),
        ("timeout", read.timeout.is_some()),
        ("new_action", read.action.is_some()),
    ])?;
    let side = match (read.track, read.ip) {
        (None, None) => return Ok(Limit::Suppress(None)),
        (Some(b"by_src"), Some(_)) => SuppressedSide::Source,
        (Some(b"by_dst"), Some(_)) => SuppressedSide::Destination,
        (Some(b"by_either"), Some(_)) => SuppressedSide::Either,
        (Some(track), Some(_)) => {
            return Err(format!("{} is unknown; use by_src, by_dst or by_either", shown(track)));
        }
        _ => return Err("`track` and `ip` belong together".to_owned()),
    };
    let addresses =
        str::from_utf8(read.ip.unwrap_or_default()).map_err(|_| "`ip` is not ASCII".to_owned())?;
    Ok(Limit::Suppress(Some(Hosts { side, addresses: addresses.into() })))
}

fn unused(fields: &[(&str, bool)]) -> Result<(), String> {
    match fields.iter().find(|field| field.1) {
        Some((name, _)) => Err(format!("`{name}` has no meaning here")),
        None => Ok(()),
    }
}

fn positive(number: Option<u32>, name: &str) -> Result<u32, String> {
    number.filter(|number| *number > 0).ok_or_else(|| format!("`{name}` is missing or 0"))
}

fn track(read: &Fields<'_>) -> Result<Track, String> {
    match read.track {
        Some(b"by_src") => Ok(Track::Source),
        Some(b"by_dst") => Ok(Track::Destination),
        Some(b"by_both") => Ok(Track::Both),
        Some(b"by_rule") => Ok(Track::Rule),
        Some(track) => Err(format!("{} is unknown; use by_src, by_dst, by_both or by_rule", shown(track))),
        None => Err("`track` is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_mistakes_named() {
        let text = b"# comment\n\
            suppress gen_id 1, sig_id 2\r\n\
            suppress gen_id 1, sig_id 0, track by_either, ip [10.0.0.0/8, $HOME_NET]\n\
            threshold gen_id 1, sig_id 3, type both, track by_src, \\\n count 3, seconds 5\n\
            event_filter gen_id 1, sig_id 4, type limit, track by_rule, count 1, seconds 15\n\
            rate_filter gen_id 1, sig_id 5, track by_both, count 100, seconds 60, new_action drop, timeout 30\n\
            suppress gen_id 1, sig_id 2, track by_src\n\
            threshold gen_id 1, sig_id 3, type never, track by_src, count 3, seconds 5\n\
            nonsense gen_id 1, sig_id 1\n";
        let (entries, refused) = parse(text);
        assert_eq!(entries.len(), 5);
        assert_eq!(entries[0].limit, Limit::Suppress(None));
        let Limit::Suppress(Some(hosts)) = &entries[1].limit else { panic!() };
        assert_eq!(
            (hosts.side, hosts.addresses.as_ref()),
            (SuppressedSide::Either, "[10.0.0.0/8, $HOME_NET]")
        );
        let threshold = Threshold { kind: ThresholdKind::Both, track: Track::Source, count: 3, seconds: 5 };
        assert_eq!(entries[2].limit, Limit::Threshold(threshold));
        assert!(matches!(entries[4].limit, Limit::Rate { action: Action::Drop, timeout: 30, .. }));
        let reasons: Vec<_> = refused.iter().map(|refusal| (refusal.line, refusal.reason.as_str())).collect();
        assert_eq!(reasons.len(), 3);
        assert_eq!(reasons[0], (8, "`track` and `ip` belong together"));
        assert!(reasons[1].1.contains("`never`") && reasons[2].1.starts_with("use suppress"));
    }
}
