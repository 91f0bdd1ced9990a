//! The view of a capture for people: a line of progress, and the totals at the end.

use std::fmt::Write as _;
use std::time::Instant;

use mirror_base::escaped;
use mirror_control::counters::{self, Severity};
use mirror_control::observe::tap::TapCounts;
use mirror_control::stats::{Interface, Named, Policy, Rule, Stats, Store, Vni, split_advice};
use mirror_store::UploadCounters;

/// Clears the line of the terminal and moves to its beginning.
pub(super) const CLEAR: &str = "\r\x1b[2K";

/// A progress line on the terminal that is rewritten each second. Dropping it clears the line.
#[derive(Debug)]
pub(super) struct Progress {
    shown: Instant,
    frames: u64,
    bytes: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { shown: Instant::now(), frames: 0, bytes: 0 }
    }

    /// Shows the rates since the last call, and the losses so far.
    pub(super) fn show(&mut self, stats: &Stats) {
        let seconds = self.shown.elapsed().as_secs_f64().max(f64::EPSILON);
        let (frames, bytes) = (stats.delivered(), delivered_bytes(stats));
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let flows: u64 = stats.workers.iter().map(|worker| worker.flows_active).sum();
        eprint!(
            "{CLEAR}{:.0} s  {}  {}  {} flows  {}",
            stats.seconds,
            with_unit(rate(frames, self.frames), "frames/s"),
            with_unit(rate(bytes, self.bytes) * 8.0, "bit/s"),
            grouped(flows),
            lost(stats),
        );
        *self = Self { shown: Instant::now(), frames, bytes };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        eprint!("{CLEAR}");
    }
}

/// Formats the sum of the critical losses, and the other losses except those that are usual, each by stage:
/// `3 lost (ring 3)  program 5, tap 2`.
fn lost(stats: &Stats) -> String {
    let (mut critical, mut others) = (Named::default(), Named::default());
    for (spec, sum) in counters::sums(stats) {
        match spec.loss().map(|loss| loss.severity) {
            Some(Severity::Critical) => critical.0.push((spec.stage.name(), sum)),
            Some(Severity::Warning) => others.0.push((spec.stage.name(), sum)),
            Some(Severity::Info) | None => {}
        }
    }
    let [critical, others] = [critical, others].map(|named| summed([named].iter()));
    let mut text = format!("{} lost{}", grouped(critical.sum()), listed(&critical));
    if others.sum() > 0 {
        text += "  ";
        text += listed(&others).trim_start_matches(" (").trim_end_matches(')');
    }
    text
}

fn delivered_bytes(stats: &Stats) -> u64 {
    stats.workers.iter().map(|worker| worker.delivered_bytes).sum()
}

/// Formats a number with three digits and a unit with its prefix: `1.23 Mbit/s`.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    let (mut value, mut prefix) = (value, "");
    for larger in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        prefix = larger;
    }
    let digits = match value {
        v if prefix.is_empty() || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {prefix}{unit}")
}

/// Formats a number with its thousands separated: `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats rows as columns two blanks apart, of which those from `right` on are aligned to the right. No character of a
/// cell controls the terminal.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], right: usize) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| escaped(cell))).collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if column < right {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats the losses of the analysis.
pub(super) fn analysis_lost(lost: &Named) -> String {
    format!("not seen within analysed frames: {}{}", grouped(lost.sum()), listed(lost))
}

/// Formats the refused packets within others.
pub(super) fn refused_nested(refused: &Named) -> String {
    format!("not analysed within analysed frames: {}{}", grouped(refused.sum()), listed(refused))
}

/// Formats the counters that are not 0, as `name 5, other 3` in parentheses.
pub(super) fn listed(named: &Named) -> String {
    let some = named.0.iter().filter(|(_, count)| *count > 0);
    let list: Vec<_> = some.map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
    if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) }
}

/// Sums up several sets of counters, by name.
pub(super) fn summed<'n>(counters: impl Iterator<Item = &'n Named>) -> Named {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for &(name, count) in counters.flat_map(|named| &named.0) {
        match sums.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name, count)),
        }
    }
    Named(sums)
}

/// Formats a line about the packet store from the workers' parts; an empty string without any.
pub(super) fn stored<'s>(parts: impl Iterator<Item = &'s Store>) -> String {
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() {
        return String::new();
    }
    let sum = |of: fn(&Store) -> u64| parts.iter().map(|part| of(part)).sum::<u64>();
    let not_kept = summed(parts.iter().map(|part| &part.not_kept));
    let lost = summed(parts.iter().map(|part| &part.lost));
    format!(
        "store: {} packets kept, {} on disk in {} segments, {} not to be kept{}, {} lost{}\n",
        grouped(sum(|part| part.kept)),
        with_unit(sum(|part| part.written_bytes) as f64, "B"),
        grouped(sum(|part| part.segments)),
        grouped(not_kept.sum()),
        listed(&not_kept),
        grouped(lost.sum()),
        listed(&lost),
    )
}

/// Formats the totals at the end of a capture, in several lines.
pub(super) fn totals(stats: &Stats) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_totals(&mut text, stats);
    text
}

/// The number of VNIs that are shown to people; scripts get all of them.
const VNIS_SHOWN: usize = 10;

/// Writes the VNIs with the most packets, and the number of packets that each rule decided on.
fn write_policy(text: &mut String, policy: &Policy) -> std::fmt::Result {
    let mut vnis: Vec<&Vni> = policy.vnis.iter().collect();
    vnis.sort_by_key(|vni| std::cmp::Reverse(vni.packets));
    for Vni { vni, packets, bytes, dropped, .. } in vnis.iter().take(VNIS_SHOWN) {
        let name = vni.map_or("all others".to_owned(), |vni| vni.to_string());
        let dropped = Named(vec![
            ("rejected", dropped.rejected),
            ("sampled out", dropped.sampled_out),
            ("shunted", dropped.shunted),
            ("not admitted", dropped.not_admitted),
            ("undelivered", dropped.undelivered),
        ]);
        let bytes = with_unit(*bytes as f64, "B");
        writeln!(text, "VNI {name}: {} frames, {bytes}{}", grouped(*packets), listed(&dropped))?;
    }
    if let Some(more) = vnis.len().checked_sub(VNIS_SHOWN).filter(|more| *more > 0) {
        writeln!(text, "and {} more VNIs", grouped(more as u64))?;
    }
    for Rule { set, number, direction, action, packets, bytes } in &policy.rules {
        let number = number.map_or("no match".to_owned(), |number| format!("rule {number}"));
        let direction = direction.filter(|name| *name != "both").unwrap_or_default();
        let bytes = with_unit(*bytes as f64, "B");
        let space = if direction.is_empty() { "" } else { " " };
        writeln!(text, "{set}: {number}{space}{direction} {action}: {} frames, {bytes}", grouped(*packets))?;
    }
    Ok(())
}

fn write_totals(text: &mut String, stats: &Stats) -> std::fmt::Result {
    let flows: u64 = stats.workers.iter().map(|worker| worker.flows_total).sum();
    writeln!(
        text,
        "captured {} frames, {}, {} flows in {:.1} s",
        grouped(stats.delivered()),
        with_unit(delivered_bytes(stats) as f64, "B"),
        grouped(flows),
        stats.seconds,
    )?;
    for interface in &stats.interfaces {
        let Interface { name, program, rings, device, .. } = interface;
        for (known, count) in device.silent(interface.explained()).0 {
            let count = grouped(count);
            writeln!(text, "{name}: the device LOST {count} ({}): {}", known.name, known.meaning)?;
        }
        writeln!(
            text,
            "{name}: {} frames seen, {} passed to the kernel{}, {} dropped{}, {} shunted{}, {} redirected",
            grouped(program.seen),
            grouped(program.passed.sum()),
            listed(&program.passed),
            grouped(program.dropped.sum()),
            listed(&program.dropped),
            grouped(program.shunted.sum()),
            listed(&program.shunted),
            grouped(program.redirected),
        )?;
        for ring in rings.iter().filter(|ring| ring.lost.rx_ring_full + ring.lost.rx_dropped > 0) {
            writeln!(
                text,
                "{name}, queue {}: LOST {} because the worker was too slow, {} for want of a buffer that \
                 they fit in",
                ring.queue,
                grouped(ring.lost.rx_ring_full),
                grouped(ring.lost.rx_dropped),
            )?;
        }
    }
    let [given, full] = [stats.hand_over(|over| over.given), stats.hand_over(|over| over.full)];
    if given + full > 0 {
        let share = (given + full) as f64 / stats.delivered().max(1) as f64 * 100.0;
        writeln!(text, "handed over between workers: {} frames, {share:.1} %", grouped(given + full))?;
    }
    if full > 0 {
        writeln!(text, "LOST {} because the worker that owns the flow was too slow", grouped(full))?;
    }
    for policy in &stats.policies {
        write_policy(text, policy)?;
    }
    let refused = summed(stats.workers.iter().map(|worker| &worker.refused));
    if refused.sum() > 0 {
        writeln!(text, "not analysed: {}{}", grouped(refused.sum()), listed(&refused))?;
    }
    let lost = summed(stats.workers.iter().map(|worker| &worker.analysis_lost));
    if lost.sum() > 0 {
        writeln!(text, "{}", analysis_lost(&lost))?;
    }
    let nested = summed(stats.workers.iter().map(|worker| &worker.refused_nested));
    if nested.sum() > 0 {
        writeln!(text, "{}", refused_nested(&nested))?;
    }
    if let Some(advice) = split_advice(&stats.workers) {
        writeln!(text, "{advice}")?;
    }
    text.push_str(&stored(stats.workers.iter().filter_map(|worker| worker.store.as_ref())));
    if let Some(UploadCounters { to, segments, bytes, waiting, failures, .. }) = &stats.upload {
        let (segments, bytes) = (grouped(*segments), with_unit(*bytes as f64, "B"));
        let (waiting, failures) = (grouped(*waiting), grouped(*failures));
        writeln!(text, "upload to {to}: {segments} segments, {bytes}; {waiting} wait, {failures} failures")?;
    }
    let duplicates: u64 = stats.workers.iter().map(|worker| worker.duplicates).sum();
    if duplicates > 0 {
        writeln!(text, "mirrored at both ends, the copy not analysed: {}", grouped(duplicates))?;
    }
    writeln!(
        text,
        "records: {} written{}, {} lost",
        grouped(stats.records.written.sum()),
        listed(&stats.records.written),
        grouped(stats.records.lost),
    )?;
    if stats.missed > 0 {
        let missed = grouped(stats.missed);
        writeln!(text, "MISSED {missed} datagrams of mirror traffic that reached the network stack instead")?;
    }
    if let Some(TapCounts { interface, sent, lost, .. }) = &stats.tap {
        let lost = Named(vec![
            ("ring full", lost.ring_full),
            ("too long", lost.too_long),
            ("refused", lost.refused),
        ]);
        let sum = grouped(lost.sum());
        writeln!(text, "tap {interface}: {} sent, {sum} lost{}", grouped(*sent), listed(&lost))?;
    }
    match stats.unaccounted {
        Some(frames) if frames > 0 => {
            writeln!(text, "UNACCOUNTED: {} frames; this is a bug of mirror-xdp", grouped(frames))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_human_units() {
        let shown: Vec<_> = [0.0, 7.0, 999.0, 1000.0, 12_345.0, 999_400.0, 999_999.0, 2.5e9]
            .map(|v| with_unit(v, "B"))
            .into();
        assert_eq!(shown, ["0 B", "7 B", "999 B", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "2.50 GB"]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn counters_of_nothing_are_not_listed() {
        assert_eq!(listed(&Named(vec![("a", 0), ("b", 2000)])), " (b 2,000)");
        assert_eq!(listed(&Named(vec![("a", 0)])), "");
    }
}
