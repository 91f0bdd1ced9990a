//! The terminal: taken over while `top` draws, and given back as it was, however that ends.

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

/// How long is waited for a key before the appliance's answers are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often is drawn when nothing happens: texts say how long something takes.
const REDRAW: Duration = Duration::from_secs(1);

/// The terminal while it is taken over. Dropping it gives it back.
struct Taken(DefaultTerminal);

impl Taken {
    /// Takes the terminal over; from then on a panic gives it back first, and then says so.
    fn new() -> io::Result<Self> {
        // What is taken over half is given back too.
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }

    /// Gives the terminal back, stops this process until somebody wants it to go on, and takes it again.
    fn suspend(&mut self) -> io::Result<()> {
        give_back();
        raise(Signal::SIGSTOP)?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
        // A new one draws all anew, and asks the terminal nothing, which may not answer.
        self.0 = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Where the terminal is gone, there is nothing to give back.
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

/// Draws until somebody has seen enough.
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
                    anyhow::bail!("the thread that asks the appliance has ended")
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
