//! The engine `af-xdp`: frames are written in user space and sent by an `AF_XDP` socket. It works on every
//! interface that supports `AF_XDP`. If the driver has no zero-copy, it costs a copy and a system call for
//! every few frames.

use std::thread;
use std::time::{Duration, Instant};

use mirror_device::afxdp::transmit::{MAX_TRANSMIT, Transmitter};
use mirror_xdp_common::pktgen::{State, rewrite};

use super::sequence::Sequence;
use super::{Engine, Error, Go, LISTEN, Progress, monotonic};

/// The longest frame.
pub(super) const MAX_FRAME: usize = MAX_TRANSMIT;

const CANNOT_SEND: &str = "cannot send by AF_XDP";
/// The interval at which a stop of the user is noticed.
const POLL: Duration = Duration::from_millis(2);
/// A longer wait is slept through until this shortly before its end.
const SPIN: Duration = Duration::from_micros(200);
/// The longest wait for the driver to send the last frames.
const DRAIN: Duration = Duration::from_secs(1);

/// A socket with its sequence.
pub(super) struct AfXdp<'a> {
    sequence: &'a Sequence,
    transmitter: Transmitter,
    state: State,
    rewrite: bool,
}

impl<'a> AfXdp<'a> {
    /// Opens the socket. With `rewrite`, each lap brings new flows.
    pub(super) fn open(sequence: &'a Sequence, interface: &str, rewrite: bool) -> Result<Self, Error> {
        let longest = sequence.frames.iter().map(|frame| frame.length as usize).max().unwrap_or_default();
        let transmitter = Transmitter::open(interface, longest).map_err(Error::kernel(CANNOT_SEND))?;
        tracing::debug!("sending by AF_XDP, zero-copy: {}", transmitter.is_zero_copy());
        Ok(Self { sequence, transmitter, state: State::default(), rewrite })
    }

    /// Writes the next frame; returns `false` if there is no room for it now.
    fn write(&mut self) -> bool {
        let Some(frame) = self.sequence.frames.get(self.state.next as usize) else { return false };
        let lap = self.state.lap(self.sequence.laps, frame.lap);
        let other = self.rewrite && lap != 0;
        let written = self.transmitter.write(self.sequence.bytes_of(frame), |bytes| {
            if other {
                rewrite(bytes, &frame.rewrite, lap);
            }
        });
        if written {
            self.state.frames += 1;
            self.state.bytes += u64::from(frame.length);
            self.state.advance(self.sequence.frames.len() as u32, frame.gap);
        }
        written
    }

    const fn progress(&self) -> Progress {
        Progress { frames: self.state.frames, bytes: self.state.bytes }
    }

    /// Waits until the driver has sent all frames that were handed to it.
    fn drain(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + DRAIN;
        while self.transmitter.outstanding() > 0 && Instant::now() < deadline {
            self.transmitter.flush().map_err(Error::kernel(CANNOT_SEND))?;
        }
        Ok(())
    }
}

impl Engine for AfXdp<'_> {
    fn send(&mut self, limit: u64, watch: &mut dyn FnMut(Progress) -> Go) -> Result<Progress, Error> {
        let paced = self.sequence.frames.iter().any(|frame| frame.gap > 0);
        self.state.due = self.state.due.max(monotonic()?);
        let mut listened = Instant::now();
        while self.state.frames < limit {
            let now = if paced { monotonic()? } else { u64::MAX };
            while self.state.frames < limit && (!paced || self.state.is_due(now)) && self.write() {}
            self.transmitter.flush().map_err(Error::kernel(CANNOT_SEND))?;
            if listened.elapsed() >= POLL {
                listened = Instant::now();
                if watch(self.progress()) == Go::Stop {
                    break;
                }
            }
            if paced && self.state.frames < limit {
                let wait = Duration::from_nanos(self.state.due.saturating_sub(monotonic()?));
                thread::sleep(wait.saturating_sub(SPIN).min(LISTEN));
            }
        }
        self.drain()?;
        watch(self.progress());
        Ok(self.progress())
    }
}
