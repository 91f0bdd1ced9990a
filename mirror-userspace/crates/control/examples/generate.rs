//! Writes the generated files of the workspace. With `--check`, writes nothing, and fails if one is stale.
//!
//! `cargo xtask generate` runs it.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use mirror_control::generated::GENERATED;

fn main() -> ExitCode {
    let is_check = env::args().any(|argument| argument == "--check");
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."));
    let mut code = ExitCode::SUCCESS;
    for (path, content) in GENERATED {
        let content = content();
        // A file that cannot be read is stale.
        if fs::read_to_string(root.join(path)).is_ok_and(|text| text == content) {
            continue;
        }
        if is_check {
            eprintln!("{path} is stale; run `cargo xtask generate`");
            code = ExitCode::FAILURE;
        } else if let Err(error) = fs::write(root.join(path), content) {
            eprintln!("cannot write {path}: {error}");
            code = ExitCode::FAILURE;
        } else {
            eprintln!("{path} is written");
        }
    }
    code
}
