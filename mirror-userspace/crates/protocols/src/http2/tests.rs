//! The tests of frames and of events.
