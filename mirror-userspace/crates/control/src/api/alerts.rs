//! Alerts for the operator: losses within the last minute, workers that do not move, interfaces without a
//! carrier, generic mode, VNIs that have fallen silent, a disk that is nearly full, packets that cannot be
//! uploaded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mirror_device::xdp::Mode;
use mirror_store::UploadCounters;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Health, Snapshot};
use crate::counters::Severity::{self, Critical, Info, Warning};
use crate::counters::{self, CounterSpec};
use crate::stats::Policy;

/// Older losses raise no alert.
const WINDOW: Duration = Duration::from_secs(60);
/// A VNI that had frames, but none for this many seconds, has fallen silent.
const SILENT: std::ops::Range<u64> = 300..86_400;
/// The maximum number of silent VNIs in the text.
const NAMED: usize = 5;

/// A condition that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Alert {
    /// The urgency.
    pub(super) severity: Severity,
    /// The description for people.
    pub(super) text: String,
}

fn alert(severity: Severity, text: impl Into<String>) -> Alert {
    Alert { severity, text: text.into() }
}

/// A counter of losses, and their sum.
type Sum = (&'static CounterSpec, u64);

/// The losses by counter, at several times of the last minute.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, Vec<Sum>)>);

impl History {
    /// Returns the losses within the window by counter, without zeros, as far as there are samples.
    fn recent(&mut self, now: Instant, sums: Vec<Sum>) -> Vec<Sum> {
        self.0.retain(|(time, _)| now.duration_since(*time) <= WINDOW);
        let before = self.0.front().map(|(_, sums)| sums.clone());
        let since = |&(spec, sum): &Sum| {
            let before = before.as_ref()?.iter().find(|(other, _)| other.metric == spec.metric);
            Some((spec, sum - before.map_or(0, |&(_, before)| before.min(sum))))
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
            alerts.push(alert(Critical, format!("worker {worker} has not moved for {seconds} s")));
        }
    }
    let sums = counters::sums(&snapshot.stats);
    for (spec, count) in history.recent(Instant::now(), sums) {
        if let Some(loss) = spec.loss() {
            alerts.push(alert(loss.severity, format!("{count} {} within the last minute", loss.what)));
        }
    }
    if let Some((free, all)) = free
        && free < all / 10
    {
        let severity = if free < all / 50 { Critical } else { Warning };
        alerts.push(alert(severity, format!("{} MB are free for records", free >> 20)));
    }
    alerts.extend(snapshot.stats.upload.as_ref().and_then(upload));
    for (interface, device) in snapshot.stats.interfaces.iter().zip(&snapshot.received) {
        if !device.running {
            alerts.push(alert(Critical, format!("{} has no carrier", interface.name)));
        }
        if interface.mode == Mode::Generic {
            alerts.push(alert(Info, format!("{} captures in generic mode, which is slower", interface.name)));
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
        alerts.push(alert(Warning, text));
    }
    alerts.sort_by_key(|alert| alert.severity);
    alerts
}

/// Returns an alert about the upload, if there is a reason for one.
fn upload(counters: &UploadCounters) -> Option<Alert> {
    let UploadCounters { to, failing, waiting, waiting_bytes, overdue, .. } = counters;
    if *overdue > 0 {
        let text = format!("{overdue} segments cannot be deleted before they are uploaded to {to}");
        return Some(alert(Critical, text));
    }
    failing.then(|| {
        let megabytes = waiting_bytes >> 20;
        alert(Warning, format!("uploading to {to} fails; {waiting} segments wait, {megabytes} MB"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{COUNTERS, Stage};

    #[test]
    fn what_is_not_uploaded_is_told_where_something_is_wrong() {
        let counters = UploadCounters { to: "file:///copy".to_owned(), waiting: 3, ..Default::default() };
        assert_eq!(upload(&counters), None);
        let failing = UploadCounters { failing: true, waiting_bytes: 5 << 20, ..counters.clone() };
        let text = "uploading to file:///copy fails; 3 segments wait, 5 MB";
        assert_eq!(upload(&failing), Some(alert(Warning, text)));
        let overdue = UploadCounters { overdue: 2, ..failing };
        let text = "2 segments cannot be deleted before they are uploaded to file:///copy";
        assert_eq!(upload(&overdue), Some(alert(Critical, text)));
    }

    #[test]
    fn only_what_was_lost_within_the_window_is_recent() {
        let mut history = History::default();
        let start = Instant::now();
        let spec = |metric| COUNTERS.iter().find(|spec| spec.metric == metric).unwrap();
        let [ring, device] = ["ring_lost_frames_total", "device_receive_lost_total"].map(spec);
        let mut recent = |seconds, sums: &[(&'static CounterSpec, u64)]| {
            let recent = history.recent(start + Duration::from_secs(seconds), sums.to_vec());
            recent.iter().map(|&(spec, count)| (spec.stage, count)).collect::<Vec<_>>()
        };
        assert_eq!(recent(0, &[(ring, 5), (device, 0)]), []);
        assert_eq!(recent(30, &[(ring, 7), (device, 1)]), [(Stage::Ring, 2), (Stage::Device, 1)]);
        assert_eq!(recent(80, &[(ring, 7), (device, 1)]), []);
        assert_eq!(recent(200, &[(ring, 9), (device, 1)]), []);
    }
}
