//! Wireshark with a running capture: as one of its interfaces (extcap), and reading from `mirror-xdp tail`.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use mirror_xdp_tests::appliance::{Bed, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_query, mirrored};
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use tempfile::TempDir;

/// The extcap program that the packages install.
const EXTCAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/extcap/mirror-xdp");

/// A machine with Wireshark on which mirror-xdp is installed.
struct Desk {
    bed: Bed,
    /// Directories of its own, so that those of the machine stay unchanged.
    files: TempDir,
}

impl Desk {
    fn new() -> Option<Self> {
        let bed = Bed::new(1)?;
        require::tool("tshark")?;
        let files = tempfile::tempdir().unwrap();
        for directory in ["bin", "extcap"] {
            std::fs::create_dir(files.path().join(directory)).unwrap();
        }
        symlink(require::binary()?.canonicalize().unwrap(), files.path().join("bin/mirror-xdp")).unwrap();
        symlink(Path::new(EXTCAP).canonicalize().unwrap(), files.path().join("extcap/mirror-xdp")).unwrap();
        Some(Self { bed, files })
    }

    /// Returns a shell command with `mirror-xdp` in its path.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.bed.appliance.command("unshare");
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}/bin:{path}", self.files.path().display()));
        command.env("CONTROL", self.bed.control()).env("HOME", self.files.path());
        command.env("EXTCAP", self.files.path().join("extcap"));
        command.args(["--mount", "sh", "-e", "-c", script]);
        command
    }

    /// Returns the command `tshark ARGUMENTS`, with the script in its extcap directory. As root, tshark
    /// searches no other.
    fn tshark(&self, arguments: &str) -> Command {
        self.shell(&format!(
            "where=$(tshark -G folders 2>/dev/null | sed -n 's/^\\(Global \\)\\?Extcap path:[[:space:]]*//Ip')
             mount --bind \"$EXTCAP\" \"$where\"
             exec tshark {arguments}"
        ))
    }

    /// Runs a command to its end while sending these frames repeatedly.
    fn run_while_sending(&self, command: &mut Command, frames: &[Vec<u8>]) -> Output {
        let mut process = Process::spawn(command).unwrap();
        wait_until("it has had enough", || {
            self.bed.send(frames);
            !process.is_running()
        });
        process.wait(mirror_xdp_tests::appliance::PATIENCE).unwrap()
    }
}

/// The path of the control socket, as a Wireshark preference.
const PREFERENCE: &str = "-o extcap.mirror_xdp.control:\"$CONTROL\"";

fn frames() -> [Vec<u8>; 2] {
    let session = mirrored(7);
    [
        session.carrying(&Flow::v4(40_000, 53).udp(&dns_query(1, "example.com"))),
        session.carrying(&Flow::v4(40_001, 9999).udp(b"hello")),
    ]
}

#[test]
fn the_capture_is_one_of_its_interfaces() {
    let Some(desk) = Desk::new() else { return };
    let list = Process::spawn(&mut desk.tshark("-D")).unwrap();
    let list = list.wait(mirror_xdp_tests::appliance::PATIENCE).unwrap();
    assert!(list.stdout.contains("mirror-xdp (Mirrored traffic (mirror-xdp))"), "{list:?}");

    let appliance = desk.bed.start(&[]);
    let arguments = format!("{PREFERENCE} -i mirror-xdp -c 10 -T fields -e udp.dstport");
    let output = desk.run_while_sending(&mut desk.tshark(&arguments), &frames());
    assert!(output.status.success(), "{:?}", output.stderr);
    let ports: Vec<_> = output.stdout.lines().collect();
    assert_eq!(ports.len(), 10, "{ports:?}");
    assert!(ports.iter().all(|port| ["53", "9999"].contains(port)), "{ports:?}");

    let arguments =
        format!("{PREFERENCE} -i mirror-xdp -f 'udp port 53 and vni 7' -c 2 -T fields -e dns.qry.name");
    let output = desk.run_while_sending(&mut desk.tshark(&arguments), &frames());
    assert_eq!(output.stdout, "example.com\nexample.com\n", "{:?}", output.stderr);
    appliance.stop().assert_conserved();
}

#[test]
fn what_is_wrong_is_told_by_wireshark() {
    let Some(desk) = Desk::new() else { return };
    // tshark leaves the message out if it notices the end of the program that wrote it before it reads the pipe.
    let told = |arguments: &str, message: &str| {
        wait_until(message, || {
            let mut tshark = desk.tshark(&format!("{PREFERENCE} -i mirror-xdp {arguments}"));
            let process = Process::spawn(&mut tshark).unwrap();
            process.wait(mirror_xdp_tests::appliance::PATIENCE).unwrap().stderr.join("\n").contains(message)
        });
    };
    told("-c 1", "no mirror-xdp answers there");
    let appliance = desk.bed.start(&[]);
    told("-c 1 -f 'udp prot 53'", "column 5");
    appliance.stop().assert_conserved();
}

#[test]
fn it_decodes_live_what_tail_writes() {
    let Some(desk) = Desk::new() else { return };
    let appliance = desk.bed.start(&[]);
    // `-l` prints each line as soon as its frame arrives, as on a terminal.
    let script = "mirror-xdp tail --control \"$CONTROL\" -w - 'udp port 53' | tshark -l -r -";
    let mut pipe = desk.shell(script).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let reader = BufReader::new(pipe.stdout.take().unwrap());
    std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut first = None;
    wait_until("a frame is decoded", || {
        desk.bed.send(&frames());
        first = lines.try_recv().ok();
        first.is_some()
    });
    let line = first.unwrap();
    assert!(line.contains("DNS") && line.contains("Standard query 0x0001 A example.com"), "{line}");
    // The end of the capture ends its observers.
    appliance.stop().assert_conserved();
    assert!(pipe.wait().unwrap().success());
    assert!(lines.iter().all(|line| line.contains("example.com")));
}
