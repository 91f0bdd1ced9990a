//! Admission and filter rules: the [`policy`] that an operator writes down, and how it is compiled
//! ([`compile`]) for the XDP program.

pub mod compile;
pub mod policy;

pub use policy::Policy;
