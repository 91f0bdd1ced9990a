//! Streams and transactions of HTTP.

use mirror_xdp_tests::appliance::of_type;
use serde_json::{Value, json};

use super::records_of;

/// Returns URL, status and length of each HTTP transaction.
fn transactions(records: &[Value]) -> Vec<Value> {
    let http = of_type(records, "http");
    http.iter().map(|it| json!([it["http"]["url"], it["http"]["status"], it["http"]["length"]])).collect()
}

#[test]
fn early_window_32k() {
    let Some(records) = records_of("early-window-32k.pcap.gz") else { return };
    assert_eq!(transactions(&records), [json!(["/first", 200, 48_000]), json!(["/second", 200, 5])]);
    assert_eq!(of_type(&records, "flow")[0]["tcp"]["tc_gap"], Value::Null);
}

#[test]
fn http_response_before_request() {
    let Some(records) = records_of("http-response-before-request.pcap.gz") else { return };
    let all = [
        json!(["/one", 200, 1]),
        json!(["/two", 404, 2]),
        json!(["/three", 500, 3]),
        json!(["/four", 302, 4]),
    ];
    assert_eq!(transactions(&records), all);
}

#[test]
fn http_host_cut_by_mirror() {
    let Some(records) = records_of("http-host-cut-by-mirror.pcap.gz") else { return };
    let http = of_type(&records, "http");
    assert_eq!((&http[0]["http"]["hostname"], &http[0]["http"]["status"]), (&Value::Null, &json!(200)));
    assert_eq!(http[1]["http"]["hostname"], "two.example");
    assert_eq!(http.len(), 2);
}

#[test]
fn clienthello_cut_by_mirror() {
    let Some(records) = records_of("clienthello-cut-by-mirror.pcap.gz") else { return };
    let events = of_type(&records, "tls");
    let tls = &events[0]["tls"];
    assert_eq!((&tls["sni"], &tls["version"]), (&json!("cut.example"), &json!("TLS 1.3")));
    assert_eq!(tls["ja4"], Value::Null);
}

#[test]
fn http_304_content_length() {
    let Some(records) = records_of("http-304-content-length.pcap.gz") else { return };
    assert_eq!(transactions(&records), [json!(["/n", 304, 0]), json!(["/z", 404, 3]), json!(["/e", 200, 5])]);
}
