//! The example of an analyzer of one's own does what it says.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use etherparse::{PacketBuilder, TcpHeader};
use serde_json::Value;

/// Cargo builds examples beside tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("mail_senders");
    assert!(
        example.is_file(),
        "`cargo test` builds examples where no test is named; `cargo build --examples` does"
    );
    example
}

/// A connection to the port of SMTP in which both sides say these in turns, as a pcap file.
fn capture(turns: &[(bool, &str)]) -> Vec<u8> {
    let mut next = [1000_u32, 5000];
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(u32::to_le_bytes(word));
    }
    let opening = [(true, "", true), (false, "", true), (true, "", false)];
    let turns = turns.iter().map(|&(from_client, text)| (from_client, text, false));
    for (second, (from_client, text, syn)) in opening.into_iter().chain(turns).enumerate() {
        let (this, other) = if from_client { (0, 1) } else { (1, 0) };
        let (ends, ports) = ([[10, 0, 0, 1], [10, 0, 0, 2]], [4000, 25]);
        let mut header = TcpHeader::new(ports[this], ports[other], next[this], 1000);
        header.syn = syn;
        header.ack = second > 0;
        header.acknowledgment_number = next[other];
        next[this] += text.len() as u32 + u32::from(syn);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(ends[this], ends[other], 64)
            .tcp_header(header)
            .write(&mut frame, text.as_bytes())
            .unwrap();
        for word in [second as u32, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(frame);
    }
    file
}

#[test]
fn an_analyzer_of_the_user_writes_events_of_its_own_to_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = capture(&[
        (false, "220 mail.example\r\n"),
        (true, "EHLO client\r\nmail FROM:<a@exa"),
        (true, "mple>\r\n"),
        (true, "MAIL FROM:<b@example>\r\n"),
    ]);
    fs::write(directory.path().join("mail.pcap"), file).unwrap();
    let output = Command::new(example())
        .args(["read", "--json", "mail.pcap"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let totals: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(totals["records"]["written"]["mail"], 2, "{output:?}");
    let log = fs::read_to_string(directory.path().join("eve.json")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mail: Vec<_> = events.iter().filter(|event| event["event_type"] == "mail").collect();
    assert_eq!(
        (&mail[0]["mail"]["from"], &mail[1]["mail"]["from"]),
        (&"<a@example>".into(), &"<b@example>".into())
    );
    assert_eq!((&mail[0]["src_ip"], &mail[0]["dest_port"]), (&"10.0.0.1".into(), &25.into()));
    let flow = events.iter().find(|event| event["event_type"] == "flow").unwrap();
    assert_eq!(mail[0]["flow_id"], flow["flow_id"]);
}
