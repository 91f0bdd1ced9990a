//! Names of mirror sessions and hosts: asked of AWS, kept in a file, shown in records.

mod ec2;

use std::fs;
use std::path::Path;
use std::process::Command;

use mirror_xdp_tests::appliance::{Bed, PATIENCE, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_query, mirrored};
use mirror_xdp_tests::process::Process;
use serde_json::{Value, json};

use self::ec2::{EXTERNAL_ID, Ec2, KEY_ID, Mirrored, OWN, SECRET};

/// Another account, and a role in it.
const OTHER: &str = "444455556666";
const ROLE: &str = "arn:aws:iam::444455556666:role/mirror-xdp";

/// Returns `mirror-xdp aws ARGUMENTS` for a server, in the appliance's namespace.
fn aws(bed: &Bed, ec2: &Ec2, arguments: &[&str]) -> Command {
    let mut command = bed.command(&[&["aws"], arguments].concat());
    command.args(["--endpoint", &ec2.url(), "--region", "eu-central-1"]);
    command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command
}

/// Returns a mirrored interface of an outer source, as frames have it by default.
fn web(vni: u32, source: &str) -> Mirrored {
    Mirrored { vni, source: source.to_owned(), name: format!("web-{vni}") }
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Returns the frame of a DNS query in a mirror session.
fn query(vni: u32, port: u16) -> Vec<u8> {
    let outer = mirrored(vni).between([10, 9, 0, 1].into(), [10, 9, 0, 2].into());
    outer.carrying(&Flow::v4(port, 53).udp(&dns_query(1, "shop.test")))
}

#[test]
fn records_name_the_instance_and_a_new_session_is_asked_for_at_once() {
    let Some(bed) = Bed::new(1) else { return };
    let ec2 = Ec2::start(&bed.appliance);
    ec2.add(OWN, [web(7, "10.9.0.1")]);
    let file = bed.log_dir().join("sessions.json");
    let path = file.to_str().unwrap();
    let appliance = bed.start(&["--names", path]);
    let mut watch =
        Process::spawn(&mut aws(&bed, &ec2, &["watch", "--output", path, "--tags", "team"])).unwrap();
    watch.wait_for_line("mirror-xdp: names are in", PATIENCE).unwrap();
    let dns_of = |vni: u32| -> Vec<Value> {
        let records = bed.records();
        let dns = of_type(&records, "dns").into_iter().cloned();
        dns.filter(|record| record["mirror"]["vni"] == vni).collect()
    };
    // The capture looks for other names each second.
    let mut port = 1000;
    wait_until("a record has a name", || {
        port += 1;
        bed.send(&[query(7, port)]);
        dns_of(7).iter().any(|record| record["mirror"]["name"] == "web-7")
    });
    let named = dns_of(7).into_iter().find(|record| record["mirror"]["name"] == "web-7").unwrap();
    let mut mirror = named["mirror"].clone();
    mirror["outer_dst"].take();
    assert_eq!(
        mirror,
        json!({
            "vni": 7, "outer_src": "10.9.0.1", "outer_dst": null, "session": "tms-111122223333-0",
            "interface": "eni-111122223333-0", "instance": "i-111122223333-0", "name": "web-7",
            "vpc": "vpc-111122223333", "subnet": "subnet-1", "account": OWN, "tags": {"team": "shop"},
        })
    );
    let calls = |ec2: &Ec2| ec2.calls(OWN)["DescribeTrafficMirrorSessions"];
    assert_eq!(calls(&ec2), 1, "nothing was unknown");
    // The next refresh would be in a minute.
    ec2.add(OWN, [web(8, "10.9.0.1")]);
    wait_until("the new session has a name", || {
        port += 1;
        bed.send(&[query(8, port)]);
        dns_of(8).iter().any(|record| record["mirror"]["name"] == "web-8")
    });
    // A session that no account has is asked for once.
    let before = calls(&ec2);
    wait_until("the unknown session is asked for", || {
        bed.send(&[query(9, 1)]);
        calls(&ec2) > before
    });
    assert!(watch.interrupt(PATIENCE).unwrap().status.success());
    appliance.stop().assert_conserved();
}

#[test]
fn ten_thousand_sessions_of_two_accounts_take_few_calls() {
    let Some(bed) = Bed::new(1) else { return };
    let ec2 = Ec2::start(&bed.appliance);
    for (account, network) in [(OWN, 1), (OTHER, 2)] {
        let source = |number: u32| format!("10.{network}.{}.{}", number >> 8, number & 255);
        ec2.add(account, (0..5000).map(|number| web(number, &source(number))));
    }
    let file = bed.log_dir().join("sessions.json");
    let role = format!("{ROLE},{EXTERNAL_ID}");
    let arguments = ["watch", "--once", "--output", file.to_str().unwrap(), "--role", &role];
    let output = bed.run_to_end(aws(&bed, &ec2, &arguments));
    assert!(output.status.success(), "{:?}", output.stderr);
    let names = read(&file).unwrap();
    assert_eq!(names["sessions"].as_array().unwrap().len(), 10_000);
    assert_eq!(names["hosts"].as_array().unwrap().len(), 10_000);
    for account in [OWN, OTHER] {
        for action in ["DescribeTrafficMirrorSessions", "DescribeNetworkInterfaces", "DescribeInstances"] {
            assert_eq!(ec2.calls(account)[action], 5, "{action} in {account}");
        }
    }
    assert_eq!(ec2.calls(OWN)["AssumeRole"], 1);
}

#[test]
fn an_account_that_fails_keeps_its_names_and_says_why() {
    let Some(bed) = Bed::new(1) else { return };
    let ec2 = Ec2::start(&bed.appliance);
    ec2.add(OWN, [web(7, "10.9.0.1")]);
    ec2.add(OTHER, [web(8, "10.9.0.1")]);
    // Throttling is waited for.
    ec2.fail(&[(503, "RequestLimitExceeded"), (500, "InternalError")]);
    let output = bed.run_to_end(aws(&bed, &ec2, &["sessions", "--json"]));
    assert!(output.status.success(), "{:?}", output.stderr);
    let sessions: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(sessions["sessions"][0]["name"], "web-7");
    assert_eq!(sessions["failures"], json!([]));
    // The other account is shown although one is denied.
    ec2.deny(OWN, "DescribeInstances");
    let role = format!("{ROLE},{EXTERNAL_ID}");
    let output = bed.run_to_end(aws(&bed, &ec2, &["sessions", "--role", &role]));
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<_> = output.stdout.lines().collect();
    assert!(matches!(lines.as_slice(), [_, row] if row.starts_with("tms-444455556666-0  8")), "{lines:?}");
    assert_eq!(
        output.stderr,
        ["mirror-xdp: eu-central-1: DescribeInstances: UnauthorizedOperation: refused; a policy with \
             {\"Effect\":\"Allow\",\"Action\":\"ec2:DescribeInstances\",\"Resource\":\"*\"} allows it"]
    );
    // Without the external id, the role cannot be assumed.
    let output = bed.run_to_end(aws(&bed, &ec2, &["sessions", "--role", ROLE, "--only-roles"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.concat().contains("AssumeRole: AccessDenied"), "{:?}", output.stderr);
}

#[test]
fn wrong_arguments_get_one_line() {
    let Some(bed) = Bed::new(1) else { return };
    let ec2 = Ec2::start(&bed.appliance);
    for (arguments, words) in [
        (&["sessions", "--role", "arn:aws:iam::1:role/x"][..], "arn:aws:iam::111122223333:role/NAME"),
        (&["sessions", "--only-roles"], "--role"),
        (&["watch", "--interval", "1s"], "10s"),
    ] {
        let output = bed.run_to_end(aws(&bed, &ec2, arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.concat().contains(words), "{arguments:?}: {:?}", output.stderr);
    }
    let output = bed.run_to_end(aws(&bed, &ec2, &["watch", "--once", "--output", "/nowhere/names.json"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.concat().contains("name another file with --output"), "{:?}", output.stderr);
}
