//! Alerts for the operator: losses within the last minute, workers that do not move, interfaces without a
//! carrier, generic mode, VNIs that have fallen silent, a disk that is nearly full, packets that cannot be
//! uploaded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mirror_device::xdp::Mode;
use mirror_store::UploadCounters;
use serde::Serialize;

use super::view::{HAND_OVER_FULL, losses};
use super::{Health, Snapshot};
use crate::stats::Policy;

/// Older losses raise no alert.
const WINDOW: Duration = Duration::from_secs(60);
/// A VNI that had frames, but none for this many seconds, has fallen silent.
const SILENT: std::ops::Range<u64> = 300..86_400;
/// The maximum number of silent VNIs in the text.
const NAMED: usize = 5;

/// A condition that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Alert {
    /// `critical`, `warning` or `info`.
    pub(super) severity: &'static str,
    /// The description for people.
    pub(super) text: String,
}

fn alert(severity: &'static str, text: impl Into<String>) -> Alert {
    Alert { severity, text: text.into() }
}

/// The losses by stage or kind, at several times of the last minute.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Vec<(&'static str, u64)>)>);

impl History {
    /// Returns the losses of each stage within the window, as far as there are samples.
    fn recent(&mut self, now: Instant, sums: Vec<(&'static str, u64)>) -> Vec<(&'static str, u64)> {
        self.0.retain(|(time, _)| now.duration_since(*time) <= WINDOW);
        let before = self.0.front().map(|(_, sums)| sums.clone());
        let since = |&(stage, sum): &(&'static str, u64)| {
            let before = before.as_ref()?.iter().find(|(other, _)| *other == stage);
            Some((stage, sum - before.map_or(0, |&(_, before)| before.min(sum))))
        };
        let recent = sums.iter().filter_map(since).filter(|&(_, count)| count > 0).collect();
        self.0.push_back((now, sums));
        recent
    }
}

/// Returns all current alerts, the most severe first.
pub(super) fn alerts(
    history: &mut History,
    snapshot: &Snapshot,
    policies: &[Policy],
    health: &Health,
    free: Option<(u64, u64)>,
) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for (worker, watch) in health.watches().iter().enumerate() {
        if !watch.pulse.is_moving() {
            let seconds = watch.pulse.age().as_secs();
            alerts.push(alert("critical", format!("worker {worker} has not moved for {seconds} s")));
        }
    }
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for loss in losses(snapshot) {
        // Frames that did not reach the worker that owns their flow are lost; frames that a worker refused
        // are not.
        let kind = if loss.reason == HAND_OVER_FULL { HAND_OVER_FULL } else { loss.stage };
        match sums.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, sum)) => *sum += loss.count,
            None => sums.push((kind, loss.count)),
        }
    }
    for (stage, count) in history.recent(Instant::now(), sums) {
        let (severity, what) = match stage {
            "device" => ("critical", "frames lost by the device"),
            "ring" => ("critical", "frames lost between program and workers"),
            HAND_OVER_FULL => ("critical", "frames lost from worker to worker"),
            "records" => ("critical", "records lost on the way to the log"),
            "program" => ("warning", "frames dropped as malformed or undeliverable"),
            _ => ("info", "frames that no flow could be made of"),
        };
        alerts.push(alert(severity, format!("{count} {what} within the last minute")));
    }
    if let Some((free, all)) = free
        && free < all / 10
    {
        let severity = if free < all / 50 { "critical" } else { "warning" };
        alerts.push(alert(severity, format!("{} MB are free for records", free >> 20)));
    }
    alerts.extend(snapshot.stats.upload.as_ref().and_then(upload));
    for (interface, device) in snapshot.stats.interfaces.iter().zip(&snapshot.received) {
        if !device.running {
            alerts.push(alert("critical", format!("{} has no carrier", interface.name)));
        }
        if interface.mode == Mode::Generic {
            alerts
                .push(alert("info", format!("{} captures in generic mode, which is slower", interface.name)));
        }
    }
    let silent: Vec<_> = policies
        .iter()
        .flat_map(|policy| &policy.vnis)
        .filter(|vni| SILENT.contains(&vni.idle_seconds))
        .filter_map(|vni| vni.vni)
        .collect();
    if !silent.is_empty() {
        let names: Vec<_> = silent.iter().take(NAMED).map(u32::to_string).collect();
        let more = if silent.len() > NAMED { ", …" } else { "" };
        let text =
            format!("{} VNIs silent for more than five minutes: {}{more}", silent.len(), names.join(", "));
        alerts.push(alert("warning", text));
    }
    let rank = |alert: &Alert| ["critical", "warning", "info"].iter().position(|s| *s == alert.severity);
    alerts.sort_by_key(rank);
    alerts
}

/// Returns an alert about the upload, if there is a reason for one.
fn upload(counters: &UploadCounters) -> Option<Alert> {
    let UploadCounters { to, failing, waiting, waiting_bytes, overdue, .. } = counters;
    if *overdue > 0 {
        let text = format!("{overdue} segments cannot be deleted before they are uploaded to {to}");
        return Some(alert("critical", text));
    }
    failing.then(|| {
        let megabytes = waiting_bytes >> 20;
        alert("warning", format!("uploading to {to} fails; {waiting} segments wait, {megabytes} MB"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_uploaded_is_told_where_something_is_wrong() {
        let counters = UploadCounters { to: "file:///copy".to_owned(), waiting: 3, ..Default::default() };
        assert_eq!(upload(&counters), None);
        let failing = UploadCounters { failing: true, waiting_bytes: 5 << 20, ..counters.clone() };
        let text = "uploading to file:///copy fails; 3 segments wait, 5 MB";
        assert_eq!(upload(&failing), Some(alert("warning", text)));
        let overdue = UploadCounters { overdue: 2, ..failing };
        let text = "2 segments cannot be deleted before they are uploaded to file:///copy";
        assert_eq!(upload(&overdue), Some(alert("critical", text)));
    }

    #[test]
    fn only_what_was_lost_within_the_window_is_recent() {
        let mut history = History::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(history.recent(at(0), vec![("ring", 5)]), []);
        assert_eq!(history.recent(at(30), vec![("ring", 7), ("device", 1)]), [("ring", 2), ("device", 1)]);
        assert_eq!(history.recent(at(80), vec![("ring", 7), ("device", 1)]), []);
        assert_eq!(history.recent(at(200), vec![("ring", 9)]), []);
    }
}
