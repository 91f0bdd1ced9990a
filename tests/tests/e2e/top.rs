//! `mirror-xdp top` on a pseudo-terminal, whose screen is decoded as a terminal would display it.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use mirror_xdp_tests::appliance::{Bed, PATIENCE};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

/// A program on a terminal, which ends when this is dropped.
struct Terminal {
    keys: File,
    /// The program's side, which shows the terminal's settings.
    side: OwnedFd,
    child: Child,
    shown: Arc<(Mutex<vt100::Parser>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts `mirror-xdp top ARGUMENTS` in the appliance's namespace.
    fn start(bed: &Bed, (rows, columns): (u16, u16), arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keys = openpt(flags).unwrap();
        unlockpt(&keys).unwrap();
        let side = ioctl_tiocgptpeer(&keys, flags).unwrap();
        resize(&side, rows, columns);
        let top = bed.command(&["top"]);
        // The words of a command that runs in the namespace; `setsid --ctty`, inserted before the last
        // program, gives it the controlling terminal.
        let words: Vec<_> = top.get_args().map(ToOwned::to_owned).collect();
        let program = words.len() - 2;
        let mut command = Command::new(top.get_program());
        command.args(&words[..program]).args(["setsid", "--ctty"]).args(&words[program..]).args(arguments);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for stdio in [Command::stdin, Command::stdout, Command::stderr] {
            stdio(&mut command, Stdio::from(side.try_clone().unwrap()));
        }
        let child = command.spawn().unwrap();
        let shown =
            Arc::new((Mutex::new(vt100::Parser::new(side_of(rows), side_of(columns), 0)), Condvar::new()));
        let keys = File::from(keys);
        let (mut screen, screened) = (keys.try_clone().unwrap(), Arc::clone(&shown));
        // The thread ends when the last descriptor of the program's side is closed.
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                screened.0.lock().unwrap().process(&bytes[..length]);
                screened.1.notify_all();
            }
        });
        Self { keys, side, child, shown, reader: Some(reader) }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen meets a condition.
    #[track_caller]
    fn wait_until(&self, what: &str, is: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut parser = self.shown.0.lock().unwrap();
        while !is(parser.screen()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain until {what}:\n{}", parser.screen().contents());
            parser = self.shown.1.wait_timeout(parser, left).unwrap().0;
        }
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        self.wait_until(&format!("“{text}” is shown"), |screen| screen.contents().contains(text));
    }

    /// Changes the size, as a user does who drags the corner of a window.
    fn resize(&self, rows: u16, columns: u16) {
        self.shown.0.lock().unwrap().screen_mut().set_size(side_of(rows), side_of(columns));
        resize(&self.side, rows, columns);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Returns whether the terminal is in canonical mode with echo and signals, on the normal screen with the
    /// cursor shown.
    fn is_as_usual(&self) -> bool {
        let modes = tcgetattr(&self.side).unwrap().local_modes;
        let parser = self.shown.0.lock().unwrap();
        let screen = parser.screen();
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && !screen.alternate_screen()
            && !screen.hide_cursor()
    }

    /// Waits for the program's end, and asserts that the terminal is restored.
    #[track_caller]
    fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        // After the program's end all its output has been read; the screen may still have to be updated.
        self.wait_until("the terminal is given back", |screen| {
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        assert!(self.is_as_usual());
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends with the last descriptor of the program's side, which is dropped after this.
        drop(self.reader.take());
    }
}

fn side_of(length: u16) -> NonZeroU16 {
    NonZeroU16::new(length).unwrap()
}

fn resize(side: &OwnedFd, rows: u16, columns: u16) {
    tcsetwinsize(side, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// Returns a session with a name resolution and a datagram to another port.
fn frames(vni: u32) -> Vec<Vec<u8>> {
    let dns = Flow::v4(40_000, 53);
    let session = mirrored(vni);
    vec![
        session.carrying(&dns.udp(&dns_query(1, "shop.test"))),
        session.carrying(&dns.reversed().udp(&dns_answer(1, "shop.test", [10, 0, 0, 1].into()))),
        session.carrying(&Flow::v4(40_001, 9999).udp(b"hello")),
    ]
}

#[test]
fn it_shows_the_traffic_and_outlives_the_appliance() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    let mut top = Terminal::start(&bed, (30, 100), &["--interval", "500ms"]);
    top.wait_for("has captured for");
    top.wait_for("mirror0");
    top.wait_for("nothing lost");
    bed.send(&frames(4711));

    top.press("2");
    top.wait_for("4711");
    top.press("\t\t");
    top.wait_for(":9999");
    top.wait_for(":53");
    top.press("/port=53\r");
    top.wait_until("only one flow is left", |screen| {
        screen.contents().contains(":53 ") && !screen.contents().contains(":9999")
    });
    top.press("\x1b");
    top.wait_for(":9999");
    top.press("5");
    top.wait_for("p95 ms");
    top.wait_for("dns");
    top.resize(24, 80);
    top.wait_until("the last line is at its place", |screen| {
        screen.rows(0, 80).nth(23).is_some_and(|row| row.contains("q quit"))
    });

    assert!(!appliance.kill().success());
    top.wait_for("no answer from 127.0.0.1:9470 since");
    let appliance = bed.start(&[]);
    top.wait_for("has captured for");
    top.press("1");
    bed.send(&frames(4712));
    top.press("2");
    top.wait_for("4712");
    top.press("q");
    assert_eq!(top.wait().code(), Some(0));
    appliance.stop().assert_conserved();
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    let Some(bed) = Bed::new(1) else { return };
    for end in [Some(Signal::SIGTERM), Some(Signal::SIGHUP), None] {
        let mut top = Terminal::start(&bed, (24, 80), &[]);
        top.wait_for("no answer from 127.0.0.1:9470 since");
        top.wait_for("connection refused");
        assert!(!top.is_as_usual());
        match end {
            Some(signal) => kill(top.pid(), signal).unwrap(),
            // Ctrl-C
            None => top.press("\x03"),
        }
        assert_eq!(top.wait().code(), Some(0), "{end:?}");
    }
}

#[test]
fn it_goes_to_the_background_and_comes_back() {
    let Some(bed) = Bed::new(1) else { return };
    let mut top = Terminal::start(&bed, (24, 80), &[]);
    top.wait_for("no answer");
    top.press("\x1a");
    let stopped = waitpid(top.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    top.wait_until("the terminal is given back", |screen| !screen.alternate_screen());
    assert!(top.is_as_usual());
    kill(top.pid(), Signal::SIGCONT).unwrap();
    top.wait_until("it is back", |screen| {
        screen.alternate_screen() && screen.contents().contains("no answer")
    });
    top.press("q");
    assert_eq!(top.wait().code(), Some(0));
}

#[test]
fn keys_are_heard_while_the_appliance_does_not_answer() {
    let Some(bed) = Bed::new(1) else { return };
    // The kernel accepts connections, but no program reads from them.
    let _silent = bed.appliance.enter(|| TcpListener::bind("127.0.0.1:9470")).unwrap().unwrap();
    let mut top = Terminal::start(&bed, (24, 80), &[]);
    top.wait_for("asks 127.0.0.1:9470");
    top.press("?");
    top.wait_for("suspend");
    top.press("qq");
    assert_eq!(top.wait().code(), Some(0));
}

#[test]
fn scripts_get_text_or_an_object() {
    let Some(bed) = Bed::new(1) else { return };
    let run = |arguments: &[&str]| {
        let mut command = bed.command(&["top", "--interval", "500ms"]);
        command.args(arguments);
        Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap()
    };
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    let [line] = &refused.stderr[..] else { panic!("{:?}", refused.stderr) };
    assert!(line.contains("--once") && line.contains("--json"), "{line}");
    let alone = run(&["--once"]);
    assert_eq!(alone.status.code(), Some(1));
    let [line] = &alone.stderr[..] else { panic!("{:?}", alone.stderr) };
    assert!(line.contains("no answer from http://127.0.0.1:9470: connection refused"), "{line}");

    let token = bed.log_dir().join("token");
    mirror_xdp_tests::secret::write(&token, "0123456789abcdef\n");
    let token = token.to_str().unwrap();
    let appliance = bed.start(&["--api-token-file", token]);
    bed.send(&frames(7));
    let stranger = run(&["--json"]);
    assert!(stranger.stderr[0].contains("--api-token-file"), "{:?}", stranger.stderr);
    let output = run(&["--json", "--api-token-file", token]);
    assert!(output.status.success(), "{:?}", output.stderr);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&json["vnis"][0]["vni"], &json["vnis"][0]["packets"]), (&7.into(), &3.into()), "{json}");
    assert_eq!(json["talkers"].as_array().unwrap().len(), 2, "{json}");
    let output = run(&["--once", "--api-token-file", token]);
    assert!(output.stdout.contains("loss by stage\nnothing lost"), "{}", output.stdout);
    assert!(!output.stdout.contains('\x1b'), "{}", output.stdout);
    appliance.stop().assert_conserved();
}
