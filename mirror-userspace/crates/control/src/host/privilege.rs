//! Which rights the process lacks.

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a capture does that not everybody may, and the capabilities that allow it, any of each list.
const NEEDED: [(&str, &[Capability]); 4] = [
    ("CAP_NET_ADMIN", &[Capability::CAP_NET_ADMIN]),
    ("CAP_NET_RAW", &[Capability::CAP_NET_RAW]),
    ("CAP_BPF", &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN]),
    ("CAP_PERFMON", &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN]),
];

/// The names of the capabilities that are needed and not there.
pub fn missing() -> Vec<&'static str> {
    let has = |capability: &Capability| caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false);
    NEEDED.iter().filter(|(_, any)| !any.iter().any(has)).map(|&(name, _)| name).collect()
}

/// Raises the limit on locked memory as far as the process may by itself; with `CAP_IPC_LOCK` there is
/// none.
pub fn raise_locked_memory_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
    {
        tracing::debug!("cannot raise the limit on locked memory: {error}");
    }
}
