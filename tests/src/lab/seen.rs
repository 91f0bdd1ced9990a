//! The state shown by the lab, read from the appliance's records while it writes them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

/// The number of latest records shown.
const LAST: usize = 6;

/// The appliance's counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Seconds since the capture began.
    pub(super) seconds: f64,
    /// Frames that entered the program.
    pub(super) seen: u64,
    /// Bytes of the frames that were delivered.
    pub(super) bytes: u64,
    /// Flows created since the capture began.
    pub(super) flows: u64,
    /// Frames dropped by the program, lost in the rings or refused, and records lost.
    pub(super) lost: u64,
}

/// The queries and answers of a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Name {
    /// The number of queries.
    pub(super) queries: u64,
    /// The answers: addresses, other names, or failures.
    pub(super) answers: BTreeSet<String>,
}

/// Ended flows of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flows {
    pub(super) count: u64,
    /// Bytes in both directions, with all headers.
    pub(super) bytes: u64,
}

/// The content of the records.
#[derive(Debug)]
pub(super) struct Seen {
    path: PathBuf,
    /// The log, once it exists.
    log: Option<BufReader<File>>,
    /// A line that is not complete yet.
    partial: String,
    /// Flows by application protocol, or by transport protocol if that is unknown.
    pub(super) flows: BTreeMap<String, Flows>,
    /// Names that were queried.
    pub(super) names: BTreeMap<String, Name>,
    /// The latest flows and answers, as text.
    pub(super) last: VecDeque<String>,
    /// The flow records themselves.
    pub(super) records: Vec<Value>,
    /// The latest counters, and those before.
    pub(super) counters: [Counters; 2],
}

impl Seen {
    /// Makes rates averages over the whole time from now on.
    pub(super) fn average(&mut self) {
        self.counters[1] = Counters::default();
    }

    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            log: None,
            partial: String::new(),
            flows: BTreeMap::new(),
            names: BTreeMap::new(),
            last: VecDeque::new(),
            records: Vec::new(),
            counters: [Counters::default(); 2],
        }
    }

    /// Reads the records written since the last call.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let Some(mut log) = self.log.take().or_else(|| Some(BufReader::new(File::open(&self.path).ok()?)))
        else {
            return Ok(());
        };
        while log.read_line(&mut self.partial)? > 0 && self.partial.ends_with('\n') {
            let line = std::mem::take(&mut self.partial);
            self.record(serde_json::from_str(&line)?);
        }
        self.log = Some(log);
        Ok(())
    }

    fn record(&mut self, record: Value) {
        match text(&record, "event_type") {
            "stats" => self.stats(&record["stats"]),
            "dns" => self.dns(&record),
            "flow" => self.flow(record),
            _ => {}
        }
    }

    fn stats(&mut self, stats: &Value) {
        let all = |list: &Value, pointer: &str| -> u64 {
            list.as_array().into_iter().flatten().map(|entry| total(entry.pointer(pointer))).sum()
        };
        let (interfaces, workers) = (&stats["interfaces"], &stats["workers"]);
        let rings: u64 =
            interfaces.as_array().into_iter().flatten().map(|one| all(&one["rings"], "/lost")).sum();
        let now = Counters {
            seconds: stats["seconds"].as_f64().unwrap_or_default(),
            seen: all(interfaces, "/program/seen"),
            bytes: all(workers, "/delivered_bytes"),
            flows: all(workers, "/flows_total"),
            lost: all(interfaces, "/program/dropped")
                + rings
                + all(workers, "/hand_over/full")
                + all(workers, "/refused")
                + total(stats.pointer("/records/lost")),
        };
        self.counters = [now, self.counters[0]];
    }

    fn dns(&mut self, record: &Value) {
        let dns = &record["dns"];
        let name = text(dns, "rrname").to_owned();
        if text(dns, "type") == "query" {
            self.names.entry(name).or_default().queries += 1;
            return;
        }
        let answers: Vec<_> = dns["answers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|answer| text(answer, "rdata"))
            .filter(|data| !data.is_empty())
            .map(short)
            .collect();
        let rcode = text(dns, "rcode");
        let known = &mut self.names.entry(name.clone()).or_default().answers;
        if rcode != "NOERROR" {
            known.insert(rcode.to_owned());
        }
        known.extend(answers.iter().cloned());
        let answer = match (rcode, answers.is_empty()) {
            ("NOERROR", true) => "no such record".to_owned(),
            ("NOERROR", false) => answers.join(" "),
            _ => rcode.to_owned(),
        };
        self.tell(format!("dns   {} {name} = {answer}", text(dns, "rrtype")));
    }

    fn flow(&mut self, record: Value) {
        let (proto, app) = (text(&record, "proto"), text(&record, "app_proto"));
        let kind = if matches!(app, "" | "failed") { proto } else { app };
        let flow = &record["flow"];
        let bytes = total(flow.get("bytes_toserver")) + total(flow.get("bytes_toclient"));
        let end = |side: &str| {
            let address = short(text(&record, &format!("{side}_ip")));
            match record.get(format!("{side}_port")) {
                Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                Some(port) => format!("{address}:{port}"),
                None => address,
            }
        };
        let line = format!("flow  {} > {} {kind} {}", end("src"), end("dest"), human(bytes));
        let flows = self.flows.entry(kind.to_owned()).or_default();
        flows.count += 1;
        flows.bytes += bytes;
        self.tell(line);
        self.records.push(record);
    }

    fn tell(&mut self, line: String) {
        self.last.push_back(line);
        if self.last.len() > LAST {
            self.last.pop_front();
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the number, or the sum of an object's numbers.
pub(super) fn total(value: Option<&Value>) -> u64 {
    match value {
        Some(Value::Number(number)) => number.as_u64().unwrap_or_default(),
        Some(Value::Object(object)) => object.values().map(|value| total(Some(value))).sum(),
        _ => 0,
    }
}

/// Returns an address in its usual form, because EVE writes IPv6 in full. Returns other text unchanged.
fn short(address: &str) -> String {
    address.parse::<IpAddr>().map_or_else(|_| address.to_owned(), |address| address.to_string())
}

/// Formats bytes with a unit.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|&&(size, _)| bytes >= size) {
        Some(&(size, unit)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write as _;

    #[test]
    fn a_log_is_followed_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.json");
        let mut seen = Seen::new(path.clone());
        seen.read().unwrap();
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let query = r#"{"event_type":"dns","dns":{"type":"query","rrname":"a.test"}}"#;
        let answer = r#"{"event_type":"dns","dns":{"type":"answer","rrname":"a.test","rcode":"NOERROR","answers":[{"rdata":"10.0.0.1"}]}}"#;
        let (before, after) = answer.split_at(20);
        write!(log, "{query}\n{before}").unwrap();
        seen.read().unwrap();
        assert_eq!((seen.names["a.test"].queries, seen.names["a.test"].answers.len()), (1, 0));
        writeln!(log, "{after}").unwrap();
        seen.read().unwrap();
        assert!(seen.names["a.test"].answers.contains("10.0.0.1"));
    }

    #[test]
    fn bytes_have_units_for_people() {
        assert_eq!([human(999), human(1_500), human(48_000_000)], ["999 B", "1.5 kB", "48.0 MB"]);
    }
}
