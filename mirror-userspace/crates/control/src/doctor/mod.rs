//! Checks of everything that determines whether an interface can be captured, and how well.
//!
//! [`Facts`] holds the findings as data. [`judge`] draws the conclusions and asks for nothing more, so that
//! NICs that are not at hand can be judged by answers recorded elsewhere. [`mend`] applies the changes that
//! the judgement asks for, and examines again.

mod ena;
mod facts;
mod judge;

use mirror_device::nic::{self, Change, Changes, Netlink};
use serde::Serialize;

pub use self::facts::{Attached, Facts, HugePages, Machine, Numa};
pub use self::judge::judge;
use crate::host::CpuList;

/// The known settings of the future capture.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intent<'i> {
    /// UDP ports of mirror traffic.
    pub ports: &'i [u16],
    /// CPUs that are given to the workers.
    pub cpus: Option<&'i CpuList>,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, or irrelevant for this interface.
    Fine,
    /// A capture works, but loses frames or time needlessly.
    Warning,
    /// A capture does not start.
    Broken,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the check.
    pub check: &'static str,
    /// The verdict.
    pub state: State,
    /// The finding.
    pub found: String,
    /// The command that mends it, if there is one.
    pub fix: Option<String>,
    /// The same as a change that [`mend`] makes.
    #[serde(skip)]
    pub change: Option<Change>,
}

/// Examines and judges an interface.
pub async fn examine(
    netlink: &Netlink,
    interface: &str,
    intent: Intent<'_>,
) -> Result<Vec<Check>, nic::Error> {
    Ok(judge(&Facts::gather(netlink, interface, intent).await?))
}

/// The result of an attempt to mend something.
#[derive(Debug)]
pub struct Mended<'m> {
    /// The check that failed.
    pub check: &'m Check,
    /// The outcome of the change.
    pub result: Result<(), nic::Error>,
}

/// The most rounds. One change may call for another: with more queues there are more interrupts, and larger
/// buffers. Nothing is tried twice, so this many rounds are needed only if each brings up something new.
const ROUNDS: usize = 8;

/// Mends what it can, reports each change, and returns the changes.
pub async fn mend(
    netlink: &Netlink,
    interface: &str,
    intent: Intent<'_>,
    mut tell: impl FnMut(&Mended<'_>),
) -> Result<Changes, nic::Error> {
    let mut changes = Changes::new(interface);
    let mut tried: Vec<Change> = Vec::new();
    for _ in 0..ROUNDS {
        let checks = examine(netlink, interface, intent).await?;
        let mut any = false;
        for check in &checks {
            let Some(change) = check.change.as_ref().filter(|change| !tried.contains(change)) else {
                continue;
            };
            tried.push(change.clone());
            let result = changes.make(netlink, change).await;
            any |= result.is_ok();
            let queues = matches!(change, Change::Channels { .. }) && result.is_ok();
            tell(&Mended { check, result });
            if queues {
                // The findings about interrupts and memory are for the previous number of queues.
                break;
            }
        }
        if !any {
            break;
        }
    }
    Ok(changes)
}
