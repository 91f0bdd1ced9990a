//! Loads rule files and prints the time and memory that it took.

use std::path::Path;
use std::time::Instant;
use std::{env, fs, io};

use mirror_signatures::config::classification::Classes;
use mirror_signatures::engine::Engine;
use mirror_signatures::ruleset::Loader;
use mirror_signatures::variables::Variables;

fn main() -> io::Result<()> {
    let (variables, classes) = (Variables::default(), Classes::default());
    let mut loader = Loader::new(&variables, &classes);
    let start = Instant::now();
    for path in env::args_os().skip(1) {
        loader.read(Path::new(&path))?;
    }
    let set = loader.finish();
    let report = &set.report;
    println!("{} of {} rules loaded in {:.2?}", set.signatures.len(), report.total, start.elapsed());
    println!(
        "{} refused, {} twice, {} slow",
        report.refused_count,
        report.duplicates.len(),
        report.slow.len()
    );
    let start = Instant::now();
    let engine = Engine::new(set.signatures);
    println!("searches of {} KiB built in {:.2?}", engine.heap_bytes() >> 10, start.elapsed());
    let status = fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")) {
        println!("{line}");
    }
    Ok(())
}
