//! Link layers, tunnels, capture files and fingerprints.

use std::process::Command;

use mirror_xdp_tests::appliance::{PATIENCE, of_type};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::require;
use serde_json::{Value, json};

use super::records_of;

/// Returns the records of a capture of one connection with one transaction of HTTP, after checking that there is
/// nothing else, and the packets of each direction.
fn one_flow(name: &str, packets: [u64; 2]) -> Option<Vec<Value>> {
    let records = records_of(name)?;
    let flows = of_type(&records, "flow");
    let counts = |flow: &Value| json!([flow["flow"]["pkts_toserver"], flow["flow"]["pkts_toclient"]]);
    let of_tcp: Vec<_> =
        flows.iter().filter(|flow| flow["proto"] == "TCP").map(|flow| counts(flow)).collect();
    assert_eq!(of_tcp, [json!(packets)], "{name}");
    assert_eq!(of_type(&records, "http").len(), 1, "{name}");
    Some(records)
}

/// Returns the JA4 of the only handshake in a capture.
fn ja4(name: &str) -> Option<String> {
    let records = records_of(name)?;
    Some(of_type(&records, "tls")[0]["tls"]["ja4"].as_str().unwrap().to_owned())
}

#[test]
fn ipv4_total_length_0_tso() {
    let _ = one_flow("ipv4-total-length-0-tso.pcap.gz", [6, 4]);
}

#[test]
fn erspan3_subheader() {
    let _ = one_flow("erspan3-subheader.pcap.gz", [6, 4]);
}

#[test]
fn pptp_gre_address_control() {
    let _ = one_flow("pptp-gre-address-control.pcap.gz", [6, 4]);
}

#[test]
fn pcapng_packet_block() {
    let _ = one_flow("pcapng-packet-block.pcapng.gz", [6, 4]);
}

#[test]
fn mirror_in_sll() {
    let Some(records) = one_flow("mirror-in-sll.pcap.gz", [6, 4]) else { return };
    for kind in ["flow", "http"] {
        assert!(of_type(&records, kind).iter().all(|record| record["mirror"]["vni"] == 7), "{kind}");
    }
}

#[test]
fn mirror_in_sll2_overlapping_vnis() {
    let Some(records) = records_of("mirror-in-sll2-overlapping-vnis.pcap.gz") else { return };
    for kind in ["flow", "http"] {
        let of_kind = of_type(&records, kind);
        let mut vnis: Vec<_> = of_kind.iter().map(|record| record["mirror"]["vni"].as_u64()).collect();
        vnis.sort_unstable();
        assert_eq!(vnis, [Some(7), Some(8)], "{kind}");
    }
    for flow in of_type(&records, "flow") {
        let packets = [&flow["flow"]["pkts_toserver"], &flow["flow"]["pkts_toclient"]];
        assert_eq!(packets, [&json!(6), &json!(4)]);
    }
}

#[test]
fn mirror_with_flannel_8472() {
    let Some(records) = records_of("mirror-with-flannel-8472.pcap.gz") else { return };
    let flows = of_type(&records, "flow");
    let inner = flows.iter().find(|flow| flow["src_ip"] == "10.1.0.10" && flow["src_port"] == 40_000);
    assert_eq!(inner.unwrap()["dest_ip"], "10.1.0.20");
}

#[test]
fn unknown_link_type() {
    let Some(file) = require::field().map(|field| field.join("unknown-link-type.pcap.gz")) else { return };
    let Some(binary) = require::binary() else { return };
    let log_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary);
    command.arg("read").arg(&file).arg("--log-dir").arg(log_dir.path());
    let output = Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("link type 147")), "{:?}", output.stderr);
}

#[test]
fn ja4_alpn_1char() {
    let Some(ja4) = ja4("ja4-alpn-1char.pcap.gz") else { return };
    assert!(ja4.starts_with("t12d0204xx_"), "{ja4}");
}

#[test]
fn ja4_alpn_nonascii() {
    let Some(ja4) = ja4("ja4-alpn-nonascii.pcap.gz") else { return };
    assert!(ja4.starts_with("t12d0204ad_"), "{ja4}");
}

#[test]
fn ja4_no_extensions() {
    let Some(ja4) = ja4("ja4-no-extensions.pcap.gz") else { return };
    assert!(ja4.ends_with("_000000000000"), "{ja4}");
}

#[test]
fn ja4_no_signature_algorithms() {
    let Some(ja4) = ja4("ja4-no-signature-algorithms.pcap.gz") else { return };
    // The beginning of the SHA-256 of "000a".
    assert!(ja4.ends_with("_a8f3e973773c"), "{ja4}");
}
