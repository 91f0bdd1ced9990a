//! Programs started by a test or the lab: run to their end, or in the background until dropped.

use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// If it cannot be started or fails; a failure includes its standard error.
pub fn run(command: &mut Command) -> io::Result<String> {
    let name = display(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start `{name}`: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{name}` failed ({}): {}", output.status, stderr.trim())))
}

/// The output of a program that has ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// The lines of its standard error that were not read before.
    pub stderr: Vec<String>,
}

/// A program in the background. Dropping this value kills it and the processes that it has started.
///
/// It has a process group of its own, so Ctrl-C at the terminal reaches only the program that started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stderr: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    unread: Vec<String>,
}

impl Process {
    /// Starts `command` and collects its output.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let name = display(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start `{name}`: {error}")))?;
        let (sender, stderr) = mpsc::channel();
        if let Some(pipe) = child.stderr.take() {
            // The thread ends with the process, which closes the pipe.
            thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        let stdout = child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut text = Vec::new();
                // The output of a killed process up to that point is useful too.
                let _ = pipe.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Ok(Self { name, child, stderr, stdout, unread: Vec::new() })
    }

    /// Waits until the program writes a line that begins with `prefix` to standard error.
    ///
    /// # Errors
    ///
    /// If it ends or `timeout` passes first; the error contains what it wrote instead.
    pub fn wait_for_line(&mut self, prefix: &str, timeout: Duration) -> io::Result<String> {
        self.wait_for(prefix, timeout, |line| line.starts_with(prefix))
    }

    /// The same for a line that contains `words`, as log messages do after their time.
    pub fn wait_for_line_with(&mut self, words: &str, timeout: Duration) -> io::Result<String> {
        self.wait_for(words, timeout, |line| line.contains(words))
    }

    fn wait_for(
        &mut self,
        words: &str,
        timeout: Duration,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if is_wanted(&line) => return Ok(line),
                Ok(line) => self.unread.push(line),
                Err(error) => {
                    let what = match error {
                        RecvTimeoutError::Timeout => "did not say in time",
                        RecvTimeoutError::Disconnected => "ended without saying",
                    };
                    let said = self.unread.join("\n");
                    return Err(io::Error::other(format!("`{}` {what} «{words}…»: {said}", self.name)));
                }
            }
        }
    }

    /// Returns the process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, unless the program has ended.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Waits for the program to end by itself; fails, which kills it, if `timeout` passes first.
    pub fn wait(mut self, timeout: Duration) -> io::Result<Output> {
        // The end of the process closes standard error; this loop waits for that.
        let deadline = Instant::now() + timeout;
        loop {
            match self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.unread.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let said = self.unread.join("\n");
                    return Err(io::Error::other(format!("`{}` did not end in time: {said}", self.name)));
                }
            }
        }
        let status = self.child.wait()?;
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ok(Output { status, stdout, stderr: std::mem::take(&mut self.unread) })
    }

    /// Sends SIGINT to the program, as Ctrl-C does, and waits for its end.
    pub fn interrupt(mut self, timeout: Duration) -> io::Result<Output> {
        self.signal(Signal::SIGINT)?;
        self.wait(timeout)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After it has been waited for, its process ID may belong to another process.
        if self.is_running()
            && let Ok(group) = i32::try_from(self.child.id())
        {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Returns the command as a person would type it, without the wrapper that enters a namespace.
fn display(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let wrapper = ["setpriv", "--pdeathsig", "KILL"];
    let own = words.windows(wrapper.len()).position(|window| window == wrapper).map_or(0, |at| at + 3);
    words.get(own..).unwrap_or_default().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_tells_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn lines_are_awaited_and_output_collected() {
        let script = "echo one >&2; echo result; echo ready to go >&2; exec sleep 60";
        let mut process = Process::spawn(Command::new("sh").args(["-c", script])).unwrap();
        let line = process.wait_for_line("ready", Duration::from_secs(10)).unwrap();
        assert_eq!(line, "ready to go");
        let output = process.interrupt(Duration::from_secs(10)).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_slice()), ("result\n", &["one".to_owned()][..]));
    }
}
