//! The example of a user's own analyzer works as documented.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::path::PathBuf;
use std::process::Command;

use etherparse::{PacketBuilder, TcpHeader};
use mirror_xdp_tests::appliance::{Bed, of_type, records};
use mirror_xdp_tests::bench::traffic::write_pcap;
use mirror_xdp_tests::frames::mirrored;
use serde_json::Value;

/// Returns the path of the example, which cargo builds beside the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("mail_senders");
    assert!(
        example.is_file(),
        "`cargo test` builds examples where no test is named; `cargo build --examples` does"
    );
    example
}

/// Returns a connection to the SMTP port in which both sides send these texts in turn.
fn connection(turns: &[(bool, &str)]) -> Vec<Vec<u8>> {
    let mut next = [1000_u32, 5000];
    let opening = [(true, "", true), (false, "", true), (true, "", false)];
    let turns = turns.iter().map(|&(from_client, text)| (from_client, text, false));
    let frame = |(number, (from_client, text, syn)): (usize, (bool, &str, bool))| {
        let (this, other) = if from_client { (0, 1) } else { (1, 0) };
        let (ends, ports) = ([[10, 0, 0, 1], [10, 0, 0, 2]], [4000, 25]);
        let mut header = TcpHeader::new(ports[this], ports[other], next[this], 1000);
        header.syn = syn;
        header.ack = number > 0;
        header.acknowledgment_number = next[other];
        next[this] += text.len() as u32 + u32::from(syn);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(ends[this], ends[other], 64)
            .tcp_header(header)
            .write(&mut frame, text.as_bytes())
            .unwrap();
        frame
    };
    opening.into_iter().chain(turns).enumerate().map(frame).collect()
}

/// A dialogue in which two mails are sent.
const MAILS: [(bool, &str); 4] = [
    (false, "220 mail.example\r\n"),
    (true, "EHLO client\r\nmail FROM:<a@exa"),
    (true, "mple>\r\n"),
    (true, "MAIL FROM:<b@example>\r\n"),
];

/// Compares the events of a log with the connection; returns the events about mail.
fn mails(events: &[Value]) -> Vec<&Value> {
    let mails = of_type(events, "mail");
    let senders: Vec<_> = mails.iter().map(|event| &event["mail"]["from"]).collect();
    assert_eq!(senders, ["<a@example>", "<b@example>"]);
    assert_eq!((&mails[0]["src_ip"], &mails[0]["dest_port"]), (&"10.0.0.1".into(), &25.into()));
    assert_eq!(mails[0]["flow_id"], of_type(events, "flow")[0]["flow_id"]);
    mails
}

#[test]
fn an_analyzer_of_the_user_writes_events_of_its_own_to_the_log() {
    let directory = tempfile::tempdir().unwrap();
    write_pcap(&directory.path().join("mail.pcap"), &connection(&MAILS)).unwrap();
    let output = Command::new(example())
        .args(["read", "--json", "mail.pcap"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(totals["records"]["written"]["mail"], 2, "{output:?}");
    mails(&records(directory.path()));
}

#[test]
fn the_same_analyzer_does_so_live() {
    let Some(bed) = Bed::of(|| Some(example()), 1) else { return };
    let session = mirrored(7);
    let frames: Vec<_> = connection(&MAILS).iter().map(|frame| session.carrying(frame)).collect();
    let report = bed.capture(&frames, &[]);
    assert_eq!(report.number("/records/written/mail"), 2);
    assert_eq!(mails(&bed.records())[0]["mirror"]["vni"], 7);
}
