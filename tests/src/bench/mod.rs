//! What `cargo xtask bench` measures in network namespaces: how much a capture program takes off an interface
//! before it loses frames ([`path`]), with others beside it ([`subject`]), and the traffic for it
//! ([`traffic`]); besides, the real captures that the worker is measured with ([`corpus`]).

pub mod corpus;
pub mod path;
pub mod search;
pub mod subject;
pub mod traffic;
