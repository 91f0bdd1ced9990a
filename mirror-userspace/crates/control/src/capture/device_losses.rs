//! What devices lose while a capture runs: read at each statistics interval, entered into the account, and
//! told where nothing else tells of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mirror_device::nic::ioctl::Device;
use mirror_device::nic::losses::{Counters, select};
use mirror_device::nic::{Error, Netlink};

use crate::stats::Stats;

/// A counter that goes on rising is told of again after this time.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// The devices of a capture.
#[derive(Debug)]
pub struct Watch {
    netlink: Netlink,
    devices: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    index: u32,
    device: Option<Device>,
    driver: String,
    /// What the counters were when the capture began.
    start: Counters,
    /// What has come since.
    now: Counters,
    /// The same, one reading before.
    before: Counters,
    alarm: Alarm,
}

impl Watch {
    /// Begins to count.
    pub async fn start(interfaces: &[String]) -> Result<Self, Error> {
        let netlink = Netlink::connect()?;
        let mut devices = Vec::new();
        for name in interfaces {
            let index = netlink.interface(name).await?.index;
            let device = Device::open(name).ok();
            let driver = device.as_ref().and_then(|device| device.driver().ok());
            let mut watched = Watched {
                index,
                device,
                driver: driver.map(|driver| driver.name).unwrap_or_default(),
                start: Counters::default(),
                now: Counters::default(),
                before: Counters::default(),
                alarm: Alarm::default(),
            };
            watched.start = watched.read(&netlink).await.unwrap_or_default();
            devices.push(watched);
        }
        Ok(Self { netlink, devices })
    }

    /// Reads all counters. To be done before the account is made, which then has all that they have.
    pub async fn read(&mut self) {
        for watched in &mut self.devices {
            // A device that is gone, or that changes its queues just now, keeps what it had.
            if let Some(counters) = watched.read(&self.netlink).await {
                let now = counters.since(&watched.start);
                watched.before = std::mem::replace(&mut watched.now, now);
            }
        }
    }

    /// Enters what was read into the account, and warns of what is lost without a word.
    pub fn enter(&mut self, stats: &mut Stats) {
        for (interface, watched) in stats.interfaces.iter_mut().zip(&mut self.devices) {
            interface.device = watched.now.clone();
            // Sockets are in the account a moment after the driver: of what both count, only that counts
            // here which the driver had a reading ago.
            let silent = watched.now.settled(&watched.before).silent(interface.explained());
            for text in watched.alarm.warnings(&silent, Instant::now()) {
                tracing::warn!("{}: {text}", interface.name);
            }
        }
    }
}

impl Watched {
    async fn read(&self, netlink: &Netlink) -> Option<Counters> {
        let kernel = netlink.receive_errors(self.index).await.ok().filter(|kernel| !kernel.is_empty())?;
        let theirs = match &self.device {
            Some(device) => device.statistics().ok()?,
            None => Vec::new(),
        };
        Some(select(&self.driver, &theirs, &kernel))
    }
}

/// Says of each counter when it first rises, and then from time to time.
#[derive(Debug, Default)]
struct Alarm {
    /// When it was last told of, and what it was.
    told: HashMap<&'static str, (Instant, u64)>,
}

impl Alarm {
    fn warnings(&mut self, silent: &Counters, now: Instant) -> Vec<String> {
        let mut warnings = Vec::new();
        for &(known, count) in &silent.0 {
            let before = self.told.get(known.name);
            if before.is_some_and(|&(time, told)| count <= told || now.duration_since(time) < AGAIN) {
                continue;
            }
            let more = count - before.map_or(0, |&(_, told)| told);
            warnings.push(format!(
                "the device lost {more} frames ({}): {}; what helps: {}",
                known.name, known.meaning, known.advice
            ));
            self.told.insert(known.name, (now, count));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ena(overruns: u64, drops: u64) -> Counters {
        let theirs = [("rx_overruns".to_owned(), overruns), ("queue_0_rx_xdp_drop".to_owned(), drops)];
        select("ena", &theirs, &[])
    }

    #[test]
    fn a_loss_is_told_of_once_and_then_from_time_to_time() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let mut told = |overruns, after| alarm.warnings(&ena(overruns, 0).silent(0), start + after).len();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(told(0, second), 0);
        assert_eq!(told(5, 2 * second), 1);
        assert_eq!(told(9, 3 * second), 0);
        assert_eq!(told(20, 6 * minute), 1);
        assert_eq!(told(20, 12 * minute), 0, "it rises no more");
    }

    #[test]
    fn what_helps_is_said() {
        let mut alarm = Alarm::default();
        let silent = ena(0, 7).silent(4);
        let warnings = alarm.warnings(&silent, Instant::now());
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("lost 3 frames (xdp_drop)") && warnings[0].contains("MTU"),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_sockets_lost_just_now_is_waited_for() {
        let (before, now) = (ena(1, 10), ena(2, 30));
        let silent = now.settled(&before).silent(10);
        assert_eq!(
            silent.0.iter().map(|(known, count)| (known.name, *count)).collect::<Vec<_>>(),
            [("rx_overruns", 2)]
        );
    }
}
