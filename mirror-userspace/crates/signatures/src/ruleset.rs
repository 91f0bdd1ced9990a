//! Loads rule files together, and reports what became of each rule.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;

use crate::compile::{Compiled, Compiler, Signature, Slow};
use crate::config::classification::Classes;
use crate::diagnostic::Refusal;
use crate::file::read;
use crate::limits;
use crate::parse::Parser;
use crate::rule::RuleId;
use crate::tenants::{DEFAULT_SET, Tenant, Tenants};
use crate::variables::Variables;

/// The rules that are loaded, and the report on all others.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// The rules, in the order of the files.
    pub signatures: Vec<Signature>,
    /// The file of each rule: an index into [`Report::files`].
    pub origins: Vec<u32>,
    /// The rules by VNI.
    pub tenants: Tenants,
    /// The report.
    pub report: Report,
}

/// The fate of each rule.
#[derive(Debug, Default)]
pub struct Report {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Rules that are not disabled.
    pub total: usize,
    /// Disabled rules.
    pub disabled: usize,
    /// Refused rules, each with the index of its file.
    pub refused: Vec<(u32, Refusal)>,
    /// The number of refused rules; the list is bounded.
    pub refused_count: usize,
    /// Rules whose `requires` does not hold here.
    pub skipped: Vec<(u32, Refusal)>,
    /// The number of such rules; the list is bounded.
    pub skipped_count: usize,
    /// Rules that are there in a later revision, or twice.
    pub duplicates: Vec<Duplicate>,
    /// Rules that cost more than others.
    pub slow: Vec<(RuleId, Slow)>,
    /// Rules that are not in force for a tenant, because of its variables; at most [`limits::REFUSALS`].
    pub without: Vec<Without>,
}

/// A rule that is not in force for a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Without {
    /// The index of the file.
    pub file: u32,
    /// The name of the tenant.
    pub tenant: String,
    /// The rule and the reason.
    pub refusal: Refusal,
}

/// A rule that another one replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The rule that is not loaded: file, line, number.
    pub dropped: (u32, u32, RuleId),
    /// The rule that is.
    pub kept: (u32, u32, RuleId),
}

/// Loads rule files.
///
/// ```
/// use std::path::Path;
///
/// use mirror_signatures::config::classification::Classes;
/// use mirror_signatures::ruleset::Loader;
/// use mirror_signatures::variables::Variables;
///
/// let (variables, classes) = (Variables::default(), Classes::default());
/// let mut loader = Loader::new(&variables, &classes);
/// loader.add(Path::new("local.rules"), b"alert tcp any any -> any 22 (flags:S; sid:1;)\nnonsense\n");
/// let rules = loader.finish();
/// assert_eq!((rules.signatures.len(), rules.report.refused.len()), (1, 1));
/// ```
#[derive(Debug)]
pub struct Loader<'a> {
    parser: Parser,
    compiler: Compiler<'a>,
    set: RuleSet,
    /// The last rule with a number, and for each rule the one with its number in front of it: of other sets.
    known: HashMap<(u32, u32), usize, FixedState>,
    before: Vec<Option<usize>>,
}

impl<'a> Loader<'a> {
    /// Makes a loader.
    #[must_use]
    pub fn new(variables: &'a Variables, classes: &'a Classes) -> Self {
        Self::for_tenants(variables, &[], classes)
    }

    /// Makes a loader of rules for traffic without a tenant, which has these variables, and for that of tenants.
    #[must_use]
    pub fn for_tenants(variables: &'a Variables, tenants: &'a [Tenant], classes: &'a Classes) -> Self {
        Self {
            parser: Parser::default(),
            compiler: Compiler::new(variables, tenants, classes),
            set: RuleSet::default(),
            known: HashMap::default(),
            before: Vec::new(),
        }
    }

    /// Loads a file.
    pub fn read(&mut self, path: &Path) -> io::Result<()> {
        let text = read(path)?;
        self.add(path, &text);
        Ok(())
    }

    /// Loads the text of a file, whose path locates data sets.
    pub fn add(&mut self, path: &Path, text: &[u8]) {
        self.add_for(1 << DEFAULT_SET, path, text);
    }

    /// Loads the text of a file whose rules are in these sets, a bit each.
    pub fn add_for(&mut self, sets: u64, path: &Path, text: &[u8]) {
        let file = self.set.report.files.len() as u32;
        self.set.report.files.push(path.to_owned());
        let directory = path.parent().unwrap_or(Path::new(""));
        let parsed = self.parser.parse(text);
        let report = &mut self.set.report;
        report.total += parsed.total();
        report.disabled += parsed.disabled;
        report.refused_count += parsed.refused_count;
        report.skipped_count += parsed.skipped_count;
        report.refused.extend(parsed.refused.into_iter().map(|refusal| (file, refusal)));
        report.skipped.extend(parsed.skipped.into_iter().map(|refusal| (file, refusal)));
        self.set.signatures.reserve(parsed.rules.len());
        for rule in parsed.rules {
            match self.compiler.compile(rule, directory, sets) {
                Ok(compiled) => self.insert(file, compiled),
                Err(refusal) => {
                    let report = &mut self.set.report;
                    report.refused_count += 1;
                    if report.refused.len() < limits::REFUSALS {
                        report.refused.push((file, refusal));
                    }
                }
            }
        }
    }

    /// Adds a rule. Of equal numbers in a set, the later revision stays; of equal revisions, the first.
    fn insert(&mut self, file: u32, (mut signature, without): Compiled<'_>) {
        let set = &mut self.set;
        let report = &mut set.report;
        let room = limits::REFUSALS.saturating_sub(report.without.len());
        let without = without.into_iter().take(room);
        report.without.extend(without.map(|(tenant, refusal)| Without {
            file,
            tenant: tenant.name.clone(),
            refusal,
        }));
        let id = signature.rule.id;
        let new = (file, signature.rule.line, id);
        let last = self.known.get(&(id.gid, id.sid)).copied();
        let mut index = last;
        // A rule that is in no set any more.
        let mut free = None;
        while let Some(at) = index {
            let (Some(known), Some(origin)) = (set.signatures.get_mut(at), set.origins.get(at)) else {
                break;
            };
            index = self.before.get(at).copied().flatten();
            if known.scope.sets & signature.scope.sets != 0 {
                let old = (*origin, known.rule.line, known.rule.id);
                let (dropped, kept) = if id.rev > known.rule.id.rev { (old, new) } else { (new, old) };
                if kept == new {
                    known.scope.sets &= !signature.scope.sets;
                } else {
                    signature.scope.sets &= !known.scope.sets;
                }
                if report.duplicates.len() < limits::REFUSALS {
                    report.duplicates.push(Duplicate { dropped, kept });
                }
            }
            if known.scope.sets == 0 {
                free = Some(at);
            }
        }
        if signature.scope.sets == 0 {
            return;
        }
        if let Some(at) = free
            && let (Some(known), Some(origin)) = (set.signatures.get_mut(at), set.origins.get_mut(at))
        {
            *known = signature;
            *origin = file;
            return;
        }
        self.known.insert((id.gid, id.sid), set.signatures.len());
        self.before.push(last);
        set.signatures.push(signature);
        set.origins.push(file);
    }

    /// Returns the rules.
    #[must_use]
    pub fn finish(self) -> RuleSet {
        let mut set = self.set;
        set.report.refused.sort_by_key(|(file, refusal)| (*file, refusal.line, refusal.column));
        set.report.slow =
            set.signatures.iter().filter_map(|one| one.slow().map(|slow| (one.rule.id, slow))).collect();
        set.signatures.shrink_to_fit();
        set.tenants = self.compiler.tenants();
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[&str]) -> RuleSet {
        let (variables, classes) = (Variables::default(), Classes::default());
        let mut loader = Loader::new(&variables, &classes);
        for (index, text) in files.iter().enumerate() {
            loader.add(Path::new(&format!("{index}.rules")), text.as_bytes());
        }
        loader.finish()
    }

    #[test]
    fn the_later_revision_wins_and_the_other_is_named() {
        let rule = |sid, rev, flags| {
            format!("alert tcp any any -> any any (flags:{flags}; sid:{sid}; rev:{rev};)\n")
        };
        let set = load(&[
            &(rule(1, 2, "S") + &rule(2, 1, "S")),
            &(rule(1, 1, "A") + &rule(2, 3, "A") + &rule(2, 3, "F")),
        ]);
        let ids: Vec<_> = set.signatures.iter().map(|one| (one.rule.id.sid, one.rule.id.rev)).collect();
        assert_eq!(ids, [(1, 2), (2, 3)]);
        assert_eq!(set.origins, [0, 1]);
        let dropped: Vec<_> =
            set.report.duplicates.iter().map(|one| (one.dropped.0, one.dropped.1)).collect();
        assert_eq!(dropped, [(1, 1), (0, 2), (1, 3)]);
        assert_eq!(set.report.total, 5);
    }

    #[test]
    fn refusals_of_parsing_and_compiling_are_reported_together() {
        let text = "alert tcp any any -> !any any (flags:S; sid:1;)\n\
                    alert tcp $NONE any -> any any (flags:S; sid:2;)\n\
                    alert tcp any any -> any any (nonsense; sid:3;)\n\
                    alert tcp any any -> any any (flags:S; iprep:any,Bad,>,1; sid:4;)\n\
                    alert tcp any any -> any any (requires:version >= 9; lua:x; sid:5;)\n";
        let set = load(&[text]);
        let refused: Vec<_> = set
            .report
            .refused
            .iter()
            .map(|(_, refusal)| (refusal.line, refusal.column, refusal.keyword.as_str(), refusal.sid))
            .collect();
        let expected = [
            (1, 22, "destination", Some(1)),
            (2, 11, "source", Some(2)),
            (3, 31, "nonsense", Some(3)),
            (4, 1, "iprep", Some(4)),
        ];
        assert_eq!(refused, expected);
        assert_eq!((set.report.skipped.len(), set.report.total, set.signatures.len()), (1, 5, 0));
    }

    #[test]
    fn slow_rules_are_named_with_the_reason() {
        let text = r#"alert tcp any any -> any any (content:"ab"; sid:1;)
alert tcp any any -> any any (content:"|00 00 00 00 00 00|"; sid:2;)
alert tcp any any -> any any (pcre:"/abcd/"; sid:3;)
alert tcp any any -> any any (content:"abcdefgh"; pcre:"/(a).*\1/"; sid:4;)
alert tcp any any -> any any (content:"abcdefgh"; sid:5;)
alert dns any any -> any any (dns.query; content:"ab"; sid:6;)
alert tcp any any -> any any (flags:S; sid:7;)
"#;
        let slow: Vec<_> = load(&[text]).report.slow.iter().map(|(id, slow)| (id.sid, *slow)).collect();
        let expected = [
            (1, Slow::ShortPattern),
            (2, Slow::CommonPattern),
            (3, Slow::NoPattern),
            (4, Slow::Backtracking),
        ];
        assert_eq!(slow, expected);
    }
}
