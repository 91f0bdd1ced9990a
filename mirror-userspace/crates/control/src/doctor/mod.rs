//! What decides whether an interface can be captured, and how well: looked at, judged, mended.
//!
//! [`Facts`] are what was found, as data; [`judge`] says what to think of them, and asks nobody for more, so
//! that NICs which are not at hand can be judged from what they answered elsewhere. [`mend`] does what the
//! judgement asks for, and looks again.

mod ena;
mod facts;
mod judge;

use mirror_device::nic::{self, Change, Changes, Netlink};
use serde::Serialize;

pub use self::facts::{Attached, Facts, HugePages, Machine, Numa};
pub use self::judge::judge;
use crate::host::CpuList;

/// What is known of the capture that is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Intent<'i> {
    /// UDP ports of mirror traffic.
    pub ports: &'i [u16],
    /// CPUs that are given to the workers.
    pub cpus: Option<&'i CpuList>,
}

/// What to think of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, or without meaning for this interface.
    Fine,
    /// A capture works, but loses frames or time that it need not.
    Warning,
    /// A capture does not start.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub check: &'static str,
    /// What to think of it.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The command that mends it, where one does.
    pub fix: Option<String>,
    /// The same as [`mend`] does it.
    #[serde(skip)]
    pub change: Option<Change>,
}

/// Looks at an interface, and judges.
pub async fn examine(
    netlink: &Netlink,
    interface: &str,
    intent: Intent<'_>,
) -> Result<Vec<Check>, nic::Error> {
    Ok(judge(&Facts::gather(netlink, interface, intent).await?))
}

/// What was done about something.
#[derive(Debug)]
pub struct Mended<'m> {
    /// What was found to be wrong.
    pub check: &'m Check,
    /// Whether it was mended.
    pub result: Result<(), nic::Error>,
}

/// One change may call for another: with more queues there are more interrupts, and larger buffers. Nothing
/// is tried twice, so this many rounds are only needed where each brings up something new.
const ROUNDS: usize = 8;

/// Mends what can be mended, tells of each change, and returns what was changed.
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
                // What was found of interrupts and memory is for as many queues as there were.
                break;
            }
        }
        if !any {
            break;
        }
    }
    Ok(changes)
}
