//! What systemd wants to know of a capture (`sd_notify(3)`): when it runs, that it lives, when it stops.
//! Elsewhere nobody asks, and nothing is said.

use sd_notify::NotifyState;

use crate::live::Capture;

/// Tells the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Service {
    /// Whether it wants to hear that the capture lives.
    watched: bool,
    ticks: Vec<u64>,
}

impl Service {
    /// The capture runs.
    pub(super) fn ready(capture: &Capture) -> Self {
        let interfaces: Vec<_> = capture.interfaces().map(|interface| interface.to_string()).collect();
        let status = format!("capturing on {}", interfaces.join("; "));
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        Self { watched: sd_notify::watchdog_enabled().is_some(), ticks: Vec::new() }
    }

    /// Called each second: the watchdog is fed as long as every worker moves.
    pub(super) fn second(&mut self, capture: &Capture) {
        let ticks = capture.ticks();
        if self.watched && have_moved(&self.ticks, &ticks) {
            notify(&[NotifyState::Watchdog]);
        }
        self.ticks = ticks;
    }

    /// The capture is about to stop.
    pub(super) fn stopping() {
        notify(&[NotifyState::Stopping]);
    }
}

/// Whether each worker has a tick more than before.
fn have_moved(before: &[u64], now: &[u64]) -> bool {
    now.iter().enumerate().all(|(worker, ticks)| before.get(worker) != Some(ticks))
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_stands_still_is_enough() {
        assert!(have_moved(&[], &[0, 0]), "just begun");
        assert!(have_moved(&[1, 2], &[2, 3]));
        assert!(!have_moved(&[1, 2], &[2, 2]));
    }
}
