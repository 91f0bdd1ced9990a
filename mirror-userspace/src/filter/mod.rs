//! Admission and filter rules: the [`policy`] that an operator writes down, its [`limits`], its [`text`]
//! form, what [`analysis`] finds in it, how it decides on a [`probe`], and rules that come from AWS
//! ([`import`]).

pub mod analysis;
pub mod import;
pub mod limits;
pub mod policy;
pub mod probe;
pub mod text;

pub use policy::Policy;
