//! Finds circles between the modules of a crate. A module and its parent may use each other; two children of one
//! parent, with everything below them, may not.
//!
//! Cargo refuses circles between crates; this check does the same within a crate. It reads the sources as text: paths
//! that begin with `crate::`, `self::` or `super::`, outside comments, strings and test modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A module's path within its crate, such as `["api", "view"]`; empty for the root.
type Module = Vec<String>;

/// The modules of a parent, and the siblings that each of them uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Fails if modules of a crate use each other in a circle. `sources` are the `src` directories of crates.
pub(super) fn check(sources: &[PathBuf]) -> Result<()> {
    let mut circles = Vec::new();
    for source in sources {
        for (parent, circle) in circles_in(source)? {
            let parent = if parent.is_empty() { "crate".to_owned() } else { parent.join("::") };
            circles.push(format!("{}: {parent}: {}", source.display(), circle.join(", ")));
        }
    }
    ensure!(
        circles.is_empty(),
        "these modules use each other in a circle; move what both need to a module of its own:\n{}",
        circles.join("\n")
    );
    Ok(())
}

/// Returns the circles of a crate, each with the parent of its modules.
fn circles_in(source: &Path) -> Result<Vec<(Module, Vec<String>)>> {
    let mut files = BTreeMap::new();
    collect(source, &[], &mut files)?;
    let mut uses: BTreeMap<Module, Uses> = BTreeMap::new();
    for (module, file) in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for path in paths(&code(&text)) {
            let target = resolve(module, &path, &files);
            let common = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
            if let (Some(user), Some(used)) = (module.get(common), target.get(common)) {
                let siblings = uses.entry(module[..common].to_vec()).or_default();
                siblings.entry(user.clone()).or_default().insert(used.clone());
            }
        }
    }
    let circles = |(parent, uses): (Module, Uses)| {
        circles(&uses).into_iter().map(move |circle| (parent.clone(), circle)).collect::<Vec<_>>()
    };
    Ok(uses.into_iter().flat_map(circles).collect())
}

/// Collects the modules below a directory, each with its file. Modules of tests are left out.
fn collect(directory: &Path, module: &[String], files: &mut BTreeMap<Module, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        let mut child = module.to_vec();
        if path.is_dir() && name != "tests" {
            child.push(name.to_owned());
            collect(&path, &child, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            if !matches!(name, "lib" | "main" | "mod") {
                child.push(name.to_owned());
            }
            files.insert(child, path);
        }
    }
    Ok(())
}

/// Returns a source without comments, the contents of strings, and the test module at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if quoted => {
                    characters.next();
                }
                '"' => quoted = !quoted,
                '/' if !quoted && characters.peek() == Some(&'/') => break,
                _ if quoted => {}
                _ => code.push(character),
            }
        }
        code.push('\n');
    }
    code
}

/// Returns the paths within the crate that a source names, with the trees of `use` expanded.
fn paths(code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for root in ["crate", "self", "super"] {
        for (at, _) in code.match_indices(&format!("{root}::")) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|character| character.is_alphanumeric() || "_:$".contains(character)) {
                expand(&code[at..], &mut Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Expands the tree of paths at the beginning of `code` behind `path`; returns the rest of the code.
fn expand<'c>(code: &'c str, path: &mut Module, found: &mut Vec<Module>) -> &'c str {
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            if let Some(next) = rest.strip_prefix(',') {
                rest = next;
                continue;
            }
            let len = rest.len();
            rest = expand(rest, &mut path.clone(), found);
            if rest.len() == len {
                return rest;
            }
        }
    }
    let end = code.find(|character: char| !character.is_alphanumeric() && character != '_');
    let (name, rest) = code.split_at(end.unwrap_or(code.len()));
    path.push(name.to_owned());
    if let Some(rest) = rest.strip_prefix("::") {
        return expand(rest, path, found);
    }
    found.push(path.clone());
    // An alias is no path.
    let alias = rest.strip_prefix(" as ").unwrap_or(rest);
    if alias.len() < rest.len() {
        let end = alias.find(|character: char| !character.is_alphanumeric() && character != '_');
        return alias.split_at(end.unwrap_or(alias.len())).1;
    }
    rest
}

/// Returns the module that a path leads to from `module`: the longest one that has a file.
fn resolve(module: &[String], path: &[String], files: &BTreeMap<Module, PathBuf>) -> Module {
    let mut target = module.to_vec();
    for (at, name) in path.iter().enumerate() {
        match name.as_str() {
            "crate" => target.clear(),
            "self" if at == 0 => {}
            "super" => {
                target.pop();
            }
            name => {
                target.push(name.to_owned());
                if !files.contains_key(&target) {
                    target.pop();
                    break;
                }
            }
        }
    }
    target
}

/// Returns the groups of modules that use each other, directly or by way of others.
fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let reachable = |from: &String| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from];
        while let Some(module) = next.pop() {
            for used in uses.get(module).into_iter().flatten() {
                if reached.insert(used) {
                    next.push(used);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = uses.keys().map(|module| (module, reachable(module))).collect();
    let mut circles = BTreeSet::new();
    for (module, others) in &reached {
        let circle: Vec<String> = others
            .iter()
            .filter(|other| reached.get(**other).is_some_and(|back| back.contains(*module)))
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> Vec<(Module, Vec<String>)> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        circles_in(directory.path()).unwrap()
    }

    #[test]
    fn siblings_that_use_each_other_are_a_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "use crate::{c::C, b::{self, B}};\n"),
            ("b.rs", "fn f() { super::c::f(); }\n"),
            ("c/mod.rs", "mod d;\n"),
            ("c/d.rs", "use crate::a;\n"),
        ];
        assert_eq!(crate_of(&files), [(vec![], ["a", "b", "c"].map(str::to_owned).to_vec())]);
    }

    #[test]
    fn parents_children_comments_strings_and_tests_are_no_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nuse crate::a::A;\n"),
            ("a.rs", "use crate::Top; // crate::b\nconst T: &str = \"crate::b\";\n"),
            (
                "b.rs",
                "use crate::a::A as B;\nuse super::Top;\n#[cfg(test)]\nmod tests {\n    use crate::c;\n}\n",
            ),
        ];
        assert_eq!(crate_of(&files), []);
    }
}
