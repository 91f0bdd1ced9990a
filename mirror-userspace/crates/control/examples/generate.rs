//! Writes the generated files, or with `--check` lists those that are stale.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use mirror_control::generated::GENERATED;

fn main() -> ExitCode {
    let check = env::args().nth(1).is_some_and(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut code = ExitCode::SUCCESS;
    for (path, content) in GENERATED {
        let file = root.join(path);
        let content = content();
        if fs::read_to_string(&file).is_ok_and(|present| present == content) {
            continue;
        }
        if check {
            eprintln!("{path} is stale: run `cargo xtask generate`");
            code = ExitCode::FAILURE;
        } else if let Err(error) = fs::write(&file, content) {
            eprintln!("cannot write {path}: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
