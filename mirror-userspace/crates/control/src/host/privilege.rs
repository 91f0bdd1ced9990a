//! The privileges that the process lacks.

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The privileged operations of a capture, and the capabilities that allow each; any one of a list suffices.
const NEEDED: [(&str, &[Capability]); 4] = [
    ("CAP_NET_ADMIN", &[Capability::CAP_NET_ADMIN]),
    ("CAP_NET_RAW", &[Capability::CAP_NET_RAW]),
    ("CAP_BPF", &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN]),
    ("CAP_PERFMON", &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN]),
];

/// Returns the names of the required capabilities that are missing.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let has = |capability: &Capability| caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false);
    NEEDED.iter().filter(|(_, any)| !any.iter().any(has)).map(|&(name, _)| name).collect()
}

/// Raises the limit on locked memory as far as the process may by itself; with `CAP_IPC_LOCK` there is no
/// limit.
pub fn raise_locked_memory_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
    {
        tracing::debug!("cannot raise the limit on locked memory: {error}");
    }
}
