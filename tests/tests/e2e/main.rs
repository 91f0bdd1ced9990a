//! The end-to-end tests: one module for each capability. They are one program, which is linked once and runs
//! them side by side; most of them wait for most of their time.
//!
//! Tests that measure what all children of their process use are programs of their own: `hostile_costs` and
//! `hostile_files`. So is `worker_panic`, which is itself the program under test.

mod affinity;
mod api;
mod aws_capture;
mod aws_names;
mod bad_use;
mod config;
mod conservation;
mod decapsulation;
mod doctor;
mod field;
mod filter;
mod fleet;
mod hostile_confinement;
mod hostile_live;
mod kernel_traffic;
mod lab;
mod life;
mod live_settings;
mod malformed;
mod metrics;
mod modes;
mod observe;
mod package;
mod page;
mod pktgen;
mod policy;
mod program;
mod queues;
mod read;
mod records;
mod reload;
mod rules;
mod scope;
mod service;
mod shunt;
mod signatures;
mod signed;
mod soak;
mod source;
mod start_stop;
mod store;
mod tap;
mod top;
mod upload;
mod wireshark;
