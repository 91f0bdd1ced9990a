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
    /// Reads the head of a request, or of a response. The empty line at its end may be missing.
    pub fn read(&mut self, head: &[u8], is_response: bool) {
        self.places.clear();
        let mut lines = FieldLines::new(head, is_response);
        self.block = lines.at..head.len();
        for line in lines.by_ref().take(MAX_FIELDS) {
            self.places.push(Place::new(head, line));
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
        self.iter(head).find(|field| field.is(name))
    }
}

impl Place {
    /// Returns the place of a field. Lines without a colon are a value without a name.
    fn new(head: &[u8], FieldLine { range: Range { start, end }, is_folded }: FieldLine) -> Self {
        let lines = head.get(start..end).unwrap_or_default();
        let colon = memchr::memchr(b':', lines);
        let name = name_within(lines.get(..colon.unwrap_or_default()).unwrap_or_default());
        let begin = colon.map_or(0, |colon| colon + 1);
        let value = inner(lines.get(begin..).unwrap_or_default(), is_around_value);
        let value = start + begin + value.start..start + begin + value.end;
        Self {
            name: start + name.start..start + name.end,
            value,
            is_folded,
            is_repetition: false,
            next: NONE,
        }
    }
}

/// The lines of a field, in a head.
#[derive(Clone, Debug)]
pub(super) struct FieldLine {
    pub(super) range: Range<usize>,
    /// There are several lines.
    pub(super) is_folded: bool,
}

/// Splits a head into its fields, as receivers do that tolerate much: a field goes on in lines that begin with white
/// space. In a response, a carriage return alone ends a line, too, and a line that begins with white space and looks
/// like a field is one. The latter two are what Suricata does.
#[derive(Clone, Debug)]
pub(super) struct FieldLines<'a> {
    head: &'a [u8],
    at: usize,
    is_response: bool,
}

impl<'a> FieldLines<'a> {
    /// Begins behind the first line of a head.
    pub(super) fn new(head: &'a [u8], is_response: bool) -> Self {
        let mut lines = Self { head, at: 0, is_response };
        lines.at = lines.line(0).1;
        lines
    }

    /// Returns the end of the line that begins at `at`, without and with the characters that end it.
    fn line(&self, at: usize) -> (usize, usize) {
        let rest = self.head.get(at..).unwrap_or_default();
        let end =
            if self.is_response { memchr::memchr2(b'\n', b'\r', rest) } else { memchr::memchr(b'\n', rest) };
        let Some(len) = end else { return (self.head.len(), self.head.len()) };
        match (rest.get(len), rest.get(len + 1)) {
            (Some(b'\r'), Some(b'\n')) => (at + len, at + len + 2),
            _ if len > 0 && rest.get(len - 1) == Some(&b'\r') => (at + len - 1, at + len + 1),
            _ => (at + len, at + len + 1),
        }
    }

    /// Returns true if a line goes on a field.
    fn continues(&self, field: &[u8], line: &[u8]) -> bool {
        if !matches!(line.first(), Some(b' ' | b'\t' | 0)) {
            return false;
        }
        let colon = memchr::memchr(b':', line).filter(|_| self.is_response && field.contains(&b':'));
        let name = line.get(..colon.unwrap_or_default()).unwrap_or_default().trim_ascii();
        name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    }
}

impl Iterator for FieldLines<'_> {
    type Item = FieldLine;

    fn next(&mut self) -> Option<FieldLine> {
        loop {
            let begin = self.at;
            let (mut end, mut next) = self.line(begin);
            if begin == end {
                // A carriage return alone ends no head.
                if next == end || self.head.get(next - 1) == Some(&b'\n') {
                    return None;
                }
                self.at = next;
                continue;
            }
            let mut is_folded = false;
            loop {
                let (line_end, behind) = self.line(next);
                let field = self.head.get(begin..end).unwrap_or_default();
                if next >= self.head.len()
                    || !self.continues(field, self.head.get(next..line_end).unwrap_or_default())
                {
                    break;
                }
                (end, next, is_folded) = (line_end, behind, true);
            }
            self.at = next;
            return Some(FieldLine { range: begin..end, is_folded });
        }
    }
}

/// Returns true for the bytes around names and values that receivers leave out.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0)
}

/// Returns the part of bytes without white space around it.
pub(super) fn trim(bytes: &[u8]) -> Range<usize> {
    inner(bytes, is_space)
}

/// Returns true for the bytes around values that buffers of rules do not have. As in Suricata, they have vertical tabs
/// and form feeds.
const fn is_around_value(byte: u8) -> bool {
    is_space(byte) && !matches!(byte, 0x0b | 0x0c)
}

/// Returns a name without what Suricata leaves out around it: white space and folds behind it, but no carriage returns
/// alone; in front, spaces and tabs.
fn name_within(bytes: &[u8]) -> Range<usize> {
    let mut name = bytes;
    name = loop {
        name = match name {
            [rest @ .., b'\r', b'\n'] | [rest @ .., b' ' | b'\t' | b'\n' | 0x0b | 0x0c | 0] => rest,
            name => break name,
        };
    };
    let is_in_front = |byte: &&u8| matches!(byte, b' ' | b'\t' | 0);
    name.iter().take_while(is_in_front).count()..name.len()
}

fn inner(bytes: &[u8], is_space: fn(u8) -> bool) -> Range<usize> {
    let end = bytes.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    let start = bytes.iter().take(end).take_while(|byte| is_space(**byte)).count();
    start..end
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

    /// Returns true if the field has this name. Zero bytes in it do not count.
    pub(super) fn is(&self, name: &[u8]) -> bool {
        let own = self.name();
        own.eq_ignore_ascii_case(name)
            || own.len() > name.len()
                && own
                    .iter()
                    .filter(|byte| **byte != 0)
                    .map(u8::to_ascii_lowercase)
                    .eq(name.iter().map(u8::to_ascii_lowercase))
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
                unfold(value, out);
            } else {
                out.extend_from_slice(value);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_rules_have_the_white_space_that_suricata_leaves() {
        let name = |bytes: &'static [u8]| bytes.get(name_within(bytes)).unwrap();
        assert_eq!(name(b"Host \x0b"), b"Host");
        assert_eq!(name(b"Host\r\n "), b"Host");
        assert_eq!(name(b"Host\r\x0b"), b"Host\r");
        assert_eq!(name(b"\r\x0bHost"), b"\r\x0bHost");
        let value = |bytes: &'static [u8]| bytes.get(inner(bytes, is_around_value)).unwrap();
        assert_eq!(value(b" \ta b\x0c\r"), b"a b\x0c");
    }
}
