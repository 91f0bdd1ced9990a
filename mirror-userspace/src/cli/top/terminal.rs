//! The terminal, which `top` takes over while it draws and restores in every case.

use std::io::{self, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, enable_raw_mode};
use ratatui::{DefaultTerminal, Terminal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};

use super::app::{Action, App};
use super::client::Client;
use super::draw::{Theme, draw};

/// The time to wait for a key before the replies of the appliance are processed.
const TICK: Duration = Duration::from_millis(50);
/// The time between two redraws without an event: some texts contain durations.
const REDRAW: Duration = Duration::from_secs(1);

/// The terminal while `top` uses it. Dropping it restores the terminal.
struct Taken(DefaultTerminal);

impl Taken {
    /// Takes over the terminal. A later panic restores it before it prints its message.
    fn new() -> io::Result<Self> {
        // A terminal that was only partly taken over is restored, too.
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }

    /// Restores the terminal, stops this process until it is continued, and takes over the terminal again.
    fn suspend(&mut self) -> io::Result<()> {
        give_back();
        raise(Signal::SIGSTOP)?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
        // A new one redraws everything, and does not query the terminal, which may not answer.
        self.0 = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Restores the terminal. If the terminal is gone, there is nothing to restore.
fn give_back() {
    let _ = ratatui::try_restore();
    let _ = execute!(stdout(), Show);
}

fn flag(signals: &[i32]) -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Draws until the user quits.
pub(super) fn run(app: &mut App, client: &Client, theme: Theme) -> anyhow::Result<()> {
    let end = flag(&[SIGHUP, SIGINT, SIGTERM])?;
    let stop = flag(&[SIGTSTP])?;
    let mut terminal = Taken::new()?;
    let mut drawn: Option<Instant> = None;
    while !end.load(Ordering::Relaxed) {
        let mut changed = false;
        loop {
            match client.updates.try_recv() {
                Ok(update) => app.apply(update),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    anyhow::bail!("the thread that sends requests to the appliance has ended")
                }
            }
            changed = true;
        }
        while event::poll(if changed { Duration::ZERO } else { TICK })? {
            let action = match event::read()? {
                Event::Key(key) => app.key(key),
                _ => Action::Nothing,
            };
            match action {
                Action::Quit => return Ok(()),
                Action::Suspend => stop.store(true, Ordering::Relaxed),
                Action::Nothing => {}
            }
            changed = true;
        }
        if stop.swap(false, Ordering::Relaxed) {
            terminal.suspend()?;
            changed = true;
        }
        client.want(app.wanted());
        if changed || drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            let now = Instant::now();
            terminal.0.draw(|frame| draw(frame, app, theme, now))?;
            drawn = Some(now);
        }
    }
    Ok(())
}
