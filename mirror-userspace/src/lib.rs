//! mirror-xdp in user space: the library behind the binary `mirror-xdp`, put together from crates in the order of the
//! data. Each crate is re-exported under the name of its subject.
//!
//! The example of a whole reader of capture files, by the engine that a live capture runs:
//!
//! ```
//! use mirror_userspace::engine::offline::Reader;
//! use mirror_userspace::engine::worker::WorkerConfig;
//! use mirror_userspace::packet::capture_file::CaptureFile;
//! use mirror_userspace::records::sink::{Overflow, Sink};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("a.pcap");
//! # std::fs::write(&path, [&0xa1b2_c3d4_u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 12], &[1, 0, 0, 0]].concat())?;
//! let sink = Sink::open(directory.path())?;
//! let mut reader = Reader::new(WorkerConfig::default(), sink.producer(Overflow::Wait));
//! CaptureFile::open(&path)?.for_each(|frame| reader.frame(&frame))?;
//! reader.finish();
//! println!("{} frames, {} of them mirrored", reader.frames().seen, reader.frames().mirrored);
//! sink.finish();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod cli;

pub use mirror_base as base;
pub use mirror_control as control;
pub use mirror_device as device;
pub use mirror_engine as engine;
pub use mirror_packet as packet;
pub use mirror_protocols as protocols;
pub use mirror_records as records;
pub use mirror_rules as rules;
pub use mirror_store as store;
