//! Admission and filter rules: the [`policy`] that an operator writes down.

pub mod policy;

pub use policy::Policy;
