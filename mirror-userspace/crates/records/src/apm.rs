//! Performance of services: requests, errors and latencies by server, port, protocol and network, from the
//! records that pass through the sink. The measurements of an interval become a `metrics` event for each
//! service. Databases, caches and queues are measured by operation, too.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;
pub use mirror_protocols::eve::Measured;
use mirror_xdp_common::Address;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::{Conversation, FlowRecord, Record};

/// The `event_type` of the events made here.
pub const METRICS: &str = "metrics";

/// Default length of an interval.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of services in an interval; with one more, the interval ends early.
const MAX_SERVICES: usize = 4096;
/// Maximum number of operations of a service that are measured, and of all services together.
const MAX_OPERATIONS: usize = 32;
const MAX_OPERATIONS_OF_ALL: usize = 4096;
/// Maximum time in microseconds, an hour; longer times count as this. It bounds the memory of a histogram.
const LONGEST: u64 = 3_600_000_000;
/// Significant digits of histograms: percentiles are exact to one in a hundred.
const DIGITS: u8 = 2;

/// Upper bounds, in seconds, of the buckets in which latencies are counted for the whole capture; one more
/// bucket has the rest.
pub const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A service whose performance is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// VNI of the server's network; `None` for plain frames of capture files.
    pub vni: Option<u32>,
    /// The server's address.
    pub address: Address,
    /// Whether the address is IPv6.
    pub ipv6: bool,
    /// The server's port.
    pub port: u16,
    /// Transport protocol (IANA).
    pub protocol: u8,
    /// Application protocol, if it was recognised.
    pub application: Option<&'static str>,
}

impl Service {
    fn new(conversation: &Conversation, application: Option<&'static str>) -> Self {
        Self {
            vni: conversation.mirror.map(|mirror| mirror.vni.get()),
            address: conversation.destination,
            ipv6: conversation.ipv6,
            port: conversation.destination_port,
            protocol: conversation.protocol,
            application,
        }
    }
}

/// The measurements of a service in an interval; serializes as the object `metrics`.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Start and end of the interval, in nanoseconds since the epoch.
    pub interval: [u64; 2],
    requests: u64,
    errors: u64,
    latency: Times,
    connections: u64,
    packets: u64,
    retransmissions: u64,
    rtt: Times,
    operations: BTreeMap<Box<str>, OperationMetrics>,
}

/// The measurements of an operation of a service in an interval.
#[derive(Clone, Debug)]
struct OperationMetrics {
    requests: u64,
    errors: u64,
    latency: Times,
}

impl OperationMetrics {
    const fn new() -> Self {
        Self { requests: 0, errors: 0, latency: Times(None) }
    }

    fn request(&mut self, measured: Measured) {
        self.requests += 1;
        self.errors += u64::from(measured.error);
        if let Some(latency) = measured.latency {
            self.latency.add(latency / 1_000);
        }
    }
}

impl Serialize for OperationMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("requests", &self.requests)?;
        map.serialize_entry("errors", &self.errors)?;
        if self.latency.0.is_some() {
            map.serialize_entry("latency_ms", &self.latency)?;
        }
        map.end()
    }
}

/// Returns the measurements of an operation, unless there is no room for another one. `all` is the number of operations
/// of all services.
fn by_operation<'a, T>(
    operations: &'a mut BTreeMap<Box<str>, T>,
    all: &mut usize,
    name: &str,
    new: impl FnOnce() -> T,
) -> Option<&'a mut T> {
    if !operations.contains_key(name) {
        if operations.len() >= MAX_OPERATIONS || *all >= MAX_OPERATIONS_OF_ALL {
            return None;
        }
        *all += 1;
        operations.insert(name.into(), new());
    }
    operations.get_mut(name)
}

impl Metrics {
    const fn new(start: u64) -> Self {
        Self {
            interval: [start; 2],
            requests: 0,
            errors: 0,
            latency: Times(None),
            connections: 0,
            packets: 0,
            retransmissions: 0,
            rtt: Times(None),
            operations: BTreeMap::new(),
        }
    }

    fn request(&mut self, measured: Measured) {
        self.requests += 1;
        self.errors += u64::from(measured.error);
        if let Some(latency) = measured.latency {
            self.latency.add(latency / 1_000);
        }
    }

    fn connection(&mut self, flow: &FlowRecord) {
        let Some(performance) = flow.performance else { return };
        self.connections += 1;
        self.packets += flow.packets.iter().sum::<u64>();
        self.retransmissions +=
            performance.retransmissions.iter().map(|&count| u64::from(count)).sum::<u64>();
        let [_, rtt] = performance.rtt_average;
        if let Some(rtt) = rtt {
            self.rtt.add(rtt.into());
        }
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let [start, end] = self.interval.map(crate::timestamp::Timestamp);
        map.serialize_entry("start", &start)?;
        map.serialize_entry("end", &end)?;
        if self.requests > 0 {
            map.serialize_entry("requests", &self.requests)?;
            map.serialize_entry("errors", &self.errors)?;
        }
        if self.latency.0.is_some() {
            map.serialize_entry("latency_ms", &self.latency)?;
        }
        if self.connections > 0 {
            map.serialize_entry("connections", &self.connections)?;
            map.serialize_entry("retransmissions", &self.retransmissions)?;
            let rate = self.retransmissions as f64 / self.packets.max(1) as f64;
            map.serialize_entry("retransmission_rate", &rate)?;
        }
        if self.rtt.0.is_some() {
            map.serialize_entry("rtt_ms", &self.rtt)?;
        }
        if !self.operations.is_empty() {
            map.serialize_entry("operations", &self.operations)?;
        }
        map.end()
    }
}

/// The measurements of a service since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Requests, answered or not.
    pub requests: u64,
    /// Requests that the server failed to serve.
    pub errors: u64,
    /// Number of answers by latency, see [`BUCKETS`]; the last bucket has the slower ones.
    pub latency: [u64; BUCKETS.len() + 1],
    /// Sum of the latencies, in seconds.
    pub latency_sum: f64,
    /// Connections that ended.
    pub connections: u64,
    /// Packets of these connections.
    pub packets: u64,
    /// Retransmissions among these packets.
    pub retransmissions: u64,
}

impl Total {
    fn request(&mut self, measured: Measured) {
        self.requests += 1;
        self.errors += u64::from(measured.error);
        if let Some(latency) = measured.latency {
            let seconds = latency as f64 / 1e9;
            self.latency[BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
            self.latency_sum += seconds;
        }
    }

    fn connection(&mut self, flow: &FlowRecord) {
        let Some(performance) = flow.performance else { return };
        self.connections += 1;
        self.packets += flow.packets.iter().sum::<u64>();
        self.retransmissions += performance.retransmissions.iter().copied().map(u64::from).sum::<u64>();
    }
}

/// The state of a service that is kept for as long as the capture runs.
#[derive(Clone, Debug, Default)]
struct Kept {
    total: Total,
    operations: BTreeMap<Box<str>, Total>,
    /// The last complete interval with measurements of the service.
    last: Option<Metrics>,
}

/// The present measurements of a service.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The service; `None` for the sum of the services that there was no room for.
    pub service: Option<Service>,
    /// The current interval.
    pub current: Option<Metrics>,
    /// The last complete interval with measurements of the service.
    pub last: Option<Metrics>,
    /// The sum since the capture began.
    pub total: Total,
    /// The same by operation.
    pub operations: Vec<(Box<str>, Total)>,
}

/// A histogram of times in microseconds; serializes as some percentiles, in milliseconds.
#[derive(Clone, Debug)]
struct Times(Option<Histogram<u32>>);

impl Times {
    fn add(&mut self, micros: u64) {
        if self.0.is_none() {
            self.0 = Histogram::new(DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // The range grows as needed, so that every value fits.
            histogram.auto(true);
            let _ = histogram.record(micros.clamp(1, LONGEST));
        }
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(histogram) = &self.0 {
            for (name, quantile) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
                map.serialize_entry(name, &(histogram.value_at_quantile(quantile) as f64 / 1e3))?;
            }
        }
        map.end()
    }
}

/// The measurements of all services, in the current interval and since the capture began.
#[derive(Debug)]
pub struct Services {
    measured: HashMap<Service, Metrics>,
    kept: HashMap<Service, Kept>,
    /// Services beyond the first [`MAX_SERVICES`].
    others: Total,
    /// The numbers of operations in `measured` and in `kept`.
    operations: [usize; 2],
    /// Start of the interval; 0 before the first record.
    start: u64,
    /// Length of the interval, in nanoseconds.
    interval: u64,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            measured: HashMap::new(),
            kept: HashMap::new(),
            others: Total::default(),
            operations: [0; 2],
            start: 0,
            interval: INTERVAL.as_nanos() as u64,
        }
    }
}

impl Services {
    /// Sets the length of the intervals, including the current one.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    }

    /// Adds the measurements of a record of a batch. `each` receives those of the interval so far if the
    /// record belongs to another interval, or to one service too many.
    pub fn add(&mut self, record: &Record, bytes: &[u8], each: impl FnMut(&Service, &Metrics)) {
        match record {
            Record::Flow(flow) if flow.performance.is_some() => {
                let service = Service::new(&flow.conversation, flow.application.protocol);
                self.total(service).connection(flow);
                self.metrics(service, flow.time, each).connection(flow);
            }
            Record::Flow(_) => {}
            Record::Event(event) => {
                if let Some(measured) = event.measured(bytes) {
                    let service = Service::new(&event.conversation, Some(event.event_type.name));
                    self.total(service).request(measured);
                    self.metrics(service, event.time, each).request(measured);
                    if let Some(operation) = event.operation(bytes) {
                        self.operation(service, &String::from_utf8_lossy(operation), measured);
                    }
                }
            }
        }
    }

    /// Adds a request to the measurements of its operation.
    fn operation(&mut self, service: Service, name: &str, measured: Measured) {
        let [measured_operations, kept_operations] = &mut self.operations;
        if let Some(metrics) = self.measured.get_mut(&service)
            && let Some(of) =
                by_operation(&mut metrics.operations, measured_operations, name, OperationMetrics::new)
        {
            of.request(measured);
        }
        if let Some(kept) = self.kept.get_mut(&service)
            && let Some(of) = by_operation(&mut kept.operations, kept_operations, name, Total::default)
        {
            of.request(measured);
        }
    }

    fn total(&mut self, service: Service) -> &mut Total {
        if self.kept.len() == MAX_SERVICES && !self.kept.contains_key(&service) {
            return &mut self.others;
        }
        &mut self.kept.entry(service).or_default().total
    }

    /// Returns the measurements of at most `limit` services, those with the most requests and connections. If
    /// there was no room for some services, their sum comes last.
    #[must_use]
    pub fn standing(&self, limit: usize) -> Vec<Standing> {
        let mut kept: Vec<_> = self.kept.iter().collect();
        kept.sort_unstable_by_key(|(service, kept)| {
            (std::cmp::Reverse(kept.total.requests + kept.total.connections), **service)
        });
        let standing = |(service, kept): (&Service, &Kept)| Standing {
            service: Some(*service),
            current: self.measured.get(service).cloned(),
            last: kept.last.clone(),
            total: kept.total,
            operations: kept.operations.iter().map(|(name, total)| (name.clone(), *total)).collect(),
        };
        let mut all: Vec<_> = kept.into_iter().take(limit).map(standing).collect();
        if self.others.requests + self.others.connections > 0 {
            all.push(Standing {
                service: None,
                current: None,
                last: None,
                total: self.others,
                operations: Vec::new(),
            });
        }
        all
    }

    fn metrics(&mut self, service: Service, time: u64, each: impl FnMut(&Service, &Metrics)) -> &mut Metrics {
        let full = self.measured.len() == MAX_SERVICES && !self.measured.contains_key(&service);
        if full || time >= self.start.saturating_add(self.interval) {
            self.flush(time, each);
        }
        let start = self.start;
        self.measured.entry(service).or_insert_with(|| Metrics::new(start))
    }

    /// Advances the time, which ends the interval as [`Services::add`] does.
    pub fn advance(&mut self, time: u64, each: impl FnMut(&Service, &Metrics)) {
        if time >= self.start.saturating_add(self.interval) {
            self.flush(time, each);
        }
    }

    /// Ends the interval at the time `now`, at which the next begins.
    pub fn flush(&mut self, now: u64, mut each: impl FnMut(&Service, &Metrics)) {
        let end = now.min(self.start.saturating_add(self.interval));
        // The order is always the same.
        let mut services: Vec<_> = self.measured.drain().collect();
        self.operations[0] = 0;
        services.sort_unstable_by_key(|&(service, _)| service);
        for (service, mut metrics) in services {
            metrics.interval = [self.start, end];
            each(&service, &metrics);
            if let Some(kept) = self.kept.get_mut(&service) {
                kept.last = Some(metrics);
            }
        }
        self.start = now;
    }
}

#[cfg(test)]
mod tests {
    use mirror_packet::{SECOND, Vlans};
    use mirror_xdp_common::wire::protocol;

    use super::*;
    use crate::{EventRecord, EventType};

    /// A request whose only byte is its latency in milliseconds; 0 stands for a failed request.
    static REQUEST: EventType = EventType::new("request", |_, _| Ok(())).measured(|bytes| {
        let [latency] = bytes else { return None };
        let answered = *latency > 0;
        Some(Measured { latency: answered.then_some(u64::from(*latency) * 1_000_000), error: !answered })
    });

    fn request(port: u16, time: u64) -> Record {
        let conversation = Conversation {
            flow_id: 1,
            source: Address::from_v4(1),
            destination: Address::from_v4(2),
            source_port: 4000,
            destination_port: port,
            protocol: protocol::TCP,
            ipv6: false,
            vlans: Vlans::new(),
            mirror: None,
            other_source: None,
        };
        Record::Event(EventRecord { time, conversation, event_type: &REQUEST, bytes: (0, 1), relay: (0, 0) })
    }

    fn json(metrics: &Metrics) -> serde_json::Value {
        serde_json::to_value(metrics).unwrap()
    }

    #[test]
    fn latencies_and_errors_are_of_the_service_and_the_interval() {
        let mut services = Services::default();
        let mut ended = Vec::new();
        let start = 6000 * SECOND;
        for (port, second, latency) in [(80, 0, 10), (80, 1, 20), (80, 2, 0), (443, 3, 7), (80, 61, 40)] {
            services.add(&request(port, start + second * SECOND), &[latency], |service, metrics| {
                ended.push((service.port, json(metrics)));
            });
        }
        assert_eq!(ended.iter().map(|&(port, _)| port).collect::<Vec<_>>(), [80, 443]);
        let first = &ended[0].1;
        assert_eq!((&first["requests"], &first["errors"]), (&3.into(), &1.into()));
        let max = first["latency_ms"]["max"].as_f64().unwrap();
        assert!((20.0..20.3).contains(&max), "{max}");
        let median = first["latency_ms"]["p50"].as_f64().unwrap();
        assert!((10.0..10.2).contains(&median), "{median}");
        let mut last = Vec::new();
        services.flush(start + 62 * SECOND, |_, metrics| last.push(json(metrics)["requests"].clone()));
        assert_eq!(last, [1]);
    }

    #[test]
    fn what_stands_is_the_interval_the_one_before_and_the_sum_of_all() {
        let mut services = Services::default();
        let start = 6000 * SECOND;
        for (second, latency) in [(0, 10), (1, 20), (2, 0), (61, 40)] {
            services.add(&request(80, start + second * SECOND), &[latency], |_, _| {});
        }
        services.add(&request(443, start + 62 * SECOND), &[3], |_, _| {});
        let standing = services.standing(1);
        let [http] = &standing[..] else { panic!("{standing:?}") };
        assert_eq!(http.service.map(|service| service.port), Some(80));
        assert_eq!(http.current.as_ref().map(|metrics| metrics.requests), Some(1));
        assert_eq!(http.last.as_ref().map(|metrics| metrics.requests), Some(3));
        assert_eq!((http.total.requests, http.total.errors), (4, 1));
        let bucket = |le: f64| http.total.latency[BUCKETS.iter().position(|&bound| bound >= le).unwrap()];
        assert_eq!((bucket(0.01), bucket(0.025), bucket(0.05)), (1, 1, 1));
        assert!((http.total.latency_sum - 0.07).abs() < 1e-9);
        assert_eq!(services.standing(9).len(), 2);
    }

    #[test]
    fn operations_are_measured_by_name_as_far_as_there_is_room() {
        static OPERATION: EventType = EventType {
            operation: Some(|bytes| Some(bytes)),
            ..EventType::new("request", |_, _| Ok(()))
                .measured(|bytes| Some(Measured { latency: Some(2_000_000), error: bytes == b"B" }))
        };
        let mut services = Services::default();
        let names: Vec<_> = (b'A'..=b'Z').chain(b'a'..=b'z').map(|name| [name]).collect();
        for name in names.iter().chain([b"A", b"B"]) {
            let Record::Event(event) = request(6379, SECOND) else { panic!() };
            let record = Record::Event(EventRecord { event_type: &OPERATION, ..event });
            services.add(&record, name, |_, _| {});
        }
        let standing = services.standing(1).remove(0);
        assert_eq!((standing.total.requests, standing.operations.len()), (54, MAX_OPERATIONS));
        let (name, total) = &standing.operations[1];
        assert_eq!((&**name, total.requests, total.errors), ("B", 2, 2));
        let operations = json(standing.current.as_ref().unwrap())["operations"].take();
        assert_eq!((&operations["A"]["requests"], &operations["A"]["errors"]), (&2.into(), &0.into()));
        let max = operations["A"]["latency_ms"]["max"].as_f64().unwrap();
        assert!((2.0..2.03).contains(&max), "{max}");
    }

    #[test]
    fn one_service_too_many_ends_the_interval() {
        let mut services = Services::default();
        let mut ended = 0;
        services.add(&request(0, SECOND), &[1], |_, _| {});
        for port in 1..=MAX_SERVICES as u16 {
            services.add(&request(port, SECOND), &[1], |_, _| ended += 1);
        }
        assert_eq!(ended, MAX_SERVICES);
        let last = services.standing(MAX_SERVICES).pop().unwrap();
        assert_eq!((last.service, last.total.requests), (None, 1));
    }
}
