//! All counters and other metrics, each once: its name, meaning and stage, where it is in the account, whether it
//! is a loss, what to do about it, and how it is read.
//!
//! [`COUNTERS`] is the table. Everything that shows counters is derived from it: the metrics for Prometheus
//! (`api/metrics.rs`), the losses that the page, `top`, the line of progress and the alerts show ([`losses`],
//! [`notices`], [`sums`]), the alert rules of `deploy/prometheus` ([`rules`]) and `docs/counters.md` ([`document`]). The
//! account itself ([`crate::stats`]) is typed; a test checks that the table names every counter of it.

mod document;
mod rules;
mod table;

use std::fmt::Display;

use mirror_device::nic::Received;
use mirror_records::apm::Standing;
use serde::Serialize;
use utoipa::ToSchema;

pub use self::document::document;
pub use self::rules::rules;
pub use self::table::COUNTERS;
use crate::capture::Watch;
use crate::stats::{Policy, Stats};

/// The prefix of all names of metrics.
pub const PREFIX: &str = "mirror_xdp_";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It may also fall.
    Gauge,
    /// Cumulative counts by upper bound.
    Histogram,
}

impl Kind {
    /// Returns the name in Prometheus' text format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The part of a frame's path that a counter belongs to, in the order of that path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The whole process.
    Process,
    /// NIC, driver and link.
    Device,
    /// The XDP program.
    Program,
    /// Rules and VNIs, which the XDP program counts.
    Policy,
    /// The `AF_XDP` sockets.
    Ring,
    /// Frames on the way from one worker to another.
    Handoff,
    /// The workers.
    Worker,
    /// Streams, datagrams and analyzers within the workers.
    Analysis,
    /// The records and their log.
    Records,
    /// The packet store.
    Store,
    /// The upload of the packet store.
    Upload,
    /// The tap.
    Tap,
    /// Requests and connections of services.
    Services,
}

impl Stage {
    /// All stages, in the order of a frame's path.
    pub const ALL: &'static [Self] = &[
        Self::Process,
        Self::Device,
        Self::Program,
        Self::Policy,
        Self::Ring,
        Self::Handoff,
        Self::Worker,
        Self::Analysis,
        Self::Records,
        Self::Store,
        Self::Upload,
        Self::Tap,
        Self::Services,
    ];

    /// Returns the name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Device => "device",
            Self::Program => "program",
            Self::Policy => "policy",
            Self::Ring => "ring",
            Self::Handoff => "handoff",
            Self::Worker => "worker",
            Self::Analysis => "analysis",
            Self::Records => "records",
            Self::Store => "store",
            Self::Upload => "upload",
            Self::Tap => "tap",
            Self::Services => "services",
        }
    }
}

/// The urgency of an alert, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Act now: something is lost or will be.
    Critical,
    /// Look into it.
    Warning,
    /// Worth knowing; usual in small numbers.
    Info,
}

impl Severity {
    /// Returns the name in the API and in alert rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// A counter that counts losses.
#[derive(Clone, Copy, Debug)]
pub struct LossSpec {
    /// The urgency of the alert that each increase raises.
    pub severity: Severity,
    /// The name of the alert rule for Prometheus, without `MirrorXdp`.
    pub alert: &'static str,
    /// The meaning of a number of them: `7 frames lost by the device`.
    pub what: &'static str,
    /// The samples that count losses, if not all do.
    pub only: &'static [Condition],
}

/// A condition on a label.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// The label has this value.
    Is(&'static str, &'static str),
    /// The label has none of these values.
    NoneOf(&'static str, &'static [&'static str]),
}

/// Whether and how a counter is shown to people, in addition to its metric.
#[derive(Clone, Copy, Debug)]
pub enum Shown {
    /// Only as a metric and in the account.
    No,
    /// Beside the losses if it is not 0, although nothing is lost.
    Notice,
    /// As a loss if it is not 0.
    Loss(LossSpec),
}

/// One counter, or one group of counters that differ in their labels.
#[derive(Clone, Copy, Debug)]
pub struct CounterSpec {
    /// The name of the metric, without [`PREFIX`].
    pub metric: &'static str,
    /// The type of the metric.
    pub kind: Kind,
    /// The stage that counts.
    pub stage: Stage,
    /// The names of the labels. Labels without a value are omitted.
    pub labels: &'static [&'static str],
    /// The place in the account; empty if the account lacks it.
    pub account: &'static str,
    /// The meaning, as a sentence.
    pub help: &'static str,
    /// The reasons that a label can contain: value, meaning, and what to do.
    pub reasons: &'static [(&'static str, &'static str, &'static str)],
    /// The remedy if it is not 0; empty if there is none.
    pub action: &'static str,
    /// Whether and how it is shown to people.
    pub shown: Shown,
    /// The place and the reason that are shown if the labels contain none.
    pub shown_as: (&'static str, &'static str),
    /// Reads its samples.
    pub read: fn(&Source<'_>, &mut Samples),
}

/// Everything that metrics are read from. Losses need the account only, see [`Source::account`].
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The account.
    pub stats: &'a Stats,
    /// The kernel's counters of the interfaces, in the order of the account.
    pub received: &'a [Received],
    /// The workers' pulses, in the order of the account.
    pub watches: &'a [Watch],
    /// The counters of VNIs and rules.
    pub policies: &'a [Policy],
    /// The services with the most requests and connections.
    pub services: &'a [Standing],
    /// The free and the total bytes of the file system of the records.
    pub disk: Option<(u64, u64)>,
}

impl<'a> Source<'a> {
    /// Returns a source that consists of the account only.
    #[must_use]
    pub const fn account(stats: &'a Stats) -> Self {
        Self { stats, received: &[], watches: &[], policies: &[], services: &[], disk: None }
    }
}

/// The value of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A measured quantity.
    Number(f64),
    /// A histogram: the cumulative counts by upper bound, and the sum and the number of all values.
    Histogram(Vec<(f64, u64)>, f64, u64),
}

/// A value with the values of its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the labels, in the order of [`CounterSpec::labels`].
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// The samples of a counter.
#[derive(Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    fn add(&mut self, labels: &[&dyn Display], value: Value) {
        self.0.push(Sample { labels: labels.iter().map(ToString::to_string).collect(), value });
    }

    fn count(&mut self, labels: &[&dyn Display], count: u64) {
        self.add(labels, Value::Count(count));
    }

    fn number(&mut self, labels: &[&dyn Display], number: f64) {
        self.add(labels, Value::Number(number));
    }
}

impl CounterSpec {
    /// Returns the full name of the metric.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.metric)
    }

    /// Returns the samples.
    #[must_use]
    pub fn samples(&self, source: &Source<'_>) -> Vec<Sample> {
        let mut samples = Samples::default();
        (self.read)(source, &mut samples);
        samples.0
    }

    /// Returns how it is a loss, if it is one.
    #[must_use]
    pub const fn loss(&self) -> Option<&LossSpec> {
        match &self.shown {
            Shown::Loss(loss) => Some(loss),
            Shown::No | Shown::Notice => None,
        }
    }

    fn label<'s>(&self, sample: &'s Sample, name: &str) -> Option<&'s str> {
        let at = self.labels.iter().position(|label| *label == name)?;
        sample.labels.get(at).map(String::as_str)
    }

    /// Returns the labels that name a place: an interface, a queue, or else a worker, and a VNI.
    fn place_labels(&self) -> impl Iterator<Item = &'static str> {
        let by_queue = self.labels.contains(&"queue");
        let is_place = move |label: &&str| {
            matches!(*label, "interface" | "queue" | "vni") || *label == "worker" && !by_queue
        };
        self.labels.iter().copied().filter(is_place)
    }

    /// Returns the samples that are shown to people, as counts that are not 0.
    fn shown_samples(&self, source: &Source<'_>) -> impl Iterator<Item = (Sample, u64)> {
        let only = self.loss().map_or(&[][..], |loss| loss.only);
        self.samples(source).into_iter().filter_map(move |sample| {
            let holds = |condition: &Condition| match *condition {
                Condition::Is(name, value) => self.label(&sample, name) == Some(value),
                Condition::NoneOf(name, values) => {
                    self.label(&sample, name).is_none_or(|value| !values.contains(&value))
                }
            };
            match sample.value {
                Value::Count(count) if count > 0 && only.iter().all(holds) => Some((sample, count)),
                _ => None,
            }
        })
    }

    fn rows(&'static self, source: &Source<'_>) -> impl Iterator<Item = Listed> {
        self.shown_samples(source).map(|(sample, count)| {
            let places = self.place_labels().filter_map(|label| {
                let value = self.label(&sample, label)?;
                Some(if label == "interface" { value.to_owned() } else { format!("{label} {value}") })
            });
            let place = places.collect::<Vec<_>>().join(" ");
            Listed {
                stage: self.stage,
                place: if place.is_empty() { self.shown_as.0.to_owned() } else { place },
                reason: self.label(&sample, "reason").unwrap_or(self.shown_as.1).to_owned(),
                count,
                severity: self.loss().map(|loss| loss.severity),
            }
        })
    }
}

/// A loss, or another count that is shown to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Listed {
    /// The stage that counted it.
    pub stage: Stage,
    /// The interface, queue or worker.
    pub place: String,
    /// The reason.
    pub reason: String,
    /// The number of frames, records or pieces of data.
    pub count: u64,
    /// The urgency of a loss; absent if nothing is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
}

/// Returns all losses that are not 0, in the order of the stages.
#[must_use]
pub fn losses(stats: &Stats) -> Vec<Listed> {
    listed(stats, |shown| matches!(shown, Shown::Loss(_)))
}

/// Returns all notices that are not 0, in the order of the stages.
#[must_use]
pub fn notices(stats: &Stats) -> Vec<Listed> {
    listed(stats, |shown| matches!(shown, Shown::Notice))
}

fn listed(stats: &Stats, wanted: fn(&Shown) -> bool) -> Vec<Listed> {
    let source = Source::account(stats);
    COUNTERS.iter().filter(|spec| wanted(&spec.shown)).flat_map(|spec| spec.rows(&source)).collect()
}

/// Returns the sum of each counter of losses, with 0.
#[must_use]
pub fn sums(stats: &Stats) -> Vec<(&'static CounterSpec, u64)> {
    let source = Source::account(stats);
    let sum = |spec: &'static CounterSpec| {
        spec.loss()?;
        Some((spec, spec.shown_samples(&source).map(|(_, count)| count).fold(0, u64::saturating_add)))
    };
    COUNTERS.iter().filter_map(sum).collect()
}

#[cfg(test)]
pub(crate) mod tests;
