//! Admission and filter rules. [`policy`] has the values that an operator writes, [`limits`] their bounds,
//! and [`text`] their textual form; [`analysis`] finds rules that cannot work as intended; [`probe`] explains
//! the decision on one packet; [`import`] converts AWS mirror filters; [`compile`] makes the tables of the
//! XDP program.

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
