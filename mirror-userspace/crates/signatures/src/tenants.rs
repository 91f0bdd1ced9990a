//! Rules by VNI. A tenant has VNIs, a set of rules and variables of its own, and shares the compiled rules with all
//! others: for each rule there is a mask of the sets that it is in, and for each tenant the addresses and ports that the
//! headers of rules mean there.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use mirror_xdp_common::Address;

use crate::rule::{Endpoint, Header};
use crate::sets::{AddressSet, Ordinal, PortSet, RangeSet};
use crate::variables::{Resolver, Variables};

/// The sets of rules that tenants may have, besides the default one.
pub const MAX_SETS: usize = 63;
/// The set of traffic that belongs to no tenant.
pub const DEFAULT_SET: u8 = 0;

/// A tenant, as it is configured.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its name in messages.
    pub name: String,
    /// Its VNIs: first and last of each range. No VNI belongs to two tenants.
    pub vnis: Vec<(u32, u32)>,
    /// All variables.
    pub variables: Variables,
    /// The set of its rules, at most [`MAX_SETS`].
    pub set: u8,
}

/// The part of a header that cannot be resolved, and the reason.
pub(crate) type Unresolved = (HeaderPart, String);

/// A part of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderPart {
    Source,
    SourcePort,
    Destination,
    DestinationPort,
}

impl HeaderPart {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::SourcePort => "source port",
            Self::Destination => "destination",
            Self::DestinationPort => "destination port",
        }
    }
}

/// The resolved addresses and ports of a rule. Equal sets are shared.
#[derive(Clone, Debug)]
pub struct Sides {
    /// The addresses of the source.
    pub source: Arc<AddressSet>,
    /// The ports of the source.
    pub source_ports: Arc<PortSet>,
    /// The addresses of the destination.
    pub destination: Arc<AddressSet>,
    /// The ports of the destination.
    pub destination_ports: Arc<PortSet>,
}

impl Sides {
    /// Returns true if these are a source and a destination of the rule.
    #[must_use]
    pub fn contain(&self, source: (Address, u16), destination: (Address, u16)) -> bool {
        self.destination_ports.contains(destination.1)
            && self.source_ports.contains(source.1)
            && self.source.contains_address(source.0)
            && self.destination.contains_address(destination.0)
    }

    /// Returns the sides that contain both.
    fn union(self, other: &Self) -> Self {
        fn joined<T: Ordinal>(one: Arc<RangeSet<T>>, other: &Arc<RangeSet<T>>) -> Arc<RangeSet<T>> {
            if Arc::ptr_eq(&one, other) || one == *other {
                one
            } else {
                Arc::new(RangeSet::union([one.as_ref(), other.as_ref()]))
            }
        }
        Self {
            source: joined(self.source, &other.source),
            source_ports: joined(self.source_ports, &other.source_ports),
            destination: joined(self.destination, &other.destination),
            destination_ports: joined(self.destination_ports, &other.destination_ports),
        }
    }
}

/// Where a rule is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The number of its header.
    pub header: u32,
    /// The sets that it is in, a bit each.
    pub sets: u64,
}

/// The texts of a header: addresses and ports of both sides.
type Texts = [Arc<str>; 4];

/// Resolves the headers of rules for traffic without a tenant and for each tenant, equal ones once.
#[derive(Debug)]
pub(crate) struct Headers<'a> {
    numbers: HashMap<Texts, u32, FixedState>,
    /// The first is that of traffic without a tenant.
    rows: Vec<Row<'a>>,
    /// The meaning of headers in all rows of these sets together.
    known: HashMap<(u32, u64), Resolved<'a>, FixedState>,
}

#[derive(Debug)]
struct Row<'a> {
    resolver: Resolver<'a>,
    tenant: Option<&'a Tenant>,
    /// By the number of the header.
    sides: Vec<Option<Result<Sides, Unresolved>>>,
}

/// The number of a header, and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) number: u32,
    /// The sides in all rows that resolve it together, or why none does.
    pub(crate) sides: Result<Sides, Unresolved>,
    /// The tenants whose variables do not resolve it, although those of others do.
    pub(crate) without: Vec<(&'a Tenant, Unresolved)>,
}

impl<'a> Headers<'a> {
    pub(crate) fn new(variables: &'a Variables, tenants: &'a [Tenant]) -> Self {
        let row = |resolver, tenant| Row { resolver, tenant, sides: Vec::new() };
        let of_tenants = tenants.iter().map(|tenant| row(Resolver::new(&tenant.variables), Some(tenant)));
        let rows = std::iter::once(row(Resolver::new(variables), None)).chain(of_tenants).collect();
        Self { numbers: HashMap::default(), rows, known: HashMap::default() }
    }

    /// Resolves the header of a rule that is in these sets, a bit each.
    pub(crate) fn resolve(&mut self, header: &Header, sets: u64) -> Resolved<'a> {
        let texts = [
            &header.source.addresses,
            &header.source.ports,
            &header.destination.addresses,
            &header.destination.ports,
        ];
        let next = self.numbers.len() as u32;
        let number = *self.numbers.entry(texts.map(Arc::clone)).or_insert(next);
        if let Some(known) = self.known.get(&(number, sets)) {
            return known.clone();
        }
        let resolved = self.resolve_in_rows(number, header, sets);
        self.known.insert((number, sets), resolved.clone());
        resolved
    }

    fn resolve_in_rows(&mut self, number: u32, header: &Header, sets: u64) -> Resolved<'a> {
        let mut found = None;
        let mut failed = Vec::new();
        for row in self.rows.iter_mut().filter(|row| sets & 1 << row.set() != 0) {
            match row.resolve(number, header) {
                Ok(sides) => {
                    found = Some(found.map_or_else(|| sides.clone(), |all: Sides| all.union(&sides)));
                }
                Err(error) => failed.push((row.tenant, error)),
            }
        }
        let of_tenant = |(tenant, error): (Option<&'a Tenant>, Unresolved)| Some((tenant?, error));
        if let Some(sides) = found {
            let without = failed.into_iter().filter_map(of_tenant).collect();
            return Resolved { number, sides: Ok(sides), without };
        }
        let nowhere = || (HeaderPart::Source, "the rule is in no set".to_owned());
        let error = failed.into_iter().next().map_or_else(nowhere, |(_, error)| error);
        Resolved { number, sides: Err(error), without: Vec::new() }
    }

    /// Returns what the headers mean for each tenant.
    pub(crate) fn tenants(self) -> Tenants {
        if self.rows.len() == 1 {
            return Tenants::default();
        }
        let mut vnis = Vec::new();
        for (row, number) in self.rows.iter().zip(0_u16..) {
            let ranges = row.tenant.map(|tenant| tenant.vnis.as_slice()).unwrap_or_default();
            vnis.extend(ranges.iter().map(|(first, last)| (*first, *last, number)));
        }
        vnis.sort_unstable();
        let row = |row: Row<'_>| SidesOfTenant {
            set: row.set(),
            sides: row.sides.into_iter().map(|sides| sides.and_then(Result::ok)).collect(),
        };
        Tenants { rows: self.rows.into_iter().map(row).collect(), vnis: vnis.into() }
    }
}

impl Row<'_> {
    fn set(&self) -> u8 {
        self.tenant.map_or(DEFAULT_SET, |tenant| tenant.set)
    }

    fn resolve(&mut self, number: u32, header: &Header) -> Result<Sides, Unresolved> {
        let index = number as usize;
        if self.sides.len() <= index {
            self.sides.resize(index + 1, None);
        }
        if let Some(Some(known)) = self.sides.get(index) {
            return known.clone();
        }
        let resolver = &mut self.resolver;
        let mut side = |endpoint: &Endpoint, parts: [HeaderPart; 2]| {
            let addresses = resolver.addresses(&endpoint.addresses).map_err(|reason| (parts[0], reason))?;
            let ports = resolver.ports(&endpoint.ports).map_err(|reason| (parts[1], reason))?;
            Ok::<_, Unresolved>((addresses, ports))
        };
        let source = side(&header.source, [HeaderPart::Source, HeaderPart::SourcePort]);
        let destination = side(&header.destination, [HeaderPart::Destination, HeaderPart::DestinationPort]);
        let sides = source.and_then(|(source, source_ports)| {
            let (destination, destination_ports) = destination?;
            Ok(Sides { source, source_ports, destination, destination_ports })
        });
        if let Some(known) = self.sides.get_mut(index) {
            *known = Some(sides.clone());
        }
        sides
    }
}

/// The rules by VNI.
#[derive(Debug, Default)]
pub struct Tenants {
    /// That of traffic without a tenant, then one for each tenant; empty without tenants.
    rows: Box<[SidesOfTenant]>,
    /// First and last VNI, and the index of the row; sorted.
    vnis: Box<[(u32, u32, u16)]>,
}

#[derive(Debug)]
struct SidesOfTenant {
    set: u8,
    /// By the number of the header; `None` if the tenant's variables do not resolve it.
    sides: Box<[Option<Sides>]>,
}

impl Tenants {
    /// Returns true if all traffic has the same rules and variables.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the addresses and ports of a rule in traffic of this VNI; `None` if the rule is not in force there.
    #[must_use]
    pub fn sides(&self, scope: Scope, vni: Option<u32>) -> Option<&Sides> {
        let row = self.rows.get(vni.map_or(0, |vni| self.row(vni)))?;
        if scope.sets & 1 << row.set == 0 {
            return None;
        }
        row.sides.get(scope.header as usize)?.as_ref()
    }

    fn row(&self, vni: u32) -> usize {
        let index = self.vnis.partition_point(|(_, last, _)| *last < vni);
        let range = self.vnis.get(index).filter(|(first, ..)| *first <= vni);
        range.map_or(0, |(.., row)| usize::from(*row))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::classification::Classes;
    use crate::ruleset::{Loader, RuleSet};
    use crate::sets::number;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in pairs {
            variables.set(name, value).unwrap();
        }
        variables
    }

    fn tenant(name: &str, vnis: &[(u32, u32)], set: u8, pairs: &[(&str, &str)]) -> Tenant {
        Tenant { name: name.to_owned(), vnis: vnis.to_vec(), set, variables: variables(pairs) }
    }

    fn load(tenants: &[Tenant], files: &[(u64, &str)]) -> RuleSet {
        let (default, classes) = (variables(&[("HOME_NET", "10.0.0.0/8")]), Classes::default());
        let mut loader = Loader::for_tenants(&default, tenants, &classes);
        for (sets, text) in files {
            loader.add_for(*sets, Path::new("test.rules"), text.as_bytes());
        }
        loader.finish()
    }

    /// Returns the numbers of the rules whose destination may be the address in traffic of the VNI.
    fn applying(set: &RuleSet, vni: Option<u32>, address: &str) -> Vec<(u32, u32)> {
        let address = number(address.parse().unwrap());
        let applies = set.signatures.iter().filter(|rule| {
            rule.sides_for(&set.tenants, vni).is_some_and(|sides| sides.destination.contains(address))
        });
        applies.map(|signature| (signature.rule.id.sid, signature.rule.id.rev)).collect()
    }

    #[test]
    fn variables_mean_what_the_tenant_of_a_vni_says() {
        let tenants = [
            tenant("a", &[(7, 7), (20, 29)], 0, &[("HOME_NET", "192.168.0.0/16")]),
            tenant("b", &[(8, 8)], 0, &[("HOME_NET", "any")]),
        ];
        let rules = "alert tcp any any -> $HOME_NET any (flags:S; sid:1;)\n\
                     alert tcp any any -> !$HOME_NET any (flags:S; sid:2;)\n\
                     alert tcp any any -> 10.1.1.1 any (flags:S; sid:3;)\n";
        let set = load(&tenants, &[(1, rules)]);
        assert_eq!(applying(&set, None, "10.1.1.1"), [(1, 0), (3, 0)]);
        assert_eq!(applying(&set, Some(9), "10.1.1.1"), [(1, 0), (3, 0)]);
        for vni in [7, 20, 29] {
            assert_eq!(applying(&set, Some(vni), "10.1.1.1"), [(2, 0), (3, 0)], "{vni}");
            assert_eq!(applying(&set, Some(vni), "192.168.1.1"), [(1, 0)], "{vni}");
        }
        // Nothing is outside of `any`, so the rule is not in force there.
        assert_eq!(applying(&set, Some(8), "10.1.1.1"), [(1, 0), (3, 0)]);
        assert_eq!(applying(&set, Some(8), "192.168.1.1"), [(1, 0)]);
        let without: Vec<_> =
            set.report.without.iter().map(|one| (one.tenant.as_str(), one.refusal.sid)).collect();
        assert_eq!(without, [("b", Some(2))]);
        assert_eq!((set.signatures.len(), set.report.refused_count), (3, 0));
    }

    #[test]
    fn sets_of_rules_are_those_of_tenants() {
        let tenants = [tenant("a", &[(1, 1)], 1, &[]), tenant("b", &[(2, 2)], 2, &[("OWN", "10.9.0.0/16")])];
        let rule =
            |sid: u32, rev: u32| format!("alert tcp any any -> any any (flags:S; sid:{sid}; rev:{rev};)\n");
        let own = "alert tcp any any -> $OWN any (flags:S; sid:5; rev:0;)\n";
        let files = [
            (0b001, rule(1, 1) + &rule(2, 1)),
            (0b110, rule(1, 3) + &rule(3, 1)),
            (0b100, rule(1, 2) + &rule(2, 9) + own),
            (0b011, rule(3, 2)),
        ];
        let files: Vec<_> = files.iter().map(|(sets, text)| (*sets, text.as_str())).collect();
        let set = load(&tenants, &files);
        let sorted = |vni| {
            let mut rules = applying(&set, vni, "10.9.1.1");
            rules.sort_unstable();
            rules
        };
        assert_eq!(sorted(None), [(1, 1), (2, 1), (3, 2)]);
        assert_eq!(sorted(Some(1)), [(1, 3), (3, 2)]);
        assert_eq!(sorted(Some(2)), [(1, 3), (2, 9), (3, 1), (5, 0)]);
        assert_eq!(set.report.refused_count, 0, "the variable is one of the tenant that has the file");
    }

    #[test]
    fn without_tenants_rules_are_for_all_traffic() {
        let set = load(&[], &[(1, "alert tcp any any -> $HOME_NET any (flags:S; sid:1;)\n")]);
        assert!(set.tenants.is_empty());
        assert_eq!(applying(&set, Some(7), "10.1.1.1"), [(1, 0)]);
    }
}
