//! Typed events: the values that an analyzer emits about a flow, as the objects of EVE records.
//!
//! A worker packs an event into the bytes of a batch, which costs the packet path a few copies. The thread that
//! writes records unpacks and renders it. One type, [`EveEvent`], describes both ends, so that they cannot
//! disagree.

use serde::Serialize;
use serde_json::Result;

/// An event that an analyzer emits.
///
/// ```
/// use mirror_protocols::eve::{EveEvent, EveWriter, Packer, Unpacker};
/// use mirror_protocols::text::Bytes;
///
/// #[derive(Debug, PartialEq)]
/// struct Login<'a> {
///     port: u16,
///     user: &'a [u8],
/// }
///
/// impl EveEvent for Login<'_> {
///     const TYPE: &'static str = "login";
///     type Unpacked<'a> = Login<'a>;
///
///     fn pack(&self, packer: &mut Packer<'_>) {
///         packer.u16(self.port);
///         packer.rest(self.user);
///     }
///
///     fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<Login<'a>> {
///         Some(Login { port: unpacker.u16()?, user: unpacker.rest() })
///     }
///
///     fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
///         #[derive(serde::Serialize)]
///         struct Object<'a> {
///             port: u16,
///             user: Bytes<'a>,
///         }
///         writer.line(&Object { port: self.port, user: Bytes(self.user) })
///     }
/// }
///
/// let mut bytes = Vec::with_capacity(100);
/// let mut packer = Packer::new(&mut bytes, 100);
/// Login { port: 23, user: b"root" }.pack(&mut packer);
/// assert!(packer.fits());
/// assert_eq!(Login::unpack(&mut Unpacker::new(&bytes)), Some(Login { port: 23, user: b"root" }));
/// ```
pub trait EveEvent {
    /// The value of `event_type`, and the name of the object with the event's details.
    const TYPE: &'static str;

    /// This event, borrowed from packed bytes.
    type Unpacked<'a>: EveEvent;

    /// Packs the event. A worker calls this: it must not allocate.
    fn pack(&self, packer: &mut Packer<'_>);

    /// Unpacks an event. Returns `None` for bytes that [`EveEvent::pack`] does not write.
    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<Self::Unpacked<'a>>;

    /// Writes the event: one line, or several.
    ///
    /// # Errors
    ///
    /// Fails if a value has no JSON form.
    fn write(&self, writer: &mut impl EveWriter) -> Result<()>;

    /// Returns the measurement of the requested service; `None` if the event is about no request.
    fn measured(&self) -> Option<Measured> {
        None
    }

    /// Returns the operation that was requested, out of packed bytes, if requests of the service are measured by
    /// operation.
    fn operation<'a>(_unpacker: &mut Unpacker<'a>) -> Option<&'a [u8]> {
        None
    }
}

/// The measurements of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Nanoseconds until the server answered, if it did.
    pub latency: Option<u64>,
    /// The server failed.
    pub error: bool,
}

/// How a line differs from the usual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineShape {
    /// The number of the transaction in its flow.
    pub transaction: Option<u32>,
    /// True if the server is the source: the line is about what it has sent.
    pub is_reversed: bool,
    /// True if the line is about a packet that belongs to no flow.
    pub is_lone: bool,
}

/// Receives the lines of an event. The writer adds the fields that all events of a flow share, and limits the
/// length of the lines.
pub trait EveWriter {
    /// Writes a line with `object` for its details.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    fn line(&mut self, object: &impl Serialize) -> Result<()>;

    /// Writes a line about the transaction with this number in its flow.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    fn transaction(&mut self, number: u32, object: &impl Serialize) -> Result<()>;

    /// Writes a line of this shape, with `object` for its details, and the members of another object beside it.
    ///
    /// # Errors
    ///
    /// Fails if a value has no JSON form.
    fn line_with(
        &mut self,
        shape: &LineShape,
        object: &impl Serialize,
        members: &impl Serialize,
    ) -> Result<()> {
        let _ = (shape, members);
        self.line(object)
    }

    /// Writes a line unless it has more than `most` bytes. Returns true if it was written.
    ///
    /// # Errors
    ///
    /// Fails if `object` has no JSON form.
    fn line_within(&mut self, most: usize, object: &impl Serialize) -> Result<bool>;

    /// Writes a line about a request: with `object` for the details of its protocol, if there are any, and with the
    /// object `service`.
    ///
    /// # Errors
    ///
    /// Fails if an object has no JSON form.
    fn service(&mut self, object: Option<&impl Serialize>, service: Option<&impl Serialize>) -> Result<()>;

    /// Returns true if the literals of statements are written.
    fn literals(&self) -> bool;
}

/// Packs the values of an event, one after the other, into a buffer of limited length.
#[derive(Debug)]
pub struct Packer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    fits: bool,
}

impl<'a> Packer<'a> {
    /// Appends to `out` until it has `limit` bytes. Nothing is allocated if its capacity is at least `limit`.
    pub const fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { out, limit, fits: true }
    }

    /// Returns false if a value did not fit. The buffer then has only a part of the event.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.fits
    }

    /// Packs bytes without their length: the last value of an event, or one of constant length.
    #[inline]
    pub fn rest(&mut self, bytes: &[u8]) {
        if self.limit.saturating_sub(self.out.len()) >= bytes.len() {
            self.out.extend_from_slice(bytes);
        } else {
            self.fits = false;
        }
    }

    /// Packs bytes with their length. Bytes beyond [`crate::pack::MAX_VALUE`] are cut off.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(..crate::pack::MAX_VALUE).unwrap_or(bytes);
        self.u16(bytes.len() as u16);
        self.rest(bytes);
    }

    /// Packs a number.
    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.rest(&[value]);
    }

    /// Packs a number.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.rest(&value.to_ne_bytes());
    }

    /// Packs a number.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.rest(&value.to_ne_bytes());
    }

    /// Packs a number.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.rest(&value.to_ne_bytes());
    }

    /// Packs a duration in nanoseconds, if it is known.
    #[inline]
    pub fn duration(&mut self, nanoseconds: Option<u64>) {
        self.u64(nanoseconds.unwrap_or(UNKNOWN));
    }
}

/// Stands for an unknown duration in packed bytes.
const UNKNOWN: u64 = u64::MAX;

/// Unpacks the values of an event in the order in which they were packed.
#[derive(Clone, Copy, Debug)]
pub struct Unpacker<'a> {
    bytes: &'a [u8],
}

impl<'a> Unpacker<'a> {
    /// Reads these packed bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Returns all further bytes.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// Returns the next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(array)
    }

    /// Returns the next `len` bytes.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(bytes)
    }

    /// Unpacks bytes that were packed with their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Unpacks a number.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|&[byte]| byte)
    }

    /// Unpacks a number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_ne_bytes(*bytes))
    }

    /// Unpacks a number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// Unpacks a number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_ne_bytes(*bytes))
    }

    /// Unpacks a duration. The outer `None` stands for missing bytes, the inner one for an unknown duration.
    pub fn duration(&mut self) -> Option<Option<u64>> {
        self.u64().map(|nanoseconds| Some(nanoseconds).filter(|&nanoseconds| nanoseconds != UNKNOWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::MAX_VALUE;

    #[test]
    fn values_come_out_in_the_order_in_which_they_went_in() {
        let mut bytes = Vec::with_capacity(100);
        let mut packer = Packer::new(&mut bytes, 100);
        packer.u8(1);
        packer.u16(2);
        packer.u32(3);
        packer.u64(4);
        packer.duration(None);
        packer.duration(Some(5));
        packer.bytes(b"six");
        packer.rest(b"seven");
        assert!(packer.fits());
        let mut unpacker = Unpacker::new(&bytes);
        assert_eq!((unpacker.u8(), unpacker.u16(), unpacker.u32()), (Some(1), Some(2), Some(3)));
        assert_eq!((unpacker.u64(), unpacker.duration()), (Some(4), Some(None)));
        assert_eq!((unpacker.duration(), unpacker.bytes()), (Some(Some(5)), Some(&b"six"[..])));
        assert_eq!((unpacker.rest(), unpacker.rest()), (&b"seven"[..], &b""[..]));
        assert_eq!((unpacker.u8(), unpacker.bytes(), unpacker.duration()), (None, None, None));
    }

    #[test]
    fn a_full_buffer_takes_no_more_and_reports_it() {
        let mut bytes = Vec::with_capacity(4);
        let mut packer = Packer::new(&mut bytes, 4);
        packer.u32(1);
        assert!(packer.fits());
        packer.u8(1);
        assert!(!packer.fits());
        packer.rest(b"");
        assert!(!packer.fits());
        assert_eq!(bytes.len(), 4);
    }

    #[test]
    fn a_value_that_is_too_long_is_cut() {
        let mut bytes = Vec::new();
        Packer::new(&mut bytes, usize::MAX).bytes(&[7; MAX_VALUE + 1]);
        assert_eq!(Unpacker::new(&bytes).bytes().map(<[u8]>::len), Some(MAX_VALUE));
    }
}
