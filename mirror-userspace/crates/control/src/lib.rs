//! A running capture and everything that controls it.
//!
//! It owns the settings ([`config`]), what they need of the machine ([`host`]), the capture itself ([`capture`]), its
//! account ([`stats`]) and the table of its counters ([`counters`]), observers of frames ([`observe`]), the HTTP API
//! ([`api`]), the check of a machine ([`doctor`]) the packet generator ([`pktgen`]), and the thread
//! that loads rules ([`rule_loader`]). The files that its tables
//! generate are in [`generated`]. It uses all crates below it; the command line is above.

pub mod api;
pub mod capture;
pub mod config;
pub mod counters;
pub mod doctor;
pub mod generated;
pub mod host;
pub mod names;
pub mod observe;
pub mod pktgen;
pub mod rule_loader;
pub mod stats;
