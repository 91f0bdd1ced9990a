//! The sections of the configuration file and their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use mirror_device::afxdp::BusyPoll;
use mirror_engine::analyzer::Enabled;
use mirror_engine::flow::Timeouts;
use mirror_records::sink::{Destination, EventTypes};
use mirror_rules::policy::{
    Action, MacAddress, Policy, Rule, RuleDirection, RuleSet, UnknownVnis, has_ports,
};
use mirror_rules::{RuleRange, limits, text};
use mirror_store::{Kept, Retention};
use mirror_xdp_common::Vni;

use super::document::{Table, Value};
use super::{
    AlertSettings, AnalysisSettings, ApiSettings, CaptureSettings, Config, EveSettings, LogSettings, Ports,
    ReceiveSettings, ShuntSettings, StoreSettings,
};

/// Reads the whole file. If there are mistakes, the document holds them, and the result is meaningless.
pub(super) fn config(mut root: Table<'_>) -> Config {
    let mut config = Config::default();
    if let Some(table) = root.get("capture").and_then(|value| value.table()) {
        config.capture = capture(table);
    }
    if let Some(table) = root.get("ports").and_then(|value| value.table()) {
        config.ports = ports(table);
    }
    let mut known = Vec::new();
    if let Some(table) = root.get("admission").and_then(|value| value.table()) {
        admission(table, &mut config.policy, &mut known);
    }
    if let Some(table) = root.get("shunt").and_then(|value| value.table()) {
        config.shunt = shunt(table);
    }
    if let Some(table) = root.get("receive").and_then(|value| value.table()) {
        config.receive = receive(table);
    }
    let mut kept_rules = None;
    if let Some(mut table) = root.get("store").and_then(|value| value.table()) {
        kept_rules = table.get("rules");
        config.store = store(table);
    }
    if let Some(table) = root.get("analysis").and_then(|value| value.table()) {
        config.analysis = analysis(table);
    }
    if let Some(table) = root.get("timeouts").and_then(|value| value.table()) {
        config.timeouts = timeouts(table);
    }
    if let Some(table) = root.get("alerts").and_then(|value| value.table()) {
        config.alerts = alerts(table);
    }
    if let Some(table) = root.get("eve").and_then(|value| value.table()) {
        config.eve = eve(table);
    }
    if let Some(table) = root.get("filter").and_then(|value| value.table()) {
        filter(table, &mut config.policy, &mut known);
    }
    if let Some(value) = kept_rules {
        config.store.settings.policy.rules = Some(store_rules(&value, &config.policy));
    }
    if let Some(table) = root.get("api").and_then(|value| value.table()) {
        config.api = api(table);
    }
    if let Some(table) = root.get("log").and_then(|value| value.table()) {
        config.log = log(table);
    }
    check_capacity(&mut known);
    root.finish();
    config
}

fn capture(mut table: Table<'_>) -> CaptureSettings {
    let mut capture = CaptureSettings::default();
    if let Some(value) = table.get("interfaces")
        && let Some(elements) = value.list("names of interfaces")
    {
        if elements.is_empty() {
            value.wrong("is empty: nothing would be captured", "name one, or leave the key out");
        }
        for element in elements {
            let Some(name) = element.text("the name of an interface") else { continue };
            // The names that the kernel accepts (dev_valid_name).
            let wrong = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
            if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.bytes().any(wrong) {
                element.wrong(format!("`{name}` is not an interface name"), "such as \"ens6\"");
            }
            if let Some(first) = capture.interfaces.iter().position(|other| other == name) {
                let what = format!("`{name}` is capture.interfaces[{first}] already");
                element.wrong(what, "name each interface once");
            }
            capture.interfaces.push(name.to_owned());
        }
    }
    capture.replace = table.get("replace").and_then(|value| switch(&value));
    capture.log_dir = table.get("log_dir").and_then(|value| absolute(&value, "/var/log/mirror-xdp"));
    capture.stats_interval = table.get("stats_interval").and_then(|value| duration(&value));
    capture.max_flows = table.get("max_flows").and_then(|value| {
        let flows = value.number("a number", &(1..=u64::from(u32::MAX) - 1))?;
        Some(flows as usize)
    });
    table.finish();
    capture
}

/// Reads an absolute path.
fn absolute(value: &Value<'_>, example: &str) -> Option<PathBuf> {
    let text = value.text("a path")?;
    if !text.starts_with('/') || text.contains('\0') {
        value.wrong(
            format!("`{text}` is not an absolute path"),
            format!("a path from the root, such as \"{example}\""),
        );
    }
    Some(text.into())
}

fn ports(mut table: Table<'_>) -> Ports {
    let default = Ports::default();
    let lists = [
        ("vxlan", limits::VXLAN_PORTS, default.vxlan),
        ("geneve", limits::GENEVE_PORTS, default.geneve),
        ("vxlan_gpe", limits::VXLAN_GPE_PORTS, default.vxlan_gpe),
    ];
    let lists = lists.map(|(key, most, default)| (key, most, default, table.get(key)));
    // The default ports of another encapsulation are taken as well.
    let mut taken: BTreeMap<u16, &'static str> = BTreeMap::new();
    for (key, _, default, _) in lists.iter().filter(|(_, _, _, value)| value.is_none()) {
        taken.extend(default.iter().map(|port| (*port, *key)));
    }
    let [vxlan, geneve, vxlan_gpe] = lists.map(|(key, most, default, value)| match value {
        Some(value) => port_list(&value, key, most, &mut taken),
        None => default,
    });
    let ports = Ports { vxlan, geneve, vxlan_gpe };
    if ports.vxlan.is_empty() && ports.geneve.is_empty() && ports.vxlan_gpe.is_empty() {
        table.wrong("no port at all: nothing would be captured", "name one in vxlan, geneve or vxlan_gpe");
    }
    table.finish();
    ports
}

fn port_list(
    value: &Value<'_>,
    key: &'static str,
    most: usize,
    taken: &mut BTreeMap<u16, &'static str>,
) -> Vec<u16> {
    let elements = value.list("UDP ports").unwrap_or_default();
    if elements.len() > most {
        value.wrong(format!("has {} ports", elements.len()), format!("at most {most}"));
    }
    let mut ports = Vec::new();
    for element in elements {
        let Some(port) = element.number("a UDP port", &(1..=65_535)) else { continue };
        let port = port as u16;
        match taken.insert(port, key) {
            Some(other) => {
                element.wrong(format!("port {port} is in {other} already"), "name each port once");
            }
            None => ports.push(port),
        }
    }
    ports
}

/// A range of VNIs and its place in the file.
struct KnownVnis<'d> {
    range: RangeInclusive<u32>,
    value: Value<'d>,
}

fn admission<'d>(mut table: Table<'d>, policy: &mut Policy, known: &mut Vec<KnownVnis<'d>>) {
    if let Some(value) = table.get("mode")
        && let Some(mode) = value.text("\"learn\" or \"strict\"")
    {
        match mode {
            "learn" => policy.unknown_vnis = UnknownVnis::Learn,
            "strict" => policy.unknown_vnis = UnknownVnis::Drop,
            _ => value.wrong(format!("`{mode}` is not a mode"), "\"learn\" or \"strict\""),
        }
    }
    if let Some(value) = table.get("sources")
        && let Some(elements) = value.list("networks")
    {
        if elements.is_empty() {
            value.wrong("is empty: no frame would be admitted", "leave the key out to admit any source");
        }
        if elements.len() > limits::SOURCES {
            value.wrong(format!("has {} networks", elements.len()), format!("at most {}", limits::SOURCES));
        }
        for (element, network) in elements.iter().filter_map(|element| Some((element, network(element)?))) {
            if network.prefix_len() == 0 {
                let family = if network.addr().is_ipv4() { "IPv4" } else { "IPv6" };
                element.warn(
                    &format!("`{network}` admits every host that can send to the appliance by {family}"),
                    "name the networks of the mirrored interfaces",
                );
            }
            policy.sources.get_or_insert_default().push(network);
        }
        policy.sources.get_or_insert_default();
    }
    if let Some(value) = table.get("vnis") {
        let vnis = vnis(&value);
        policy.vnis = merged(vnis.iter().map(|known| known.range.clone()).collect());
        known.extend(vnis);
    }
    table.finish();
}

fn shunt(mut table: Table<'_>) -> ShuntSettings {
    let mut shunt = ShuntSettings::default();
    if let Some(value) = table.get("after") {
        shunt.after = bytes(&value);
    }
    if let Some(value) = table.get("max_flows") {
        let range = u64::from(*limits::SHUNTED_FLOWS.start())..=u64::from(*limits::SHUNTED_FLOWS.end());
        if let Some(flows) = value.number("a number", &range) {
            shunt.max_flows = flows as u32;
        }
    }
    table.finish();
    shunt
}

fn store(mut table: Table<'_>) -> StoreSettings {
    let mut store = StoreSettings::default();
    let settings = &mut store.settings;
    let mut bytes = |key, least: u64, to: &mut dyn FnMut(u64)| {
        let Some(value) = table.get(key) else { return };
        if let Some(bytes) = bytes(&value) {
            if bytes < least {
                value.wrong(format!("{bytes} bytes are too few"), format!("at least {least}"));
            }
            to(bytes);
        }
    };
    bytes("segment_size", 16 << 20, &mut |bytes| settings.segment_size = bytes);
    bytes("memory", 8 << 20, &mut |bytes| settings.memory = bytes);
    bytes("flow_bytes", 1, &mut |bytes| settings.policy.flow = Some(bytes));
    if let Some(time) = table.get("segment_time").and_then(|value| duration(&value)) {
        settings.segment_time = time;
    }
    if let Some(value) = table.get("vnis") {
        settings.policy.vnis = Some(vnis(&value).into_iter().map(|known| known.range).collect());
    }
    if let Some(value) = table.get("packet") {
        const ALLOWED: &str = "\"whole\", \"headers\", or a number of bytes from 16 to 262144";
        match value.as_text() {
            Some("whole") => settings.policy.packet = Kept::Whole,
            Some("headers") => settings.policy.packet = Kept::Headers,
            Some(text) => value.wrong(format!("`{text}` is not a part of a packet"), ALLOWED),
            None => {
                if let Some(first) = value.number(ALLOWED, &(16..=262_144)) {
                    settings.policy.packet = Kept::First(first as usize);
                }
            }
        }
    }
    settings.policy.pre_trigger = pre_trigger(&mut table);
    store_retention(&mut table, &mut settings.retention);
    if let Some(value) = table.get("compression") {
        settings.compression = value.number("zstd's level", &(1..=19)).map(|level| level as i32);
    }
    settings.upload = table.get("upload").and_then(|value| {
        let text = value.text("the URL of a place such as \"s3://BUCKET/PREFIX\"")?;
        value.checked(text.parse())
    });
    store.key = table.get("key").and_then(|value| value.text("a file's name")).map(PathBuf::from);
    let permissions = &mut settings.permissions;
    for (key, least, mode) in
        [("file_mode", 0o600, &mut permissions.file), ("directory_mode", 0o700, &mut permissions.directory)]
    {
        if let Some(given) = table.get(key).and_then(|value| file_mode(&value, least)) {
            *mode = given;
        }
    }
    table.finish();
    store
}

/// Reads permissions in octal, as `chmod` takes them; the owner needs at least those in `least`.
fn file_mode(value: &Value<'_>, least: u32) -> Option<u32> {
    let allowed =
        format!("a text of octal digits from \"{least:04o}\" to \"0777\", such as \"{:04o}\"", least | 0o40);
    let text = value.text(&allowed)?;
    let mode = text.bytes().all(|digit| digit.is_ascii_digit()).then(|| u32::from_str_radix(text, 8).ok());
    let mode = mode.flatten().filter(|mode| *mode <= 0o777 && mode & least == least);
    if mode.is_none() {
        value.wrong(format!("`{text}` is not a mode that the store can work with"), allowed);
    }
    mode
}

/// The accepted sizes, in bytes, of the memory in which frames wait for an alert, and its default.
const PRE_TRIGGER: RangeInclusive<u64> = 1 << 20..=2 << 30;
const DEFAULT_PRE_TRIGGER: u64 = 32 << 20;
const KEEP: &str = "\"all\" or \"alerts\"";

/// Returns the size of the memory in which frames wait for an alert; `None` if the store keeps all packets.
fn pre_trigger(table: &mut Table<'_>) -> Option<u64> {
    let value = table.get("keep");
    let alerts = match value.as_ref().and_then(|value| Some((value, value.text(KEEP)?))) {
        None | Some((_, "all")) => false,
        Some((_, "alerts")) => true,
        Some((value, word)) => {
            value.wrong(format!("`{word}` is neither"), KEEP);
            false
        }
    };
    let size = table.get("pre_trigger");
    if let (Some(size), false) = (&size, alerts) {
        size.wrong("no frame waits if the store keeps all", "write keep = \"alerts\", or leave it out");
    }
    let bytes = size.as_ref().map_or(Some(DEFAULT_PRE_TRIGGER), bytes);
    if let (Some(value), Some(bytes)) = (&size, bytes)
        && !PRE_TRIGGER.contains(&bytes)
    {
        value.wrong(format!("{bytes} bytes are out of range"), "from 1MiB to 2GiB");
    }
    bytes.filter(|_| alerts)
}

/// Reads rules written as `SET`, `SET/NUMBER` and `SET/FIRST-LAST`. A rule that does not exist is a mistake:
/// no packet could match it, so none would be kept.
fn store_rules(value: &Value<'_>, policy: &Policy) -> Vec<RuleRange> {
    const OF: &str = "rules such as \"office\", \"office/100\" or \"office/100-199\"";
    let elements = value.list(OF).unwrap_or_default();
    if elements.is_empty() {
        value.wrong("is empty: nothing would be kept", "leave the key out to keep all accepted packets");
    }
    elements.iter().filter_map(|element| store_rule(element, element.text(OF)?, policy)).collect()
}

/// Reads one of the texts that [`store_rules`] takes.
fn store_rule(value: &Value<'_>, text: &str, policy: &Policy) -> Option<RuleRange> {
    let find = |name: &str| policy.sets.iter().find(|set| set.name == name);
    let (name, numbers) = match text.rsplit_once('/').filter(|_| find(text).is_none()) {
        Some((name, range)) => (name, value.checked(text::range(range, "a rule's number", 1..=u32::MAX))?),
        None => (text, 0..=u32::MAX),
    };
    let Some(set) = find(name) else {
        let others: Vec<_> = policy.sets.iter().map(|set| format!("\"{}\"", set.name)).collect();
        let allowed = match &others[..] {
            [] => "write a [[filter.sets]] of this name".to_owned(),
            others => format!("a set is one of {}", others.join(", ")),
        };
        value.wrong(format!("there is no set \"{name}\""), allowed);
        return None;
    };
    if !set.rules.iter().any(|rule| numbers.contains(&rule.number)) {
        let others: Vec<_> = set.rules.iter().map(|rule| rule.number.to_string()).collect();
        let allowed = match &others[..] {
            [] => "the set has none".to_owned(),
            others => format!("the set has {}", others.join(", ")),
        };
        value.wrong(format!("there is no such rule in set \"{name}\""), allowed);
        return None;
    }
    Some(RuleRange { set: name.to_owned(), numbers })
}

fn store_retention(table: &mut Table<'_>, retention: &mut Retention) {
    retention.max_size = table.get("max_size").and_then(|value| bytes(&value));
    retention.min_free = table.get("min_free").and_then(|value| bytes(&value));
    retention.max_age = table.get("max_age").and_then(|value| duration(&value));
    let ages = table.get("ages").and_then(|value| value.list("tables")).unwrap_or_default();
    for mut age in ages.iter().filter_map(Value::table) {
        let named = age.require("vnis", "[7, \"100-199\"]").map(|value| vnis(&value)).unwrap_or_default();
        let limit = age.require("max_age", "\"30days\"").and_then(|value| duration(&value));
        age.finish();
        if let Some(limit) = limit {
            retention.ages.push((named.into_iter().map(|known| known.range).collect(), limit));
        }
    }
}

/// Reads a number of bytes, or text such as "1GiB".
fn bytes(value: &Value<'_>) -> Option<u64> {
    match value.as_text() {
        Some(text) => value.checked(text::bytes(text)),
        None => value.number("a number of bytes, or such as \"1MiB\",", &(0..=u64::MAX)),
    }
}

/// Reads a time such as "10min".
fn duration(value: &Value<'_>) -> Option<Duration> {
    const ALLOWED: &str = "a time such as \"10min\" or \"30days\"";
    let text = value.text(ALLOWED)?;
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Some(time),
        _ => {
            value.wrong(format!("`{text}` is not a time"), format!("write {ALLOWED}"));
            None
        }
    }
}

fn receive(mut table: Table<'_>) -> ReceiveSettings {
    let mut receive = ReceiveSettings::default();
    if let Some(mode) = table.get("xdp_mode").and_then(|value| choice(&value)) {
        receive.xdp_mode = mode;
    }
    if let Some(zero_copy) = table.get("zero_copy").and_then(|value| choice(&value)) {
        receive.zero_copy = zero_copy;
    }
    if let Some(value) = table.get("cpus")
        && let Some(text) = value.text("a list of CPUs such as \"2-7,10\"")
    {
        match text.parse() {
            Ok(cpus) => receive.cpus = Some(cpus),
            Err(error) => value.wrong(error, "a list of CPUs such as \"2-7,10\""),
        }
    }
    if let Some(value) = table.get("sockets_per_queue") {
        let (least, most) = super::limits::SOCKETS_PER_QUEUE.into_inner();
        let range = least as u64..=most as u64;
        receive.sockets_per_queue = value.number("a number", &range).map(|sockets| sockets as u32);
    }
    if let Some(on) = table.get("flow_affinity").and_then(|value| switch(&value)) {
        receive.flow_affinity = on;
    }
    if let Some(value) = table.get("ring") {
        let (least, most) = super::limits::RING.into_inner();
        if let Some(ring) = value.number("a power of two", &(least.into()..=most.into())) {
            if !ring.is_power_of_two() {
                value.wrong(format!("{ring} is not a power of two"), "such as 16384");
            }
            receive.ring = Some(ring as u32);
        }
    }
    if let Some(value) = table.get("busy_poll") {
        let (least, most) = super::limits::BUSY_POLL.into_inner();
        let range = least as u64..=most as u64;
        if let Some(microseconds) = value.number("a number of microseconds", &range) {
            receive.busy_poll = BusyPoll::of(microseconds as u32);
        }
    }
    table.finish();
    receive
}

/// Reads "on" or "off".
fn switch(value: &Value<'_>) -> Option<bool> {
    match value.text("\"on\" or \"off\"")? {
        "on" => Some(true),
        "off" => Some(false),
        word => {
            value.wrong(format!("`{word}` is neither"), "\"on\" or \"off\"");
            None
        }
    }
}

/// Reads one of the words that the command line takes as well.
fn choice<T: clap::ValueEnum>(value: &Value<'_>) -> Option<T> {
    let words: Vec<_> = T::value_variants().iter().filter_map(T::to_possible_value).collect();
    let words: Vec<_> = words.iter().map(|word| format!("\"{}\"", word.get_name())).collect();
    let allowed = words.join(", ");
    let text = value.text(&allowed)?;
    let choice = T::from_str(text, false);
    if choice.is_err() {
        value.wrong(format!("`{text}` is none of them"), allowed);
    }
    choice.ok()
}

fn analysis(mut table: Table<'_>) -> AnalysisSettings {
    let mut analysis = AnalysisSettings::default();
    if let Some(dedup) = table.get("dedup").and_then(|value| switch(&value)) {
        analysis.dedup = dedup;
    }
    if let Some(value) = table.get("analyzers") {
        analysis.analyzers = analyzers(&value);
    }
    if let Some(value) = table.get("metrics_interval")
        && let Some(time) = whole_seconds(&value, 86_400)
    {
        analysis.metrics_interval = Duration::from_secs(time);
    }
    table.finish();
    analysis
}

fn analyzers(value: &Value<'_>) -> Enabled {
    let names: Vec<_> = Enabled::all_names().map(|name| format!("\"{name}\"")).collect();
    let allowed = names.join(", ");
    let mut enabled = Enabled::none();
    for element in value.list("names of analyzers").unwrap_or_default() {
        let Some(name) = element.text(&allowed) else { continue };
        match enabled.with(name) {
            Some(more) => enabled = more,
            None => element.wrong(format!("`{name}` is not an analyzer"), format!("one of {allowed}")),
        }
    }
    enabled
}

fn timeouts(mut table: Table<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let keys = [
        ("new", &mut timeouts.new),
        ("established", &mut timeouts.established),
        ("tcp_new", &mut timeouts.tcp_new),
        ("tcp_established", &mut timeouts.tcp_established),
        ("tcp_closed", &mut timeouts.tcp_closed),
    ];
    for (key, timeout) in keys {
        if let Some(seconds) = table.get(key).and_then(|value| whole_seconds(&value, 7 * 86_400)) {
            *timeout = seconds;
        }
    }
    table.finish();
    timeouts
}

/// Reads a time such as "30s", of whole seconds from 1 to `most`, and returns it in seconds.
fn whole_seconds(value: &Value<'_>, most: u64) -> Option<u64> {
    let time = duration(value)?;
    if time.subsec_nanos() == 0 && time.as_secs() <= most {
        return Some(time.as_secs());
    }
    let most = humantime::format_duration(Duration::from_secs(most));
    let time = humantime::format_duration(time);
    value.wrong(format!("{time} is out of range"), format!("must be whole seconds, from 1s to {most}"));
    None
}

/// Log levels, from the least to the most verbose.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn log(mut table: Table<'_>) -> LogSettings {
    let mut log = LogSettings::default();
    let allowed =
        format!("{}, or such as \"info,hyper=debug\"", LEVELS.map(|l| format!("\"{l}\"")).join(", "));
    if let Some(value) = table.get("level")
        && let Some(text) = value.text(&allowed)
    {
        let is_level = |directive: &str| {
            let level = match directive.split_once('=') {
                Some((target, level)) if is_target(target) => level,
                Some(_) => return false,
                None => directive,
            };
            LEVELS.contains(&level)
        };
        if !text.split(',').all(is_level) {
            value.wrong(format!("`{text}` is not a level"), allowed);
        }
        log.level = Some(text.to_owned());
    }
    table.finish();
    log
}

/// Returns whether a text is the path of a module.
fn is_target(target: &str) -> bool {
    !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
}

fn alerts(mut table: Table<'_>) -> AlertSettings {
    let mut alerts = AlertSettings::default();
    let indicators = table.get("indicators").and_then(|value| value.list("indicators")).unwrap_or_default();
    for value in indicators {
        if let Some(text) = value.text("a domain, an address, a network, a JA3 or a JA4") {
            value.checked(alerts.indicators.add(text));
        }
    }
    alerts.file = table.get("file").and_then(|value| absolute(&value, "/etc/mirror-xdp/indicators"));
    table.finish();
    alerts
}

/// Reads permissions of files in octal, as `chmod` takes them. The owner needs at least those in `least`, and
/// only the owner and the group may write.
fn permissions(value: &Value<'_>, least: u32, example: &str) -> Option<u32> {
    let allowed = format!("permissions as text, such as \"{example}\"");
    let text = value.text(&allowed)?;
    let digits = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode & least == least && mode & !0o775 == 0 => Some(mode),
        Ok(mode) if digits && mode <= 0o7777 => {
            let what = if mode & least == least {
                format!("`{text}` lets all users write, or has more than the permission bits")
            } else {
                format!("`{text}` denies the owner access")
            };
            value.wrong(what, format!("such as \"{example}\""));
            None
        }
        _ => {
            value.wrong(format!("`{text}` is not valid permissions"), format!("such as \"{example}\""));
            None
        }
    }
}

fn eve(mut table: Table<'_>) -> EveSettings {
    let mut eve = EveSettings::default();
    if let Some(value) = table.get("output") {
        let text = value.text("a file, \"-\", \"unix-stream:PATH\" or \"unix-dgram:PATH\"");
        match text {
            Some("") => value.wrong("is empty", "leave the key out for eve.json"),
            Some(text) => _ = value.checked(Destination::check(text)),
            None => {}
        }
        eve.output = text.map(PathBuf::from);
    }
    if let Some(list) = table.get("types").and_then(|value| value.list("kinds of events")) {
        let allowed = EventTypes::KNOWN.map(|kind| format!("\"{kind}\"")).join(", ");
        let kind = |value: Value<'_>| {
            let kind = value.text(&allowed)?;
            if !EventTypes::KNOWN.contains(&kind) {
                value.wrong(format!("`{kind}` is not an event type"), &allowed);
            }
            Some(kind.to_owned())
        };
        eve.types = EventTypes::only(list.into_iter().filter_map(kind).collect());
    }
    if let Some(value) = table.get("rotate_size") {
        eve.rotation.size = match value.as_text() {
            Some(text) => value.checked(text::bytes(text)),
            None => value.number("a number of bytes, or such as \"1GiB\",", &(1..=u64::MAX)),
        };
        if eve.rotation.size == Some(0) {
            value.wrong("is nothing", "write such as \"1GiB\"");
        }
    }
    if let Some(value) = table.get("rotate_interval")
        && let Some(text) = value.text("a time such as \"1h\"")
    {
        match humantime::parse_duration(text) {
            Ok(time) if time.as_secs() > 0 => eve.rotation.interval = Some(time),
            _ => value.wrong(format!("`{text}` is not a time of a second or more"), "write such as \"1h\""),
        }
    }
    if let Some(value) = table.get("rotate_keep") {
        let number = value.number("a number of files", &(0..=1_000_000));
        eve.rotation.keep = number.map(|number| number as usize);
    }
    if let Some(mode) = table.get("file_mode").and_then(|value| permissions(&value, 0o600, "0640")) {
        eve.modes.file = mode;
    }
    if let Some(mode) = table.get("directory_mode").and_then(|value| permissions(&value, 0o700, "0750")) {
        eve.modes.directory = mode;
    }
    table.finish();
    eve
}

fn api(mut table: Table<'_>) -> ApiSettings {
    const ADDRESS: &str = "an address with a port, such as \"127.0.0.1:9470\", or \"off\"";
    let mut address = |key| {
        let value = table.get(key)?;
        let text = value.text(ADDRESS)?;
        let address = text.parse().ok();
        if address.is_none() {
            value.wrong(format!("`{text}` is not an address to listen on"), ADDRESS);
        }
        address
    };
    let (listen, health) = (address("listen"), address("health"));
    let token_file = table.get("token_file").and_then(|value| absolute(&value, "/etc/mirror-xdp/token"));
    table.finish();
    ApiSettings { listen, health, token_file }
}

fn filter<'d>(mut table: Table<'d>, policy: &mut Policy, known: &mut Vec<KnownVnis<'d>>) {
    if let Some(value) = table.get("macs")
        && let Some(elements) = value.list("hardware addresses")
    {
        if elements.len() > limits::MACS {
            value.wrong(format!("has {} addresses", elements.len()), format!("at most {}", limits::MACS));
        }
        policy.macs = elements.iter().filter_map(mac_address).collect();
    }
    let default = table.get("default");
    let mut bound = Vec::new();
    if let Some(value) = table.get("sets") {
        let elements = value.list("tables").unwrap_or_default();
        if elements.len() > limits::SETS {
            value.wrong(format!("has {} sets", elements.len()), format!("at most {}", limits::SETS));
        }
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut rules = 0;
        for (index, element) in elements.iter().enumerate() {
            let Some(table) = element.table() else { continue };
            let set = rule_set(table, &mut names, index, &mut rules, &mut bound);
            policy.sets.push(set);
        }
    }
    if let Some(value) = default
        && let Some(name) = value.text("the name of a set")
    {
        policy.default_set = policy.sets.iter().position(|set| set.name == name);
        if policy.default_set.is_none() {
            let names: Vec<_> = policy.sets.iter().map(|set| format!("\"{}\"", set.name)).collect();
            let allowed = match &names[..] {
                [] => "write a [[filter.sets]] of this name".to_owned(),
                names => format!("one of {}", names.join(", ")),
            };
            value.wrong(format!("there is no set \"{name}\""), allowed);
        }
    }
    bind(policy, &mut bound);
    known.extend(bound.into_iter().map(|(_, known)| known));
    table.finish();
}

fn rule_set<'d>(
    mut table: Table<'d>,
    names: &mut BTreeMap<String, usize>,
    index: usize,
    total: &mut usize,
    bound: &mut Vec<(usize, KnownVnis<'d>)>,
) -> RuleSet {
    let mut name = String::new();
    if let Some(value) = table.require("name", "\"a name\"")
        && let Some(text) = value.text("a name")
    {
        text.clone_into(&mut name);
        if text.is_empty() || text.len() > limits::NAME || text.chars().any(char::is_control) {
            let allowed = format!("1 to {} bytes without control characters", limits::NAME);
            value.wrong(format!("\"{text}\" is not a name"), allowed);
        } else if let Some(first) = names.insert(name.clone(), index) {
            let what = format!("\"{text}\" is the name of filter.sets[{first}] already");
            value.wrong(what, "give each set a name of its own");
        }
    }
    if let Some(value) = table.get("vnis") {
        bound.extend(vnis(&value).into_iter().map(|known| (index, known)));
    }
    let mut rules: Vec<Rule> = Vec::new();
    if let Some(value) = table.get("rules") {
        let elements = value.list("tables").unwrap_or_default();
        let before = *total;
        *total += elements.len();
        let mut numbers = BTreeMap::new();
        for (position, element) in elements.iter().enumerate() {
            if before + position == limits::RULES {
                let what = format!("exceeds the limit of rules over all sets: {} so far", *total);
                element.wrong(what, format!("at most {}", limits::RULES));
            }
            if let Some(table) = element.table() {
                rules.extend(rule(table, position, &mut numbers));
            }
        }
    }
    rules.sort_by_key(|rule| (rule.number, rule.direction));
    table.finish();
    RuleSet { name, rules }
}

/// The rules of a set so far, by number: direction and position.
type Numbers = BTreeMap<u32, Vec<(RuleDirection, usize)>>;

/// Reads a rule; `None` if its number or action is missing or wrong.
fn rule(mut table: Table<'_>, position: usize, numbers: &mut Numbers) -> Option<Rule> {
    let direction = table.get("direction").and_then(|value| {
        let text = value.text("\"ingress\", \"egress\" or \"both\"")?;
        value.checked(text::direction(text))
    });
    let direction = direction.unwrap_or_default();
    let number = table.require("number", "100").and_then(|value| {
        let number = value.number("a number", &(1..=u64::from(u32::MAX)))? as u32;
        let same = numbers.entry(number).or_default();
        let overlaps =
            |other| direction == RuleDirection::Both || other == RuleDirection::Both || other == direction;
        if let Some((other, first)) = same.iter().find(|(other, _)| overlaps(*other)) {
            let direction = if direction == RuleDirection::Both { *other } else { direction };
            let of = if direction == RuleDirection::Both {
                String::new()
            } else {
                format!(" for {}", direction.name())
            };
            value.wrong(
                format!("rule {number}{of} is in rules[{first}] already"),
                "a number is used once in each direction of a set",
            );
        }
        same.push((direction, position));
        Some(number)
    });
    let action = table.require("action", "\"accept\"").and_then(|value| action(&value));
    let protocol = table.get("protocol").map(|value| (protocol(&value), value));
    let source = table.get("source").and_then(|value| network(&value));
    let destination_value = table.get("destination");
    let destination = destination_value.as_ref().and_then(network);
    if let (Some(source), Some(destination), Some(value)) = (source, destination, &destination_value)
        && source.addr().is_ipv4() != destination.addr().is_ipv4()
    {
        let family = |net: IpNet| if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        value.wrong(
            format!("{destination} is {}, but source {source} is {}", family(destination), family(source)),
            "source and destination are of one family",
        );
    }
    let mut ports = |key| {
        let value = table.get(key)?;
        match &protocol {
            // The mistake in the protocol has been reported.
            Some((None, _)) => {}
            Some((Some(number), _)) if has_ports(*number) => {}
            Some((Some(number), _)) => value.wrong(
                format!("{} has no ports", text::protocol_name(*number)),
                "only with protocol = \"tcp\", \"udp\" or \"sctp\"",
            ),
            None => value.wrong("ports without a protocol", "write protocol = \"tcp\", \"udp\" or \"sctp\""),
        }
        port_range(&value)
    };
    let source_ports = ports("source_ports");
    let destination_ports = ports("destination_ports");
    let protocol = protocol.and_then(|(number, _)| number);
    table.finish();
    let (number, action) = (number?, action?);
    Some(Rule { number, direction, action, protocol, source, destination, source_ports, destination_ports })
}

fn action(value: &Value<'_>) -> Option<Action> {
    let text = value.text("\"accept\", \"reject\", \"shunt\", \"sample 1/N\" or \"truncate N\"")?;
    value.checked(text::action(text))
}

fn protocol(value: &Value<'_>) -> Option<u8> {
    match value.as_text() {
        Some(text) => value.checked(text::protocol(text)),
        None => value.number("the name of a protocol, or a number", &(0..=255)).map(|number| number as u8),
    }
}

fn port_range(value: &Value<'_>) -> Option<RangeInclusive<u16>> {
    if let Some(text) = value.as_text() {
        return value.checked(text::range(text, "a port", 0..=u16::MAX));
    }
    let port = value.number("a range such as \"1024-65535\", or a port", &(0..=65_535))? as u16;
    Some(port..=port)
}

fn network(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text("a network such as \"10.0.0.0/8\"")?;
    value.checked(text::network(text))
}

fn mac_address(value: &Value<'_>) -> Option<MacAddress> {
    let text = value.text("a hardware address such as \"02:00:00:00:00:01\"")?;
    let address = value.checked(text::mac_address(text))?;
    if address[0] & 1 != 0 {
        value.wrong(format!("`{text}` is a group address"), "write the address of an interface");
        return None;
    }
    Some(address)
}

fn vnis<'d>(value: &Value<'d>) -> Vec<KnownVnis<'d>> {
    let elements = value.list("VNIs and ranges such as \"100-199\"").unwrap_or_default();
    let most = Vni::MAX.get();
    let range = |value: &Value<'d>| {
        if let Some(text) = value.as_text() {
            return value.checked(text::range(text, "a VNI", 0..=most));
        }
        let vni =
            value.number("a VNI, or a range of them such as \"100-199\",", &(0..=u64::from(most)))? as u32;
        Some(vni..=vni)
    };
    elements.into_iter().filter_map(|value| Some(KnownVnis { range: range(&value)?, value })).collect()
}

/// Returns the same numbers as ranges in ascending order that do not overlap.
fn merged(mut ranges: Vec<RangeInclusive<u32>>) -> Vec<RangeInclusive<u32>> {
    ranges.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Binds VNIs to sets; binding a VNI to two sets is a mistake.
fn bind(policy: &mut Policy, bound: &mut [(usize, KnownVnis<'_>)]) {
    bound.sort_by_key(|(_, known)| *known.range.start());
    // The range that reaches the farthest so far: a range that overlaps an earlier one overlaps this one, or
    // the clash is reported by another pair.
    let mut farthest: Option<(usize, RangeInclusive<u32>)> = None;
    let mut clash = BTreeSet::new();
    for (set, known) in bound.iter() {
        if let Some((other, range)) = &farthest
            && known.range.start() <= range.end()
            && other != set
            && clash.insert((*other, *set))
        {
            let name = |set: usize| policy.sets.get(set).map_or("", |set| set.name.as_str());
            known.value.wrong(
                format!("VNI {} is bound to set \"{}\" already", known.range.start(), name(*other)),
                format!("bind it to that set or to \"{}\"", name(*set)),
            );
        }
        if farthest.as_ref().is_none_or(|(_, range)| known.range.end() > range.end()) {
            farthest = Some((*set, known.range.clone()));
        }
    }
    let mut ranges: BTreeMap<usize, Vec<RangeInclusive<u32>>> = BTreeMap::new();
    for (set, known) in bound.iter() {
        ranges.entry(*set).or_default().push(known.range.clone());
    }
    for (set, ranges) in ranges {
        for range in merged(ranges) {
            // More than the limit is rejected anyway, so there is no need to list them all.
            let vnis = range.take(limits::VNIS + 1).filter_map(Vni::new);
            policy.bindings.extend(vnis.map(|vni| (vni, set)));
        }
    }
}

/// Reports VNIs beyond the limit, at the widest range.
fn check_capacity(known: &mut [KnownVnis<'_>]) {
    known.sort_by_key(|known| *known.range.start());
    let total: u32 = merged(known.iter().map(|known| known.range.clone()).collect())
        .iter()
        .map(|range| range.end() - range.start() + 1)
        .sum();
    if total as usize <= limits::VNIS {
        return;
    }
    // The widest range is the one to look at first.
    if let Some(widest) = known.iter().max_by_key(|known| known.range.end() - known.range.start()) {
        widest.value.wrong(format!("{total} VNIs are known in total"), format!("at most {}", limits::VNIS));
    }
}
