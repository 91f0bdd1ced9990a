//! Imports AWS traffic mirror filters as rule sets: reads the output of `aws ec2
//! describe-traffic-mirror-filters`, and writes the `[filter]` section of a configuration file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use mirror_base::ParseError;
use serde_json::Value;

use super::limits;
use super::policy::{Action, Rule, RuleDirection, RuleSet, has_ports};
use super::text;

/// An AWS traffic mirror filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its identifier, `tmf-…`.
    pub id: String,
    /// Its description.
    pub description: Option<String>,
    /// Network services that it mirrors in addition, such as `amazon-dns`.
    pub network_services: Vec<String>,
    /// Its rules; the name is the value of its tag `Name`, or else its identifier.
    pub set: RuleSet,
    /// The descriptions of the rules, in the order of the rules.
    pub comments: Vec<Option<String>>,
}

/// A mistake in the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {wrong}")]
pub struct ImportError {
    /// The place, as a path from the top, such as `TrafficMirrorFilters[0].IngressFilterRules[2].Protocol`;
    /// for input that is not JSON, the line.
    pub place: String,
    /// The mistake and its remedy.
    pub wrong: ParseError,
}

/// Reads the JSON output of `aws ec2 describe-traffic-mirror-filters`.
pub fn read(json: &[u8]) -> Result<Vec<Filter>, ImportError> {
    const COMMAND: &str = "give the output of `aws ec2 describe-traffic-mirror-filters --output json`";
    let root: Value = serde_json::from_slice(json).map_err(|error| ImportError {
        place: format!("line {}, column {}", error.line(), error.column()),
        wrong: ParseError::new("not JSON", COMMAND),
    })?;
    let root = Node { value: &root, path: String::new() };
    let filters = match root.get("TrafficMirrorFilters") {
        Some(filters) => filters.list()?,
        None => return Err(root.wrong("no TrafficMirrorFilters", COMMAND)),
    };
    let mut names = BTreeSet::new();
    let mut total = 0;
    let mut sets = Vec::new();
    for node in &filters {
        let filter = filter(node, &mut names)?;
        total += filter.set.rules.len();
        if total > limits::RULES || sets.len() == limits::SETS {
            let allowed = format!("at most {} rules in {} filters", limits::RULES, limits::SETS);
            return Err(node.wrong("exceeds the limits", allowed));
        }
        sets.push(filter);
    }
    Ok(sets)
}

fn filter(node: &Node<'_>, names: &mut BTreeSet<String>) -> Result<Filter, ImportError> {
    let id = node.require("TrafficMirrorFilterId")?.text()?;
    let mut numbered = Vec::new();
    for (key, direction) in
        [("IngressFilterRules", RuleDirection::Ingress), ("EgressFilterRules", RuleDirection::Egress)]
    {
        let mut numbers = BTreeSet::new();
        for node in node.get(key).map_or_else(|| Ok(Vec::new()), |list| list.list())? {
            let (rule, comment) = rule(&node, direction)?;
            if !numbers.insert(rule.number) {
                let what = format!("rule {} is in {key} already", rule.number);
                return Err(node.wrong(what, "a number is used once in each direction"));
            }
            numbered.push((rule, comment));
        }
    }
    numbered.sort_by_key(|(rule, _)| (rule.number, rule.direction));
    let (rules, comments) = numbered.into_iter().unzip();
    let mut network_services = Vec::new();
    for service in node.get("NetworkServices").map_or_else(|| Ok(Vec::new()), |list| list.list())? {
        network_services.push(service.text()?.to_owned());
    }
    let tag = name_tag(node)?.filter(|name| is_name(name) && !names.contains(*name));
    let name = tag.unwrap_or(id);
    if !is_name(name) || !names.insert(name.to_owned()) {
        return Err(
            node.wrong(format!("a second filter is named {name:?}"), "filters have different identifiers")
        );
    }
    let description = node.get("Description").map(|node| node.text().map(str::to_owned)).transpose()?;
    let set = RuleSet { name: name.to_owned(), rules };
    Ok(Filter { id: id.to_owned(), description, network_services, set, comments })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= limits::NAME && !name.chars().any(char::is_control)
}

/// Returns the value of a filter's tag `Name`.
fn name_tag<'v>(node: &Node<'v>) -> Result<Option<&'v str>, ImportError> {
    for tag in node.get("Tags").map_or_else(|| Ok(Vec::new()), |list| list.list())? {
        if tag.require("Key")?.text()? == "Name" {
            return tag.require("Value")?.text().map(Some);
        }
    }
    Ok(None)
}

fn rule(node: &Node<'_>, direction: RuleDirection) -> Result<(Rule, Option<String>), ImportError> {
    if let Some(node) = node.get("TrafficDirection")
        && node.text()? != direction.name()
    {
        return Err(node.wrong("contradicts the list that the rule is in", format!("`{}`", direction.name())));
    }
    let number = node.require("RuleNumber")?;
    let number = number.number("a rule number", 1..=i64::from(u32::MAX))? as u32;
    let action = node.require("RuleAction")?;
    let action = match action.text()? {
        "accept" => Action::Accept,
        "reject" => Action::Reject,
        other => return Err(action.wrong(format!("`{other}` is not an action"), "accept or reject")),
    };
    // Other parts of EC2 use −1 for "all".
    let protocol = match node.get("Protocol") {
        Some(node) => Some(node.number("a protocol number", -1..=255)?),
        None => None,
    };
    let protocol = protocol.and_then(|number| u8::try_from(number).ok());
    let source = node.get("SourceCidrBlock").map(|node| network(&node)).transpose()?;
    let destination_node = node.get("DestinationCidrBlock");
    let destination = destination_node.as_ref().map(network).transpose()?;
    if let (Some(source), Some(destination), Some(node)) = (source, destination, &destination_node)
        && source.addr().is_ipv4() != destination.addr().is_ipv4()
    {
        let what = format!("{destination} is not of the family of SourceCidrBlock {source}");
        return Err(node.wrong(what, "source and destination are of one family"));
    }
    let ports = |key| match node.get(key) {
        Some(node) => port_range(&node, protocol),
        None => Ok(None),
    };
    let source_ports = ports("SourcePortRange")?;
    let destination_ports = ports("DestinationPortRange")?;
    let comment = node.get("Description").map(|node| node.text().map(str::to_owned)).transpose()?;
    let rule =
        Rule { number, direction, action, protocol, source, destination, source_ports, destination_ports };
    Ok((rule, comment.filter(|text| !text.is_empty())))
}

/// Parses a network; bits beyond the prefix are cleared, as AWS does.
fn network(node: &Node<'_>) -> Result<IpNet, ImportError> {
    let text = node.text()?;
    let lenient = text.parse::<IpNet>().map_or_else(|_| text.to_owned(), |net| net.trunc().to_string());
    mirror_base::text::network(&lenient).map_err(|wrong| node.wrong(wrong.what, wrong.allowed))
}

fn port_range(node: &Node<'_>, protocol: Option<u8>) -> Result<Option<RangeInclusive<u16>>, ImportError> {
    let port = |key| node.require(key)?.number("a port", -1..=65_535);
    let (from, to) = (port("FromPort")?, port("ToPort")?);
    // Other parts of EC2 use −1 for "all".
    if (from, to) == (-1, -1) {
        return Ok(None);
    }
    let (Ok(first), Ok(last)) = (u16::try_from(from), u16::try_from(to)) else {
        return Err(node.wrong(format!("{from} to {to} is not a range of ports"), "ports from 0 to 65535"));
    };
    if first > last {
        return Err(node.wrong(format!("{first} to {last} is reversed"), "FromPort is not above ToPort"));
    }
    if !protocol.is_some_and(has_ports) {
        return Err(node.wrong("ports without a protocol that has some", "only with Protocol 6, 17 or 132"));
    }
    Ok(Some(first..=last))
}

/// A JSON value, and its place in the input.
struct Node<'v> {
    value: &'v Value,
    path: String,
}

impl<'v> Node<'v> {
    fn wrong(&self, what: impl Into<String>, allowed: impl Into<String>) -> ImportError {
        let place = if self.path.is_empty() { "top level".to_owned() } else { self.path.clone() };
        ImportError { place, wrong: ParseError::new(what, allowed) }
    }

    fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Returns the value of a key; `None` if it is missing or null.
    fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Self { value, path: self.path(key) })
    }

    fn require(&self, key: &str) -> Result<Self, ImportError> {
        let missing = || {
            let missing = Self { value: self.value, path: self.path(key) };
            missing.wrong("is missing", "AWS always prints it")
        };
        self.get(key).ok_or_else(missing)
    }

    fn list(&self) -> Result<Vec<Self>, ImportError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("is not a list", "must be a list"))?;
        let node = |(index, value)| Self { value, path: format!("{}[{index}]", self.path) };
        Ok(list.iter().enumerate().map(node).collect())
    }

    fn text(&self) -> Result<&'v str, ImportError> {
        self.value.as_str().ok_or_else(|| self.wrong("is not text", "must be text in quotes"))
    }

    fn number(&self, what: &str, range: RangeInclusive<i64>) -> Result<i64, ImportError> {
        let number = self.value.as_i64().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let allowed = format!("must be {what} from {} to {}", range.start(), range.end());
            self.wrong(format!("is {}", shown(self.value)), allowed)
        })
    }
}

/// Returns the beginning of a value, on one line.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

/// Writes the filters as the `[filter]` section of a configuration file.
#[must_use]
pub fn to_toml(filters: &[Filter]) -> String {
    let mut text = String::from(
        "# Imported from the output of `aws ec2 describe-traffic-mirror-filters`.\n\
         # Bind the sets to the VNIs of the sessions that use the filters, and name the hardware addresses of\n\
         # the mirrored interfaces: without them the direction of packets is unknown.\n\
         [filter]\n",
    );
    if let [only] = filters {
        let _ = writeln!(text, "default = {}", quoted(&only.set.name));
    }
    text.push_str("macs = []\n");
    for filter in filters {
        text.push_str("\n[[filter.sets]]\n");
        let _ = writeln!(text, "name = {}", quoted(&filter.set.name));
        let _ = writeln!(text, "vnis = []  # {}", filter.id.escape_default());
        if let Some(description) = filter.description.as_ref().filter(|text| !text.is_empty()) {
            comment(&mut text, description);
        }
        for service in &filter.network_services {
            comment(&mut text, &format!("The filter mirrors the network service {service} as well."));
        }
        for (rule, remark) in filter.set.rules.iter().zip(&filter.comments) {
            text.push_str("\n[[filter.sets.rules]]\n");
            if let Some(remark) = remark {
                comment(&mut text, remark);
            }
            write_rule(&mut text, rule);
        }
    }
    text
}

fn write_rule(text: &mut String, rule: &Rule) {
    let _ = writeln!(text, "number = {}", rule.number);
    let _ = writeln!(text, "direction = \"{}\"", rule.direction.name());
    let _ = writeln!(text, "action = \"{}\"", rule.action);
    if let Some(number) = rule.protocol {
        let name = text::protocol_name(number);
        // The name, if the protocol has one.
        let value = if text::protocol(&name).is_ok() { quoted(&name) } else { number.to_string() };
        let _ = writeln!(text, "protocol = {value}");
    }
    for (key, net) in [("source", rule.source), ("destination", rule.destination)] {
        if let Some(net) = net {
            let _ = writeln!(text, "{key} = \"{net}\"");
        }
    }
    let ranges = [("source_ports", &rule.source_ports), ("destination_ports", &rule.destination_ports)];
    for (key, range) in ranges {
        if let Some(range) = range {
            let _ = writeln!(text, "{key} = \"{}\"", text::range_text(range));
        }
    }
}

fn comment(text: &mut String, words: &str) {
    for line in words.lines() {
        let line: String = line.chars().filter(|character| !character.is_control()).collect();
        let _ = writeln!(text, "# {line}");
    }
}

/// Writes text as a basic string of TOML; names have no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Shaped like the example in the command's documentation.
    fn described() -> Value {
        serde_json::from_str(include_str!("described-filters.json")).unwrap()
    }

    fn read(json: &Value) -> Result<Vec<Filter>, ImportError> {
        super::read(json.to_string().as_bytes())
    }

    #[test]
    fn names_and_rules_of_filters_are_read() {
        let filters = read(&described()).unwrap();
        assert_eq!(filters[0].set.name, "back \\ \"office\" ö");
        assert_eq!(filters[1].set.name, "tmf-2");
        let rules: Vec<_> = filters[0].set.rules.iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "100 reject ingress protocol 99 fd00::/8 > ::/0",
                "100 accept egress any protocol 0.0.0.0/0 > 0.0.0.0/0",
                "200 accept ingress tcp 10.0.0.0/24 port 1024-65535 > 10.0.0.0/24 port 443",
            ]
        );
        // A single filter becomes the default set.
    }

    #[test]
    fn names_that_are_taken_give_way_to_identifiers() {
        let mut json = described();
        json["TrafficMirrorFilters"][1]["Tags"] = json["TrafficMirrorFilters"][0]["Tags"].clone();
        assert_eq!(read(&json).unwrap()[1].set.name, "tmf-2");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let rule = "/TrafficMirrorFilters/0/IngressFilterRules/0";
        for (pointer, value, place, what) in [
            ("/RuleNumber", json!(0), "IngressFilterRules[0].RuleNumber", "from 1"),
            ("/RuleNumber", json!(null), "IngressFilterRules[0].RuleNumber", "missing"),
            ("/RuleNumber", json!(100), "IngressFilterRules[1]", "already"),
            ("/RuleAction", json!("drop"), "RuleAction", "accept or reject"),
            ("/Protocol", json!(256), "Protocol", "255"),
            ("/Protocol", json!("tcp"), "Protocol", "255"),
            ("/Protocol", json!(1), "PortRange", "6, 17 or 132"),
            ("/SourceCidrBlock", json!("10.0.0.0"), "SourceCidrBlock", "10.0.0.0/32"),
            ("/SourceCidrBlock", json!("fd00::/8"), "DestinationCidrBlock", "family"),
            ("/SourcePortRange/FromPort", json!(70_000), "SourcePortRange.FromPort", "65535"),
            ("/DestinationPortRange/ToPort", json!(1), "DestinationPortRange", "reversed"),
            ("/TrafficDirection", json!("egress"), "TrafficDirection", "ingress"),
            ("/Description", json!(7), "Description", "text"),
        ] {
            let mut json = described();
            *json.pointer_mut(&format!("{rule}{pointer}")).unwrap() = value;
            let error = read(&json).unwrap_err().to_string();
            assert!(error.starts_with("TrafficMirrorFilters[0]."), "{error}");
            assert!(error.contains(place) && error.contains(what), "{pointer}: {error}");
        }
        for (json, place) in
            [("{", "line 1"), ("[]", "top level"), ("{\"TrafficMirrorFilters\": 1}", "is not a list")]
        {
            let error = super::read(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
