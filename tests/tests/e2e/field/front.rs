//! Preambles in front of a protocol, and hellos without answers.

use mirror_xdp_tests::appliance::of_type;
use serde_json::{Value, json};

use super::records_of;

/// Returns the only event of a type.
fn only<'a>(records: &'a [Value], kind: &str) -> &'a Value {
    let found = of_type(records, kind);
    assert_eq!(found.len(), 1, "{kind}: {records:?}");
    found[0]
}

#[test]
fn http_behind_a_proxy_header_is_recorded_with_the_clients_address() {
    let Some(records) = records_of("proxy-protocol-v2-http.pcap.gz") else { return };
    let event = only(&records, "http");
    let http = &event["http"];
    assert_eq!(
        [&http["http_method"], &http["url"], &http["hostname"], &http["status"]],
        [&json!("GET"), &json!("/index.html"), &json!("www.example.com"), &json!(200)]
    );
    let flow = only(&records, "flow");
    assert_eq!((&flow["app_proto"], &flow["app_proto_ts"]), (&json!("http"), &Value::Null));
    assert!(event["proxy"]["src_ip"].is_string());
    assert_eq!(event["proxy"], flow["proxy"]);
}

#[test]
fn tls_behind_the_starttls_of_pop3_is_recorded() {
    let Some(records) = records_of("starttls-pop3.pcap.gz") else { return };
    let tls = &only(&records, "tls")["tls"];
    assert_eq!((&tls["sni"], &tls["from_proto"]), (&json!("pop3.example"), &json!("pop3")));
    let flow = only(&records, "flow");
    assert_eq!((&flow["app_proto"], &flow["app_proto_orig"]), (&json!("tls"), &json!("pop3")));
}

#[test]
fn a_hello_that_an_alert_answers_is_recorded() {
    let Some(records) = records_of("tls-alert-no-event.pcap.gz") else { return };
    let tls = &only(&records, "tls")["tls"];
    assert_eq!((&tls["sni"], &tls["last_alert"]), (&json!("alert.example"), &json!("handshake_failure")));
}

#[test]
fn a_hello_of_which_only_the_clients_direction_is_mirrored_is_recorded() {
    let Some(records) = records_of("tls-one-way-no-event.pcap.gz") else { return };
    let tls = &only(&records, "tls")["tls"];
    assert_eq!(tls["sni"], "oneway.example");
    assert!(tls["ja3"].is_object() && tls["ja4"].is_string());
}
