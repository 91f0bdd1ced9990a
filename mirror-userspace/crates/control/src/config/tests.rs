use std::fmt::Write as _;
use std::path::Path;

use mirror_rules::import;
use mirror_rules::policy::{Action, RuleDirection, UnknownVnis};
use mirror_xdp_common::Vni;
use proptest::prelude::*;

use super::{listen, *};

/// The example with the keys that name files which would have to exist.
pub(super) fn with_all_keys(example: &str) -> String {
    ["key", "file", "token_file", "files", "classification", "thresholds"].iter().fold(
        example.to_owned(),
        |text, key| {
            let with = text.replace(&format!("# {key} = "), &format!("{key} = "));
            assert_ne!(with, text, "{key}");
            with
        },
    )
}

fn parsed(text: &str) -> Result<Config, Diagnostics> {
    parse(Path::new("rules.toml"), text.as_bytes())
}

fn mistakes(text: &str) -> Vec<Diagnostic> {
    parsed(text).map_or_else(|mistakes| mistakes.all().to_vec(), |_| Vec::new())
}

/// A set with one rule that is valid but for the given lines, which begin on line 6.
fn with_rule(lines: &str) -> String {
    format!("[filter]\n[[filter.sets]]\nname = \"a\"\n[[filter.sets.rules]]\nnumber = 1\n{lines}")
}

#[test]
fn an_empty_file_is_the_default() {
    let config = parsed("# nothing\n").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.policy, Policy::default());
    assert_eq!((config.ports.vxlan, config.ports.geneve), (vec![4789], vec![6081]));
}

#[test]
fn every_key_is_read() {
    let config = parsed(&with_all_keys(&settings::render::example())).unwrap();
    assert_eq!((config.ports.vxlan, config.ports.geneve), (vec![4789], vec![6081]));
    assert_eq!((config.shunt.after, config.shunt.max_flows), (Some(1 << 20), 65_536));
    let receive = config.receive;
    assert_eq!((receive.xdp_mode, receive.zero_copy), (ModeChoice::Auto, ZeroCopy::Auto));
    assert_eq!(receive.cpus.unwrap().cpus(), [2, 3, 4, 5, 6, 7, 10]);
    assert_eq!((receive.sockets_per_queue, receive.ring), (Some(2), Some(32_768)));
    assert_eq!((receive.flow_affinity, receive.busy_poll), (true, None));
    let analysis = config.analysis;
    assert_eq!((analysis.dedup, analysis.analyzers), (true, Enabled::default()));
    assert_eq!(analysis.flow_scope, FlowScope::Vni);
    assert_eq!(analysis.metrics_interval.as_secs(), 60);
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.log.level.as_deref(), Some("warn"));
    assert_eq!((config.alerts.indicators.len(), config.alerts.file.is_some()), (4, true));
    let kept = config.store.settings.policy.rules.clone().unwrap();
    assert_eq!(kept.iter().map(ToString::to_string).collect::<Vec<_>>(), ["office/100", "office/300-400"]);
    assert_eq!(config.store.settings.policy.pre_trigger, Some(32 << 20));
    assert_eq!(config.eve.output, Path::new("eve.json"));
    let rotation = config.eve.rotation;
    assert_eq!((rotation.size, rotation.keep), (Some(1 << 30), Some(48)));
    assert_eq!(rotation.interval.map(|interval| interval.as_secs()), Some(3600));
    assert_eq!((config.eve.modes.file, config.eve.modes.directory), (0o640, 0o750));
    let capture = config.capture;
    assert_eq!(capture.interfaces, ["ens6"]);
    assert_eq!((capture.replace, capture.max_flows), (false, 1 << 18));
    assert_eq!(capture.log_dir, Path::new("/var/log/mirror-xdp"));
    assert_eq!(capture.stats_interval, Duration::from_secs(8));
    let store = config.store;
    assert_eq!((store.settings.segment_size, store.settings.memory), (256 << 20, 64 << 20));
    assert_eq!(store.settings.segment_time.as_secs(), 600);
    assert_eq!(store.settings.policy.vnis, Some(vec![7..=7, 100..=199]));
    assert_eq!((store.settings.policy.flow, store.settings.compression), (Some(10 << 20), Some(1)));
    let retention = store.settings.retention;
    assert_eq!((retention.max_size, retention.min_free), (Some(500 << 30), Some(10 << 30)));
    assert_eq!(retention.max_age.unwrap().as_secs(), 30 * 86_400);
    assert_eq!(retention.ages[0].0, [7..=7]);
    let upload = store.settings.upload.map(|location| location.to_string());
    assert_eq!(upload.as_deref(), Some("s3://packets.example/appliance-1?region=eu-central-1"));
    assert_eq!(store.key.unwrap().to_str(), Some("/etc/mirror-xdp/store.key"));
    assert_eq!(config.api.listen, listen::DEFAULT);
    assert_eq!(config.api.health.to_string(), "0.0.0.0:9471");
    assert_eq!(config.api.token_file.as_deref(), Some(Path::new("/etc/mirror-xdp/token")));
    let policy = config.policy;
    assert_eq!(policy.unknown_vnis, UnknownVnis::Learn);
    assert_eq!(policy.vnis, [5..=5, 1000..=1009]);
    assert_eq!(policy.macs.len(), 2);
    assert_eq!(policy.default_set, Some(0));
    assert!(policy.admits("10.1.1.1".parse().unwrap()) && !policy.admits("11.0.0.0".parse().unwrap()));
    let bound = |vni| policy.bindings.get(&Vni::new(vni).unwrap()).copied();
    assert_eq!((bound(7), bound(150), bound(8), bound(9)), (Some(0), Some(0), Some(1), None));
    let rule = &policy.sets[0].rules[0];
    assert_eq!((rule.number, rule.direction, rule.action), (100, RuleDirection::Ingress, Action::Accept));
    assert_eq!((rule.protocol, rule.source_ports.clone()), (Some(6), Some(1024..=65_535)));
    assert_eq!(rule.destination_ports, Some(443..=443));
    assert_eq!(rule.source.unwrap().to_string(), "10.0.0.0/8");
    assert_eq!(rule.destination.unwrap().to_string(), "10.9.0.0/16");
    assert_eq!(policy.sets[1].rules[0].action, Action::Truncate(128));
}

#[test]
fn how_to_receive_is_checked() {
    let wrong = [
        ("xdp_mode = \"fast\"", "\"auto\", \"native\" or \"generic\""),
        ("zero_copy = true", "must be \"auto\", \"required\" or \"off\""),
        ("cpus = \"3-1\"", "2-7,10"),
        ("sockets_per_queue = 0", "1 to 64"),
        ("flow_affinity = true", "\"on\" or \"off\""),
        ("ring = 1000", "16384"),
        ("ring = 128", "256 to 262144"),
        ("busy_poll = 10001", "0 to 10000"),
    ];
    for (line, allowed) in wrong {
        let [mistake] = &mistakes(&format!("[receive]\n{line}\n"))[..] else { panic!("{line}") };
        assert!(mistake.allowed.contains(allowed), "{line}: {mistake}");
        assert_eq!(mistake.line, 2);
    }
}

#[test]
fn rules_are_tried_by_number_and_ingress_comes_first() {
    let mut text = String::from("[[filter.sets]]\nname = \"a\"\n");
    for (number, direction) in [(20, "both"), (10, "egress"), (10, "ingress")] {
        let _ = write!(
            text,
            "[[filter.sets.rules]]\nnumber = {number}\ndirection = \"{direction}\"\naction = \"accept\"\n"
        );
    }
    let config = parsed(&text).unwrap();
    let order: Vec<_> =
        config.policy.sets[0].rules.iter().map(|rule| (rule.number, rule.direction.name())).collect();
    assert_eq!(order, [(10, "ingress"), (10, "egress"), (20, "both")]);
}

#[test]
fn each_key_of_a_section_has_its_line() {
    let lines = lines("[ports]\nvxlan = [\n1,\n2]\n\ngeneve = []\n[eve]\noutput = \"-\"\n");
    let expected = [("eve", 7), ("eve.output", 8), ("ports", 1), ("ports.geneve", 6), ("ports.vxlan", 2)];
    assert_eq!(lines, expected.map(|(key, line)| (key.to_owned(), line)).into());
}

#[test]
fn ranges_of_known_vnis_are_merged() {
    let config = parsed("[admission]\nvnis = [\"5-9\", 1, 2, \"8-12\", 0]").unwrap();
    assert_eq!(config.policy.vnis, [0..=2, 5..=12]);
}

#[test]
fn every_mistake_is_told_with_its_line_its_key_and_what_is_allowed() {
    let rule = with_rule;
    let accept = |lines: &str| with_rule(&format!("action = \"accept\"\n{lines}"));
    let set = |lines: &str| format!("[[filter.sets]]\nname = \"a\"\n{lines}");
    let key = "filter.sets[0].rules[0]";
    let at = |name: &str| format!("{key}.{name}");
    let cases: Vec<(String, usize, String, &str, &str)> = vec![
        // TOML itself.
        ("[ports\n".into(), 1, "[ports".into(), "unclosed table", "`]`"),
        ("\n\nvxlan = [1,\n".into(), 3, "vxlan".into(), "unclosed array", "`]`"),
        ("[ports]\nvxlan = [1]\nvxlan = [2]\n".into(), 3, "vxlan".into(), "defined twice", "once"),
        ("[shunt]\n[shunt]\n".into(), 2, "[shunt]".into(), "defined twice", "once"),
        (accept("protocol = tcp\n"), 7, "protocol".into(), "tcp", "in quotes"),
        ("[shunt]\nafter =\n".into(), 2, "after".into(), "no value", "number, or text"),
        ("a = 1\n\u{1}".into(), 2, "\\u{1}".into(), "not TOML", "`=`"),
        ("[analysis]\ndedup = \"yes\"\n".into(), 2, "analysis.dedup".into(), "neither", "on"),
        ("[eve]\nrotate_interval = \"0s\"\n".into(), 2, "eve.rotate_interval".into(), "0s", "1h"),
        ("[eve]\nrotate_size = \"0B\"\n".into(), 2, "eve.rotate_size".into(), "out of range", "1GiB"),
        // Keys.
        (
            "[fliter]\n".into(),
            1,
            "fliter".into(),
            "did you mean `filter`?",
            "log, capture, ports, admission, shunt, receive, store, analysis, services, timeouts, alerts, signatures, eve, api, \
             filter",
        ),
        ("[ports]\nvlan = [1]\n".into(), 2, "ports.vlan".into(), "did you mean `vxlan`?", "geneve"),
        (
            "[admission]\nsecret = 1\n".into(),
            2,
            "admission.secret".into(),
            "unknown key",
            "sources, mode, vnis",
        ),
        (accept("port = 443\n"), 7, at("port"), "unknown key", "destination_ports"),
        (set("rule = []\n"), 3, "filter.sets[0].rule".into(), "did you mean `rules`?", "name, vnis, rules"),
        // Types.
        ("ports = 4789\n".into(), 1, "ports".into(), "is the number 4789", "a table"),
        (
            "[ports]\nvxlan = 4789\n".into(),
            2,
            "ports.vxlan".into(),
            "is the number 4789",
            "a list of at most 8 UDP ports",
        ),
        (
            "[ports]\nvxlan = [\"x\"]\n".into(),
            2,
            "ports.vxlan[0]".into(),
            "is the text \"x\"",
            "from 1 to 65535",
        ),
        ("[admission]\nmode = true\n".into(), 2, "admission.mode".into(), "is true", "\"strict\""),
        ("[filter]\nsets = [1]\n".into(), 2, "filter.sets[0]".into(), "is the number 1", "a table"),
        (
            "[filter]\nmacs = {}\n".into(),
            2,
            "filter.macs".into(),
            "is a table",
            "a list of at most 4096 hardware addresses",
        ),
        ("[shunt]\nafter = 1.5\n".into(), 2, "shunt.after".into(), "is the number 1.5", "\"1MiB\""),
        ("[[ports]]\n".into(), 1, "ports".into(), "is a list", "a table"),
        // Capture.
        ("[capture]\ninterfaces = []\n".into(), 2, "capture.interfaces".into(), "is empty", "name one"),
        (
            "[capture]\ninterfaces = [\"en/s6\"]\n".into(),
            2,
            "capture.interfaces[0]".into(),
            "`en/s6`",
            "such as \"ens6\"",
        ),
        ("[capture]\nreplace = true\n".into(), 2, "capture.replace".into(), "is true", "\"on\" or \"off\""),
        (
            "[capture]\nlog_dir = \"log\"\n".into(),
            2,
            "capture.log_dir".into(),
            "not an absolute path",
            "/var/log",
        ),
        (
            "[capture]\nstats_interval = \"0s\"\n".into(),
            2,
            "capture.stats_interval".into(),
            "not a time",
            "\"8s\"",
        ),
        ("[capture]\nmax_flows = 0\n".into(), 2, "capture.max_flows".into(), "out of range", "from 1 to"),
        // Ports.
        ("[ports]\nvxlan = [\n  0]\n".into(), 3, "ports.vxlan[0]".into(), "out of range", "from 1 to 65535"),
        ("[ports]\ngeneve = [65536]\n".into(), 2, "ports.geneve[0]".into(), "65536", "from 1 to 65535"),
        ("[ports]\ngeneve = [4789]\n".into(), 2, "ports.geneve[0]".into(), "in vxlan already", "once"),
        (
            "[ports]\ngeneve = [1, 2, 3, 4, 5]\n".into(),
            2,
            "ports.geneve".into(),
            "has 5 UDP ports",
            "at most 4",
        ),
        ("[ports]\nvxlan = []\ngeneve = []\n".into(), 1, "ports".into(), "no port at all", "vxlan"),
        // Admission.
        (
            "[admission]\nmode = \"open\"\n".into(),
            2,
            "admission.mode".into(),
            "`open`",
            "\"learn\" or \"strict\"",
        ),
        (
            "[admission]\nsources = []\n".into(),
            2,
            "admission.sources".into(),
            "is empty",
            "leave the key out",
        ),
        (
            "[admission]\nsources = [\"10.0.0.0/8\",\n\"10.0.0.0/33\"]\n".into(),
            3,
            "admission.sources[1]".into(),
            "10.0.0.0/33",
            "such as 10.0.0.0/8",
        ),
        (
            "[admission]\nvnis = [16777216]\n".into(),
            2,
            "admission.vnis[0]".into(),
            "16777216",
            "0 to 16777215",
        ),
        ("[admission]\nvnis = [-1]\n".into(), 2, "admission.vnis[0]".into(), "-1", "0 to 16777215"),
        ("[admission]\nvnis = [\"9-8\"]\n".into(), 2, "admission.vnis[0]".into(), "reversed", "\"8-9\""),
        ("[admission]\nvnis = [\"1-\"]\n".into(), 2, "admission.vnis[0]".into(), "`1-`", "\"100-199\""),
        (
            "[admission]\nvnis = [\"0-16384\"]\n".into(),
            2,
            "admission.vnis[0]".into(),
            "16385 VNIs",
            "at most 16384",
        ),
        // Analysis.
        (
            "[analysis]\nanalyzers = [\"dns\", \"smtp\"]\n".into(),
            2,
            "analysis.analyzers[1]".into(),
            "`smtp` is not an analyzer",
            "one of \"amqp\", ",
        ),
        (
            "[analysis]\nanalyzers = \"dns\"\n".into(),
            2,
            "analysis.analyzers".into(),
            "is the text \"dns\"",
            "a list of names",
        ),
        (
            "[analysis]\nmetrics_interval = \"2days\"\n".into(),
            2,
            "analysis.metrics_interval".into(),
            "2days is out of range",
            "from 1s to 1day",
        ),
        // Timeouts.
        ("[timeouts]\nnew = 30\n".into(), 2, "timeouts.new".into(), "is the number 30", "\"10min\""),
        ("[timeouts]\ntcp_new = \"1500ms\"\n".into(), 2, "timeouts.tcp_new".into(), "1s 500ms", "whole"),
        (
            "[timeouts]\nestablished = \"8days\"\n".into(),
            2,
            "timeouts.established".into(),
            "8days is out of range",
            "to 7days",
        ),
        (
            "[timeouts]\ntcp-closed = \"1min\"\n".into(),
            2,
            "timeouts.tcp-closed".into(),
            "did you mean `tcp_closed`?",
            "new, established, tcp_new, tcp_established, tcp_closed",
        ),
        // Messages.
        ("[log]\nlevel = \"loud\"\n".into(), 2, "log.level".into(), "`loud`", "\"warn\", \"info\""),
        ("[log]\nlevel = \"info,=debug\"\n".into(), 2, "log.level".into(), "not a level", "hyper=debug"),
        ("[log]\nlevel = 3\n".into(), 2, "log.level".into(), "is the number 3", "\"trace\""),
        // Store.
        (
            "[store]\nsegment_size = \"1MiB\"\n".into(),
            2,
            "store.segment_size".into(),
            "out of range",
            "16MiB",
        ),
        (
            "[store]\nsegment_time = 600\n".into(),
            2,
            "store.segment_time".into(),
            "is the number 600",
            "10min",
        ),
        ("[store]\nmemory = 1\n".into(), 2, "store.memory".into(), "1 bytes are out", "at least 8MiB"),
        ("[store]\nvnis = 7\n".into(), 2, "store.vnis".into(), "is the number 7", "a list of VNIs"),
        ("[store]\npacket = \"half\"\n".into(), 2, "store.packet".into(), "`half`", "\"headers\""),
        ("[store]\npacket = 8\n".into(), 2, "store.packet".into(), "8 is out of range", "from 16 to"),
        ("[store]\nflow_bytes = 0\n".into(), 2, "store.flow_bytes".into(), "0 bytes", "at least 1"),
        ("[store]\ncompression = 20\n".into(), 2, "store.compression".into(), "20", "from 1 to 19"),
        ("[store]\nfile_mode = \"640a\"\n".into(), 2, "store.file_mode".into(), "`640a`", "\"0640\""),
        ("[store]\nfile_mode = \"0440\"\n".into(), 2, "store.file_mode".into(), "`0440`", "\"0600\""),
        ("[store]\nfile_mode = 640\n".into(), 2, "store.file_mode".into(), "is the number", "octal"),
        ("[store]\ndirectory_mode = \"1777\"\n".into(), 2, "store.directory_mode".into(), "1777", "0700"),
        ("[store]\nkey = 1\n".into(), 2, "store.key".into(), "is the number 1", "name of a file"),
        ("[store]\nmax_size = \"big\"\n".into(), 2, "store.max_size".into(), "`big`", "\"1MiB\""),
        ("[store]\nmax_age = \"old\"\n".into(), 2, "store.max_age".into(), "`old` is not a time", "30days"),
        ("[[store.ages]]\nvnis = [7]\n".into(), 1, "store.ages[0].max_age".into(), "missing", "\"365days\""),
        ("[eve]\noutput = \"\"\n".into(), 2, "eve.output".into(), "is empty", "eve.json"),
        ("[eve]\nrotate_keep = -1\n".into(), 2, "eve.rotate_keep".into(), "-1", "from 0 to"),
        ("[eve]\nfile_mode = \"0646\"\n".into(), 2, "eve.file_mode".into(), "all users", "0640"),
        ("[eve]\nfile_mode = \"0440\"\n".into(), 2, "eve.file_mode".into(), "owner access", "0640"),
        ("[eve]\nfile_mode = \"rw-r\"\n".into(), 2, "eve.file_mode".into(), "rw-r", "0640"),
        ("[eve]\nfile_mode = 640\n".into(), 2, "eve.file_mode".into(), "number", "0640"),
        ("[eve]\ndirectory_mode = \"4750\"\n".into(), 2, "eve.directory_mode".into(), "more than", "0750"),
        ("[receive]\nring = 1000\n".into(), 2, "receive.ring".into(), "not a power of two", "16384"),
        ("[receive]\ncpus = \"3-1\"\n".into(), 2, "receive.cpus".into(), "3-1", "2-7,10"),
        // Shunt.
        ("[shunt]\nafter = \"1 TiB\"\n".into(), 2, "shunt.after".into(), "`1 TiB`", "\"1MiB\""),
        ("[shunt]\nmax_flows = 0\n".into(), 2, "shunt.max_flows".into(), "out of range", "from 1 to 1048576"),
        // Store.
        ("[store]\nkeep = \"some\"\n".into(), 2, "store.keep".into(), "`some` is none", "\"alerts\""),
        (
            "[store]\npre_trigger = \"8MiB\"\n".into(),
            2,
            "store.pre_trigger".into(),
            "no frame waits",
            "keep =",
        ),
        (
            "[store]\nkeep = \"alerts\"\npre_trigger = \"4GiB\"\n".into(),
            3,
            "store.pre_trigger".into(),
            "out of range",
            "from 1MiB to 2GiB",
        ),
        (
            "[store]\nrules = []\n".into(),
            2,
            "store.rules".into(),
            "nothing would be kept",
            "leave the key out",
        ),
        (
            "[store]\nrules = [\"b/1\"]\n".into(),
            2,
            "store.rules[0]".into(),
            "there is no set \"b\"",
            "write a [[filter.sets]]",
        ),
        (
            format!("[store]\nrules = [\"a\", \"a/2-9\"]\n{}", accept("")),
            2,
            "store.rules[1]".into(),
            "no such rule in set \"a\"",
            "the set has 1",
        ),
        (
            format!("[store]\nrules = [\"a/x\"]\n{}", accept("")),
            2,
            "store.rules[0]".into(),
            "`x` is out of range or no number",
            "a rule's number from 1",
        ),
        // Alerts.
        (
            "[alerts]\nindicators = [\"a.example\", \"com\"]\n".into(),
            2,
            "alerts.indicators[1]".into(),
            "`com` is no indicator",
            "write a domain",
        ),
        ("[alerts]\nfile = \"feed\"\n".into(), 2, "alerts.file".into(), "not an absolute path", "/etc"),
        // API.
        ("[api]\nlisten = \"localhost\"\n".into(), 2, "api.listen".into(), "`localhost`", "127.0.0.1:9470"),
        ("[api]\nhealth = 9471\n".into(), 2, "api.health".into(), "is the number 9471", "\"off\""),
        (
            "[api]\ntoken_file = \"token\"\n".into(),
            2,
            "api.token_file".into(),
            "not an absolute path",
            "/etc",
        ),
        ("[api]\nport = 1\n".into(), 2, "api.port".into(), "unknown key", "listen, health, token_file"),
        // Sets.
        ("[filter]\ndefault = \"b\"\n".into(), 2, "filter.default".into(), "no set \"b\"", "[[filter.sets]]"),
        (
            "[filter]\ndefault = \"b\"\n[[filter.sets]]\nname = \"a\"\n".into(),
            2,
            "filter.default".into(),
            "no set \"b\"",
            "one of \"a\"",
        ),
        (
            "[[filter.sets]]\nrules = []\n".into(),
            1,
            "filter.sets[0].name".into(),
            "missing",
            "name = \"office\"",
        ),
        ("[[filter.sets]]\nname = \"\"\n".into(), 2, "filter.sets[0].name".into(), "not a name", "1 to 128"),
        (
            "[[filter.sets]]\nname = \"a\"\n[[filter.sets]]\nname = \"a\"\n".into(),
            4,
            "filter.sets[1].name".into(),
            "filter.sets[0] already",
            "a name of its own",
        ),
        (
            "[[filter.sets]]\nname = \"a\"\nvnis = [\"1-9\"]\n[[filter.sets]]\nname = \"b\"\nvnis = [5]\n"
                .into(),
            6,
            "filter.sets[1].vnis[0]".into(),
            "VNI 5 is bound to set \"a\"",
            "\"b\"",
        ),
        (
            "[filter]\nmacs = [\"02:00:00:00:00\"]\n".into(),
            2,
            "filter.macs[0]".into(),
            "not a hardware address",
            "02:00:00:00:00:01",
        ),
        (
            "[filter]\nmacs = [\"ff:ff:ff:ff:ff:ff\"]\n".into(),
            2,
            "filter.macs[0]".into(),
            "group address",
            "an interface",
        ),
        // Rules.
        (rule(""), 4, at("action"), "missing", "action = \"accept\""),
        (rule("action = \"drop\"\n"), 6, at("action"), "`drop`", "accept, reject, shunt, sample 1/N"),
        (rule("action = \"sample 1/0\"\n"), 6, at("action"), "`sample 1/0`", "N from 1 to 65535"),
        (rule("action = \"truncate 13\"\n"), 6, at("action"), "`truncate 13`", "N from 14 to 65535"),
        (accept("direction = \"in\"\n"), 7, at("direction"), "`in`", "ingress, egress or both"),
        (accept("protocol = \"smtp\"\n"), 7, at("protocol"), "`smtp`", "from 0 to 255, or icmp"),
        (accept("protocol = 256\n"), 7, at("protocol"), "256", "from 0 to 255"),
        (accept("source = \"10.1.0.0/8\"\n"), 7, at("source"), "beyond its prefix", "write 10.0.0.0/8"),
        (accept("source = \"10.1.0.1\"\n"), 7, at("source"), "no prefix length", "10.1.0.1/32"),
        (accept("destination = \"fd00::/129\"\n"), 7, at("destination"), "not a network", "fd00::/8"),
        (
            accept("source = \"10.0.0.0/8\"\ndestination = \"fd00::/8\"\n"),
            8,
            at("destination"),
            "IPv6, but source 10.0.0.0/8 is IPv4",
            "of one family",
        ),
        (accept("protocol = 6\nsource_ports = \"9-8\"\n"), 8, at("source_ports"), "reversed", "\"8-9\""),
        (accept("protocol = 6\nsource_ports = 65536\n"), 8, at("source_ports"), "65536", "from 0 to 65535"),
        (
            accept("protocol = \"icmp\"\ndestination_ports = 80\n"),
            8,
            at("destination_ports"),
            "icmp has no ports",
            "\"tcp\", \"udp\" or \"sctp\"",
        ),
        (
            accept("destination_ports = 80\n"),
            7,
            at("destination_ports"),
            "without a protocol",
            "\"tcp\", \"udp\" or \"sctp\"",
        ),
        (
            accept("[[filter.sets.rules]]\nnumber = 1\naction = \"reject\"\n"),
            8,
            "filter.sets[0].rules[1].number".into(),
            "rules[0] already",
            "once in each direction",
        ),
        (
            accept("[[filter.sets.rules]]\nnumber = 0\naction = \"reject\"\n"),
            8,
            "filter.sets[0].rules[1].number".into(),
            "out of range",
            "from 1 to",
        ),
    ];
    for (text, line, key, what, allowed) in &cases {
        let found = mistakes(text);
        let [mistake] = &found[..] else { panic!("{text}\n{found:#?}") };
        assert_eq!((mistake.line, &mistake.key), (*line, key), "{text}\n{mistake}");
        assert!(mistake.what.contains(what), "{text}\n{mistake}");
        assert!(mistake.allowed.contains(allowed), "{text}\n{mistake}");
        let shown = mistake.to_string();
        assert!(shown.starts_with(&format!("rules.toml:{line}: {key}: ")), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
    assert!(cases.len() > 30);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_their_lines() {
    let text = "[shunt]\nmax_flows = 0\n[ports]\nvxlan = [0]\n[admission]\nmode = 1\nnone = 2\n";
    let wrong = parsed(text).unwrap_err();
    let lines: Vec<_> = wrong.all().iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [2, 4, 6, 7]);
    assert!(wrong.to_string().contains("(3 more"), "{wrong}");

    let text = format!("[ports]\nvxlan = [{}]\n", "0,".repeat(8)) + &"x = [\n".repeat(30);
    let many = parsed(&text).unwrap_err();
    assert!(many.lines().count() <= 21);
    let text = (0..30).map(|index| format!("key{index} = 1\n")).collect::<Vec<_>>().concat();
    let many = parsed(&text).unwrap_err();
    assert_eq!(many.lines().count(), 21);
    assert_eq!(many.lines().last().unwrap(), "10 more mistakes");
}

#[test]
fn what_is_more_than_there_is_room_for_is_refused() {
    use mirror_rules::limits;
    let rules = |count: usize| -> String {
        let mut text = String::from("[[filter.sets]]\nname = \"a\"\n");
        for number in 1..=count {
            let _ = write!(text, "[[filter.sets.rules]]\nnumber = {number}\naction = \"accept\"\n");
        }
        text
    };
    assert_eq!(parsed(&rules(limits::RULES)).unwrap().policy.sets[0].rules.len(), 4096);
    let found = mistakes(&rules(limits::RULES + 1));
    let [mistake] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((mistake.line, mistake.key.as_str()), (3 + 4096 * 3, "filter.sets[0].rules[4096]"));
    assert_eq!(mistake.allowed, "at most 4096");

    let sets = |count| {
        (0..count).map(|index| format!("[[filter.sets]]\nname = \"{index}\"\n")).collect::<Vec<_>>().concat()
    };
    assert!(parsed(&sets(limits::SETS)).is_ok());
    assert!(mistakes(&sets(limits::SETS + 1))[0].allowed.contains("256"));

    let macs = |count: usize| {
        let macs: Vec<_> =
            (0..count).map(|n| format!("\"02:00:00:00:{:02x}:{:02x}\"", n >> 8, n & 255)).collect();
        format!("[filter]\nmacs = [{}]\n", macs.join(", "))
    };
    assert!(parsed(&macs(limits::MACS)).is_ok());
    assert!(mistakes(&macs(limits::MACS + 1))[0].allowed.contains("4096"));

    let sources = |count: usize| {
        let nets: Vec<_> = (0..count).map(|n| format!("\"10.0.{}.{}/32\"", n >> 8, n & 255)).collect();
        format!("[admission]\nsources = [{}]\n", nets.join(", "))
    };
    assert!(parsed(&sources(limits::SOURCES)).is_ok());
    assert!(mistakes(&sources(limits::SOURCES + 1))[0].allowed.contains("4096"));

    // Known both by admission and by sets.
    let vnis = |last| {
        format!(
            "[admission]\nvnis = [\"0-16000\"]\n[[filter.sets]]\nname = \"a\"\nvnis = [\"15000-{last}\"]\n"
        )
    };
    let policy = parsed(&vnis(16_383)).unwrap().policy;
    assert_eq!(policy.bindings.len(), 1384);
    assert!(mistakes(&vnis(16_384))[0].what.contains("16385 VNIs"));
    let all = "[[filter.sets]]\nname = \"a\"\nvnis = [\"0-16777215\"]\n";
    assert!(mistakes(all)[0].allowed.contains("16384"));
}

#[test]
fn a_set_may_name_a_vni_twice() {
    let text = "[[filter.sets]]\nname = \"a\"\nvnis = [\"0-16383\", \"0-16383\", 9]\n";
    assert_eq!(parsed(text).unwrap().policy.bindings.len(), 16_384);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent.toml");
    for path in [directory.path(), &absent, Path::new("/dev/zero")] {
        let error = mirror_base::one_line(&load(path).unwrap_err());
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    let latin = directory.path().join("latin.toml");
    std::fs::write(&latin, b"[ports]\n# caf\xe9\n").unwrap();
    let error = load(&latin).unwrap_err().to_string();
    assert!(error.contains(":2: TOML: not UTF-8"), "{error}");
}

#[test]
fn what_a_file_says_cannot_break_the_line() {
    let found = mistakes("\"a\\nb\" = 1\n[admission]\nmode = \"x\\u001b[2J\\n\"\n");
    for mistake in &found {
        assert!(!mistake.to_string().chars().any(char::is_control), "{mistake:?}");
    }
    assert_eq!(found.len(), 2);
}

proptest! {
    /// Any mutation of the shipped file gives a configuration or mistakes, never a panic.
    #[test]
    fn damaged_files_are_taken_or_refused(at in 0..10_000_usize, cut in 0usize..40, with in ".{0,8}") {
        let mut bytes = settings::render::example().into_bytes();
        let at = at % bytes.len();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        if let Err(wrong) = parse(Path::new("x"), &bytes) {
            prop_assert!(!wrong.all().is_empty());
            for line in wrong.lines() {
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
}

/// Returns the findings for a file in this directory, whose path replaces `{}` in the text.
fn checked(directory: &tempfile::TempDir, text: &str) -> Checked {
    let path = directory.path().join("start.toml");
    std::fs::write(&path, text.replace("{}", directory.path().to_str().unwrap())).unwrap();
    check(&path, |_| false).unwrap()
}

fn file(directory: &tempfile::TempDir, name: &str, content: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_a_start_would_fail_of_is_found_with_its_line_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let key = "0123456789abcdef".repeat(4);
    file(&directory, "open", &key, 0o644);
    file(&directory, "good", &key, 0o640);
    file(&directory, "short", "secret", 0o600);
    std::os::unix::fs::symlink("/absent/log", directory.path().join("link")).unwrap();
    let wrong: &[(&str, usize, &str, &[&str])] = &[
        ("[capture]\nlog_dir = \"{}/good/log\"", 2, "capture.log_dir", &["/good is not a directory"]),
        ("[capture]\nlog_dir = \"{}/link\"", 2, "capture.log_dir", &["is a link to nothing"]),
        ("[capture]\ninterfaces = [\"a\", \"b\", \"a\"]", 2, "capture.interfaces[2]", &["once"]),
        ("[admission]\nmode = \"strict\"", 2, "admission.mode", &["no frame would be admitted"]),
        ("[admission]\nvnis = []\nmode = \"strict\"", 3, "admission.mode", &["admission.vnis"]),
        ("[receive]\nxdp_mode = \"generic\"\nzero_copy = \"required\"", 3, "receive.zero_copy", &["copies"]),
        ("[store]\nkey = \"{}/absent\"", 2, "store.key", &["/absent: No such file", "make it"]),
        ("[store]\nkey = \"{}/open\"", 2, "store.key", &["mode 0644", "chmod 640"]),
        ("[store]\nkey = \"{}/short\"", 2, "store.key", &["has no key", "openssl"]),
        ("[store]\nkey = \"{}\"", 2, "store.key", &["is no regular file"]),
        ("[store]\nupload = \"file://{}/good/copy\"", 2, "store.upload", &["/good is not a directory"]),
        ("[alerts]\nfile = \"{}/absent\"", 2, "alerts.file", &["absent", "No such file"]),
        ("[alerts]\nfile = \"{}/short\"", 2, "alerts.file", &["short:1: `secret` is no indicator"]),
        ("[alerts]\nfile = \"{}\"", 2, "alerts.file", &["not a regular file"]),
        ("[alerts]\nindicators = [\"10.1.2.300\"]", 2, "alerts.indicators[0]", &["address such as"]),
        ("[alerts]\nindicators = [\"0.0.0.0/0\"]", 2, "alerts.indicators[0]", &["nearly every flow"]),
        ("[eve]\noutput = \"foo://host\"", 2, "eve.output", &["`foo:` is no kind", "unix-stream:PATH"]),
        ("[eve]\noutput = \"{}\"", 2, "eve.output", &["is a directory"]),
        ("[eve]\noutput = \"{}/good/eve.json\"", 2, "eve.output", &["/good is not a directory"]),
        ("[api]\ntoken_file = \"{}/absent\"", 2, "api.token_file", &["absent", "No such file"]),
        ("[api]\ntoken_file = \"{}/open\"", 2, "api.token_file", &["mode 0644", "chmod 640"]),
        ("[api]\ntoken_file = \"{}/short\"", 2, "api.token_file", &["too short", "openssl"]),
        ("[api]\nlisten = \"0.0.0.0:1\"", 2, "api.listen", &["no token", "token_file ="]),
        ("[api]\nhealth = \"127.0.0.1:9470\"", 2, "api.health", &["taken by the API"]),
        ("[api]\nhealth = \"[::]:9470\"", 2, "api.health", &["taken by the API"]),
    ];
    for &(text, line, key, words) in wrong {
        let checked = checked(&directory, text);
        let [mistake] = &checked.mistakes[..] else { panic!("{text}: {checked:?}") };
        assert_eq!((mistake.line, mistake.key.as_str()), (line, key), "{mistake}");
        assert!(
            !mistake.allowed.is_empty() && words.iter().all(|word| mistake.to_string().contains(word)),
            "{mistake}"
        );
    }
    let right = [
        "[capture]\nlog_dir = \"{}/a/b/c\"\n[eve]\noutput = \"d/eve.json\"",
        "[admission]\nmode = \"strict\"\n[[filter.sets]]\nname = \"a\"\nvnis = [7]",
        "[store]\nupload = \"file://{}/copy\"\nkey = \"{}/good\"\n[api]\ntoken_file = \"{}/good\"\nlisten = \"[::]:1\"",
        "[api]\nhealth = \"0.0.0.0:9471\"",
        "[api]\nlisten = \"off\"\nhealth = \"0.0.0.0:9470\"",
        "[api]\nlisten = \"127.0.0.1:1\"\nhealth = \"127.0.0.2:1\"",
    ];
    for text in right {
        let checked = checked(&directory, text);
        assert_eq!((&checked.mistakes[..], &checked.warnings[..]), (&[][..], &[][..]), "{text}");
    }
}

#[test]
fn what_is_wrong_with_keys_and_with_the_files_they_name_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    file(&directory, "feed", "evil.example\n10.1.2.300\nevil\n", 0o644);
    let text = "[store]\nkey = \"{}/absent\"\nmemory = \"little\"\n[admission]\nmode = \"strict\"\n\
                sources = [\"::/0\", \"10.0.0.0/8\"]\n[alerts]\nfile = \"{}/feed\"\n[api]\nhealth = \"here\"\n";
    let checked = checked(&directory, text);
    let found = |mistakes: &[Diagnostic]| -> Vec<_> {
        mistakes.iter().map(|mistake| format!("{} {}", mistake.line, mistake.key)).collect()
    };
    assert_eq!(
        found(&checked.mistakes),
        [
            "2 store.key",
            "3 store.memory",
            "5 admission.mode",
            "8 alerts.file",
            "8 alerts.file",
            "10 api.health"
        ]
    );
    assert!(checked.mistakes[4].what.contains("feed:3: `evil` is no indicator"), "{}", checked.mistakes[4]);
    assert_eq!(found(&checked.warnings), ["6 admission.sources[0]"]);
}

#[test]
fn keys_that_a_flag_overrides_are_not_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("start.toml");
    std::fs::write(&path, "[api]\nlisten = \"0.0.0.0:1\"\n[store]\nkey = \"/absent\"\n").unwrap();
    let keys = |overridden: &[&str]| -> Vec<_> {
        let checked = check(&path, |key| overridden.contains(&key)).unwrap();
        checked.mistakes.into_iter().map(|mistake| mistake.key).collect()
    };
    assert_eq!(keys(&[]), ["api.listen", "store.key"]);
    assert_eq!(keys(&["api.token_file"]), ["store.key"]);
    assert_eq!(keys(&["api.listen", "store.key"]), [""; 0]);
}

#[test]
fn filters_come_back_from_the_file_that_is_written() {
    let mut filters = import::read(include_bytes!("../../../rules/src/described-filters.json")).unwrap();
    let config = parse(Path::new("x"), import::to_toml(&filters).as_bytes()).unwrap();
    assert_eq!(config.policy.default_set, None);
    let sets: Vec<_> = filters.iter().map(|filter| filter.set.clone()).collect();
    assert_eq!(config.policy.sets, sets);

    // The only one is the default.
    filters.truncate(1);
    let config = parse(Path::new("x"), import::to_toml(&filters).as_bytes()).unwrap();
    assert_eq!(config.policy.default_set, Some(0));
}
