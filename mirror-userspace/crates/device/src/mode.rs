//! The two modes in which the kernel runs an XDP program.

/// The XDP mode of a program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before the kernel allocates an `sk_buff` for the frame.
    Native,
    /// In the network stack: works on any interface, but is slower.
    Generic,
}

impl Mode {
    /// Returns its name in messages and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}
