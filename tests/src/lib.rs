//! What the end-to-end tests and the lab share: network namespaces, and processes that end with the
//! test that started them. The tests themselves are in `tests/tests`, one file a capability.
#![forbid(unsafe_code)]

pub mod netns;
pub mod process;
