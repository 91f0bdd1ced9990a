//! The real captures of the corpus: `mirror-xdp read` writes the records that Suricata 7.0.10 writes for
//! them, up to the thresholds below.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use mirror_xdp_tests::require::corpus;
use serde_json::Value;

/// Reads `capture` into the empty directory `logs`; returns the events.
fn read(capture: &Path, logs: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_mirror-xdp"))
        .args(["read", "--json", "--log-dir"])
        .args([logs, capture])
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {output:?}", capture.display());
    let events = events(&logs.join("eve.json"));
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(totals["unaccounted"], 0, "{}", capture.display());
    for kind in ["flow", "dns", "http", "tls", "quic", "ssh", "metrics", "stats"] {
        let count = events.iter().filter(|event| event["event_type"] == kind).count();
        assert_eq!(totals["records"]["written"][kind], count, "{}", capture.display());
    }
    events
}

fn events(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the endpoints of an event, without a direction.
fn endpoints(event: &Value) -> String {
    let end = |ip: &str, port: &str| format!("{} {}", event[ip], event[port]);
    let mut ends = [end("src_ip", "src_port"), end("dest_ip", "dest_port")];
    ends.sort_unstable();
    ends.join(" ")
}

fn is_port_flow(event: &Value) -> bool {
    event["event_type"] == "flow" && (event["proto"] == "TCP" || event["proto"] == "UDP")
}

fn flow(event: &Value) -> Option<String> {
    is_port_flow(event).then(|| format!("{} {}", event["proto"], endpoints(event)))
}

fn flow_and_packets(event: &Value) -> Option<String> {
    let mut packets = ["pkts_toserver", "pkts_toclient"].map(|field| event["flow"][field].to_string());
    packets.sort_unstable();
    flow(event).map(|flow| format!("{flow} {packets:?}"))
}

fn community_id(event: &Value) -> Option<String> {
    is_port_flow(event).then(|| event["community_id"].to_string())
}

fn dns(event: &Value) -> Option<String> {
    let dns = event.get("dns")?;
    let fields = ["type", "id", "rrtype", "rcode"].map(|field| dns[field].to_string());
    let name = dns["rrname"].as_str().unwrap_or_default().trim_end_matches('.').to_lowercase();
    (event["event_type"] == "dns").then(|| format!("{} {fields:?} {name}", endpoints(event)))
}

/// Returns all fields of a DNS message.
fn whole_dns(event: &Value) -> Option<String> {
    let mut dns = event.get("dns")?.clone();
    // Suricata does not measure the latency.
    dns.as_object_mut()?.remove("latency_ms");
    (event["event_type"] == "dns").then(|| format!("{} {dns}", endpoints(event)))
}

/// Returns the values at these pointers in the object of an event of this kind, if the first of them exists.
fn fields(event: &Value, kind: &str, pointers: &[&str]) -> Option<String> {
    let object = event.get(kind).filter(|_| event["event_type"] == kind)?;
    object.pointer(pointers.first()?)?;
    let values: Vec<_> = pointers.iter().map(|pointer| object.pointer(pointer)).collect();
    Some(format!("{} {values:?}", endpoints(event)))
}

/// Returns true for HTTP/2, of which the expectations have no events.
fn is_http2(event: &Value) -> bool {
    event["http"]["version"] == "2"
}

fn http(event: &Value) -> Option<String> {
    if is_http2(event) {
        return None;
    }
    fields(event, "http", &["/http_method", "/hostname", "/url", "/status"])
}

/// Returns all fields of an HTTP transaction except the length of its body.
fn whole_http(event: &Value) -> Option<String> {
    const FIELDS: [&str; 11] = [
        "/http_method",
        "/hostname",
        "/http_port",
        "/url",
        "/http_user_agent",
        "/http_content_type",
        "/content_range",
        "/http_refer",
        "/protocol",
        "/status",
        "/redirect",
    ];
    if is_http2(event) {
        return None;
    }
    fields(event, "http", &FIELDS)
}

fn tls(event: &Value) -> Option<String> {
    fields(event, "tls", &["/version", "/sni"])
}

fn ja3(event: &Value) -> Option<String> {
    fields(event, "tls", &["/ja3/hash", "/ja3/string"])
}

fn ja3s(event: &Value) -> Option<String> {
    fields(event, "tls", &["/ja3s/hash", "/ja3s/string"])
}

fn ja4(event: &Value) -> Option<String> {
    fields(event, "tls", &["/ja4"])
}

/// Returns the JA4 without its last part, the hash of extensions and signature algorithms. Suricata does not follow
/// the specification for hellos without either.
fn ja4_beginning(event: &Value) -> Option<String> {
    let (beginning, _) = event["tls"]["ja4"].as_str()?.rsplit_once('_')?;
    fields(event, "tls", &["/ja4"]).map(|_| format!("{} {beginning}", endpoints(event)))
}

fn certificate(event: &Value) -> Option<String> {
    const FIELDS: [&str; 6] = ["/subject", "/issuerdn", "/serial", "/fingerprint", "/notbefore", "/notafter"];
    fields(event, "tls", &FIELDS)
}

fn client_certificate(event: &Value) -> Option<String> {
    fields(event, "tls", &["/client"])
}

fn session_resumed(event: &Value) -> Option<String> {
    fields(event, "tls", &["/session_resumed"])
}

/// Returns the values of a QUIC event on the ports where Suricata looks for QUIC.
fn quic_fields(event: &Value, pointers: &[&str]) -> Option<String> {
    let on_port = ["src_port", "dest_port"].iter().any(|end| event[end] == 443 || event[end] == 80);
    fields(event, "quic", pointers).filter(|_| on_port)
}

fn quic(event: &Value) -> Option<String> {
    quic_fields(event, &["/sni", "/version", "/ja4"])
}

fn quic_client(event: &Value) -> Option<String> {
    quic_fields(event, &["/ja3", "/extensions"])
}

fn quic_server(event: &Value) -> Option<String> {
    quic_fields(event, &["/ja3s", "/extensions"])
}

/// Returns the flow and its application protocol, if there is an analyzer for it.
fn app_proto(event: &Value) -> Option<String> {
    let name = event["app_proto"].as_str().unwrap_or_default();
    let meant = ["dns", "http", "tls", "quic", "ssh"].contains(&name);
    flow(event).filter(|_| meant).map(|flow| format!("{flow} {name}"))
}

/// A comparison: its key, and the least recall and precision.
struct Measure {
    name: &'static str,
    key: fn(&Value) -> Option<String>,
    least: [f64; 2],
    /// Only connections count of which Suricata has such an event: of others there are more on purpose.
    shared: bool,
    expected: usize,
    ours: usize,
    both: usize,
}

impl Measure {
    const fn new(name: &'static str, key: fn(&Value) -> Option<String>, least: [f64; 2]) -> Self {
        Self { name, key, least, shared: false, expected: 0, ours: 0, both: 0 }
    }

    const fn shared(name: &'static str, key: fn(&Value) -> Option<String>, least: [f64; 2]) -> Self {
        Self { shared: true, ..Self::new(name, key, least) }
    }

    fn add(&mut self, expected: &[Value], ours: &[Value]) {
        let mut left: HashMap<String, usize> = HashMap::new();
        for key in expected.iter().filter_map(self.key) {
            *left.entry(key).or_default() += 1;
            self.expected += 1;
        }
        let connections: HashSet<_> =
            expected.iter().filter(|event| (self.key)(event).is_some()).map(endpoints).collect();
        let counts = |event: &&Value| !self.shared || connections.contains(&endpoints(event));
        for key in ours.iter().filter(counts).filter_map(self.key) {
            self.ours += 1;
            if let Some(count) = left.get_mut(&key).filter(|count| **count > 0) {
                *count -= 1;
                self.both += 1;
            }
        }
    }

    fn check(&self) {
        let recall = self.both as f64 / self.expected as f64;
        let precision = self.both as f64 / self.ours as f64;
        println!("{:16} recall {recall:.4} precision {precision:.4} of {}", self.name, self.expected);
        assert!(recall >= self.least[0] && precision >= self.least[1], "{}", self.name);
    }
}

#[test]
fn records_are_those_of_suricata() {
    let Some(corpus) = corpus() else { return };
    let mut measures = [
        Measure::new("flow", flow, [0.97, 0.95]),
        Measure::new("flow and packets", flow_and_packets, [0.97, 0.95]),
        Measure::new("community ID", community_id, [0.97, 0.95]),
        Measure::new("DNS", dns, [0.99, 0.99]),
        Measure::new("whole DNS", whole_dns, [0.99, 0.99]),
        Measure::new("app_proto", app_proto, [0.98, 0.95]),
        Measure::new("HTTP", http, [0.97, 0.95]),
        Measure::new("whole HTTP", whole_http, [0.95, 0.92]),
        Measure::shared("TLS", tls, [0.97, 0.96]),
        Measure::shared("JA3", ja3, [0.98, 0.96]),
        Measure::shared("JA3S", ja3s, [0.97, 0.96]),
        Measure::shared("JA4", ja4, [0.75, 0.74]),
        Measure::shared("beginning of JA4", ja4_beginning, [0.92, 0.9]),
        Measure::shared("certificate", certificate, [0.98, 0.95]),
        Measure::shared("client certificate", client_certificate, [1.0, 1.0]),
        Measure::shared("session resumed", session_resumed, [0.8, 0.8]),
        Measure::new("QUIC", quic, [0.98, 0.98]),
        Measure::new("QUIC client", quic_client, [0.98, 0.98]),
        Measure::new("QUIC server", quic_server, [0.98, 0.98]),
    ];
    let manifest = fs::read_to_string(corpus.join("MANIFEST.tsv")).unwrap();
    for capture in manifest.lines().filter_map(|line| line.split('\t').next()) {
        let logs = tempfile::tempdir().unwrap();
        let ours = read(&corpus.join(capture), logs.path());
        let expected = events(&corpus.join("expected").join(format!("{capture}.eve.json")));
        for measure in &mut measures {
            measure.add(&expected, &ours);
        }
    }
    for measure in &measures {
        measure.check();
    }
}

#[test]
fn a_capture_of_aws_traffic_mirroring_gives_its_inner_flows_with_their_vni() {
    const CAPTURE: &str = "suricata-verify/tests/vxlan-decoder-03/vxlan.pcap";
    let Some(corpus) = corpus() else { return };
    let logs = tempfile::tempdir().unwrap();
    let ours = read(&corpus.join(CAPTURE), logs.path());
    let expected = events(&corpus.join("expected").join(format!("{CAPTURE}.eve.json")));
    let records: Vec<_> = ours.iter().filter(|event| event["event_type"] != "stats").collect();
    assert!(!records.is_empty());
    for event in records {
        assert_eq!(event["mirror"]["vni"], 5_569_041);
    }
    // Suricata also records the flows that carried the mirrored frames.
    let outer = |event: &&Value| event["src_port"] != 4789 && event["dest_port"] != 4789;
    let mut measure = Measure::new("AWS", flow_and_packets, [1.0, 1.0]);
    let expected: Vec<_> = expected.iter().filter(outer).cloned().collect();
    measure.add(&expected, &ours);
    measure.check();
}

#[test]
fn the_same_capture_gives_the_same_log_each_time() {
    let Some(corpus) = corpus() else { return };
    let capture = corpus.join("suricata-verify/tests/vxlan-decoder-03/vxlan.pcap");
    let [first, second] = [(); 2].map(|()| {
        let logs = tempfile::tempdir().unwrap();
        read(&capture, logs.path());
        let text = fs::read_to_string(logs.path().join("eve.json")).unwrap();
        text.lines().filter(|line| !line.contains("\"stats\"")).collect::<Vec<_>>().join("\n")
    });
    assert_eq!(first, second);
}
