//! Tests the Debian package on a system that has never had it and runs no systemd: it is installed, started
//! with the settings of the unit, checked, reloaded and stopped under load, and removed.
//!
//! The system is this machine's root file system under an overlay, in a mount namespace of its own:
//! everything installed disappears with the test.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mirror_xdp_tests::appliance::{Bed, PATIENCE, Report, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::process::{Process, run};
use mirror_xdp_tests::{http, promtool, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::Value;

/// The time limit for a stop.
const STOP: Duration = Duration::from_secs(5);

/// The number of reloads under load.
const RELOADS: u32 = 20;

/// Runs as root in a new mount namespace. `$1` is a directory, `$2` the package.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount --rbind /sys root/sys
mount -t tmpfs tmpfs root/run
mount -t tmpfs tmpfs root/tmp
cp "$2" root/tmp/mirror-xdp.deb
exec chroot root sh -eu -c '
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin
    dpkg --install /tmp/mirror-xdp.deb >&2
    mirror-xdp filter check /etc/mirror-xdp/mirror-xdp.toml >&2
    mirror-xdp filter check /usr/share/doc/mirror-xdp/examples/mirror-xdp.toml >&2
    zcat /usr/share/man/man1/mirror-xdp-run.1.gz | grep -q interface
    install -d -o mirror-xdp -g mirror-xdp /run/mirror-xdp
    caps=+net_admin,+net_raw,+bpf,+perfmon
    # The memlock limit of the unit; if even root may not set it, a capability that has the same effect.
    prlimit --pid $$ --memlock=unlimited 2>/dev/null || caps=$caps,+ipc_lock
    # Create the log before the test reads it.
    : >/tmp/log
    setpriv --reuid=mirror-xdp --regid=mirror-xdp --clear-groups --no-new-privs --inh-caps=$caps \
        --ambient-caps=$caps /usr/bin/mirror-xdp run --config /etc/mirror-xdp/mirror-xdp.toml --json \
        --interface mirror0 >/tmp/account 2>/tmp/log &
    service=$!
    echo "started as $service" >&2
    wait $service || { cat /tmp/log >&2; exit 1; }
    cat /tmp/account
    test -f /var/log/mirror-xdp/eve.json
    rm -r /var/log/mirror-xdp
    dpkg --purge mirror-xdp >&2
    for left in /usr/bin/mirror-xdp /etc/mirror-xdp /etc/default/mirror-xdp /run/mirror-xdp/control.sock; do
        if [ -e $left ]; then echo "$left is left" >&2; exit 1; fi
    done
    if getent passwd mirror-xdp; then echo "the user is left" >&2; exit 1; fi
'
"#;

/// The installed system with its running service.
struct Installed {
    process: Process,
    service: Pid,
    root: PathBuf,
}

impl Installed {
    /// Installs the package and starts the service.
    fn new(bed: &Bed, package: &Path, directory: &Path) -> Self {
        let mut command = bed.appliance.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        let mut process = Process::spawn(command.arg(directory).arg(package)).unwrap();
        let started = process.wait_for_line("started as ", PATIENCE * 2).unwrap();
        let service = Pid::from_raw(started.rsplit(' ').next().unwrap().parse().unwrap());
        let root = PathBuf::from(format!("/proc/{}/root", process.id()));
        Self { process, service, root }
    }

    /// Returns the output of the service.
    fn said(&self) -> String {
        fs::read_to_string(self.root.join("tmp/log")).unwrap()
    }

    fn wait_until_said(&self, words: &str, times: usize) {
        wait_until(words, || {
            assert!(kill(self.service, None).is_ok(), "it has ended: {}", self.said());
            self.said().matches(words).count() >= times
        });
    }

    /// Writes the configuration atomically, so that no partial content is ever read.
    fn configure(&self, text: &str) {
        let path = self.root.join("etc/mirror-xdp/mirror-xdp.toml");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(self.service, signal).unwrap();
    }
}

/// Starts a generator, which sends frames of VNIs 7 and 8 as fast as the cable takes them.
fn start_generator(bed: &Bed, capture: &Path) -> Process {
    let mut writer = PcapWriter::new(File::create(capture).unwrap()).unwrap();
    for port in 0..500 {
        let frame = mirrored(7 + u32::from(port) % 2).carrying(&Flow::v4(20_000 + port, 443).udp(b"hello"));
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, &frame)).unwrap();
    }
    drop(writer);
    let mut command = bed.far.command(&require::binary().unwrap().to_string_lossy());
    command.args(["pktgen", "--json", "--interface", "source0", "--envelope", "none", "--new-flows", "no"]);
    command.args(["--rate", "1Mpps", "--duration", "10min"]).arg(capture);
    let mut generator = Process::spawn(&mut command).unwrap();
    generator.wait_for_line("sending by", PATIENCE).unwrap();
    generator
}

fn rules(action: &str) -> String {
    let rule = format!("[[filter.sets.rules]]\nnumber = 100\naction = \"{action}\"\n");
    format!("[[filter.sets]]\nname = \"all\"\nvnis = [7]\n{rule}")
}

#[test]
fn it_installs_starts_answers_reloads_and_stops_under_load_and_leaves_nothing_behind() {
    require::machine();
    let Some(package) = require::package() else { return };
    let Some(bed) = Bed::new(1) else { return };
    let Some(tool) = require::promtool() else { return };
    let directory = tempfile::tempdir().unwrap();
    let system = Installed::new(&bed, &package, directory.path());
    system.wait_until_said("capturing on mirror0", 1);
    assert!(system.root.join("run/mirror-xdp/control.sock").exists());

    let curl = |path: &str| {
        let mut command = bed.appliance.command("curl");
        run(command.args(["--silent", "--fail"]).arg(format!("http://127.0.0.1:9470{path}"))).unwrap()
    };
    let health: Value = serde_json::from_str(&curl("/healthz")).unwrap();
    assert_eq!(health["healthy"], true, "{health}");

    let captures = tempfile::tempdir().unwrap();
    let generator = start_generator(&bed, &captures.path().join("frames.pcap"));
    bed.wait_until_received(bed.received() + 10_000);
    promtool::accepts(&tool, &["check", "metrics"], &curl("/metrics"));
    for reload in 1..=RELOADS {
        system.configure(&rules(["accept", "reject"][reload as usize % 2]));
        if reload % 2 == 0 {
            system.signal(Signal::SIGHUP);
        } else {
            let api = "127.0.0.1:9470".parse().unwrap();
            let answer = http::ask(&bed.appliance, api, "POST /api/v1/reload", &[]).unwrap();
            assert_eq!((answer.status, &answer.json()["rules"]), (200, &1.into()), "{}", answer.body);
        }
        system.wait_until_said("read again, 1 rules in force", reload as usize);
    }
    bed.wait_until_received(bed.received() + 10_000);
    let begun = Instant::now();
    system.signal(Signal::SIGTERM);
    wait_until("the service ends", || kill(system.service, None).is_err());
    let duration = begun.elapsed();
    let output = system.process.wait(PATIENCE).unwrap();
    assert!(generator.interrupt(PATIENCE).unwrap().status.success());
    assert!(output.status.success(), "{:#?}", output.stderr);
    assert!(duration < STOP, "{duration:?}");
    let report = Report::parse(&output);
    report.assert_conserved();
    assert!(report.number("/interfaces/0/program/dropped/filter_rejected") > 0, "{}", report.json());
    assert!(report.redirected() > 0, "{}", report.json());
}
