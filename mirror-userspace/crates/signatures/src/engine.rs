//! All rules together: which may match a buffer, and whether one does.
//!
//! A rule is found by one pattern in one buffer ([`crate::compile`]), then verified in all of its buffers
//! ([`crate::inspect`]). Rules that no pattern finds are found by their ports or addresses. Conditions and state are not
//! looked at here.

use std::borrow::Cow;
use std::collections::HashMap;

use mirror_packet::Direction;
use mirror_xdp_common::Address;

use crate::buffer::{BUFFERS, Buffer, Unit};
use crate::compile::{Pattern, Prefilter, SHORTEST, Signature, may_be_absent};
use crate::config::threshold::Entry;
use crate::diagnostic::Refusal;
use crate::explain::Explanations;
use crate::facts::Facts;
use crate::inspect::{Values, Verdict, verify};
use crate::plan::{self, Kind, Plan, Scope};
use crate::ports::{AddressIndex, PortIndex};
use crate::profile::Profiles;
use crate::recorded;
use crate::rule::{BufferMatches, Condition, Match, Rule};
use crate::search::{Builder, Candidates, Search};
use crate::tenants::Tenants;
use crate::threshold::Thresholds;
use crate::transform::Transform;
use crate::variables::{Resolver, Variables};

/// Keys that the counts of thresholds have room for.
pub const KEYS: usize = 1 << 16;

/// The patterns of a buffer behind the same transforms.
#[derive(Debug)]
struct Transformed {
    transforms: Box<[Transform]>,
    search: Search,
}

/// Rules that no pattern finds, with the same header and conditions: these are tried once for all.
#[derive(Debug)]
struct Group {
    /// The rules; there is one.
    rules: Box<[u32]>,
    /// Without payload, none of them matches.
    needs_payload: bool,
}

impl Group {
    /// Sorts rules into groups, which are added to `all`, and returns the numbers of these.
    fn of(rules: &[u32], signatures: &[Signature], plans: &[Plan], all: &mut Vec<Self>) -> Vec<u32> {
        let mut by_key: HashMap<_, Vec<u32>> = HashMap::new();
        for rule in rules {
            let at = *rule as usize;
            let Some((Signature { rule: Rule { buffers, conditions, .. }, .. }, plan)) =
                signatures.get(at).zip(plans.get(at))
            else {
                continue;
            };
            let is_payload = |list: &BufferMatches| list.buffer == Buffer::Payload && !may_be_absent(list);
            let needs_payload = matches!(plan.kind, Kind::Payload(_)) && buffers.iter().any(is_payload);
            let key = (plan.header_key(), format!("{conditions:?}"), needs_payload);
            by_key.entry(key).or_default().push(*rule);
        }
        let first = all.len() as u32;
        all.extend(
            by_key
                .into_iter()
                .map(|((_, _, needs_payload), rules)| Self { rules: rules.into(), needs_payload }),
        );
        (first..all.len() as u32).collect()
    }
}

const _: () = assert!(BUFFERS.len() <= 128, "a buffer is a bit of a word");

/// All rules.
#[derive(Debug)]
pub struct Engine {
    signatures: Box<[Signature]>,
    plans: Box<[Plan]>,
    /// The searches by the number of their buffer; those of payload are apart.
    searches: Box<[Vec<Transformed>]>,
    /// The searches of payload by scope and direction.
    payload: [[Vec<Transformed>; 2]; Scope::ALL.len()],
    /// Rules that no pattern finds.
    groups: Box<[Group]>,
    /// The groups of rules of packets and payload, by scope and direction.
    ports: [[PortIndex; 2]; Scope::ALL.len()],
    /// Rules that addresses find, by direction.
    addresses: [AddressIndex; 2],
    /// The groups of rules of transactions.
    by_header: Box<[u32]>,
    /// The buffers that rules inspect, a bit each.
    wanted: u128,
    /// A rule asks for facts about frames of HTTP/2.
    wants_frames: bool,
    /// Scopes that rules inspect, a bit each, by direction.
    scopes: [u8; 2],
    /// A rule has requirements of payload beside those of a transaction.
    has_mixed: bool,
    /// The sets of tenants, which differ by VNI.
    tenants: Tenants,
    thresholds: Thresholds,
    profiles: Profiles,
    /// The parts of the traffic that alerts contain.
    payload_of_alerts: AlertPayload,
    explanations: Option<Box<Explanations>>,
}

/// The parts of the traffic that alerts contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlertPayload {
    /// `payload`: the data, in base64.
    pub encoded: bool,
    /// `payload_printable`: the data, printable.
    pub printable: bool,
    /// `packet`: the packet, in base64.
    pub packet: bool,
}

const DIRECTIONS: [Direction; 2] = [Direction::ToServer, Direction::ToClient];

impl Engine {
    /// Sorts the rules in the order of their inspection, and builds the searches.
    ///
    /// ```
    /// use mirror_signatures::buffer::Buffer;
    /// use mirror_signatures::config::classification::Classes;
    /// use mirror_signatures::engine::Engine;
    /// use mirror_signatures::inspect::Verdict;
    /// use mirror_signatures::ruleset::Loader;
    /// use mirror_signatures::search::Candidates;
    /// use mirror_signatures::variables::Variables;
    ///
    /// let (variables, classes) = (Variables::default(), Classes::default());
    /// let mut loader = Loader::new(&variables, &classes);
    /// let text = br#"alert dns any any -> any any (dns.query; dotprefix; content:".evil.example"; endswith; sid:1;)"#;
    /// loader.add("local.rules".as_ref(), text);
    /// let engine = Engine::new(loader.finish().signatures);
    ///
    /// let mut candidates = Candidates::default();
    /// engine.candidates(Buffer::DnsQuery, b"www.evil.example", &mut candidates);
    /// assert_eq!(candidates.rules(), [0]);
    /// let names: [&[u8]; 1] = [b"www.evil.example"];
    /// assert_eq!(engine.verify(0, |buffer| if buffer == Buffer::DnsQuery { &names } else { &[] }), Verdict::Match);
    /// ```
    #[must_use]
    pub fn new(mut signatures: Vec<Signature>) -> Self {
        signatures.sort_by_cached_key(|signature| (plan::rank(&signature.rule), signature.priority));
        let plans: Box<[Plan]> =
            signatures.iter().map(|signature| Plan::new(&signature.rule, &signature.sides)).collect();
        let mut builders: Vec<Builders> = BUFFERS.iter().map(|_| Builders::default()).collect();
        let mut payload: [[Builders; 2]; Scope::ALL.len()] = Default::default();
        let mut by_ports: [[Vec<u32>; 2]; Scope::ALL.len()] = Default::default();
        let (mut by_addresses, mut by_header) = (Vec::new(), Vec::new());
        let mut scopes = [0; 2];
        for ((signature, plan), rule) in signatures.iter().zip(&plans).zip(0_u32..) {
            let pattern = match signature.prefilter {
                Prefilter::Pattern(pattern) => Some(pattern),
                Prefilter::Header => None,
            };
            let list = pattern.and_then(|pattern| signature.rule.buffers.get(usize::from(pattern.buffer)));
            match (plan.kind, list) {
                (Kind::Flow, _) => by_addresses.push(rule),
                (Kind::Transaction, Some(list)) if list.buffer.description().unit != Unit::Payload => {
                    if let (Some(builders), Some(pattern)) = (builders.get_mut(list.buffer as usize), pattern)
                    {
                        builders.add(rule, signature, pattern, list);
                    }
                }
                (Kind::Transaction, _) => by_header.push(rule),
                (Kind::Payload(of), list) => {
                    let list = list.filter(|list| list.buffer == Buffer::Payload);
                    let found = list.zip(pattern).filter(|(_, pattern)| usize::from(pattern.len) >= SHORTEST);
                    for (scope, direction) in
                        Scope::ALL.into_iter().flat_map(|scope| DIRECTIONS.map(|it| (scope, it)))
                    {
                        if of & 1 << scope as u8 == 0 || !plan.has_direction(direction) {
                            continue;
                        }
                        scopes[direction as usize] |= 1 << scope as u8;
                        match found {
                            Some((list, pattern)) => payload[scope as usize][direction as usize]
                                .add(rule, signature, pattern, list),
                            None => by_ports[scope as usize][direction as usize].push(rule),
                        }
                    }
                }
            }
        }
        let searches = builders.into_iter().map(Builders::build).collect();
        let mut searches_of_payload: [[Vec<Transformed>; 2]; Scope::ALL.len()] = Default::default();
        for (built, builders) in searches_of_payload.iter_mut().flatten().zip(payload.into_iter().flatten()) {
            *built = builders.build();
        }
        let plan_of = |rule: &u32| plans.get(*rule as usize).map(|plan| (*rule, plan));
        let mut groups = Vec::new();
        let by_header = Group::of(&by_header, &signatures, &plans, &mut groups);
        let ports = by_ports.map(|of| {
            of.map(|rules| {
                let of_direction = Group::of(&rules, &signatures, &plans, &mut groups);
                let first_of =
                    |group: &u32| groups.get(*group as usize).and_then(|group| group.rules.first());
                let with_plan = |group: &u32| Some((*group, plan_of(first_of(group)?)?.1));
                PortIndex::new(of_direction.iter().filter_map(with_plan))
            })
        });
        let addresses = DIRECTIONS.map(|direction| {
            let of_direction = |(_, plan): &(u32, &Plan)| plan.has_direction(direction);
            AddressIndex::new(by_addresses.iter().filter_map(plan_of).filter(of_direction))
        });
        let wanted = signatures.iter().fold(0_u128, |wanted, signature| {
            let of_rule = signature.rule.buffers.iter();
            of_rule.fold(wanted, |wanted, list| wanted | 1 << list.buffer as u32)
        });
        let of_frames = |condition: &Condition| matches!(condition, Condition::Http2(..));
        let wants_frames = signatures.iter().any(|signature| signature.rule.conditions.iter().any(of_frames));
        Self {
            tenants: Tenants::default(),
            profiles: Profiles::new(signatures.len()),
            payload_of_alerts: AlertPayload::default(),
            explanations: None,
            has_mixed: plans.iter().any(|plan| plan.is_mixed),
            thresholds: Thresholds::default(),
            signatures: signatures.into(),
            plans,
            searches,
            payload: searches_of_payload,
            groups: groups.into(),
            ports,
            addresses,
            by_header: by_header.into(),
            wanted: recorded::with_those_of_records(wanted),
            wants_frames,
            scopes,
        }
        .with_limits(&[], &mut Resolver::new(&Variables::default()))
        .0
    }

    /// Limits the alerts of rules by the entries of `threshold.config`, beside their own limits. Names the entries whose
    /// addresses cannot be resolved.
    #[must_use]
    pub fn with_limits(mut self, entries: &[Entry], resolver: &mut Resolver<'_>) -> (Self, Vec<Refusal>) {
        let rules = self.signatures.iter().map(|signature| &signature.rule);
        let (thresholds, refused) = Thresholds::new(rules, entries, resolver);
        self.thresholds = thresholds;
        (self, refused)
    }

    /// Returns the limits of the rules' alerts.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Tells tenants apart.
    #[must_use]
    pub fn for_tenants(self, tenants: Tenants) -> Self {
        Self { tenants, ..self }
    }

    /// Sets what alerts contain of the traffic.
    #[must_use]
    pub fn with_payload(self, payload: AlertPayload) -> Self {
        Self { payload_of_alerts: payload, ..self }
    }

    /// Explains why the rule with this number does or does not match. Returns `None` if there is no such rule.
    #[must_use]
    pub fn explaining(self, sid: u32) -> Option<Self> {
        let rule = self.signatures.iter().position(|signature| signature.rule.id.sid == sid)?;
        let rule = u32::try_from(rule).ok()?;
        Some(Self { explanations: Some(Box::new(Explanations::new(rule))), ..self })
    }

    /// Returns the explanations, if this engine explains a rule.
    #[inline]
    #[must_use]
    pub fn explanations(&self) -> Option<&Explanations> {
        self.explanations.as_deref()
    }

    /// Returns what alerts contain of the traffic.
    #[must_use]
    pub const fn payload_of_alerts(&self) -> AlertPayload {
        self.payload_of_alerts
    }

    /// Returns the counters of the cost of rules.
    #[must_use]
    pub const fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// Returns true if a rule is in force for the tenant of the traffic, whose addresses and ports its header fits.
    #[inline]
    #[must_use]
    pub fn is_in_force(&self, signature: &Signature, facts: &Facts, direction: Direction) -> bool {
        self.tenants.is_empty() || self.is_of_tenant(signature, facts, direction)
    }

    fn is_of_tenant(&self, signature: &Signature, facts: &Facts, direction: Direction) -> bool {
        let Some(sides) = signature.sides_for(&self.tenants, facts.vni) else { return false };
        let (sender, receiver) = (facts.sender(direction), facts.sender(direction.reverse()));
        sides.contain(sender, receiver)
            || signature.rule.header.is_bidirectional && sides.contain(receiver, sender)
    }

    /// Returns the rules. Their indexes are those of candidates.
    #[must_use]
    pub const fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Returns a rule and the way in which it is inspected.
    #[must_use]
    pub fn rule(&self, rule: u32) -> Option<(&Signature, &Plan)> {
        self.signatures.get(rule as usize).zip(self.plans.get(rule as usize))
    }

    /// Returns true if a rule has requirements of payload beside those of a transaction.
    #[must_use]
    pub const fn has_mixed(&self) -> bool {
        self.has_mixed
    }

    /// Returns true if a pattern of any rule is searched in the buffer. Otherwise the buffer need not be made for
    /// the search.
    #[must_use]
    pub fn is_searched(&self, buffer: Buffer) -> bool {
        self.searches.get(buffer as usize).is_some_and(|searches| !searches.is_empty())
    }

    /// Returns true if a rule has requirements of the buffer.
    #[inline]
    #[must_use]
    pub const fn wants(&self, buffer: Buffer) -> bool {
        self.wanted & 1 << buffer as u32 != 0
    }

    /// Returns true if a rule asks for facts about frames of HTTP/2.
    #[inline]
    #[must_use]
    pub const fn wants_frames(&self) -> bool {
        self.wants_frames
    }

    /// Returns true if a rule has requirements of bodies of the direction.
    #[must_use]
    pub fn wants_body(&self, direction: Direction) -> bool {
        Buffer::of_body(direction).into_iter().any(|buffer| self.wants(buffer))
    }

    /// Adds the rules of transactions that no pattern finds, if their header and conditions hold.
    pub fn header_candidates(
        &self,
        facts: &Facts,
        direction: Direction,
        holds: impl Fn(&Condition) -> bool,
        found: &mut Candidates,
    ) {
        for group in &self.by_header {
            self.add_group(*group, facts, direction, true, &holds, found);
        }
    }

    /// Adds the rules of a group, if their header and conditions hold.
    #[inline]
    fn add_group(
        &self,
        group: u32,
        facts: &Facts,
        direction: Direction,
        has_payload: bool,
        holds: impl Fn(&Condition) -> bool,
        found: &mut Candidates,
    ) {
        let Some(Group { rules, needs_payload }) = self.groups.get(group as usize) else { return };
        if *needs_payload && !has_payload {
            return;
        }
        let Some((signature, plan)) = rules.first().and_then(|rule| self.rule(*rule)) else { return };
        if plan.fits(facts, direction) && signature.rule.conditions.iter().all(holds) {
            rules.iter().for_each(|rule| found.add(*rule));
        }
    }

    /// Returns true if rules inspect payload of this scope.
    #[inline]
    #[must_use]
    pub const fn has_scope(&self, scope: Scope, direction: Direction) -> bool {
        self.scopes[direction as usize] & 1 << scope as u8 != 0
    }

    /// Adds the rules that the content of a buffer may match.
    pub fn candidates(&self, buffer: Buffer, bytes: &[u8], found: &mut Candidates) {
        find(self.searches.get(buffer as usize).into_iter().flatten(), bytes, found);
    }

    /// Adds the rules that payload may match, by their patterns.
    pub fn payload_candidates(
        &self,
        scope: Scope,
        direction: Direction,
        bytes: &[u8],
        found: &mut Candidates,
    ) {
        find(&self.payload[scope as usize][direction as usize], bytes, found);
    }

    /// Adds the rules of packets and payload that no pattern finds, if their ports, the rest of their header, and their
    /// conditions hold.
    pub fn port_candidates(
        &self,
        scope: Scope,
        facts: &Facts,
        direction: Direction,
        has_payload: bool,
        holds: impl Fn(&Condition) -> bool,
        found: &mut Candidates,
    ) {
        let [sender, receiver] = [direction, direction.reverse()].map(|side| facts.sender(side).1);
        let ports = &self.ports[scope as usize][direction as usize];
        ports.find(sender, receiver, |group| {
            self.add_group(group, facts, direction, has_payload, &holds, found);
        });
    }

    /// Adds the rules that only addresses find.
    pub fn address_candidates(&self, direction: Direction, ends: [Address; 2], found: &mut Candidates) {
        let [sender, receiver] = ends.map(|end| u128::from(end.high) << 64 | u128::from(end.low));
        self.addresses[direction as usize].find(sender, receiver, |rule| found.add(rule));
    }

    /// Verifies the content of a rule. `contents` returns the contents of a buffer: none if the traffic has no such
    /// buffer, several if a transaction has several.
    #[must_use]
    pub fn verify<'b>(&self, rule: u32, contents: impl Fn(Buffer) -> &'b [&'b [u8]]) -> Verdict {
        let Some(signature) = self.signatures.get(rule as usize) else { return Verdict::NoMatch };
        let mut values = Values::default();
        for list in &signature.rule.buffers {
            match verify_list(list, contents(list.buffer).iter().copied(), &mut values, true) {
                Verdict::Match => {}
                verdict => return verdict,
            }
        }
        Verdict::Match
    }

    /// Returns the memory that the searches take, without the rules.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let of_payload = self.payload.iter().flatten();
        self.searches.iter().chain(of_payload).flatten().map(|one| one.search.heap_bytes()).sum()
    }
}

fn find<'s>(searches: impl IntoIterator<Item = &'s Transformed>, bytes: &[u8], found: &mut Candidates) {
    for Transformed { transforms, search } in searches {
        search.find(&transformed(transforms, bytes), found);
    }
}

/// The patterns of a buffer that are being collected, by their transforms.
#[derive(Debug, Default)]
struct Builders(Vec<(Box<[Transform]>, Builder)>);

impl Builders {
    fn add(&mut self, rule: u32, signature: &Signature, pattern: Pattern, list: &BufferMatches) {
        let Some(content) = pattern.content(&signature.rule) else { return };
        let index = self.0.iter().position(|(transforms, _)| *transforms == list.transforms);
        let index = index.unwrap_or_else(|| {
            self.0.push((list.transforms.clone(), Builder::default()));
            self.0.len() - 1
        });
        if let Some((_, builder)) = self.0.get_mut(index) {
            builder.add(rule, pattern.bytes(&signature.rule), content, &list.matches);
        }
    }

    fn build(self) -> Vec<Transformed> {
        self.0
            .into_iter()
            .map(|(transforms, builder)| Transformed { transforms, search: builder.build() })
            .collect()
    }
}

fn transformed<'a>(transforms: &[Transform], bytes: &'a [u8]) -> Cow<'a, [u8]> {
    if transforms.is_empty() { Cow::Borrowed(bytes) } else { Transform::apply_all(transforms, bytes) }
}

/// Verifies the requirements of one buffer: one of its contents must satisfy all.
pub(crate) fn verify_list<'b>(
    list: &BufferMatches,
    contents: impl IntoIterator<Item = &'b [u8]>,
    values: &mut Values,
    has_variables: bool,
) -> Verdict {
    let mut contents = contents.into_iter().peekable();
    let absent = list.matches.iter().find_map(|requirement| match requirement {
        Match::Absent { or_else } => Some(*or_else),
        _ => None,
    });
    match absent {
        Some(_) if contents.peek().is_none() => return Verdict::Match,
        Some(false) => return Verdict::NoMatch,
        Some(true) | None => {}
    }
    let mut result = Verdict::NoMatch;
    for content in contents {
        let before = has_variables.then(|| values.clone());
        match verify(&list.matches, &transformed(&list.transforms, content), values) {
            Verdict::Match => return Verdict::Match,
            Verdict::LimitReached => result = Verdict::LimitReached,
            Verdict::NoMatch => {}
        }
        if let Some(before) = before {
            *values = before;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::classification::Classes;
    use crate::ruleset::Loader;
    use crate::variables::Variables;

    fn engine(text: &str) -> Engine {
        let (variables, classes) = (Variables::default(), Classes::default());
        let mut loader = Loader::new(&variables, &classes);
        loader.add(Path::new("test.rules"), text.as_bytes());
        let set = loader.finish();
        assert!(set.report.refused.is_empty(), "{:?}", set.report.refused);
        Engine::new(set.signatures)
    }

    /// Returns the rules that no pattern finds.
    fn by_header(engine: &Engine) -> impl Iterator<Item = &u32> {
        engine.by_header.iter().flat_map(|group| &engine.groups[*group as usize].rules)
    }

    /// Returns the numbers of the rules that match these contents, found by patterns and verified.
    fn matching(engine: &Engine, buffers: &[(Buffer, &[&[u8]])]) -> Vec<u32> {
        let contents =
            |buffer: Buffer| buffers.iter().find(|one| one.0 == buffer).map_or(&[][..], |one| one.1);
        let mut candidates = Candidates::default();
        for (buffer, contents) in buffers {
            for content in *contents {
                engine.candidates(*buffer, content, &mut candidates);
            }
        }
        let rules = candidates.rules().iter().chain(by_header(engine));
        let matching = rules.filter(|rule| engine.verify(**rule, contents) == Verdict::Match);
        let mut sids: Vec<u32> =
            matching.map(|rule| engine.signatures()[*rule as usize].rule.id.sid).collect();
        sids.sort_unstable();
        sids
    }

    const RULES: &str = r#"
alert dns any any -> any any (dns.query; content:"evil.example"; nocase; bsize:12; sid:1;)
alert dns any any -> any any (dns.query; dotprefix; content:".evil.example"; nocase; endswith; sid:2;)
alert dns any any -> any any (dns.query; content:"evil.example"; nocase; endswith; sid:3;)
alert dns any any -> any any (dns.query; content:"evil"; content:"example"; distance:1; sid:4;)
alert http any any -> any any (http.method; content:"POST"; http.uri; content:"/Gate.php"; endswith; http.header_names; content:!"Referer"; sid:5;)
alert http any any -> any any (http.uri; content:"id="; pcre:"/^\d{4}$/R"; sid:6;)
alert http any any -> any any (http.referer; absent; http.uri; content:"/secret"; sid:7;)
alert http any any -> any any (http.referer; absent:or_else; content:!"good"; http.uri; content:"/either"; sid:8;)
alert http any any -> any any (http.uri; bsize:3; sid:9;)
alert dns any any -> any any (dns.query; content:"a.example"; dns.query; content:"b.example"; sid:10;)
alert http any any -> any any (http.location; absent:or_else; content:"location"; http.server; content:"nginx"; sid:12;)
alert http any any -> any any (http.header; byte_extract:1,0,n; http.uri; content:"x"; offset:n; depth:1; sid:11;)
"#;

    #[test]
    fn names_are_found_exactly_and_by_their_ends() {
        let engine = engine(RULES);
        let names = |name: &str| matching(&engine, &[(Buffer::DnsQuery, &[name.as_bytes()])]);
        assert_eq!(names("evil.example"), [1, 2, 3, 4]);
        assert_eq!(names("www.EVIL.example"), [2, 3]);
        assert_eq!(names("notevil.example"), [3, 4]);
        assert_eq!(names("evil.example.org"), [4]);
        assert_eq!(names("example"), []);
        // Two mentions of the buffer may match different names.
        assert_eq!(matching(&engine, &[(Buffer::DnsQuery, &[b"a.example", b"b.example"])]), [10]);
        assert_eq!(names("a.example"), []);
    }

    #[test]
    fn rules_match_over_several_buffers() {
        let engine = engine(RULES);
        let request = |method: &str, uri: &str, names: &str, referer: Option<&str>| {
            let referer: Vec<&[u8]> = referer.iter().map(|referer| referer.as_bytes()).collect();
            matching(
                &engine,
                &[
                    (Buffer::HttpMethod, &[method.as_bytes()]),
                    (Buffer::HttpUri, &[uri.as_bytes()]),
                    (Buffer::HttpHeaderNames, &[names.as_bytes()]),
                    (Buffer::HttpReferer, &referer),
                ],
            )
        };
        assert_eq!(request("POST", "/a/Gate.php", "\r\nHost\r\n\r\n", Some("x")), [5]);
        assert_eq!(request("POST", "/a/gate.php", "\r\nHost\r\n\r\n", Some("x")), []);
        assert_eq!(request("POST", "/a/Gate.php", "\r\nReferer\r\n\r\n", Some("x")), []);
        assert_eq!(request("GET", "/a/Gate.php", "\r\nHost\r\n\r\n", Some("x")), []);
        assert_eq!(request("GET", "/?id=x&id=1234", "", Some("x")), [6]);
        assert_eq!(request("GET", "/secret", "", None), [7]);
        assert_eq!(request("GET", "/secret", "", Some("x")), []);
        assert_eq!(request("GET", "/either", "", None), [8]);
        assert_eq!(request("GET", "/either", "", Some("good")), []);
        assert_eq!(request("GET", "/either", "", Some("bad")), [8]);
        assert_eq!(request("GET", "/ab", "", Some("x")), [9]);
        // A buffer that may be absent does not find its rule.
        assert_eq!(matching(&engine, &[(Buffer::HttpServer, &[b"nginx"])]), [12]);
        assert_eq!(
            matching(&engine, &[(Buffer::HttpServer, &[b"nginx"]), (Buffer::HttpLocation, &[b"x"])]),
            []
        );
        let uri: [&[u8]; 1] = [b"/a/x"];
        assert_eq!(matching(&engine, &[(Buffer::HttpHeader, &[b"\x03"]), (Buffer::HttpUri, &uri)]), [11]);
        assert_eq!(matching(&engine, &[(Buffer::HttpHeader, &[b"\x02"]), (Buffer::HttpUri, &uri)]), []);
    }

    #[test]
    fn buffers_without_patterns_are_not_searched() {
        let engine = engine(RULES);
        assert!(engine.is_searched(Buffer::DnsQuery) && engine.is_searched(Buffer::HttpUri));
        assert!(!engine.is_searched(Buffer::TlsSni) && !engine.is_searched(Buffer::HttpHeaderNames));
        assert_eq!(by_header(&engine).count(), 1);
        let mut candidates = Candidates::default();
        engine.candidates(Buffer::TlsSni, b"evil.example", &mut candidates);
        assert!(candidates.rules().is_empty());
        engine.candidates(Buffer::DnsQuery, b"evil.example", &mut candidates);
        assert!(!candidates.rules().is_empty());
        candidates.clear();
        engine.candidates(Buffer::DnsQuery, b"other.test", &mut candidates);
        assert!(candidates.rules().is_empty());
    }

    fn content() -> impl Strategy<Value = String> {
        let place = prop::sample::select(vec![
            "",
            "nocase;",
            "endswith;",
            "startswith;",
            "offset:1;",
            "nocase;endswith;",
            "bsize:5;",
        ]);
        ("[abAB]{1,5}", place, any::<bool>(), any::<bool>()).prop_map(|(pattern, place, negated, dot)| {
            let pattern = if place.contains("bsize") { format!("{pattern:a<5}") } else { pattern };
            let negated = if negated && !place.contains("bsize") { "!" } else { "" };
            let dot = if dot { "to_lowercase;" } else { "" };
            format!(r#"http.host;{dot}content:{negated}"{pattern}";{place}"#)
        })
    }

    proptest! {
        #[test]
        fn every_rule_that_matches_is_a_candidate(
            rules in prop::collection::vec(prop::collection::vec(content(), 1..3), 1..12),
            host in "[abAB]{0,10}",
        ) {
            let line = |(contents, sid): (&Vec<String>, u32)| {
                format!("alert http any any -> any any ({} sid:{sid};)\n", contents.concat())
            };
            let text = rules.iter().zip(1..).map(line).collect::<Vec<_>>().concat();
            let engine = engine(&text);
            let contents: [&[u8]; 1] = [host.as_bytes()];
            let found = matching(&engine, &[(Buffer::HttpHost, &contents)]);
            let all: Vec<u32> = (0..engine.signatures().len() as u32)
                .filter(|rule| {
                    let of = |buffer| if buffer == Buffer::HttpHost { &contents[..] } else { &[] };
                    engine.verify(*rule, of) == Verdict::Match
                })
                .map(|rule| engine.signatures()[rule as usize].rule.id.sid)
                .collect();
            prop_assert_eq!(found, all);
        }
    }
}
