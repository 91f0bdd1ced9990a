//! The files of a configuration: rules for all traffic and for tenants, classifications, thresholds. They are loaded as a
//! whole, or not at all.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::io;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;

use crate::compile::Signature;
use crate::config::classification::Classes;
use crate::config::threshold::{self, Entry};
use crate::diagnostic::Refusal;
use crate::engine::{AlertPayload, Engine};
use crate::file::read;
use crate::rule::RuleId;
use crate::ruleset::{Loader, Report, RuleSet};
use crate::tenants::{DEFAULT_SET, MAX_SETS, Tenant};
use crate::threshold::Thresholds;
use crate::variables::{Resolver, Variables};

/// The files and variables of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sources {
    /// Rule files: paths, with `*`, `?` and `[…]` for several.
    pub files: Vec<String>,
    /// Variables that differ from the usual ones: names and values.
    pub variables: Vec<(String, String)>,
    /// A `classification.config`.
    pub classification: Option<PathBuf>,
    /// A `threshold.config`.
    pub thresholds: Option<PathBuf>,
    /// Tenants with rules or variables of their own.
    pub tenants: Vec<TenantSource>,
}

/// A tenant of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TenantSource {
    /// Its name in messages.
    pub name: String,
    /// Its VNIs: first and last of each range.
    pub vnis: Vec<(u32, u32)>,
    /// Variables that differ from those of all traffic.
    pub variables: Vec<(String, String)>,
    /// Its rule files; `None` for those of all traffic.
    pub files: Option<Vec<String>>,
}

/// The reason for which nothing is loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The name of a file is no pattern.
    #[error("`{pattern}` is no pattern of files: {reason}")]
    Pattern {
        /// The text.
        pattern: String,
        /// The reason.
        reason: &'static str,
    },
    /// There is no such file.
    #[error("no rule file is named `{0}`; make one, or leave the name out")]
    NoFile(String),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A variable is wrong.
    #[error("variable of {of}: {reason}")]
    Variable {
        /// The tenant, or all traffic.
        of: String,
        /// The reason.
        reason: String,
    },
    /// The patterns of the rules are too many for a search.
    #[error("the searches of the rules cannot be built: {0}")]
    Search(String),
    /// Tenants have too many different sets of rules.
    #[error("tenants have at most {MAX_SETS} different lists of rule files; give some the same list")]
    Sets,
}

/// A rule file, and the sets that it is in, a bit each.
type FileOfSets = (PathBuf, u64);

/// The rules that were loaded.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The rules.
    pub rules: RuleSet,
    /// The entries of `threshold.config`.
    entries: Vec<Entry>,
    /// The variables of all traffic.
    variables: Variables,
    /// The refusals in the files beside the rules.
    pub refused: Vec<(PathBuf, Refusal)>,
    /// A hash of all files, which tells whether they have changed.
    pub digest: u64,
}

impl Loaded {
    /// Builds the searches of the rules.
    pub fn into_engine(self, payload: AlertPayload) -> Result<(Engine, Report), LoadError> {
        let Self { rules, entries, variables, .. } = self;
        let engine = Engine::new(rules.signatures);
        let engine = engine.for_tenants(rules.tenants).with_payload(payload);
        // Refusals were named when the files were loaded.
        let (engine, _) = engine.with_limits(&entries, &mut Resolver::new(&variables));
        Ok((engine, rules.report))
    }
}

impl Sources {
    /// Returns true if there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
            && self.tenants.iter().all(|tenant| tenant.files.as_ref().is_none_or(Vec::is_empty))
    }

    /// Loads all files. Rules that are refused are named in the report, and do not refuse the others.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        self.load_unless(None).map(Option::unwrap_or_default)
    }

    /// Loads all files, unless the hash of their contents is this one. Returns `None` then.
    pub fn load_unless(&self, known: Option<u64>) -> Result<Option<Loaded>, LoadError> {
        let variables = with("all traffic", Variables::default(), &self.variables)?;
        let beside = [&self.classification, &self.thresholds];
        let [classification, thresholds] =
            beside.map(|path| path.as_ref().map(|path| read_file(path)).transpose());
        let (classification, thresholds) = (classification?, thresholds?);
        let (tenants, files) = self.sets(&variables)?;
        let texts = files.iter().map(|(path, _)| read_file(path)).collect::<Result<Vec<_>, _>>()?;
        let digest = FixedState::default().hash_one((self, &classification, &thresholds, &files, &texts));
        if known == Some(digest) {
            return Ok(None);
        }
        let mut refused = Vec::new();
        let mut note = |path: &Option<PathBuf>, found: Vec<Refusal>| {
            let path = path.clone().unwrap_or_default();
            refused.extend(found.into_iter().map(|refusal| (path.clone(), refusal)));
        };
        let mut classes = Classes::default();
        note(&self.classification, classes.add(&classification.unwrap_or_default()));
        let (entries, wrong) = threshold::parse(&thresholds.unwrap_or_default());
        note(&self.thresholds, wrong);
        let mut loader = Loader::for_tenants(&variables, &tenants, &classes);
        for ((path, sets), text) in files.iter().zip(texts) {
            loader.add_for(*sets, path, &text);
        }
        let rules = loader.finish();
        let (_, wrong) = Thresholds::new([], &entries, &mut Resolver::new(&variables));
        note(&self.thresholds, wrong);
        Ok(Some(Loaded { rules, entries, variables, refused, digest }))
    }

    /// Returns the tenants, and each rule file once, with the sets that it is in, a bit each.
    fn sets(&self, variables: &Variables) -> Result<(Vec<Tenant>, Vec<FileOfSets>), LoadError> {
        let mut lists = vec![&self.files];
        let mut tenants = Vec::new();
        for TenantSource { name, vnis, variables: own, files } in &self.tenants {
            let list = files.as_ref().unwrap_or(&self.files);
            let set = lists.iter().position(|known| *known == list).unwrap_or_else(|| {
                lists.push(list);
                lists.len() - 1
            });
            if set > MAX_SETS {
                return Err(LoadError::Sets);
            }
            let variables = with(name, variables.clone(), own)?;
            tenants.push(Tenant { name: name.clone(), vnis: vnis.clone(), variables, set: set as u8 });
        }
        let mut files: Vec<FileOfSets> = Vec::new();
        for (list, set) in lists.into_iter().zip(u32::from(DEFAULT_SET)..) {
            for path in expand(list)? {
                match files.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, sets)) => *sets |= 1 << set,
                    None => files.push((path, 1 << set)),
                }
            }
        }
        Ok((tenants, files))
    }

    /// Names one file, whatever characters its path has.
    #[must_use]
    pub fn file(path: &Path) -> String {
        glob::Pattern::escape(&path.to_string_lossy())
    }

    /// Returns the directories and files that loading reads, also of files that are not there yet.
    pub fn places(&self) -> impl Iterator<Item = PathBuf> {
        let of_tenants = self.tenants.iter().flat_map(|tenant| tenant.files.iter().flatten());
        let patterns = self.files.iter().chain(of_tenants).map(|pattern| directory(pattern));
        let beside = self.classification.iter().chain(&self.thresholds);
        patterns.chain(beside.map(|path| mirror_base::file::directory_of(path)))
    }
}

fn with(of: &str, mut variables: Variables, own: &[(String, String)]) -> Result<Variables, LoadError> {
    for (name, value) in own {
        let set = variables.set(name, value);
        set.map_err(|reason| LoadError::Variable { of: of.to_owned(), reason })?;
    }
    Ok(variables)
}

fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

/// Returns the part of a pattern in front of its first wildcard: the directory that is searched.
fn directory(pattern: &str) -> PathBuf {
    let end = pattern.find(['*', '?', '[']);
    match end {
        Some(end) => PathBuf::from(pattern[..end].rfind('/').map_or(".", |slash| &pattern[..=slash])),
        None => mirror_base::file::directory_of(Path::new(pattern)),
    }
}

/// Returns the files that patterns name, in the order of the patterns, and by name.
fn expand(patterns: &[String]) -> Result<Vec<PathBuf>, LoadError> {
    let mut all = Vec::new();
    for pattern in patterns {
        if !pattern.contains(['*', '?', '[']) {
            all.push(PathBuf::from(pattern));
            continue;
        }
        let found = glob::glob(pattern)
            .map_err(|error| LoadError::Pattern { pattern: pattern.clone(), reason: error.msg })?;
        let before = all.len();
        for path in found {
            let path = path
                .map_err(|error| LoadError::Read { path: error.path().to_owned(), source: error.into() })?;
            all.push(path);
        }
        if all.len() == before {
            return Err(LoadError::NoFile(pattern.clone()));
        }
    }
    Ok(all)
}

/// The differences of two sets of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Rules that only the new set has.
    pub added: Vec<RuleId>,
    /// Rules that only the old set has.
    pub removed: Vec<RuleId>,
    /// Rules of which the text differs, as the new set numbers them.
    pub changed: Vec<RuleId>,
}

impl Changed {
    /// Compares the rules of two sets by their numbers. The lists are sorted.
    #[must_use]
    pub fn between(old: &[Signature], new: &[Signature]) -> Self {
        // Tenants may have rules with the same number; their digests add up.
        let by_number = |rules: &[Signature]| {
            let mut all: HashMap<(u32, u32), (RuleId, u64), FixedState> = HashMap::default();
            for signature in rules {
                let id = signature.rule.id;
                let entry = all.entry((id.gid, id.sid)).or_insert((id, 0));
                entry.1 = entry.1.wrapping_add(signature.rule.digest);
            }
            all
        };
        let (old, new) = (by_number(old), by_number(new));
        let mut changed = Self::default();
        for (number, (id, digest)) in &new {
            match old.get(number) {
                None => changed.added.push(*id),
                Some((_, before)) if before != digest => changed.changed.push(*id),
                Some(_) => {}
            }
        }
        let gone = old.iter().filter(|(number, _)| !new.contains_key(*number));
        changed.removed = gone.map(|(_, (id, _))| *id).collect();
        for list in [&mut changed.added, &mut changed.removed, &mut changed.changed] {
            list.sort_unstable();
        }
        changed
    }

    /// Returns true if there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn rule(sid: u32, rev: u32) -> String {
        format!("alert tcp $HOME_NET any -> any any (flags:S; classtype:own; sid:{sid}; rev:{rev};)\n")
    }

    #[test]
    fn files_of_all_traffic_and_of_tenants_are_loaded_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (name, text) in [
            ("a.rules", rule(1, 1)),
            ("b.rules", rule(2, 1)),
            ("own.txt", rule(3, 1)),
            ("classification.config", "config classification: own,Our own class,1\nnonsense\n".to_owned()),
            (
                "threshold.config",
                "suppress gen_id 1, sig_id 2\nsuppress gen_id 1, sig_id 1, track by_src, ip $X\n".to_owned(),
            ),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let tenant = |name: &str, vni, files| TenantSource {
            name: name.to_owned(),
            vnis: vec![(vni, vni)],
            variables: vec![("HOME_NET".to_owned(), "10.0.0.0/8".to_owned())],
            files,
        };
        let mut sources = Sources {
            files: vec![path("*.rules")],
            variables: Vec::new(),
            classification: Some(path("classification.config").into()),
            thresholds: Some(path("threshold.config").into()),
            tenants: vec![
                tenant("a", 1, None),
                tenant("b", 2, Some(vec![path("a.rules"), path("own.txt")])),
                tenant("c", 3, Some(vec![path("a.rules"), path("own.txt")])),
            ],
        };
        let loaded = sources.load().unwrap();
        assert_eq!(loaded.rules.report.files.len(), 3);
        let applies = |vni| {
            let rules = loaded.rules.signatures.iter();
            let here = rules.filter(|rule| rule.sides_for(&loaded.rules.tenants, vni).is_some());
            here.map(|rule| rule.rule.id.sid).collect::<Vec<_>>()
        };
        assert_eq!([applies(None), applies(Some(1))], [[1, 2], [1, 2]]);
        assert_eq!([applies(Some(2)), applies(Some(3))], [[1, 3], [1, 3]]);
        assert_eq!(loaded.rules.signatures[0].priority, 1);
        let refused: Vec<_> = loaded
            .refused
            .iter()
            .map(|(path, refusal)| (path.file_name().unwrap().to_str().unwrap(), refusal.line))
            .collect();
        assert_eq!(refused, [("classification.config", 2), ("threshold.config", 2)]);
        assert!(sources.load_unless(Some(loaded.digest)).unwrap().is_none());
        let (engine, report) = loaded.into_engine(AlertPayload::default()).unwrap();
        assert_eq!((engine.signatures().len(), report.total), (3, 3));
        fs::write(path("own.txt"), rule(3, 2)).unwrap();
        assert!(sources.load_unless(Some(sources.load().unwrap().digest)).unwrap().is_none());
        sources.files.push(path("none*.rules"));
        assert!(matches!(sources.load(), Err(LoadError::NoFile(_))));
        sources.files = vec![path("none.rules")];
        assert!(matches!(sources.load(), Err(LoadError::Read { .. })));
        sources.files = vec![path("***.rules")];
        assert!(matches!(sources.load(), Err(LoadError::Pattern { .. })));
        sources.files = vec![path("a.rules")];
        sources.variables = vec![("A B".to_owned(), "any".to_owned())];
        assert!(matches!(sources.load(), Err(LoadError::Variable { .. })));
    }

    #[test]
    fn the_directory_of_a_pattern_is_searched() {
        for (pattern, expected) in [
            ("/etc/rules/*.rules", "/etc/rules/"),
            ("/etc/*/a.rules", "/etc/"),
            ("*.rules", "."),
            ("/etc/rules/a.rules", "/etc/rules"),
        ] {
            assert_eq!(directory(pattern), Path::new(expected), "{pattern}");
        }
    }

    #[test]
    fn rules_that_changed_are_named() {
        let load = |text: &str| {
            let (variables, classes) = (Variables::default(), Classes::default());
            let mut loader = Loader::new(&variables, &classes);
            loader.add(Path::new("test.rules"), text.as_bytes());
            loader.finish().signatures
        };
        let old = load(&(rule(1, 1) + &rule(2, 1) + &rule(3, 1)));
        let new = load(&(rule(2, 1) + &rule(3, 2) + &rule(4, 1)));
        let changed = Changed::between(&old, &new);
        let sids = |ids: &[RuleId]| ids.iter().map(|id| id.sid).collect::<Vec<_>>();
        assert_eq!([sids(&changed.added), sids(&changed.removed), sids(&changed.changed)], [[4], [1], [3]]);
        assert!(Changed::between(&new, &new).is_empty());
    }
}
