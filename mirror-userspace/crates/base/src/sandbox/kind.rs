//! The kinds of threads, by their needs during a capture.

use std::fmt;

/// A kind of thread. Its name is a column of the tables in `docs/security.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Receives and analyses frames: has `AF_XDP` sockets and the map of shunted flows, and opens nothing.
    Worker,
    /// Writes records: has the log, its directory, and the Unix socket that it may go to.
    Records,
    /// Compresses and encrypts packets: opens nothing.
    Seal,
    /// Writes segments and the manifest, deletes old ones: has the store's directory.
    Store,
    /// Uploads segments: reads the store, and talks to other hosts.
    Upload,
    /// Answers HTTP: accepts connections, and makes none.
    Api,
    /// Serves `mirror-xdp tail`: accepts connections on the control socket.
    Control,
    /// Sends copies of frames by a packet socket that is already open.
    Tap,
    /// Handles signals, timers, counters and the configuration.
    Main,
    /// The same, but has changed interfaces and has to restore them: keeps its capabilities and files.
    MainToRestore,
    /// Reads capture files, stores or configurations of others, and writes the requested output.
    Read,
    /// The same, for a store on other hosts.
    ReadRemote,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Worker,
        Self::Records,
        Self::Seal,
        Self::Store,
        Self::Upload,
        Self::Api,
        Self::Control,
        Self::Tap,
        Self::Main,
        Self::MainToRestore,
        Self::Read,
        Self::ReadRemote,
    ];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Records => "records",
            Self::Seal => "seal",
            Self::Store => "store",
            Self::Upload => "upload",
            Self::Api => "api",
            Self::Control => "control",
            Self::Tap => "tap",
            Self::Main => "main",
            Self::MainToRestore => "main-to-restore",
            Self::Read => "read",
            Self::ReadRemote => "read-remote",
        }
    }

    /// Returns whether it connects to other hosts.
    pub(super) const fn has_network(self) -> bool {
        matches!(self, Self::Upload | Self::ReadRemote)
    }

    /// Returns whether it keeps its capabilities, and access to all files.
    pub(super) const fn is_privileged(self) -> bool {
        matches!(self, Self::MainToRestore)
    }

    /// Returns whether it resolves names, for filter expressions or for connections to hosts.
    pub(super) const fn looks_up_names(self) -> bool {
        matches!(self, Self::Upload | Self::Control | Self::Main | Self::Read | Self::ReadRemote)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
