//! The output of the lab: on a terminal a display that is updated in place, 80 columns wide; otherwise a line
//! now and then. Colours are used on a terminal only.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

use super::checks::Check;
use super::seen::{Counters, Seen, human};

/// Columns used. The last one stays free, because some terminals wrap the line there.
const WIDTH: usize = 79;
/// The largest number of names and of kinds of flows shown.
const ROWS: usize = 6;
/// Time between two lines if there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

const TABLE_HEAD: &str = "ended flows                  names asked for, and answers";

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Standard output.
pub(super) struct Screen {
    terminal: bool,
    /// Lines of the display above the cursor.
    shown: usize,
    next_line: Instant,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: stdout().is_terminal(), shown: 0, next_line: Instant::now() }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.terminal { format!("{colour}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// Prints the first line.
    pub(super) fn title(&self, text: &str) {
        println!("{}  {text}", self.painted(BOLD, "mirror-xdp lab"));
    }

    /// Prints a line that stays.
    pub(super) fn line(text: &str) {
        println!("{text}");
    }

    /// Updates the display.
    pub(super) fn show(&mut self, seen: &Seen, left: Duration) {
        if self.terminal {
            let footer = format!("{} s left, Ctrl-C stops", left.as_secs() + 1);
            self.draw(seen, Some(&footer));
        } else if Instant::now() >= self.next_line && seen.counters[0].seen > 0 {
            println!("{}", status(seen));
            self.next_line = Instant::now() + LINE_INTERVAL;
        }
    }

    /// Draws the final display.
    pub(super) fn finish(&mut self, seen: &Seen) {
        if self.terminal {
            self.draw(seen, None);
        } else {
            println!("{}", status(seen));
        }
    }

    fn draw(&mut self, seen: &Seen, footer: Option<&str>) {
        let mut lines = vec![self.painted(BOLD, &status(seen)), String::new()];
        lines.push(self.painted(BOLD, TABLE_HEAD));
        for (left, right) in tables(seen) {
            lines.push(clipped(&format!("{left:<29}{right}")));
        }
        lines.push(String::new());
        lines.push(self.painted(BOLD, "last records"));
        lines.extend(seen.last.iter().map(|line| clipped(&format!("  {line}"))));
        lines.push(String::new());
        lines.extend(footer.map(|footer| self.painted(DIM, footer)));
        // Moves up to the first line of the last display, then down again, clearing each line.
        let mut out = String::new();
        if self.shown > 0 {
            let _ = write!(out, "\x1b[{}A", self.shown);
        }
        for line in &lines {
            out.push_str(line);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.shown = lines.len();
        // A failure to write to the terminal is not worth an error.
        let _ = stdout().write_all(out.as_bytes()).and_then(|()| stdout().flush());
    }

    /// Prints the checks; returns whether all have passed.
    pub(super) fn summary(&self, seen: &Seen, checks: &[Check]) -> bool {
        if !self.terminal {
            println!("\n{TABLE_HEAD}");
            for (left, right) in tables(seen) {
                println!("{}", clipped(&format!("{left:<29}{right}")));
            }
            println!();
        }
        for Check { what, passed } in checks {
            let mark = if *passed { self.painted(GREEN, "seen   ") } else { self.painted(RED, "MISSING") };
            println!("{mark}  {what}");
        }
        let missing = checks.iter().filter(|check| !check.passed).count();
        let verdict = match missing {
            0 => self.painted(GREEN, "All of it was seen, and every frame is accounted for."),
            _ => {
                self.painted(RED, &format!("{missing} of {} things are not as they should be.", checks.len()))
            }
        };
        println!("\n{verdict}");
        missing == 0
    }
}

/// Returns counters and rates as one line.
fn status(seen: &Seen) -> String {
    let [now, before] = seen.counters;
    let Counters { seconds, seen: frames, flows, lost, .. } = now;
    let elapsed = seconds - before.seconds;
    let rate = |count: u64, earlier: u64| {
        if elapsed > 0.0 { count.saturating_sub(earlier) as f64 / elapsed } else { 0.0 }
    };
    let (packets, bits) = (rate(frames, before.seen), rate(now.bytes, before.bytes) * 8.0);
    clipped(&format!(
        "{seconds:4.1} s  {frames} frames  {packets:.0}/s  {:.1} Mbit/s  {flows} flows  {lost} lost",
        bits / 1e6,
    ))
}

/// Returns rows with kinds of flows on the left and names on the right.
fn tables(seen: &Seen) -> Vec<(String, String)> {
    let mut flows: Vec<_> = seen.flows.iter().collect();
    flows.sort_by_key(|(_, flows)| std::cmp::Reverse(flows.bytes));
    let left =
        flows.iter().map(|(kind, flows)| format!("  {kind:<10}{:>5}{:>10}", flows.count, human(flows.bytes)));
    let right = seen.names.iter().map(|(name, known)| {
        let answers = known.answers.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        format!("{name} {}x {answers}", known.queries)
    });
    let (left, right): (Vec<_>, Vec<_>) = (left.take(ROWS).collect(), right.take(ROWS).collect());
    (0..left.len().max(right.len()))
        .map(|row| {
            let of = |column: &[String]| column.get(row).cloned().unwrap_or_default();
            (of(&left), of(&right))
        })
        .collect()
}

/// Returns the part of a line that fits.
fn clipped(line: &str) -> String {
    line.chars().take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_eighty_columns() {
        let mut seen = Seen::new("/nonexistent".into());
        let huge = u64::MAX / 8;
        seen.counters = [
            Counters { seconds: 99_999.0, seen: huge, bytes: huge, flows: huge, lost: huge },
            Counters::default(),
        ];
        assert!(status(&seen).chars().count() < 80);
    }
}
