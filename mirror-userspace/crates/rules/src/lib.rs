//! Admission and filter rules: the [`policy`] that an operator writes down, its [`limits`], its [`text`]
//! form, what [`analysis`] finds in it, how it decides on a [`probe`], rules that come from AWS
//! ([`import`]), and the tables that a policy is compiled to ([`compile`]) for the XDP program.

pub mod analysis;
pub mod compile;
pub mod import;
mod kept;
pub mod limits;
pub mod policy;
pub mod probe;
pub mod text;

pub use kept::{KeptRules, RuleRange};
pub use policy::Policy;
