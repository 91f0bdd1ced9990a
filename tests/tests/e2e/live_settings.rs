//! Settings that change while the capture runs: the log level, the analyzers, timeouts, shunting and the
//! packet store. A change that is impossible is refused together with the rest of the file.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use mirror_xdp_tests::appliance::{Bed, INTERFACE, PATIENCE, Report, of_type, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::Process;
use mirror_xdp_tests::{http, require};
use nix::sys::signal::Signal;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::{Value, json};

/// A configuration file that is replaced atomically, so that no partial content is ever read.
struct Configuration {
    path: PathBuf,
}

impl Configuration {
    fn new(bed: &Bed, text: &str) -> Self {
        let this = Self { path: bed.log_dir().join("config.toml") };
        this.write(text);
        this
    }

    fn write(&self, text: &str) {
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    fn arguments(&self) -> [&str; 2] {
        ["--config", self.path.to_str().unwrap()]
    }
}

/// Reloads the file through the API; returns the status and the answer.
fn reload(bed: &Bed) -> (u16, Value) {
    let address = "127.0.0.1:9470".parse().unwrap();
    let answer = http::ask(&bed.appliance, address, "POST /api/v1/reload", &[]).unwrap();
    (answer.status, answer.json())
}

/// Reloads the file, which must succeed; returns the keys that have changed.
fn changed(bed: &Bed) -> Value {
    let (status, answer) = reload(bed);
    assert_eq!(status, 200, "{answer}");
    answer["changed"].clone()
}

/// Returns DNS queries with their answers, each in a flow of its own, from `count` client ports starting at
/// `first`.
fn lookups(vni: u32, first: u16, count: u16) -> Vec<Vec<u8>> {
    let frames = (first..first + count).flat_map(|port| {
        let flow = Flow::v4(port, 53);
        let answer = dns_answer(1, "shop.test", [10, 0, 0, 1].into());
        [flow.udp(&dns_query(1, "shop.test")), flow.reversed().udp(&answer)]
    });
    frames.map(|frame| mirrored(vni).carrying(&frame)).collect()
}

/// Waits until the workers' published counters show this many analysed frames.
fn wait_until_analysed(bed: &Bed, frames: u64) {
    let address = "127.0.0.1:9470".parse().unwrap();
    wait_until("all frames are analysed", || {
        let stats = http::ask(&bed.appliance, address, "GET /api/v1/stats", &[]).unwrap().json();
        let workers = stats["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["analysed"].as_u64().unwrap()).sum::<u64>() == frames
    });
}

#[test]
fn the_level_of_messages_changes_by_reload_and_the_environment_goes_before_it() {
    let Some(bed) = Bed::new(1) else { return };
    let config = Configuration::new(&bed, "");
    let start = |environment: Option<&str>| {
        let mut command = bed.run_command(&[INTERFACE], &config.arguments());
        command.env_remove("RUST_LOG");
        if let Some(level) = environment {
            command.env("RUST_LOG", level);
        }
        let mut process = Process::spawn(&mut command).unwrap();
        process.wait_for_line("capturing on", PATIENCE).unwrap();
        process
    };
    let ended = |process: Process| -> Vec<String> {
        let output = process.interrupt(PATIENCE).unwrap();
        assert!(output.status.success(), "{:?}", output.stderr);
        output.stderr
    };

    let mut process = start(None);
    config.write("[log]\nlevel = \"debug\"\n");
    process.signal(Signal::SIGHUP).unwrap();
    let line = process.wait_for_line("DEBUG log.level changes", PATIENCE).unwrap();
    assert!(line.ends_with("from \"warn\" to \"debug\""), "{line}");
    let said = process.wait_for_line("mirror-xdp: ", PATIENCE).unwrap();
    assert!(said.contains("read again") && said.ends_with("; changed: log.level"), "{said}");
    config.write("[log]\nlevel = \"error\"\n");
    assert_eq!(changed(&bed), json!(["log.level"]));
    config.write("[log]\nlevel = \"error\"\n[analysis]\nanalyzers = []\n");
    assert_eq!(changed(&bed), json!(["analysis.analyzers"]));
    let debug: Vec<_> = ended(process).into_iter().filter(|line| line.starts_with("DEBUG")).collect();
    assert!(debug.is_empty(), "{debug:?}");

    let process = start(Some("error"));
    config.write("[log]\nlevel = \"debug\"\n");
    assert_eq!(changed(&bed), json!(["analysis.analyzers"]));
    let debug = ended(process).into_iter().filter(|line| line.starts_with("DEBUG")).count();
    assert_eq!(debug, 0);
}

#[test]
fn an_analyzer_that_is_switched_off_writes_no_more_records_and_flows_go_on() {
    let Some(bed) = Bed::new(2) else { return };
    let config = Configuration::new(&bed, "");
    let mut appliance = bed.start(&config.arguments());
    bed.send(&lookups(7, 4000, 20));
    wait_until_analysed(&bed, 40);
    config.write("[analysis]\nanalyzers = [\"http\", \"tls\"]\n");
    assert_eq!(changed(&bed), json!(["analysis.analyzers"]));
    bed.send(&lookups(7, 5000, 20));
    wait_until_analysed(&bed, 80);
    config.write("[analysis]\nanalyzers = [\"dns\"]\n");
    appliance.signal(Signal::SIGHUP);
    // One line for each reload.
    for _ in 0..2 {
        assert!(appliance.wait_for_line("mirror-xdp: ").ends_with("; changed: analysis.analyzers"));
    }
    bed.send(&lookups(7, 6000, 20));
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), 120);
    let records = bed.records();
    let of = |kind: &str, thousand: u64| {
        let is = |port: &Value| port.as_u64().is_some_and(|port| port / 1000 == thousand);
        let kind = of_type(&records, kind);
        kind.iter().filter(|record| is(&record["src_port"]) || is(&record["dest_port"])).count()
    };
    assert_eq!([4, 5, 6].map(|thousand| of("dns", thousand)), [40, 0, 40]);
    assert_eq!([4, 5, 6].map(|thousand| of("flow", thousand)), [20; 3]);
}

/// Starts a generator, which sends frames of VNI 9 until it is stopped.
fn start_generator(bed: &Bed) -> Process {
    let capture = bed.log_dir().join("frames.pcap");
    let mut writer = PcapWriter::new(File::create(&capture).unwrap()).unwrap();
    for port in 0..100 {
        let frame = mirrored(9).carrying(&Flow::v4(20_000 + port, 443).udp(b"hello, mirror"));
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
    }
    drop(writer);
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json", "--interface", "source0", "--envelope", "none", "--new-flows", "no"]);
    command.args(["--rate", "20kpps", "--duration", "10min"]).arg(&capture);
    let mut generator = Process::spawn(&mut command).unwrap();
    generator.wait_for_line("sending by", PATIENCE).unwrap();
    generator
}

/// A file in which all settings that can change have changed, and one that cannot.
const MIXED: &str = "\
[log]
level = \"debug\"
[analysis]
analyzers = [\"http\"]
[timeouts]
established = \"1s\"
[shunt]
after = 0

[receive]
ring = 1024

[[filter.sets]]
name = \"all\"
vnis = [7]
[[filter.sets.rules]]
number = 1
action = \"reject\"
";

#[test]
fn one_key_that_cannot_change_has_the_whole_file_refused_under_traffic() {
    let Some(bed) = Bed::new(2) else { return };
    let before = "[analysis]\nanalyzers = [\"dns\"]\n";
    let config = Configuration::new(&bed, before);
    let mut command = bed.run_command(&[INTERFACE], &config.arguments());
    let mut process = Process::spawn(command.env_remove("RUST_LOG")).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();

    let generator = start_generator(&bed);
    bed.wait_until_received(bed.received() + 1000);

    config.write(MIXED);
    let (status, answer) = reload(&bed);
    assert_eq!(status, 409, "{answer}");
    let [mistake] = &answer["mistakes"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!((&mistake["key"], &mistake["line"]), (&"receive.ring".into(), &11.into()), "{answer}");
    assert!(mistake["what"].as_str().unwrap().contains("1024 takes a restart"), "{answer}");
    process.signal(Signal::SIGHUP).unwrap();
    for _ in 0..2 {
        let line = process.wait_for_line("mirror-xdp: not reloaded", PATIENCE).unwrap();
        assert!(line.contains("config.toml:11: receive.ring: a change to 1024 takes a restart"), "{line}");
    }
    // Two keys at once; the file no longer has a line for one of them.
    config.write("\n[ports]\ngeneve = []\n[capture]\nmax_flows = 5\n");
    let (status, answer) = reload(&bed);
    let keys: Vec<_> =
        answer["mistakes"].as_array().unwrap().iter().map(|m| (&m["key"], &m["line"])).collect();
    assert_eq!(status, 409);
    assert_eq!(keys, [(&"ports.geneve".into(), &3.into()), (&"capture.max_flows".into(), &5.into())]);

    // The settings before stay in force: no rule, one analyzer, no shunted flow, no timeout.
    bed.send(&lookups(7, 4000, 20));
    let sent = generator.interrupt(PATIENCE).unwrap();
    let sent = serde_json::from_str::<Value>(&sent.stdout).unwrap()["sent"].as_u64().unwrap();
    let output = process.interrupt(PATIENCE).unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    assert!(!output.stderr.iter().any(|line| line.starts_with("DEBUG")), "{:?}", output.stderr);
    let report = Report::parse(&output);
    report.assert_conserved();
    assert_eq!(report.seen(), sent + 40);
    let records = bed.records();
    assert_eq!(of_type(&records, "dns").len() + report.lost() as usize, 40);
    assert!(of_type(&records, "flow").iter().all(|flow| flow["flow"]["reason"] == "shutdown"));
}

/// Returns a number of the running account.
fn counted(bed: &Bed, pointer: &str) -> u64 {
    let address = "127.0.0.1:9470".parse().unwrap();
    let stats = http::ask(&bed.appliance, address, "GET /api/v1/stats", &[]).unwrap().json();
    let number = stats.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("no {pointer}: {stats}"))
}

#[test]
fn shunting_timeouts_rotation_and_what_is_kept_change_by_reload() {
    let Some(bed) = Bed::new(1) else { return };
    let config = Configuration::new(&bed, "[store]\nvnis = [7]\n");
    let store = tempfile::tempdir().unwrap();
    let store = ["--store", store.path().to_str().unwrap()];
    let one = ["--sockets-per-queue", "1"];
    let appliance = bed.start(&[config.arguments(), store, one].concat());
    let flow = Flow::v4(4000, 443);
    let mut sent = 20;
    let talk = || {
        let both = [&flow, &flow.reversed()].map(|flow| mirrored(7).carrying(&flow.udp(&[7; 1000])));
        bed.send(&both.into_iter().cycle().take(20).collect::<Vec<_>>());
    };
    talk();
    wait_until_analysed(&bed, 20);
    config.write(
        "[store]\nvnis = [8]\n[shunt]\nafter = \"1KiB\"\n[timeouts]\nestablished = \"1s\"\n[eve]\nrotate_size = 100\n",
    );
    let keys = ["eve.rotate_size", "shunt.after", "store.vnis", "timeouts.established"];
    assert_eq!(changed(&bed), json!(keys));
    wait_until("the driver counts the flow", || {
        talk();
        sent += 20;
        counted(&bed, "/interfaces/0/program/shunted/flow") > 0
    });
    // The worker applies the setting at its next tick at the latest.
    wait_until("packets are not kept", || {
        bed.send(&lookups(7, 5000, 1));
        sent += 2;
        counted(&bed, "/workers/0/store/not_kept/policy") > 0
    });
    // The flow ends by its timeout, with the driver's counters, and its record makes the log rotate.
    let aside = || {
        let names = fs::read_dir(bed.log_dir()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("eve.json.2")).count()
    };
    wait_until("a file is put aside", || aside() > 0);
    let report = appliance.stop();
    report.assert_conserved();
    let count = |pointer: &str| report.number(pointer);
    assert_eq!(report.analysed() + count("/interfaces/0/program/shunted/flow"), sent);
    let kept = count("/workers/0/store/kept");
    assert!((20..sent).contains(&kept), "{kept} of {sent}");
}

#[test]
fn indicators_change_by_reload_and_so_does_their_file_and_a_wrong_line_of_it_is_refused() {
    let Some(bed) = Bed::new(1) else { return };
    let file = bed.log_dir().join("indicators");
    fs::write(&file, "evil.test\n").unwrap();
    let with_file = format!("[alerts]\nfile = \"{}\"\n", file.display());
    let config = Configuration::new(&bed, &with_file);
    let appliance = bed.start(&config.arguments());
    bed.send(&lookups(7, 4000, 5));
    wait_until_analysed(&bed, 10);
    fs::write(&file, "evil.test\nshop.test\n").unwrap();
    assert_eq!(changed(&bed), json!([]));
    bed.send(&lookups(7, 5000, 5));
    wait_until_analysed(&bed, 20);
    fs::write(&file, "evil.test\nno indicator\n").unwrap();
    let (status, answer) = reload(&bed);
    assert!(status == 409 && answer["error"].as_str().unwrap().contains("indicators:2"), "{answer}");
    bed.send(&lookups(7, 6000, 5));
    wait_until_analysed(&bed, 30);
    config.write("[alerts]\nindicators = [\"evil.test\"]\n");
    assert_eq!(changed(&bed), json!(["alerts.file", "alerts.indicators"]));
    bed.send(&lookups(7, 7000, 5));
    appliance.stop().assert_conserved();
    let records = bed.records();
    let alerts = of_type(&records, "alert");
    let of = |thousand: u64| alerts.iter().any(|alert| alert["src_port"].as_u64() == Some(thousand * 1000));
    assert_eq!([4, 5, 6, 7].map(of), [false, true, true, false]);
}

#[test]
fn a_rule_that_leaves_the_policy_has_its_last_counts_told() {
    let Some(bed) = Bed::new(1) else { return };
    let rule = |number: u32| {
        format!(
            "[[filter.sets]]\nname = \"all\"\nvnis = [7]\n[[filter.sets.rules]]\nnumber = {number}\naction = \"accept\"\n"
        )
    };
    let config = Configuration::new(&bed, &format!("[log]\nlevel = \"info\"\n{}", rule(5)));
    let mut command = bed.run_command(&[INTERFACE], &config.arguments());
    let mut process = Process::spawn(command.env_remove("RUST_LOG")).unwrap();
    process.wait_for_line("capturing on", PATIENCE).unwrap();
    bed.send(&lookups(7, 4000, 5));
    config.write(&format!("[log]\nlevel = \"info\"\n{}", rule(6)));
    process.signal(Signal::SIGHUP).unwrap();
    let told = " INFO rule 5 of set all is no longer in force: it counted 10 packets, ";
    process.wait_for_line(told, PATIENCE).unwrap();
    assert!(process.interrupt(PATIENCE).unwrap().status.success());
}
