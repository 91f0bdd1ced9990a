//! What systemd wants to know of a capture (`sd_notify(3)`): when it runs, that it lives, when it stops.
//! Elsewhere nobody asks, and nothing is said.

use sd_notify::NotifyState;

use crate::live::Capture;

/// Tells the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Service {
    /// Whether it wants to hear that the capture lives.
    watched: bool,
}

impl Service {
    /// The capture runs.
    pub(super) fn ready(capture: &Capture) -> Self {
        let interfaces: Vec<_> = capture.interfaces().map(|interface| interface.to_string()).collect();
        let status = format!("capturing on {}", interfaces.join("; "));
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        Self { watched: sd_notify::watchdog_enabled().is_some() }
    }

    /// Called each second: the watchdog is fed as long as every worker moves.
    pub(super) fn second(&self, capture: &Capture) {
        if self.watched && capture.watches().iter().all(|worker| worker.pulse.is_moving()) {
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// The capture is about to stop.
    pub(super) fn stopping() {
        notify(&[NotifyState::Stopping]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
