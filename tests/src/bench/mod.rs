//! The measurements of `cargo xtask bench` in network namespaces: the highest rate of a capture program
//! without loss ([`path`]), the programs compared ([`subject`]), and the traffic ([`traffic`]). The real
//! captures for the worker are in [`corpus`].

pub mod corpus;
pub mod path;
pub mod search;
pub mod subject;
pub mod traffic;
