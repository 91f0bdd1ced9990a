//! Finds the fuzz targets of a package by their files: `targets/NAME.rs`, and for the protocols also `fuzz.rs`
//! in the folder of the protocol. Writes `targets.rs` for `main.rs`: a module for each, and the table of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut targets = BTreeMap::new();
    for file in entries(&package.join("targets")) {
        if let Some(name) = file.file_stem() {
            targets.insert(name.to_string_lossy().into_owned(), file);
        }
    }
    if package.ends_with("protocols") {
        for folder in entries(&package.join("../../mirror-userspace/crates/protocols/src")) {
            let file = folder.join("fuzz.rs");
            if let (Some(name), true) = (folder.file_name(), file.is_file()) {
                targets.insert(name.to_string_lossy().into_owned(), file);
            }
        }
    }
    let mut code = String::new();
    let mut table = String::new();
    for (name, file) in &targets {
        code += &format!("#[path = {file:?}]\nmod {name};\n");
        table += &format!("    (\"{name}\", {name}::fuzz),\n");
    }
    code += &format!("static TARGETS: &[(&str, fn(&[u8]))] = &[\n{table}];\n");
    fs::write(out.join("targets.rs"), code).expect("OUT_DIR is writable");
}

/// Returns the entries of a directory, and has cargo run this again when they change.
fn entries(directory: &Path) -> Vec<PathBuf> {
    println!("cargo::rerun-if-changed={}", directory.display());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
