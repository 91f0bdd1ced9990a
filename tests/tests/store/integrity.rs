//! What becomes of the store where the machine does not do what it should: whatever was finished is whole, and
//! kept + lost is all that there was.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use mirror_xdp_tests::appliance::of_type;
use mirror_xdp_tests::require;

use super::*;

/// A number below `bound` that is another each time.
fn random(bound: u32) -> u32 {
    (RandomState::new().hash_one(0) % u64::from(bound)) as u32
}

/// Settings of a store.
fn configured(bed: &Bed, settings: &str) -> PathBuf {
    let path = bed.log_dir().join("config.toml");
    fs::write(&path, settings).expect("the directory is there");
    path
}

#[test]
fn at_whatever_moment_it_is_killed_what_is_finished_is_whole_and_the_rest_is_repaired() {
    const ROUNDS: usize = 6;
    let Some(bed) = Bed::new(1) else { return };
    let store = directory();
    // So that segments are finished on the way.
    let config = configured(&bed, "[store]\nsegment_size = \"16MiB\"\n");
    let sent = frames(24_000);
    let mut moments = Vec::new();
    for _ in 0..ROUNDS {
        let appliance = start(&bed, store.path(), &["--config", text(&config)]);
        let moment = random(sent.len() as u32) as usize;
        moments.push(moment);
        let injector = bed.injector();
        for frame in &sent[..moment] {
            injector.send(frame).expect("the cable takes the frame");
        }
        assert!(!appliance.kill().success());
        let found = verified(&bed, store.path());
        assert_eq!(found["findings"], serde_json::json!([]), "killed after {moments:?} frames");
        opened_by_others(store.path());
    }
    let report = {
        let appliance = start(&bed, store.path(), &[]);
        bed.send(&sent[..100]);
        appliance.stop()
    };
    report.assert_conserved();
    assert_eq!(stored(&report), (100, 0));
    let found = verified(&bed, store.path());
    let nothing = serde_json::json!([]);
    assert_eq!((&found["findings"], &found["unfinished"]), (&nothing, &nothing), "{moments:?}");
    let packets = found["packets"].as_u64().expect("a number");
    let most = moments.iter().sum::<usize>() as u64 + 100;
    assert!((100..=most).contains(&packets), "killed after {moments:?} frames: {found}");
    assert_eq!(opened_by_others(store.path()), packets);
    assert_eq!(extract(&bed, store.path(), "").len() as u64, packets);
}

/// A mirror-xdp that writes to a small file system of its own, which only it sees and who enters its namespace.
struct Mounted {
    process: Process,
    directory: PathBuf,
}

impl Mounted {
    /// It is mounted on a directory; what is in it in the end is copied into another. `None` where nothing can
    /// be mounted here.
    fn start(bed: &Bed, on: &Path, copy: &Path, config: &Path) -> Option<Self> {
        const CANNOT_MOUNT: i32 = 9;
        let script = format!(
            "copy=$1; shift; {{ truncate -s 512M \"$copy/image\" && mkfs.ext4 -q \"$copy/image\" && \
             mount -o loop \"$copy/image\" \"$0\"; }} || exit {CANNOT_MOUNT}; trap 'kill -INT $pid' INT; \
             \"$@\" & pid=$!; wait $pid; wait $pid; code=$?; cp \"$0\"/*.* \"$copy\"; exit $code"
        );
        let arguments = ["--store", text(on), "--config", text(config)];
        let inside = bed.run_command(&[INTERFACE], &arguments);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script.as_str()]).arg(on).arg(copy);
        command.arg(inside.get_program()).args(inside.get_args());
        let mut process = Process::spawn(&mut command).expect("unshare starts");
        match process.wait_for_line("capturing on", PATIENCE) {
            Ok(_) => Some(Self { process, directory: on.to_owned() }),
            Err(error) => {
                let output = process.wait(PATIENCE).expect("it has ended");
                assert_eq!(output.status.code(), Some(CANNOT_MOUNT), "{error}");
                require::not_met(&format!("nothing can be mounted here: {:?}", output.stderr));
                None
            }
        }
    }

    /// A shell in the namespace of what is mounted, which gets the directory as `$0`.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process.id().to_string(), "-m", "sh", "-c", script]).arg(&self.directory);
        command
    }

    /// Sends frames until it says that.
    fn send_until(&mut self, bed: &Bed, frames: &[Vec<u8>], what: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            assert!(std::time::Instant::now() < deadline, "waited in vain for «{what}»");
            bed.send(frames);
            if let Ok(line) = self.process.wait_for_line("", Duration::from_millis(200))
                && line.contains(what)
            {
                return;
            }
        }
    }

    fn stop(mut self) -> Report {
        self.process.signal(Signal::SIGINT).expect("it runs");
        let output = self.process.wait(PATIENCE).expect("it ends");
        assert!(output.status.success(), "{output:?}");
        Report::parse(&output)
    }
}

#[test]
fn a_directory_that_may_no_longer_be_written_to_pauses_the_store_until_it_may() {
    let Some(bed) = Bed::new(1) else { return };
    let (mounted, store) = (directory(), directory());
    // A file that is open is written to still; the next is not made.
    let config = configured(&bed, "[store]\nsegment_time = \"1s\"\n");
    let Some(mut mounted) = Mounted::start(&bed, mounted.path(), store.path(), &config) else { return };
    let sent = frames(500);
    bed.send(&sent);
    run(&mut mounted.shell("chattr +i \"$0\"")).expect("the file system knows it");
    mounted.send_until(&bed, &sent, "cannot write");
    run(&mut mounted.shell("chattr -i \"$0\"")).expect("the file system knows it");
    mounted.send_until(&bed, &sent, "kept again");
    let report = mounted.stop();
    report.assert_conserved();
    assert_eq!(report.analysed(), report.seen());
    let (kept, lost) = stored(&report);
    assert_eq!(kept + lost, report.analysed());
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
    let found = verified(&bed, store.path());
    let nothing = serde_json::json!([]);
    assert_eq!((&found["findings"], &found["unfinished"]), (&nothing, &nothing));
    assert_eq!((found["packets"].as_u64(), opened_by_others(store.path())), (Some(kept), kept));
}

/// A file system that takes nothing for as long as this value lives. It thaws when whoever holds its standard
/// input ends, however that ends.
struct Frozen(Child);

impl Frozen {
    fn new(mounted: &Mounted) -> Self {
        let mut command =
            mounted.shell("fsfreeze -f \"$0\" && echo frozen && { read line; fsfreeze -u \"$0\"; }");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter starts");
        let mut line = String::new();
        let said = child.stdout.take().expect("it is a pipe");
        BufReader::new(said).read_line(&mut line).expect("it says something");
        assert_eq!(line, "frozen\n");
        Self(child)
    }

    fn thaw(mut self) {
        self.0.stdin.take().expect("it is a pipe").write_all(b"\n").expect("it listens");
        assert!(self.0.wait().expect("it ends").success());
    }
}

#[test]
fn a_disk_that_takes_nothing_for_a_while_costs_packets_and_neither_analysis_nor_what_is_kept() {
    let Some(bed) = Bed::new(1) else { return };
    let (mounted, kept) = (directory(), directory());
    let config = configured(&bed, "[capture]\nstats_interval = \"50ms\"\n[store]\nmemory = \"8MiB\"\n");
    let Some(mounted) = Mounted::start(&bed, mounted.path(), kept.path(), &config) else { return };
    let sent = frames(4000);
    bed.send(&sent[..1000]);
    let frozen = Frozen::new(&mounted);
    wait_until("all memory is full, and more is lost", || {
        bed.send(&sent);
        let records = bed.records();
        let stats = of_type(&records, "stats").pop().and_then(|stats| stats["stats"]["workers"].as_array());
        let lost =
            stats.into_iter().flatten().filter_map(|worker| worker["store"]["lost"]["no_block"].as_u64());
        lost.sum::<u64>() > 1000
    });
    frozen.thaw();
    bed.send(&sent[..1000]);
    let report = mounted.stop();
    report.assert_conserved();
    let (packets, lost) = stored(&report);
    assert_eq!(packets + lost, report.analysed());
    let no_block = report.sum("/workers", "/store/lost/no_block");
    assert_eq!(no_block, lost, "nothing is lost but for want of memory");
    assert!(lost > 1000 && packets > 1000, "{packets} kept, {lost} lost");
    let found = verified(&bed, kept.path());
    assert_eq!((&found["findings"], found["packets"].as_u64()), (&serde_json::json!([]), Some(packets)));
    assert_eq!(opened_by_others(kept.path()), packets);
}
