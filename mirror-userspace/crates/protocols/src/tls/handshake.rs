//! Tracks the handshake of one connection through the record layer and stores the messages that a record
//! needs.

use std::ops::Range;

use mirror_packet::Direction;
use thiserror::Error;

use super::hello::{ClientHello, ServerHello, Version, extension};

/// The longest hello that is stored, in bytes. Hellos with post-quantum key exchange and a session ticket
/// have less than 4 KiB.
pub const MAX_HELLO: usize = 16 * 1024;
/// The longest certificate that is stored, in bytes. One with a thousand names has less.
pub const MAX_CERTIFICATE: usize = 32 * 1024;
/// Certificates behind the first that are stored, and the bytes of a direction with them, if they are wanted.
const MAX_FURTHER: usize = 8;
const MAX_KEPT: usize = MAX_HELLO + 2 * MAX_CERTIFICATE;
/// Bytes of a connection within which its handshake has to end. If only one direction of a connection is
/// mirrored, its end is not seen.
const MAX_HANDSHAKE: usize = 256 * 1024;
/// Memory of each direction that a [cleared](Handshake::clear) [`Handshake`] retains.
const SPARE: usize = 8 * 1024;

/// The longest record (RFC 5246, section 6.2.3).
const MAX_RECORD: u16 = (1 << 14) + 2048;

/// Content types of records.
mod content {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const APPLICATION_DATA: u8 = 23;
    pub(super) const HEARTBEAT: u8 = 24;
}

/// Types of handshake messages.
mod message {
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const SERVER_HELLO: u8 = 2;
    pub(super) const CERTIFICATE: u8 = 11;
}

/// Returns the type of a side's first message in SSL 2.0.
const fn ssl_2_hello(direction: Direction) -> u8 {
    match direction {
        Direction::ToServer => 1,
        Direction::ToClient => 4,
    }
}

/// The reason why a connection cannot be tracked further. The messages stored until then are valid.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes are not a record of SSL or TLS.
    #[error("the bytes are not a record of SSL 3.0 to TLS 1.3")]
    Record,
    /// A record longer than the protocol allows.
    #[error("a record is longer than the protocol allows")]
    RecordLength,
    /// A hello exceeds [`MAX_HELLO`].
    #[error("a hello is longer than {MAX_HELLO} bytes")]
    HelloLength,
    /// A hello whose fields exceed its length.
    #[error("the fields of a hello exceed its length")]
    Hello,
    /// A certificate longer than its message, or than [`MAX_CERTIFICATE`].
    #[error("a certificate is longer than its message or {MAX_CERTIFICATE} bytes")]
    CertificateLength,
    /// A handshake without an end.
    #[error("the handshake has not ended within {MAX_HANDSHAKE} bytes")]
    Endless,
}

/// The progress of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Further bytes are needed.
    Reading,
    /// Both sides have finished. The rest is encrypted.
    Complete,
}

/// The handshake of one connection. Each direction stores at most [`MAX_HELLO`] + [`MAX_CERTIFICATE`] bytes,
/// with all certificates one [`MAX_CERTIFICATE`] more, and takes that memory as the bytes come in, whatever lengths are announced.
#[derive(Debug, Default)]
pub struct Handshake {
    client: Side,
    server: Side,
    /// From the server hello.
    chosen: Option<Version>,
    /// The last alert that ends the handshake.
    alert: Option<Alert>,
    /// Number of bytes pushed.
    pushed: usize,
    outcome: Option<Result<(), Malformed>>,
}

impl Handshake {
    /// Creates the state of a connection without data.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Resets the state for another connection. Most of the memory stays.
    pub fn clear(&mut self) {
        let mut kept = [std::mem::take(&mut self.client.kept), std::mem::take(&mut self.server.kept)];
        for kept in &mut kept {
            kept.clear();
            kept.shrink_to(SPARE);
        }
        let [client, server] = kept.map(|kept| Side { kept, ..Side::default() });
        *self = Self { client, server, ..Self::default() };
    }

    /// Returns the bytes of memory that the handshake holds.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.client.kept.capacity() + self.server.kept.capacity()
    }

    /// Processes the next bytes of a direction, in order and of any length. All of them are used. Behind a gap
    /// ([`Handshake::miss`]) they are ignored.
    ///
    /// # Errors
    ///
    /// Returns the reason why no further bytes are needed, and returns it again for all later calls.
    pub fn push(&mut self, direction: Direction, bytes: &[u8]) -> Result<Progress, Malformed> {
        let mut rest = if self.side(direction).ending == Ending::Gap { &[] } else { bytes };
        while self.outcome.is_none() && !rest.is_empty() {
            match self.step(direction, rest) {
                Ok(left) => rest = left,
                Err(malformed) => self.outcome = Some(Err(malformed)),
            }
        }
        self.pushed = self.pushed.saturating_add(bytes.len());
        if self.outcome.is_none() && self.pushed > MAX_HANDSHAKE {
            self.outcome = Some(Err(Malformed::Endless));
        }
        self.progress()
    }

    /// Records that bytes of a direction are missing. Behind them it cannot be tracked, but the other one can.
    ///
    /// # Errors
    ///
    /// As for [`Handshake::push`].
    pub fn miss(&mut self, direction: Direction) -> Result<Progress, Malformed> {
        self.side(direction).ending = Ending::Gap;
        let ends = self.is_answer_lost() && !self.client.hello.is_empty() || self.is_over();
        if self.outcome.is_none() && ends {
            self.outcome = Some(Ok(()));
        }
        self.progress()
    }

    /// Returns true if the server's hello may be in a gap.
    #[must_use]
    pub fn is_answer_lost(&self) -> bool {
        self.server.ending == Ending::Gap && self.chosen.is_none()
    }

    fn progress(&self) -> Result<Progress, Malformed> {
        match self.outcome {
            None => Ok(Progress::Reading),
            Some(outcome) => outcome.map(|()| Progress::Complete),
        }
    }

    /// Returns true if neither side contributes more.
    const fn is_over(&self) -> bool {
        self.client.is_over() && self.server.is_over()
    }

    /// Returns the messages stored so far.
    #[must_use]
    pub fn messages(&self) -> Messages<'_> {
        let whole = self.client.hello();
        let cut = if whole.is_none() { self.client.cut_hello() } else { None };
        Messages {
            client_hello: whole.or(cut),
            client_hello_cut: cut.is_some(),
            server_hello: self.server.hello(),
            server_certificate: self.server.certificate(),
            client_certificate: self.client.certificate(),
            server_record: Version(self.server.record_version),
        }
    }

    /// Stores all certificates of the server from now on, and not only the first.
    pub const fn keep_chain(&mut self) {
        self.server.keeps_chain = true;
    }

    /// Returns the certificates of the server, in DER: the first one and those that [are stored](Self::keep_chain).
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        let further = self.server.chain.iter().filter(|range| !range.is_empty());
        self.server
            .certificate()
            .into_iter()
            .chain(further.filter_map(|range| self.server.kept.get(range.clone())))
    }

    /// Returns the last alert of either side that ends a handshake. Alerts behind a change of ciphers are encrypted.
    #[must_use]
    pub const fn alert(&self) -> Option<Alert> {
        self.alert
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::ToServer => &mut self.client,
            Direction::ToClient => &mut self.server,
        }
    }

    /// Processes bytes at the front. Returns the rest.
    fn step<'a>(&mut self, direction: Direction, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let side = self.side(direction);
        if side.record_left == 0 && !side.in_record {
            let rest = side.header(direction, bytes)?;
            self.began(direction);
            return Ok(rest);
        }
        let len = bytes.len().min(side.record_left.into());
        let (now, rest) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
        side.record_left -= now.len() as u16;
        let ended = side.record_left == 0;
        let content = side.content;
        // Records behind a change of ciphers are encrypted. TLS 1.3 sends a dummy one, and may continue with
        // further hellos after a HelloRetryRequest; only the first hellos count.
        match content {
            content::HANDSHAKE if !side.cipher_changed => self.handshake(direction, now)?,
            content::ALERT if !side.cipher_changed => {
                for &byte in now {
                    side.alert = [side.alert[1], byte];
                }
                if ended {
                    self.alert = Alert::of(self.side(direction).alert).or(self.alert);
                }
            }
            _ => {}
        }
        if ended {
            self.side(direction).in_record = false;
            self.ended(direction, content);
        }
        Ok(rest)
    }

    /// Handles the beginning of a record.
    fn began(&mut self, direction: Direction) {
        let side = self.side(direction);
        if side.in_record && side.record_left == 0 {
            side.in_record = false;
            let content = side.content;
            self.ended(direction, content);
        }
        if self.server.record_version == Version::SSL_2.0 {
            // The rest contributes nothing to the event.
            self.outcome = Some(Ok(()));
        }
    }

    /// Handles the end of a record.
    fn ended(&mut self, direction: Direction, content: u8) {
        let server_finished = self.server.is_over();
        let chosen = self.chosen;
        let side = self.side(direction);
        match (content, chosen) {
            (content::CHANGE_CIPHER_SPEC, _) => side.cipher_changed = true,
            // TLS 1.3 hides the handshake in application data records. Those that a client sends before the
            // server's are early data.
            (content::APPLICATION_DATA, Some(version))
                if version.is_13() && (direction == Direction::ToClient || server_finished) =>
            {
                side.ending = Ending::Finished;
            }
            (content::APPLICATION_DATA | content::HANDSHAKE, Some(version))
                if !version.is_13() && side.cipher_changed =>
            {
                side.ending = Ending::Finished;
            }
            _ => {}
        }
        if self.is_over() {
            self.outcome = Some(Ok(()));
        }
    }

    /// Processes a part of a handshake record.
    fn handshake(&mut self, direction: Direction, bytes: &[u8]) -> Result<(), Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (left, whole) = self.side(direction).message(direction, rest)?;
            rest = left;
            if whole {
                self.hello(direction)?;
            }
        }
        Ok(())
    }

    /// Parses a hello that is complete.
    fn hello(&mut self, direction: Direction) -> Result<(), Malformed> {
        let side = self.side(direction);
        let body = side.kept.get(side.hello.clone()).unwrap_or_default();
        let found = match direction {
            Direction::ToServer => ClientHello::parse(body).map(|_| None),
            Direction::ToClient => ServerHello::parse(body).map(|hello| Some(hello.chosen())),
        };
        let Some(found) = found else {
            side.hello = 0..0;
            return Err(Malformed::Hello);
        };
        self.chosen = self.chosen.or(found);
        Ok(())
    }
}

/// An alert that ends a handshake (RFC 8446, section 6): its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl Alert {
    const CLOSE_NOTIFY: u8 = 0;
    const USER_CANCELED: u8 = 90;
    const FATAL: u8 = 2;

    /// Returns the alert with this level and description, if it ends a handshake: warnings do not.
    const fn of([level, description]: [u8; 2]) -> Option<Self> {
        match (level, description) {
            (_, Self::CLOSE_NOTIFY | Self::USER_CANCELED) | (Self::FATAL, _) => Some(Self(description)),
            _ => None,
        }
    }
}

/// The state of one direction.
#[derive(Debug, Default)]
struct Side {
    /// Bytes of an incomplete record header.
    header: [u8; 5],
    header_len: u8,
    /// Bytes of an incomplete message header.
    head: [u8; 4],
    head_len: u8,
    /// A record has begun and not ended.
    in_record: bool,
    content: u8,
    record_left: u16,
    /// Version in the direction's records, until its hello.
    record_version: u16,
    message_left: u32,
    part: Part,
    /// The last two bytes of alerts: level and description.
    alert: [u8; 2],
    cipher_changed: bool,
    ending: Ending,
    /// Certificates behind the first are stored, too.
    keeps_chain: bool,
    /// The hello, and the certificates behind it.
    kept: Vec<u8>,
    hello: Range<usize>,
    certificate: Range<usize>,
    /// The certificates behind the first.
    chain: Vec<Range<usize>>,
}

/// The reason why a direction contributes no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ending {
    /// It does contribute.
    #[default]
    None,
    /// It has finished its handshake.
    Finished,
    /// Bytes are missing.
    Gap,
}

/// The use of the current handshake message's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Skipped.
    #[default]
    Skipped,
    /// They are a hello.
    Hello,
    /// They are the lengths in front of a certificate: that of the list, for the first one, and that of the entry.
    Lengths { seen: u8, len: u32 },
    /// They are the first certificate.
    Certificate { left: u32 },
    /// They are a further certificate.
    Further { left: u32 },
}

impl Side {
    fn hello(&self) -> Option<&[u8]> {
        // An incomplete hello is of no use.
        let whole = self.part != Part::Hello || self.message_left == 0;
        self.kept.get(self.hello.clone()).filter(|body| whole && !body.is_empty())
    }

    /// Returns the beginning of a hello whose rest is missing.
    fn cut_hello(&self) -> Option<&[u8]> {
        self.kept.get(self.hello.clone()).filter(|body| self.ending == Ending::Gap && !body.is_empty())
    }

    /// Returns true if the side contributes no more.
    const fn is_over(&self) -> bool {
        !matches!(self.ending, Ending::None)
    }

    fn certificate(&self) -> Option<&[u8]> {
        let whole = !matches!(self.part, Part::Certificate { .. });
        self.kept.get(self.certificate.clone()).filter(|der| whole && !der.is_empty())
    }

    /// Processes bytes of a record's header. Returns the rest.
    fn header<'a>(&mut self, direction: Direction, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        // Nearly always it comes as a whole, and in floods of short records the time goes here.
        if let ([content::CHANGE_CIPHER_SPEC..=content::HEARTBEAT, ..], 0) = (bytes, self.header_len)
            && let Some((header, rest)) = bytes.split_first_chunk()
        {
            (self.header, self.header_len) = (*header, header.len() as u8);
            self.in_record = self.begin_record(direction)?;
            self.header_len = 0;
            return Ok(rest);
        }
        let mut rest = bytes;
        while let Some((&byte, left)) = rest.split_first() {
            if let Some(slot) = self.header.get_mut(usize::from(self.header_len)) {
                *slot = byte;
            }
            self.header_len += 1;
            rest = left;
            if self.begin_record(direction)? {
                self.header_len = 0;
                self.in_record = true;
                break;
            }
        }
        Ok(rest)
    }

    /// Begins a record if its header is complete.
    fn begin_record(&mut self, direction: Direction) -> Result<bool, Malformed> {
        let known = self.header.get(..usize::from(self.header_len)).unwrap_or_default();
        match *known {
            // The header of an SSL 2.0 client, or of a client that supports more and continues with other
            // records.
            [0x80..=0xff] | [0x80..=0xff, _] if self.record_version == 0 => Ok(false),
            [high @ 0x80..=0xff, low, kind] if kind == ssl_2_hello(direction) && self.record_version == 0 => {
                // The type was the first byte of the content.
                self.record_left = (u16::from(high & 0x7f) << 8 | u16::from(low)).saturating_sub(1);
                self.content = 0;
                self.record_version = Version::SSL_2.0;
                Ok(true)
            }
            [content::CHANGE_CIPHER_SPEC..=content::HEARTBEAT, ref rest @ ..] => match *rest {
                [] | [3] | [3, _] | [3, _, _] => Ok(false),
                [3, minor, high, low] => {
                    let length = u16::from_be_bytes([high, low]);
                    if length > MAX_RECORD {
                        return Err(Malformed::RecordLength);
                    }
                    self.content = known.first().copied().unwrap_or_default();
                    self.record_left = length;
                    if self.hello.is_empty() {
                        self.record_version = u16::from_be_bytes([3, minor]);
                    }
                    Ok(true)
                }
                _ => Err(Malformed::Record),
            },
            _ => Err(Malformed::Record),
        }
    }

    /// Processes bytes of handshake messages, of one message at most. Returns the rest, and true if a hello
    /// is complete now.
    fn message<'a>(&mut self, direction: Direction, bytes: &'a [u8]) -> Result<(&'a [u8], bool), Malformed> {
        let mut rest = bytes;
        if self.message_left == 0 {
            while let Some(slot) = self.head.get_mut(usize::from(self.head_len)) {
                let Some((&byte, left)) = rest.split_first() else { return Ok((rest, false)) };
                *slot = byte;
                self.head_len += 1;
                rest = left;
            }
            self.head_len = 0;
            let [kind, length @ ..] = self.head;
            self.begin_message(direction, kind, u24(length))?;
        }
        let len = rest.len().min(self.message_left as usize);
        let (now, rest) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        self.message_left -= now.len() as u32;
        self.body(now)?;
        let whole = self.message_left == 0;
        let hello = whole && self.part == Part::Hello;
        if whole {
            self.part = Part::Skipped;
        }
        Ok((rest, hello))
    }

    fn begin_message(&mut self, direction: Direction, kind: u8, len: u32) -> Result<(), Malformed> {
        self.message_left = len;
        self.part = match (direction, kind) {
            (Direction::ToServer, message::CLIENT_HELLO) | (Direction::ToClient, message::SERVER_HELLO)
                if self.hello.is_empty() =>
            {
                Part::Hello
            }
            (_, message::CERTIFICATE) if self.certificate.is_empty() => Part::Lengths { seen: 0, len: 0 },
            _ => Part::Skipped,
        };
        if self.part == Part::Hello {
            if len as usize > MAX_HELLO {
                self.part = Part::Skipped;
                return Err(Malformed::HelloLength);
            }
            // A certificate precedes a hello only if the sender wants to confuse the reader.
            self.kept.clear();
            (self.hello, self.certificate) = (0..0, 0..0);
            self.chain.clear();
        }
        Ok(())
    }

    /// Processes bytes of a message's body.
    fn body(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut rest = bytes;
        loop {
            match self.part {
                Part::Hello => {
                    self.kept.extend_from_slice(rest);
                    self.hello.end = self.kept.len();
                    return Ok(());
                }
                Part::Lengths { .. } => {
                    rest = self.lengths(rest)?;
                    if matches!(self.part, Part::Lengths { .. }) {
                        return Ok(());
                    }
                }
                Part::Certificate { left } => {
                    let (left, behind) = self.keep(left, rest);
                    self.certificate.end = self.kept.len();
                    if left > 0 {
                        self.part = Part::Certificate { left };
                        return Ok(());
                    }
                    rest = behind;
                    self.part = self.next_certificate();
                }
                Part::Further { left } => {
                    let (left, behind) = self.keep(left, rest);
                    let end = self.kept.len();
                    if let Some(certificate) = self.chain.last_mut() {
                        certificate.end = end;
                    }
                    if left > 0 {
                        self.part = Part::Further { left };
                        return Ok(());
                    }
                    rest = behind;
                    self.part = self.next_certificate();
                }
                Part::Skipped => return Ok(()),
            }
        }
    }

    /// Stores bytes of which `left` belong to a certificate. Returns the number that is still missing, and the others.
    fn keep<'a>(&mut self, left: u32, bytes: &'a [u8]) -> (u32, &'a [u8]) {
        let (now, behind) = bytes.split_at_checked(left as usize).unwrap_or((bytes, &[]));
        self.kept.extend_from_slice(now);
        (left - now.len() as u32, behind)
    }

    /// Returns the use of the bytes behind a certificate.
    const fn next_certificate(&self) -> Part {
        // The length of the list is known.
        if self.keeps_chain && self.chain.len() < MAX_FURTHER {
            Part::Lengths { seen: 3, len: 0 }
        } else {
            Part::Skipped
        }
    }

    /// Processes bytes of the lengths in front of a certificate, and begins it when they are complete. Returns the rest.
    fn lengths<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
        const BOTH: u8 = 6;
        let mut rest = bytes;
        let Part::Lengths { mut seen, mut len } = self.part else { return Ok(rest) };
        while seen < BOTH
            && let Some((&byte, left)) = rest.split_first()
        {
            // The second length replaces the first.
            len = (len << 8 | u32::from(byte)) & 0x00ff_ffff;
            seen += 1;
            rest = left;
        }
        self.part = Part::Lengths { seen, len };
        if seen < BOTH {
            return Ok(rest);
        }
        let there = rest.len() as u32 + self.message_left;
        let is_too_long = len > there || len as usize > MAX_CERTIFICATE;
        let begin = self.kept.len();
        if self.certificate.is_empty() {
            if is_too_long {
                self.part = Part::Skipped;
                return Err(Malformed::CertificateLength);
            }
            self.certificate = begin..begin;
            self.part = if len == 0 { Part::Skipped } else { Part::Certificate { left: len } };
        } else if is_too_long || len == 0 || begin + len as usize > MAX_KEPT {
            self.part = Part::Skipped;
        } else {
            self.chain.push(begin..begin);
            self.part = Part::Further { left: len };
        }
        Ok(rest)
    }
}

fn u24([high, middle, low]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, high, middle, low])
}

/// The messages of a handshake that an event needs: bodies of the hellos, certificates in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    /// The client's first hello; `None` also for SSL 2.0.
    pub client_hello: Option<&'a [u8]>,
    /// Only the beginning of that hello was seen.
    pub client_hello_cut: bool,
    /// The server's first hello; it may be a `HelloRetryRequest` (RFC 8446, section 4.1.4).
    pub server_hello: Option<&'a [u8]>,
    /// The server's own certificate; never seen in TLS 1.3, or in a resumed session.
    pub server_certificate: Option<&'a [u8]>,
    /// The client's own certificate.
    pub client_certificate: Option<&'a [u8]>,
    /// The version of the server's records, [`Version::UNDETERMINED`] if there were none.
    pub server_record: Version,
}

impl<'a> Messages<'a> {
    /// Returns true if there is something to record: a hello of either side, or a certificate.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.client_hello.is_some() || self.server_hello.is_some() || self.server_certificate.is_some()
    }

    /// Returns true if Suricata logs the handshake, too: a server has sent its certificate, or no certificate can be
    /// seen, since TLS 1.3 hides it or the client has offered to resume a session. Of a hello of which only the
    /// beginning was seen, that is not known.
    #[must_use]
    pub fn are_suricatas(&self) -> bool {
        let client = self.client();
        let server = self.server_hello.and_then(ServerHello::parse);
        self.server_certificate.is_some()
            || server.is_some_and(|hello| hello.chosen().is_13())
            || client.is_some_and(|client| {
                self.client_hello_cut
                    || client.extensions.find(extension::SESSION_TICKET).is_some()
                    || server.is_some_and(|server| client.resumes(&server))
            })
    }

    /// Returns the client's hello, parsed.
    #[must_use]
    pub fn client(&self) -> Option<ClientHello<'a>> {
        let hello = self.client_hello?;
        if self.client_hello_cut { ClientHello::parse_cut(hello) } else { ClientHello::parse(hello) }
    }

    /// Returns the messages one by one, to be concatenated in a batch of records.
    #[must_use]
    pub fn parts(&self) -> [&'a [u8]; 4] {
        [self.client_hello, self.server_hello, self.server_certificate, self.client_certificate]
            .map(Option::unwrap_or_default)
    }

    /// Returns the information that is needed besides [`Messages::parts`] to restore the messages.
    #[must_use]
    pub fn outline(&self) -> Outline {
        Outline {
            lengths: self.parts().map(|part| part.len() as u32),
            server_record: self.server_record,
            client_hello_cut: self.client_hello_cut,
        }
    }
}

/// The positions of the messages in the bytes of a record; of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    lengths: [u32; 4],
    server_record: Version,
    client_hello_cut: bool,
}

impl Outline {
    /// Length of a packed outline, in bytes.
    pub const LEN: usize = 19;

    /// Returns the outline in bytes, to be written in front of the parts.
    #[must_use]
    pub fn pack(&self) -> [u8; Self::LEN] {
        let mut packed = [0; Self::LEN];
        let lengths = self.lengths.iter().flat_map(|len| len.to_ne_bytes());
        let rest = self.server_record.0.to_ne_bytes().into_iter().chain([u8::from(self.client_hello_cut)]);
        for (to, from) in packed.iter_mut().zip(lengths.chain(rest)) {
            *to = from;
        }
        packed
    }

    /// Restores a packed outline.
    #[must_use]
    pub fn unpack(packed: &[u8; Self::LEN]) -> Self {
        let [packed @ .., cut] = packed;
        let (lengths, version) = packed.split_at(Self::LEN - 3);
        let mut lengths = lengths.chunks_exact(4);
        let mut next =
            || lengths.next().and_then(|len| len.first_chunk()).map_or(0, |len| u32::from_ne_bytes(*len));
        Self {
            lengths: [next(), next(), next(), next()],
            server_record: Version(version.first_chunk().map_or(0, |version| u16::from_ne_bytes(*version))),
            client_hello_cut: *cut != 0,
        }
    }

    /// Restores the messages from their concatenated [parts](Messages::parts).
    #[must_use]
    pub fn messages<'a>(&self, bytes: &'a [u8]) -> Messages<'a> {
        let mut rest = bytes;
        let [client_hello, server_hello, server_certificate, client_certificate] = self.lengths.map(|len| {
            let (part, behind) = rest.split_at_checked(len as usize).unwrap_or((rest, &[]));
            rest = behind;
            Some(part).filter(|part| !part.is_empty())
        });
        let Self { server_record, client_hello_cut, .. } = *self;
        Messages {
            client_hello,
            client_hello_cut,
            server_hello,
            server_certificate,
            client_certificate,
            server_record,
        }
    }
}
