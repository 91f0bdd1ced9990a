//! The two modes in which the kernel runs an XDP program.

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before the kernel has made an `sk_buff` of the frame.
    Native,
    /// In the network stack, on any interface, slower.
    Generic,
}

impl Mode {
    /// As in messages and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}
