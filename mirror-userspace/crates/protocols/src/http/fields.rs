//! The fields of a head as the buffers of rules see them: all of them, in order, with the fields of equal names joined.

use std::ops::Range;

/// Maximum number of fields of a head that are read.
const MAX_FIELDS: usize = 128;
/// Stands for no further field of a name.
const NONE: u16 = u16::MAX;

/// The places of the fields in a head. It is memory to be reused from head to head.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    places: Vec<Place>,
    /// The head without its first line.
    block: Range<usize>,
}

#[derive(Clone, Debug)]
struct Place {
    name: Range<usize>,
    value: Range<usize>,
    /// The value goes on in further lines.
    is_folded: bool,
    /// An earlier field has the same name.
    is_repetition: bool,
    /// The next field of the same name.
    next: u16,
}

impl Fields {
    /// Reads a head that begins with its first line. The empty line at its end may be missing.
    pub fn read(&mut self, head: &[u8]) {
        self.places.clear();
        let mut at = line_end(head, 0).1;
        self.block = at..head.len();
        while at < head.len() && self.places.len() < MAX_FIELDS {
            let begin = at;
            let (mut end, next) = line_end(head, at);
            if begin == end {
                break;
            }
            at = next;
            let mut is_folded = false;
            while let Some(b' ' | b'\t' | 0) = head.get(at) {
                is_folded = true;
                (end, at) = line_end(head, at);
            }
            let lines = head.get(begin..end).unwrap_or_default();
            self.places.push(Place::new(lines, begin, is_folded));
        }
        self.join(head);
    }

    /// Finds the fields of equal names.
    fn join(&mut self, head: &[u8]) {
        let name = |place: &Place| head.get(place.name.clone()).unwrap_or_default();
        for later in 1..self.places.len() {
            let (before, rest) = self.places.split_at_mut(later);
            let Some(place) = rest.first_mut() else { return };
            let mut same = before.iter_mut().rev();
            if let Some(last) = same.find(|it| name(it).eq_ignore_ascii_case(name(place))) {
                last.next = later as u16;
                place.is_repetition = true;
            }
        }
    }

    /// Returns the head without its first line.
    pub(super) fn block<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.block.clone()).unwrap_or_default()
    }

    /// Returns true if there are none.
    pub(super) const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the fields, without those whose values belong to an earlier one of the same name.
    pub(super) fn iter<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = Field<'a>> {
        let first = self.places.iter().filter(|place| !place.is_repetition);
        first.map(move |place| Field { head, fields: self, place })
    }

    /// Returns the field of a name.
    pub(super) fn get<'a>(&'a self, head: &'a [u8], name: &[u8]) -> Option<Field<'a>> {
        self.iter(head).find(|field| field.name().eq_ignore_ascii_case(name))
    }
}

impl Place {
    /// Returns the place of a field whose lines begin at `at`. Lines without a colon are a value without a name.
    fn new(lines: &[u8], at: usize, is_folded: bool) -> Self {
        let colon = memchr::memchr(b':', lines);
        let name = trim_end(lines.get(..colon.unwrap_or_default()).unwrap_or_default());
        let begin = colon.map_or(0, |colon| colon + 1);
        let value = trim_end(lines.get(begin..).unwrap_or_default());
        let space = value.iter().take_while(|byte| is_space(byte)).count();
        let value = at + begin + space..at + begin + value.len();
        Self { name: at..at + name.len(), value, is_folded, is_repetition: false, next: NONE }
    }
}

/// Returns true for the bytes around names and values that receivers leave out.
const fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0)
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().rposition(|byte| !is_space(byte)).map_or(0, |last| last + 1);
    bytes.get(..len).unwrap_or_default()
}

/// A field, with the values of the later ones of the same name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    head: &'a [u8],
    fields: &'a Fields,
    place: &'a Place,
}

impl<'a> Field<'a> {
    /// Returns the name as it was sent.
    pub(super) fn name(&self) -> &'a [u8] {
        self.head.get(self.place.name.clone()).unwrap_or_default()
    }

    /// Returns the value. `room` is memory for one that is not sent as a whole.
    pub(super) fn value<'b>(&self, room: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if !self.place.is_folded && self.place.next == NONE {
            return self.head.get(self.place.value.clone()).unwrap_or_default();
        }
        room.clear();
        self.append(room);
        room
    }

    /// Appends the value: lines joined by a space, fields joined by a comma and a space (RFC 9110, section 5.3).
    pub(super) fn append(&self, out: &mut Vec<u8>) {
        let mut place = self.place;
        loop {
            let value = self.head.get(place.value.clone()).unwrap_or_default();
            if place.is_folded {
                unfold(value, out)
            } else {
                out.extend_from_slice(value)
            }
            match self.fields.places.get(usize::from(place.next)) {
                Some(next) => place = next,
                None => return,
            }
            out.extend_from_slice(b", ");
        }
    }
}

/// Appends the lines of a folded value.
fn unfold(value: &[u8], out: &mut Vec<u8>) {
    for (index, line) in value.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if index > 0 && !line.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(line);
    }
}

/// Returns the end of the line that begins at `at`, without and with the characters that end it.
pub(super) fn line_end(head: &[u8], at: usize) -> (usize, usize) {
    let rest = head.get(at..).unwrap_or_default();
    match memchr::memchr(b'\n', rest) {
        Some(len) => {
            let is_return = len > 0 && rest.get(len - 1) == Some(&b'\r');
            (at + len - usize::from(is_return), at + len + 1)
        }
        None => (head.len(), head.len()),
    }
}
