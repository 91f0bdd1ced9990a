//! mirror-xdp in user space. It loads the XDP program, receives frames from `AF_XDP` sockets, tracks flows
//! and writes records; it does the same for capture files.
#![deny(unsafe_code)]

pub mod afxdp;
pub mod analyzer;
pub mod api;
pub mod apm;
pub mod capture_file;
pub mod cli;
pub mod config;
pub mod confine;
pub mod datapath;
pub mod doctor;
pub mod error;
pub mod expression;
mod fair;
mod file;
pub mod filter;
pub mod flow;
mod hint;
pub mod indicators;
mod latest;
pub mod live;
mod meminfo;
pub mod nic;
pub mod observe;
pub mod packet;
pub mod pktgen;
pub mod protocol;
pub mod record;
pub mod secret;
pub mod sink;
pub mod source;
pub mod stats;
pub mod store;
pub mod worker;
