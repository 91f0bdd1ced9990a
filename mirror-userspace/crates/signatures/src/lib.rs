//! Suricata's rule files, in the order of the data.
//!
//! [`parse`] turns the text of a file into typed [`rule`]s and names everything that it refuses. [`config`] reads the
//! files beside the rules: classifications, references, thresholds. [`variables`] resolves `$HOME_NET` and the like
//! into sorted [`sets`] of addresses and ports. [`compile`] joins a rule with its sets and chooses the pattern by
//! which it is found. [`inspect`] is a pure function of a buffer and the steps of a rule. [`ruleset`] loads all files
//! together and reports what was refused, what is there twice, and what will be slow. [`engine`] finds the rules that a
//! buffer may match by their patterns ([`search`]), and verifies them. [`inspector`] inspects flows: it is told the
//! [`facts`] about them, and raises alerts, which [`threshold`] limits.
//!
//! The crate does no I/O on the path of packets and knows no clock. Everything that it reads is hostile: [`limits`]
//! bounds it.
//!
//! ```
//! use mirror_signatures::parse::{File, parse};
//!
//! let text = b"alert dns any any -> any any (msg:\"a name\"; dns.query; content:\"evil.example\"; sid:1;)\n\
//!              alert tcp any any -> any any (msg:\"a script\"; lua:script.lua; sid:2;)\n";
//! let File { rules, refused, .. } = parse(text);
//! assert_eq!(rules.len(), 1);
//! assert_eq!((refused[0].line, refused[0].column, refused[0].keyword.as_str()), (2, 47, "lua"));
//! ```

mod base64;
pub mod buffer;
pub mod compile;
pub mod config;
pub mod dataset;
pub mod diagnostic;
pub mod engine;
pub mod facts;
pub mod file;
mod frequency;
pub mod inspect;
pub mod inspector;
pub mod limits;
pub mod number;
pub mod parse;
pub mod pcre;
pub mod plan;
mod ports;
pub mod rule;
pub mod ruleset;
pub mod search;
pub mod sets;
pub mod threshold;
pub mod transform;
pub mod variables;
