//! The link state of the captured interfaces. The capture's thread reads it each second and logs changes;
//! other modules, such as the API, read it here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Interface;

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// `true` if the interface is up and has a carrier.
    pub up: bool,
    /// The number of carrier losses since the interface exists, as the kernel counts them.
    pub losses: u32,
}

/// The links of a capture, as of the last reading. A clone shares the same links.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<Mutex<Vec<Watched>>>);

#[derive(Debug)]
struct Watched {
    name: String,
    link: Link,
    /// The time since which it is known to be down.
    down: Option<Instant>,
}

impl Links {
    /// Watches the links of these interfaces, and logs those that are down.
    #[must_use]
    pub fn of<'i>(interfaces: impl IntoIterator<Item = &'i Interface>) -> Self {
        let watched = |interface: &Interface| {
            // The link is assumed to be up before the first reading, so that a link that is down is logged.
            let link = Link { up: true, ..interface.link };
            let mut watched = Watched { name: interface.name.clone(), link, down: None };
            watched.note(interface.link, Instant::now());
            watched
        };
        Self(Arc::new(Mutex::new(interfaces.into_iter().map(watched).collect())))
    }

    /// Stores the state of the link of an interface, by the position of the interface.
    pub fn note(&self, position: usize, link: Link) {
        if let Some(watched) = self.links().get_mut(position) {
            watched.note(link, Instant::now());
        }
    }

    /// Returns a line for each link that is down: `ens6: link is down`.
    #[must_use]
    pub fn down(&self) -> Vec<String> {
        let links = self.links();
        links.iter().filter(|watched| !watched.link.up).map(Watched::down_line).collect()
    }

    fn links(&self) -> MutexGuard<'_, Vec<Watched>> {
        // Each entry is changed as a whole, so a poisoned lock is harmless.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn note(&mut self, link: Link, now: Instant) {
        if let Some(line) = self.change(link, now) {
            tracing::warn!("{line}");
        }
    }

    /// Stores the state of the link, and returns the message about a change, if there is one.
    fn change(&mut self, link: Link, now: Instant) -> Option<String> {
        let before = std::mem::replace(&mut self.link, link);
        let name = &self.name;
        match (before.up, link.up) {
            (_, false) if self.down.is_none() => {
                self.down = Some(now);
                Some(format!("{}: no mirrored traffic comes in until it is up", self.down_line()))
            }
            (_, true) if let Some(since) = self.down.take() => {
                let seconds = Duration::from_secs(now.duration_since(since).as_secs_f64().round() as u64);
                let seconds = humantime::format_duration(seconds.max(Duration::from_secs(1)));
                Some(format!("{name}: link is up again, it was down for {seconds}"))
            }
            (true, true) if link.losses != before.losses => {
                let times = link.losses.wrapping_sub(before.losses);
                let times = if times == 1 { String::new() } else { format!(" {times} times") };
                Some(format!("{name}: link is up, it was down{times} for less than a second"))
            }
            _ => None,
        }
    }

    fn down_line(&self) -> String {
        format!("{}: link is down", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        Watched { name: "ens6".to_owned(), link: Link { up: true, losses: 3 }, down: None }
    }

    #[test]
    fn a_link_that_goes_down_is_told_once_and_once_more_when_it_is_back() {
        let mut watched = watched();
        let start = Instant::now();
        let mut told = |up, losses, seconds| {
            watched.change(Link { up, losses }, start + Duration::from_secs(seconds)).unwrap_or_default()
        };
        assert_eq!(told(true, 3, 0), "");
        assert!(told(false, 4, 1).starts_with("ens6: link is down"));
        assert_eq!(told(false, 4, 2), "");
        assert_eq!(told(false, 5, 3), "");
        assert_eq!(told(true, 5, 64), "ens6: link is up again, it was down for 1m 3s");
        assert_eq!(told(true, 5, 65), "");
    }

    #[test]
    fn a_link_that_was_down_between_two_looks_is_told_by_the_kernels_count() {
        let mut watched = watched();
        let mut told = |losses| watched.change(Link { up: true, losses }, Instant::now()).unwrap_or_default();
        assert_eq!(told(4), "ens6: link is up, it was down for less than a second");
        assert_eq!(told(6), "ens6: link is up, it was down 2 times for less than a second");
        assert_eq!(told(6), "");
    }
}
