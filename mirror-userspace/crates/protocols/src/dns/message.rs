//! A message: header, questions, records (RFC 1035, section 4).

use super::name::{Name, walk};
pub use super::wire::Malformed;
use super::wire::u16_at;

/// Length of the header.
const HEADER_LEN: usize = 12;

/// Work that reading a message may cost for each of its bytes, in bytes copied or examined. Compression lets
/// one byte stand for up to 500; no legitimate message needs a tenth of that over all of its names.
const WORK_PER_BYTE: usize = 32;

/// Work allowed for a message of any size, in addition: a few names of the maximum length.
const WORK_OF_ANY: usize = 4096;

/// Work that each record costs besides its names, in the same unit: roughly its size as text.
const WORK_PER_RECORD: usize = 64;

/// Record types whose data is parsed.
pub(super) mod rrtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const NULL: u16 = 10;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const SSHFP: u16 = 44;
}

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The identifier that pairs a response with its query.
    pub id: u16,
    /// The second 16 bits: QR, opcode, AA, TC, RD, RA, Z, AD, CD, RCODE.
    pub flags: u16,
    /// Number of questions.
    pub questions: u16,
    /// Number of records in the answer section.
    pub answers: u16,
    /// Number of records in the authority section.
    pub authorities: u16,
    /// Number of records in the additional section, which is not read.
    pub additionals: u16,
}

impl Header {
    fn parse(message: &[u8]) -> Result<Self, Malformed> {
        Self::read(message).filter(|header| header.least_len() <= message.len()).ok_or(Malformed::Header)
    }

    fn read(message: &[u8]) -> Option<Self> {
        Some(Self {
            id: u16_at(message, 0)?,
            flags: u16_at(message, 2)?,
            questions: u16_at(message, 4)?,
            answers: u16_at(message, 6)?,
            authorities: u16_at(message, 8)?,
            additionals: u16_at(message, 10)?,
        })
    }

    /// Returns the minimum length of a message with these counts: a name and a type take more than two bytes.
    fn least_len(&self) -> usize {
        let records = [self.questions, self.answers, self.authorities, self.additionals];
        HEADER_LEN + records.into_iter().map(|count| 2 * usize::from(count)).sum::<usize>()
    }

    /// Returns true if the message is a response (QR).
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Returns the kind of query: 0 for a standard one.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        (self.flags >> 11) as u8 & 0xf
    }

    /// Returns the response code.
    #[must_use]
    pub const fn rcode(&self) -> u8 {
        self.flags as u8 & 0xf
    }
}

/// The most questions of a message that are read. Resolvers ask one question a message (RFC 9619); more of them, with
/// compressed names, are an attack on the reader.
pub(super) const MAX_QUESTIONS: u16 = 2;

/// A message that can be reported. All that [`Message::questions`], [`Message::answers`] and
/// [`Message::authorities`] return is known to be well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: Header,
    answers_at: usize,
    authorities_at: usize,
    /// Bytes of its names, uncompressed.
    names: usize,
    /// Records of the answer and the authority section that are not in the captured part.
    cut: [u16; 2],
}

impl<'a> Message<'a> {
    /// Parses a message: a UDP payload, or the bytes behind the two bytes of length over TCP.
    ///
    /// In a query only the first `MAX_QUESTIONS` are parsed; in a response the questions, answers and
    /// authorities. The rest need not be well-formed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(bytes, Header::parse(bytes)?, false)
    }

    /// Parses a message of which the rest may be cut off. The records that are not whole then are left out.
    ///
    /// # Errors
    ///
    /// Returns the reason why the message cannot be reported: the captured part is malformed, or has no question.
    pub fn parse_captured(bytes: &'a [u8], is_cut: bool) -> Result<Self, Malformed> {
        if !is_cut {
            return Self::parse(bytes);
        }
        Self::read(bytes, Header::read(bytes).ok_or(Malformed::Header)?, true)
    }

    fn read(bytes: &'a [u8], header: Header, is_cut: bool) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if header.is_response() && header.questions > MAX_QUESTIONS {
            return Err(Malformed::Expansion);
        }
        for _ in 0..header.questions.min(MAX_QUESTIONS) {
            reader.question()?;
        }
        let answers_at = reader.at;
        let mut authorities_at = answers_at;
        let (mut captured, mut cut) = (header, [0; 2]);
        if header.is_response() {
            captured.answers = reader.records(header.answers, is_cut)?;
            cut[0] = header.answers - captured.answers;
            authorities_at = reader.at;
            let rest = if cut[0] == 0 { header.authorities } else { 0 };
            captured.authorities = reader.records(rest, is_cut)?;
            cut[1] = header.authorities - captured.authorities;
        }
        Ok(Self { bytes, header: captured, answers_at, authorities_at, names: reader.names, cut })
    }

    /// Returns the message as received.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes of its names, uncompressed. They can exceed the length of the message.
    #[must_use]
    pub const fn names(&self) -> usize {
        self.names
    }

    /// Returns the header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the number of records of the answer and the authority section that are cut off. The header counts the
    /// others.
    #[must_use]
    pub const fn cut(&self) -> [u16; 2] {
        self.cut
    }

    /// Returns the questions, at most `MAX_QUESTIONS`.
    #[must_use]
    pub fn questions(&self) -> Questions<'a> {
        let left = self.header.questions.min(MAX_QUESTIONS);
        Questions { message: self.bytes, at: HEADER_LEN, left }
    }

    /// Returns the records of the answer section; empty for a query.
    #[must_use]
    pub fn answers(&self) -> Records<'a> {
        self.records(self.answers_at, self.header.answers)
    }

    /// Returns the records of the authority section; empty for a query.
    #[must_use]
    pub fn authorities(&self) -> Records<'a> {
        self.records(self.authorities_at, self.header.authorities)
    }

    fn records(&self, at: usize, count: u16) -> Records<'a> {
        let left = if self.header.is_response() { count } else { 0 };
        Records { message: self.bytes, at, left, strings: None }
    }
}

/// Returns true if bytes look like a message: the header's counts are possible, and the captured part of the
/// questions is well-formed. Random bytes seldom pass, but other protocols with a similar header do: check
/// the port, too.
#[must_use]
pub fn probe(bytes: &[u8]) -> bool {
    let Ok(header) = Header::parse(bytes) else { return false };
    let mut reader = Reader::new(bytes);
    for _ in 0..header.questions.min(MAX_QUESTIONS) {
        match reader.question() {
            Ok(()) => {}
            Err(Malformed::Truncated) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Returns true if the first bytes of a TCP stream look like a message behind its length (RFC 1035, section
/// 4.2.2). A header is enough; if the whole message is there, all of it is checked.
#[must_use]
pub fn probe_tcp(bytes: &[u8]) -> bool {
    let Some((len, begin)) = bytes.split_first_chunk() else { return false };
    let len = usize::from(u16::from_be_bytes(*len));
    match begin.get(..len) {
        Some(message) => probe(message),
        None => Header::read(begin).is_some_and(|header| header.least_len() <= len),
    }
}

/// Parses a message once, and charges for the work that its content will cost.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    budget: usize,
    /// Cost of the names so far.
    names: usize,
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self { message, at: HEADER_LEN, budget: WORK_OF_ANY + message.len() * WORK_PER_BYTE, names: 0 }
    }

    fn spend(&mut self, work: usize) -> Result<(), Malformed> {
        self.budget = self.budget.checked_sub(work).ok_or(Malformed::Expansion)?;
        Ok(())
    }

    fn question(&mut self) -> Result<(), Malformed> {
        let name = walk(self.message, self.at, self.message.len(), |_| {})?;
        self.names += name.cost();
        self.spend(name.cost())?;
        let next = name.next + 4;
        if next > self.message.len() {
            return Err(Malformed::Truncated);
        }
        self.at = next;
        Ok(())
    }

    /// Reads the records of a section. Returns their number, which is smaller if the rest of the message is cut off.
    fn records(&mut self, count: u16, is_cut: bool) -> Result<u16, Malformed> {
        for number in 0..count {
            match self.record() {
                Err(Malformed::Truncated) if is_cut => return Ok(number),
                outcome => outcome?,
            }
        }
        Ok(count)
    }

    fn record(&mut self) -> Result<(), Malformed> {
        let owner = walk(self.message, self.at, self.message.len(), |_| {})?;
        let fixed = Fixed::parse(self.message, owner.next)?;
        self.at = fixed.end;
        self.names += owner.cost();
        self.spend(owner.cost() + WORK_PER_RECORD)?;
        if fixed.rrtype == rrtype::TXT {
            // Each string becomes a record of its own.
            let mut at = fixed.data;
            while let Some((_, next)) = string(self.message, at, fixed.end) {
                if at > fixed.data {
                    self.names += owner.cost();
                    self.spend(owner.cost() + WORK_PER_RECORD)?;
                }
                at = next;
            }
            return if at == fixed.data && fixed.end > fixed.data { Err(Malformed::Data) } else { Ok(()) };
        }
        let mut cost = 0;
        Data::parse(self.message, &fixed, |name| cost += name)?;
        self.names += cost;
        self.spend(cost)
    }
}

/// The fixed part of a record, and the position of its data.
struct Fixed {
    rrtype: u16,
    class: u16,
    ttl: u32,
    data: usize,
    end: usize,
}

impl Fixed {
    fn parse(message: &[u8], at: usize) -> Result<Self, Malformed> {
        let cut = Malformed::Truncated;
        let data = at + 10;
        let len = u16_at(message, at + 8).ok_or(cut)?;
        let end = data + usize::from(len);
        if end > message.len() {
            return Err(cut);
        }
        Ok(Self {
            rrtype: u16_at(message, at).ok_or(cut)?,
            class: u16_at(message, at + 2).ok_or(cut)?,
            ttl: u32_at(message, at + 4).ok_or(cut)?,
            data,
            end,
        })
    }
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// Name that is queried.
    pub name: Name<'a>,
    /// Record type that is queried.
    pub rrtype: u16,
    /// Class; 1 for the Internet.
    pub class: u16,
}

/// Iterates over the questions of a message.
#[derive(Clone, Debug)]
pub struct Questions<'a> {
    message: &'a [u8],
    at: usize,
    left: u16,
}

impl Questions<'_> {
    /// Skips the other questions.
    pub(super) const fn stop(&mut self) {
        self.left = 0;
    }
}

impl<'a> Iterator for Questions<'a> {
    type Item = Question<'a>;

    fn next(&mut self) -> Option<Question<'a>> {
        self.left = self.left.checked_sub(1)?;
        let end = self.message.len();
        let next = walk(self.message, self.at, end, |_| {}).ok()?.next;
        let question = Question {
            name: Name::new(self.message, self.at, end),
            rrtype: u16_at(self.message, next)?,
            class: u16_at(self.message, next + 2)?,
        };
        self.at = next + 4;
        Some(question)
    }
}

/// A resource record. Each string of a TXT record becomes a `Record`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Owner name.
    pub name: Name<'a>,
    /// Record type.
    pub rrtype: u16,
    /// Class; 1 for the Internet.
    pub class: u16,
    /// Time to live in seconds.
    pub ttl: u32,
    /// Content.
    pub data: Data<'a>,
}

/// The parsed content of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// A and AAAA: an address, or other bytes in its place.
    Address(&'a [u8]),
    /// CNAME, NS, PTR; MX without its preference.
    Name(Name<'a>),
    /// One string of TXT; NULL.
    Text(&'a [u8]),
    /// SOA.
    Soa {
        /// Primary name server of the zone.
        mname: Name<'a>,
        /// Mailbox of the person responsible.
        rname: Name<'a>,
        /// Serial number, and the seconds of refresh, retry, expire and minimum.
        numbers: [u32; 5],
    },
    /// SRV (RFC 2782).
    Srv {
        /// Priority; the lowest is tried first.
        priority: u16,
        /// Share among targets of equal priority.
        weight: u16,
        /// Port of the service.
        port: u16,
        /// Host of the service.
        target: Name<'a>,
    },
    /// SSHFP (RFC 4255).
    Sshfp {
        /// Algorithm of the key.
        algorithm: u8,
        /// Hash function.
        kind: u8,
        /// Hash of the key.
        fingerprint: &'a [u8],
    },
    /// Other types, and data of length zero.
    Other,
}

impl<'a> Data<'a> {
    /// Parses the data of one record; of a TXT record, the first string. Passes the cost of each name to
    /// `cost`.
    fn parse(message: &'a [u8], fixed: &Fixed, mut cost: impl FnMut(usize)) -> Result<Self, Malformed> {
        let Fixed { rrtype, data, end, .. } = *fixed;
        let bytes = message.get(data..end).unwrap_or_default();
        let short = Malformed::Data;
        let mut name = |at| {
            let name = walk(message, at, end, |_| {}).map_err(|_| short)?;
            cost(name.cost());
            Ok((Name::new(message, at, end), name.next))
        };
        // Dynamic updates (RFC 2136) name record sets by records without data.
        if bytes.is_empty() {
            return Ok(Self::Other);
        }
        Ok(match rrtype {
            rrtype::A | rrtype::AAAA => Self::Address(bytes),
            rrtype::CNAME | rrtype::NS | rrtype::PTR => Self::Name(name(data)?.0),
            rrtype::MX => {
                u16_at(bytes, 0).ok_or(short)?;
                Self::Name(name(data + 2)?.0)
            }
            rrtype::TXT => Self::Text(string(message, data, end).ok_or(short)?.0),
            rrtype::NULL => Self::Text(bytes),
            rrtype::SOA => {
                let (mname, next) = name(data)?;
                let (rname, next) = name(next)?;
                let numbers = message.get(next..end).unwrap_or_default();
                let number = |index: usize| u32_at(numbers, 4 * index).ok_or(short);
                let numbers = [number(0)?, number(1)?, number(2)?, number(3)?, number(4)?];
                Self::Soa { mname, rname, numbers }
            }
            rrtype::SRV => Self::Srv {
                priority: u16_at(bytes, 0).ok_or(short)?,
                weight: u16_at(bytes, 2).ok_or(short)?,
                port: u16_at(bytes, 4).ok_or(short)?,
                target: name(data + 6)?.0,
            },
            rrtype::SSHFP => match bytes {
                [algorithm, kind, fingerprint @ ..] => {
                    Self::Sshfp { algorithm: *algorithm, kind: *kind, fingerprint }
                }
                _ => return Err(short),
            },
            _ => Self::Other,
        })
    }
}

/// Iterates over the records of a section.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: u16,
    /// For a TXT record with several strings: the record of the last one, the position of the next one, and
    /// the end of all.
    strings: Option<(Record<'a>, usize, usize)>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if let Some((record, at, end)) = self.strings.take()
            && let Some((text, next)) = string(self.message, at, end)
        {
            let record = Record { data: Data::Text(text), ..record };
            self.strings = Some((record, next, end));
            return Some(record);
        }
        self.left = self.left.checked_sub(1)?;
        let owner = walk(self.message, self.at, self.message.len(), |_| {}).ok()?;
        let fixed = Fixed::parse(self.message, owner.next).ok()?;
        let record = Record {
            name: Name::new(self.message, self.at, self.message.len()),
            rrtype: fixed.rrtype,
            class: fixed.class,
            ttl: fixed.ttl,
            data: Data::parse(self.message, &fixed, |_| {}).ok()?,
        };
        if fixed.rrtype == rrtype::TXT
            && let Some((_, next)) = string(self.message, fixed.data, fixed.end)
        {
            self.strings = Some((record, next, fixed.end));
        }
        self.at = fixed.end;
        Some(record)
    }
}

/// Returns the character string (a byte of length, followed by as many bytes) at `at`, and the position
/// behind it.
fn string(message: &[u8], at: usize, end: usize) -> Option<(&[u8], usize)> {
    let bytes = message.get(at..end)?;
    let (len, bytes) = bytes.split_first()?;
    let len = usize::from(*len);
    Some((bytes.get(..len)?, at + 1 + len))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}
