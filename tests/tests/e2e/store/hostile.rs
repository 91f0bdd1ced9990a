//! Malicious files in a store's directory, left by a process that may write there: they never make later
//! programs touch anything outside the directory, and a capture starts nevertheless.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};

use mirror_xdp_tests::process::Output;
use sha2::{Digest as _, Sha256};

use super::*;

/// A store with packets, and files beside it that must not change.
struct Scene {
    root: tempfile::TempDir,
}

impl Scene {
    fn new(bed: &Bed) -> Self {
        let scene = Self { root: directory() };
        fs::create_dir(scene.path("outside")).expect("it is new");
        for name in ["victim", "victim.idx"] {
            fs::write(scene.path("outside").join(name), "not to be touched").expect("it is new");
        }
        let appliance = start(bed, &scene.path("store"), &[]);
        bed.send(&frames(100));
        assert_eq!(stored(&appliance.stop()), (100, 0));
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Returns the state of all files outside.
    fn seen(&self) -> BTreeMap<PathBuf, (u64, u32, i64, i64, Vec<u8>)> {
        let files = fs::read_dir(self.path("outside")).expect("it is there");
        files
            .map(|entry| {
                let path = entry.expect("a name").path();
                let found = fs::symlink_metadata(&path).expect("it is there");
                let bytes = fs::read(&path).expect("it is a file");
                (path, (found.size(), found.mode(), found.mtime(), found.mtime_nsec(), bytes))
            })
            .collect()
    }

    /// Runs every command that reads or writes a store. Returns their output.
    fn use_it(&self, bed: &Bed) -> String {
        let store = self.path("store");
        let store = text(&store);
        let found = self.path("found.pcapng");
        let mut said = Vec::new();
        let mut command = |arguments: &[&str]| {
            let output: Output = bed.run_to_end(bed.command(arguments));
            assert!(output.status.code().is_some_and(|code| code < 2), "{arguments:?}: {output:?}");
            said.extend(output.stderr);
            said.push(output.stdout);
        };
        command(&["extract", "--store", store, "-w", text(&found)]);
        command(&["verify", store]);
        command(&["timeline", store]);
        let capture = if found.exists() { Some(fs::read(&found).expect("it is there")) } else { None };
        let mut process =
            Process::spawn(&mut bed.run_command(&[INTERFACE], &["--store", store])).expect("it starts");
        process.wait_for_line("capturing on", PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        bed.send(&frames(50));
        let output = process.interrupt(PATIENCE).expect("it ends");
        let report = Report::parse(&output);
        report.assert_conserved();
        assert_eq!(report.analysed(), 50, "analysis goes on");
        said.extend(output.stderr);
        if let Some(capture) = capture {
            let (file, log) = (self.path("again.pcapng"), directory());
            fs::write(&file, capture).expect("there is room");
            let arguments = ["read", "--store", store, "--log-dir", text(log.path()), text(&file)];
            let output = bed.run_to_end(bed.command(&arguments));
            said.extend(output.stderr);
        }
        said.join("\n")
    }
}

/// Returns the first line of a manifest, as a store writes it.
fn line(event: &str) -> String {
    let hex = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    let begin = format!("{{\"number\":1,\"time\":0,\"previous\":\"{}\",{event}", hex(b""));
    let digest = hex(format!("{begin},\"digest\":\"\"}}").as_bytes());
    format!("{begin},\"digest\":\"{digest}\"}}\n")
}

#[test]
fn hostile_manifests_delete_nothing_and_the_capture_starts() {
    let Some(bed) = Bed::new(1) else { return };
    let scene = Scene::new(&bed);
    let before = scene.seen();
    let victim = scene.path("outside/victim");
    for name in [text(&victim), "../outside/victim"] {
        let deleted = format!("\"event\":\"deleted\",\"file\":\"{name}\",\"reason\":\"old\"");
        fs::write(scene.path("store/manifest.jsonl"), line(&deleted)).expect("it is there");
        let said = scene.use_it(&bed);
        assert_eq!(scene.seen(), before, "{said}");
        // By `verify`, by `extract`, by `run` and by `read`.
        let names = said.matches(&format!("line 1 names `{name}`")).count();
        assert_eq!(names, 4, "{said}");
    }
}

#[test]
fn hostile_links_are_not_followed_and_the_capture_starts() {
    let Some(bed) = Bed::new(1) else { return };
    let segment = "00000007-w0-20260301T080000Z.pcapng";
    for name in
        ["lock", "manifest.jsonl", "holds.json", &format!("{segment}.partial"), &format!("{segment}.idx")]
    {
        for hard in [false, true] {
            let scene = Scene::new(&bed);
            let before = scene.seen();
            let (at, victim) = (scene.path("store").join(name), scene.path("outside/victim"));
            if at.extension().is_some_and(|end| end == "idx") {
                let finished = segments(&scene.path("store")).remove(0);
                fs::copy(finished, scene.path("store").join(format!("{segment}.partial")))
                    .expect("there is room");
            }
            let _ = fs::remove_file(&at);
            if hard {
                fs::hard_link(&victim, &at).expect("it is not there");
            } else {
                symlink(&victim, &at).expect("it is not there");
            }
            let said = scene.use_it(&bed);
            assert_eq!(scene.seen(), before, "{name}: {said}");
            assert!(said.contains(&format!("`{name}`")) || hard && name == "holds.json", "{name}: {said}");
        }
    }
}
