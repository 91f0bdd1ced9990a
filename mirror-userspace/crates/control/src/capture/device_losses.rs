//! Losses of the devices during a capture: read at each statistics interval, entered into the account, and
//! logged if nothing else reports them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mirror_device::nic::ioctl::Device;
use mirror_device::nic::losses::{Counters, select};
use mirror_device::nic::{Error, Netlink};

use crate::stats::Stats;

/// The interval at which the log repeats the warning about a counter that keeps rising.
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
    /// The counters at the start of the capture.
    start: Counters,
    /// The increase since the start.
    now: Counters,
    /// The increase since the start, as of the previous reading.
    before: Counters,
    alarm: Alarm,
}

impl Watch {
    /// Starts counting.
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

    /// Reads all counters. To be called before the account is made, so that the account includes all frames
    /// that the counters have.
    pub async fn read(&mut self) {
        for watched in &mut self.devices {
            // A device that is gone, or is changing its queues, keeps its previous counters.
            if let Some(counters) = watched.read(&self.netlink).await {
                let now = counters.since(&watched.start);
                watched.before = std::mem::replace(&mut watched.now, now);
            }
        }
    }

    /// Enters the counters into the account, and warns of losses that nothing else reports.
    pub fn enter(&mut self, stats: &mut Stats) {
        for (interface, watched) in stats.interfaces.iter_mut().zip(&mut self.devices) {
            interface.device = watched.now.clone();
            // Sockets enter the account slightly later than the driver's counters. Of a counter that also
            // includes the account's frames, only the value of the previous reading is compared.
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

/// Warns of each counter when it first rises, and from then on at intervals.
#[derive(Debug, Default)]
struct Alarm {
    /// The time of the last warning, and the value of the counter at that time.
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
                "the device lost {more} frames ({}): {}; remedy: {}",
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
