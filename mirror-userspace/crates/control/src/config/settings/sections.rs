//! Reads the keys whose values need more than the table of settings says, and those that depend on others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use mirror_engine::analyzer::Enabled;
use mirror_packet::TunnelPorts;
use mirror_records::sink::{Destination, EventTypes};
use mirror_rules::policy::{Action, MacAddress, Policy, Rule, RuleDirection, RuleSet, has_ports};
use mirror_rules::{RuleRange, limits, text};
use mirror_store::Kept;
use mirror_xdp_common::Vni;
use toml::Spanned;
use toml::de::DeTable;

use super::document::{self, Document, Table, Value};
use super::{SECTIONS, Section};
use crate::config::listen::Address;
use crate::config::settings;
use crate::config::{Config, Ports};

/// The values of a file so far, and those that are read once all others are known.
#[derive(Debug, Default)]
pub(in crate::config) struct Reader<'d> {
    /// The values. If there are mistakes, the document holds them, and the values are meaningless.
    pub(in crate::config) config: Config,
    /// The lists of ports: VXLAN, GENEVE, VXLAN-GPE.
    pub(in crate::config) ports: [Option<Value<'d>>; 3],
    /// The rules whose packets are stored.
    pub(in crate::config) store_rules: Option<Value<'d>>,
    /// The store keeps the packets of alerts only.
    pub(in crate::config) keeps_alerts: bool,
    /// The memory in which packets wait for an alert.
    pub(in crate::config) pre_trigger: Option<Value<'d>>,
    /// The name of the default set.
    pub(in crate::config) default_set: Option<Value<'d>>,
    /// All VNIs that are known, by admission or by a set.
    known: Vec<KnownVnis<'d>>,
}

/// A range of VNIs and its place in the file.
#[derive(Debug)]
struct KnownVnis<'d> {
    range: RangeInclusive<u32>,
    value: Value<'d>,
}

/// Reads the whole file.
pub(in crate::config) fn config<'d>(document: &'d Document<'d>, root: &'d Spanned<DeTable<'d>>) -> Config {
    let mut reader = Reader::default();
    let tops = SECTIONS.iter().filter(|section| section.is_top());
    for (section, table) in document::tables(document, root, tops) {
        for value in table.values() {
            value.setting().read(&mut reader, &value);
        }
        if section.name == "ports" {
            ports(&mut reader, &table);
        }
    }
    pre_trigger(&mut reader);
    default_set(&mut reader);
    if let Some(value) = &reader.store_rules {
        reader.config.store.settings.policy.rules = Some(store_rules(value, &reader.config.policy));
    }
    check_capacity(&mut reader.known);
    reader.config
}

pub(in crate::config) fn interfaces(reader: &mut Reader<'_>, value: &Value<'_>) {
    let Some(elements) = value.list() else { return };
    let interfaces = &mut reader.config.capture.interfaces;
    if elements.is_empty() {
        value.wrong("is empty: nothing would be captured", "name one, or leave the key out");
    }
    for element in elements {
        let Some(name) = element.text_of("the name of an interface") else { continue };
        // The names that the kernel accepts (dev_valid_name).
        let wrong = |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace();
        if name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.bytes().any(wrong) {
            element.wrong(format!("`{name}` is not an interface name"), "such as \"ens6\"");
        }
        if let Some(first) = interfaces.iter().position(|other| other == name) {
            let what = format!("`{name}` is capture.interfaces[{first}] already");
            element.wrong(what, "name each interface once");
        }
        interfaces.push(name.to_owned());
    }
}

/// Reads the lists of ports, once it is known which are absent.
fn ports(reader: &mut Reader<'_>, table: &Table<'_>) {
    let default = Ports::default();
    let lists = [("vxlan", default.vxlan), ("geneve", default.geneve), ("vxlan_gpe", default.vxlan_gpe)];
    // The default ports of another encapsulation are taken as well.
    let mut taken: BTreeMap<u16, &'static str> = BTreeMap::new();
    for ((key, default), _) in lists.iter().zip(&reader.ports).filter(|(_, value)| value.is_none()) {
        taken.extend(default.iter().map(|port| (*port, *key)));
    }
    let mut values = reader.ports.iter();
    let [vxlan, geneve, vxlan_gpe] = lists.map(|(key, default)| match values.next() {
        Some(Some(value)) => port_list(value, key, &mut taken),
        _ => default,
    });
    let ports = Ports { vxlan, geneve, vxlan_gpe };
    if ports.vxlan.is_empty() && ports.geneve.is_empty() && ports.vxlan_gpe.is_empty() {
        table.wrong("no port at all: nothing would be captured", "name one in vxlan, geneve or vxlan_gpe");
    }
    reader.config.ports = ports;
}

pub(in crate::config) fn inner_vxlan_ports(reader: &mut Reader<'_>, value: &Value<'_>) {
    let ports = port_list(value, "inner_vxlan_ports", &mut BTreeMap::new());
    // A list that is too long is a mistake already.
    if let Some(ports) = TunnelPorts::new(&ports) {
        reader.config.analysis.tunnel_ports = ports;
    }
}

fn port_list(value: &Value<'_>, key: &'static str, taken: &mut BTreeMap<u16, &'static str>) -> Vec<u16> {
    let mut ports = Vec::new();
    for element in value.list().unwrap_or_default() {
        let Some(port) = element.number_of("a UDP port", &(1..=65_535)) else { continue };
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

pub(in crate::config) fn sources(reader: &mut Reader<'_>, value: &Value<'_>) {
    let Some(elements) = value.list() else { return };
    if elements.is_empty() {
        value.wrong("is empty: no frame would be admitted", "leave the key out to admit any source");
    }
    let sources = reader.config.policy.sources.get_or_insert_default();
    for (element, network) in elements.iter().filter_map(|element| Some((element, network(element)?))) {
        if network.prefix_len() == 0 {
            let family = if network.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            element.warn(
                &format!("`{network}` admits every host that can send to the appliance by {family}"),
                "name the networks of the mirrored interfaces",
            );
        }
        sources.push(network);
    }
}

pub(in crate::config) fn known_vnis<'d>(reader: &mut Reader<'d>, value: &Value<'d>) {
    let vnis = vnis(value);
    reader.config.policy.vnis = merged(vnis.iter().map(|known| known.range.clone()).collect());
    reader.known.extend(vnis);
}

/// The accepted values of `store.packet`.
pub(in crate::config) const PACKET: &str = "\"whole\", \"headers\", or a number of bytes from 16 to 262144";

pub(in crate::config) fn packet(reader: &mut Reader<'_>, value: &Value<'_>) {
    let packet = match value.as_text() {
        Some("whole") => Some(Kept::Whole),
        Some("headers") => Some(Kept::Headers),
        Some(text) => {
            value.wrong(format!("`{text}` is not a part of a packet"), PACKET);
            None
        }
        None => {
            let bytes = value.number_of("\"whole\", \"headers\", or a number of bytes", &(16..=262_144));
            bytes.map(|bytes| Kept::First(bytes as usize))
        }
    };
    if let Some(packet) = packet {
        reader.config.store.settings.policy.packet = packet;
    }
}

/// The default size, in bytes, of the memory in which frames wait for an alert.
const DEFAULT_PRE_TRIGGER: u64 = 32 << 20;

/// Reads the size of the memory in which frames wait for an alert; there is none if the store keeps all
/// packets.
fn pre_trigger(reader: &mut Reader<'_>) {
    let size = reader.pre_trigger.as_ref();
    if let (Some(size), false) = (size, reader.keeps_alerts) {
        size.wrong("no frame waits if the store keeps all", "write keep = \"alerts\", or leave it out");
    }
    let bytes = size.map_or(Some(DEFAULT_PRE_TRIGGER), Value::bytes);
    reader.config.store.settings.policy.pre_trigger = bytes.filter(|_| reader.keeps_alerts);
}

/// The elements of `store.rules`.
pub(in crate::config) const STORE_RULES: &str =
    "rules such as \"office\", \"office/100\" or \"office/100-199\"";

/// Reads rules written as `SET`, `SET/NUMBER` and `SET/FIRST-LAST`. A rule that does not exist is a mistake:
/// no packet could match it, so none would be kept.
fn store_rules(value: &Value<'_>, policy: &Policy) -> Vec<RuleRange> {
    let elements = value.list().unwrap_or_default();
    if elements.is_empty() {
        value.wrong("is empty: nothing would be kept", "leave the key out to keep all accepted packets");
    }
    elements.iter().filter_map(|element| store_rule(element, element.text_of(STORE_RULES)?, policy)).collect()
}

/// Reads one of the texts that [`store_rules`] takes.
fn store_rule(value: &Value<'_>, text: &str, policy: &Policy) -> Option<RuleRange> {
    let find = |name: &str| policy.sets.iter().find(|set| set.name == name);
    let (name, numbers) = match text.rsplit_once('/').filter(|_| find(text).is_none()) {
        Some((name, range)) => {
            (name, value.checked(mirror_base::text::range(range, "a rule's number", 1..=u32::MAX))?)
        }
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

/// The accepted values of `store.upload`.
pub(in crate::config) const UPLOAD: &str = "the URL of a place such as \"s3://BUCKET/PREFIX\"";

pub(in crate::config) fn ages(reader: &mut Reader<'_>, value: &Value<'_>) {
    let of = section("store.ages");
    let ages = value.list().unwrap_or_default();
    for age in ages.iter().filter_map(|age| age.table(of)) {
        let named = age.require("vnis").map(|value| vni_ranges(&value)).unwrap_or_default();
        if let Some(limit) = age.require("max_age").and_then(|value| value.time()) {
            reader.config.store.settings.retention.ages.push((named, limit));
        }
    }
}

fn section(name: &str) -> &'static Section {
    settings::section(name).expect("the readers ask for sections that the table has")
}

pub(in crate::config) fn analyzers(reader: &mut Reader<'_>, value: &Value<'_>) {
    let names: Vec<_> = Enabled::all_names().map(|name| format!("\"{name}\"")).collect();
    let allowed = names.join(", ");
    let mut enabled = Enabled::none();
    for element in value.list().unwrap_or_default() {
        let Some(name) = element.text_of(&allowed) else { continue };
        match enabled.with(name) {
            Some(more) => enabled = more,
            None => element.wrong(format!("`{name}` is not an analyzer"), format!("one of {allowed}")),
        }
    }
    reader.config.analysis.analyzers = enabled;
}

/// Log levels, from the least to the most verbose.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(in crate::config) fn log_level(reader: &mut Reader<'_>, value: &Value<'_>) {
    let Some(text) = value.text() else { return };
    let is_level = |directive: &str| {
        let level = match directive.split_once('=') {
            Some((target, level)) if is_target(target) => level,
            Some(_) => return false,
            None => directive,
        };
        LEVELS.contains(&level)
    };
    if !text.split(',').all(is_level) {
        value.wrong(format!("`{text}` is not a level"), value.setting().kind.accepted());
    }
    reader.config.log.level = Some(text.to_owned());
}

/// Returns whether a text is the path of a module.
fn is_target(target: &str) -> bool {
    !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
}

pub(in crate::config) fn indicators(reader: &mut Reader<'_>, value: &Value<'_>) {
    for element in value.list().unwrap_or_default() {
        if let Some(text) = element.text_of("a domain, an address, a network, a JA3 or a JA4") {
            element.checked(reader.config.alerts.indicators.add(text));
        }
    }
}

pub(in crate::config) fn output(reader: &mut Reader<'_>, value: &Value<'_>) {
    match value.text() {
        Some("") => value.wrong("is empty", "leave the key out for eve.json"),
        Some(text) => {
            value.checked(Destination::check(text));
            reader.config.eve.output = PathBuf::from(text);
        }
        None => {}
    }
}

pub(in crate::config) fn event_types(reader: &mut Reader<'_>, value: &Value<'_>) {
    let allowed = EventTypes::KNOWN.map(|kind| format!("\"{kind}\"")).join(", ");
    let kind = |value: Value<'_>| {
        let kind = value.text_of(&allowed)?;
        if !EventTypes::KNOWN.contains(&kind) {
            value.wrong(format!("`{kind}` is not an event type"), &allowed);
        }
        Some(kind.to_owned())
    };
    if let Some(list) = value.list() {
        reader.config.eve.types = EventTypes::only(list.into_iter().filter_map(kind).collect());
    }
}

pub(in crate::config) fn names(reader: &mut Reader<'_>, value: &Value<'_>) {
    let file = |element: Value<'_>| element.path();
    reader.config.eve.names = value.list().unwrap_or_default().into_iter().filter_map(file).collect();
}

pub(in crate::config) fn address(value: &Value<'_>) -> Option<Address> {
    let text = value.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        value.wrong(format!("`{text}` is not an address to listen on"), value.setting().kind.accepted());
    }
    address
}

pub(in crate::config) fn macs(reader: &mut Reader<'_>, value: &Value<'_>) {
    if let Some(elements) = value.list() {
        reader.config.policy.macs = elements.iter().filter_map(mac_address).collect();
    }
}

pub(in crate::config) fn sets<'d>(reader: &mut Reader<'d>, value: &Value<'d>) {
    let policy = &mut reader.config.policy;
    let mut bound = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut rules = 0;
    let of = section("filter.sets");
    for (index, element) in value.list().unwrap_or_default().iter().enumerate() {
        let Some(table) = element.table(of) else { continue };
        policy.sets.push(rule_set(&table, &mut names, index, &mut rules, &mut bound));
    }
    bind(policy, &mut bound);
    reader.known.extend(bound.into_iter().map(|(_, known)| known));
}

/// Finds the default set, once all sets are known.
fn default_set(reader: &mut Reader<'_>) {
    let policy = &mut reader.config.policy;
    let Some(value) = &reader.default_set else { return };
    let Some(name) = value.text() else { return };
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

fn rule_set<'d>(
    table: &Table<'d>,
    names: &mut BTreeMap<String, usize>,
    index: usize,
    total: &mut usize,
    bound: &mut Vec<(usize, KnownVnis<'d>)>,
) -> RuleSet {
    let mut name = String::new();
    if let Some(value) = table.require("name")
        && let Some(text) = value.text()
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
        let of = section("filter.sets.rules");
        let elements = value.list().unwrap_or_default();
        let before = *total;
        *total += elements.len();
        let mut numbers = BTreeMap::new();
        for (position, element) in elements.iter().enumerate() {
            if before + position == limits::RULES {
                let what = format!("exceeds the limit of rules over all sets: {} so far", *total);
                element.wrong(what, format!("at most {}", limits::RULES));
            }
            if let Some(table) = element.table(of) {
                rules.extend(rule(&table, position, &mut numbers));
            }
        }
    }
    rules.sort_by_key(|rule| (rule.number, rule.direction));
    RuleSet { name, rules }
}

/// The rules of a set so far, by number: direction and position.
type Numbers = BTreeMap<u32, Vec<(RuleDirection, usize)>>;

/// Reads a rule; `None` if its number or action is missing or wrong.
fn rule(table: &Table<'_>, position: usize, numbers: &mut Numbers) -> Option<Rule> {
    let direction = table.get("direction").and_then(|value| {
        let text = value.text()?;
        value.checked(text::direction(text))
    });
    let direction = direction.unwrap_or_default();
    let number = table.require("number").and_then(|value| {
        let number = value.number()? as u32;
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
    let action = table.require("action").and_then(|value| action(&value));
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
    let ports = |key| {
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
    let (number, action) = (number?, action?);
    Some(Rule { number, direction, action, protocol, source, destination, source_ports, destination_ports })
}

/// The accepted values of `filter.sets.rules.action`.
pub(in crate::config) const ACTION: &str =
    "\"accept\", \"reject\", \"shunt\", \"sample 1/N\" or \"truncate N\"";

fn action(value: &Value<'_>) -> Option<Action> {
    let text = value.text()?;
    value.checked(text::action(text))
}

fn protocol(value: &Value<'_>) -> Option<u8> {
    match value.as_text() {
        Some(text) => value.checked(text::protocol(text)),
        None => value.number_of("the name of a protocol, or a number", &(0..=255)).map(|number| number as u8),
    }
}

fn port_range(value: &Value<'_>) -> Option<RangeInclusive<u16>> {
    if let Some(text) = value.as_text() {
        return value.checked(mirror_base::text::range(text, "a port", 0..=u16::MAX));
    }
    let port = value.number_of("a range such as \"1024-65535\", or a port", &(0..=65_535))? as u16;
    Some(port..=port)
}

fn network(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text_of("a network such as \"10.0.0.0/8\"")?;
    value.checked(mirror_base::text::network(text))
}

fn mac_address(value: &Value<'_>) -> Option<MacAddress> {
    let text = value.text_of("a hardware address such as \"02:00:00:00:00:01\"")?;
    let address = value.checked(text::mac_address(text))?;
    if address[0] & 1 != 0 {
        value.wrong(format!("`{text}` is a group address"), "write the address of an interface");
        return None;
    }
    Some(address)
}

/// Reads VNIs and ranges of them.
pub(in crate::config) fn vni_ranges(value: &Value<'_>) -> Vec<RangeInclusive<u32>> {
    vnis(value).into_iter().map(|known| known.range).collect()
}

fn vnis<'d>(value: &Value<'d>) -> Vec<KnownVnis<'d>> {
    let elements = value.list().unwrap_or_default();
    let most = Vni::MAX.get();
    let range = |value: &Value<'d>| {
        if let Some(text) = value.as_text() {
            return value.checked(mirror_base::text::range(text, "a VNI", 0..=most));
        }
        let vni =
            value.number_of("a VNI, or a range of them such as \"100-199\",", &(0..=u64::from(most)))? as u32;
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
