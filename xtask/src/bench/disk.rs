//! The level `disk`: how many bytes a second of captured frames reach the disk without loss, and how many the
//! disk takes at best. Frames come by the same path as at the level `path`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::report::Disk;
use super::{Args, median, path_as_root};
use crate::command::{output, workspace};

/// The size of a block that `dd` writes, in bytes, and the number of blocks.
const BLOCK: u64 = 1 << 20;
const BLOCKS: u64 = 1024;
const BLOCKS_QUICK: u64 = 256;

/// Measures on the disk that holds the workspace.
pub(super) fn measure(args: &Args, binary: &Path) -> Result<Disk> {
    let target = workspace().join("target/bench");
    fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let directory = tempfile::tempdir_in(&target)?;
    let dd = dd(directory.path(), args.quick)?;
    let path = path_as_root(args, binary, Some(directory.path()))?;
    Ok(Disk { dd, path })
}

/// Returns the bytes a second of `dd` with direct I/O, as the median of several runs.
fn dd(directory: &Path, quick: bool) -> Result<f64> {
    let (blocks, rounds) = if quick { (BLOCKS_QUICK, 3) } else { (BLOCKS, 5) };
    let file = directory.join("dd");
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "oflag=direct", "status=none"]);
        command.args([format!("bs={BLOCK}"), format!("count={blocks}"), format!("of={}", file.display())]);
        let start = Instant::now();
        output(&mut command).context("dd cannot write past the cache of this file system")?;
        rates.push((BLOCK * blocks) as f64 / start.elapsed().as_secs_f64());
        fs::remove_file(&file)?;
    }
    median(rates).context("nothing was measured")
}
