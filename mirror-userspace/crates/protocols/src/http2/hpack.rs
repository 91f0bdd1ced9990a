//! HPACK (RFC 7541): blocks of fields in, names and values out.
//!
//! A block depends on all blocks before it. If some of them were not seen, the [`Table`] knows the entries that came
//! since, which have the lowest indices; fields that refer to older ones are left out.

use std::collections::VecDeque;

use super::huffman;

/// The bytes of entries that a table holds; a peer may ask for more, which is not followed.
const MAX_TABLE: usize = 64 * 1024;
/// The size of a table before the peers agree on another one.
const FIRST_TABLE: usize = 4096;
/// Bytes that count for an entry besides its name and its value (RFC 7541, section 4.1).
const ENTRY: usize = 32;
/// Fields of a block that are returned.
const MAX_FIELDS: usize = 128;
/// Bytes of all fields of a block that are returned.
const MAX_BYTES: usize = 32 * 1024;
/// Changes of the table's size in a block that are returned.
const MAX_UPDATES: usize = 4;

/// The fields of a block. It is memory to be reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct FieldList {
    bytes: Vec<u8>,
    /// Lengths of names and values, which follow each other in `bytes`.
    lens: Vec<(u32, u32)>,
    updates: Vec<u32>,
    omitted: u32,
}

impl FieldList {
    /// Removes all fields.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lens.clear();
        self.updates.clear();
        self.omitted = 0;
    }

    /// Adds a field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.lens.push((name.len() as u32, value.len() as u32));
    }

    /// Returns names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.lens.iter().map(move |&(name_len, value_len)| {
            let (name, behind) = rest.split_at(rest.len().min(name_len as usize));
            let (value, behind) = behind.split_at(behind.len().min(value_len as usize));
            rest = behind;
            (name, value)
        })
    }

    /// Returns the value of the first field with a name, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the new sizes of the table with which the block begins.
    #[must_use]
    pub fn updates(&self) -> &[u32] {
        &self.updates
    }

    /// Returns the number of fields that were left out: unknown, too long, or too many.
    #[must_use]
    pub const fn omitted(&self) -> u32 {
        self.omitted
    }

    /// Returns true if there are no fields.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }
}

/// A block that cannot be read to its end. What follows it is unknown, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// An entry of a table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The place of its first byte among all that were ever inserted.
    at: u64,
    /// Lengths of name and value.
    lens: (u32, u32),
    /// The name is not known, since it was that of an unknown entry.
    nameless: bool,
}

impl Entry {
    const fn len(&self) -> usize {
        self.lens.0 as usize + self.lens.1 as usize
    }
}

/// The dynamic table of a direction (RFC 7541, section 2.3.2).
#[derive(Debug)]
pub struct Table {
    /// Names and values, oldest first. Some in front may be of entries that are gone.
    bytes: Vec<u8>,
    /// The place of the first of these bytes among all that were ever inserted.
    begin: u64,
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    /// The name of the entry in the making, and its value.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            begin: 0,
            entries: VecDeque::new(),
            size: 0,
            max: FIRST_TABLE,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

/// A string of a block.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    is_coded: bool,
}

impl Text<'_> {
    /// Appends the string to `out`.
    fn append(self, out: &mut Vec<u8>) {
        if self.is_coded {
            // A broken string is what was decoded of it.
            huffman::decode(self.bytes, out);
        } else {
            out.extend_from_slice(self.bytes);
        }
    }

    /// Returns the most bytes that the string can have.
    const fn most(self) -> usize {
        if self.is_coded { self.bytes.len() * 8 / 5 } else { self.bytes.len() }
    }
}

impl Table {
    /// Forgets all entries, since blocks were missed. The size stays.
    pub fn lose(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        (self.begin, self.size) = (0, 0);
    }

    /// Prepares the table for another connection.
    pub fn reset(&mut self) {
        self.lose();
        self.max = FIRST_TABLE;
    }

    /// Returns the bytes of memory that are held.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.name.capacity()
            + self.value.capacity()
    }

    /// Reads a block. Fields are returned while `budget` lasts, from which their bytes are taken.
    ///
    /// # Errors
    ///
    /// Fails if the block is broken. Then the table is to be [lost](Self::lose).
    pub fn read(&mut self, block: &[u8], budget: &mut usize, list: &mut FieldList) -> Result<(), Broken> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    self.indexed(index, budget, list);
                }
                0x40.. => {
                    let index = integer(&mut rest, 6)?;
                    self.literal(index, &mut rest, true, budget, list)?;
                }
                0x20.. => {
                    let size = integer(&mut rest, 5)?;
                    if size > MAX_TABLE {
                        return Err(Broken);
                    }
                    self.max = size;
                    self.evict(0);
                    if list.updates.len() < MAX_UPDATES {
                        list.updates.push(size as u32);
                    }
                }
                _ => {
                    let index = integer(&mut rest, 4)?;
                    self.literal(index, &mut rest, false, budget, list)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a field that is an entry of a table.
    fn indexed(&self, index: usize, budget: &mut usize, list: &mut FieldList) {
        match self.get(index) {
            Some((Some(name), value)) if takes(name.len() + value.len(), budget, list) => {
                list.push(name, value);
            }
            _ => list.omitted += 1,
        }
    }

    /// Adds a field that is a literal, and inserts it if it is to be indexed.
    fn literal(
        &mut self,
        index: usize,
        rest: &mut &[u8],
        is_inserted: bool,
        budget: &mut usize,
        list: &mut FieldList,
    ) -> Result<(), Broken> {
        let text = if index == 0 { Some(string(rest)?) } else { None };
        let value = string(rest)?;
        let most = text.map_or(0, Text::most) + value.most();
        if !is_inserted && most > MAX_BYTES {
            list.omitted += 1;
            return Ok(());
        }
        let (mut name_of, mut value_of) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        name_of.clear();
        value_of.clear();
        let mut nameless = false;
        match (text, self.get(index)) {
            (Some(text), _) => text.append(&mut name_of),
            (None, Some((Some(name), _))) => name_of.extend_from_slice(name),
            (None, _) => nameless = true,
        }
        value.append(&mut value_of);
        if !nameless && takes(name_of.len() + value_of.len(), budget, list) {
            list.push(&name_of, &value_of);
        } else {
            list.omitted += 1;
        }
        if is_inserted {
            self.insert(&name_of, &value_of, nameless);
        }
        (self.name, self.value) = (name_of, value_of);
        Ok(())
    }

    /// Returns name and value of an entry: of the static table, and behind it of this one. The name is `None` if it is
    /// not known.
    fn get(&self, index: usize) -> Option<(Option<&[u8]>, &[u8])> {
        let Some(dynamic) = index.checked_sub(STATIC.len() + 1) else {
            let (name, value) = STATIC.get(index.checked_sub(1)?)?;
            return Some((Some(name.as_bytes()), value.as_bytes()));
        };
        let entry = self.entries.get(dynamic)?;
        let bytes = self.bytes.get((entry.at - self.begin) as usize..)?.get(..entry.len())?;
        let (name, value) = bytes.split_at_checked(entry.lens.0 as usize)?;
        Some((Some(name).filter(|_| !entry.nameless), value))
    }

    fn insert(&mut self, name: &[u8], value: &[u8], nameless: bool) {
        let size = name.len() + value.len() + ENTRY;
        self.evict(size);
        if size > self.max {
            return;
        }
        let at = self.begin + self.bytes.len() as u64;
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.entries.push_front(Entry { at, lens: (name.len() as u32, value.len() as u32), nameless });
        self.size += size;
    }

    /// Removes the oldest entries until there is room for one of this size.
    fn evict(&mut self, size: usize) {
        while self.size + size > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.len() + ENTRY;
        }
        let end = self.begin + self.bytes.len() as u64;
        let first = self.entries.back().map_or(end, |oldest| oldest.at);
        let gone = (first - self.begin) as usize;
        if gone > self.bytes.len() / 2 {
            self.bytes.drain(..gone);
            self.begin = first;
        }
    }
}

/// Returns true if a field of this many bytes is returned, and takes its bytes from the budget.
const fn takes(len: usize, budget: &mut usize, list: &FieldList) -> bool {
    let fits = list.lens.len() < MAX_FIELDS && list.bytes.len() + len <= MAX_BYTES;
    match budget.checked_sub(len) {
        Some(left) if fits => {
            *budget = left;
            true
        }
        _ => false,
    }
}

/// Takes an integer with a prefix of this many bits (RFC 7541, section 5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    /// Bytes behind the prefix; more is no number that anything here can have.
    const MAX_MORE: u32 = 4;

    let (&first, behind) = rest.split_first().ok_or(Broken)?;
    *rest = behind;
    let mask = (1_u32 << prefix) - 1;
    let mut value = u32::from(first) & mask;
    if value < mask {
        return Ok(value as usize);
    }
    for place in 0..MAX_MORE {
        let (&byte, behind) = rest.split_first().ok_or(Broken)?;
        *rest = behind;
        value += (u32::from(byte) & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
    Err(Broken)
}

/// Takes a string (RFC 7541, section 5.2).
fn string<'a>(rest: &mut &'a [u8]) -> Result<Text<'a>, Broken> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let len = integer(rest, 7)?;
    let (bytes, behind) = rest.split_at_checked(len).ok_or(Broken)?;
    *rest = behind;
    Ok(Text { bytes, is_coded })
}

/// The static table (RFC 7541, appendix A), whose first index is 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn read(table: &mut Table, block: &[u8]) -> (Result<(), Broken>, FieldList) {
        let mut list = FieldList::default();
        let outcome = table.read(block, &mut MAX_BYTES.clone(), &mut list);
        (outcome, list)
    }

    fn fields(table: &mut Table, block: &str) -> Vec<(String, String)> {
        let (outcome, list) = read(table, &hex(block));
        assert_eq!((outcome, list.omitted()), (Ok(()), 0), "{block}");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        list.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn requests_of_the_rfc_are_read() {
        let first =
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        for blocks in [
            // Appendix C.3 and C.4.
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut table = Table::default();
            assert_eq!(fields(&mut table, blocks[0]), pairs(&first));
            assert_eq!(fields(&mut table, blocks[1]), pairs(&second));
            assert_eq!(fields(&mut table, blocks[2]), pairs(&third));
            assert_eq!((table.size, table.entries.len()), (164, 3));
        }
    }

    #[test]
    fn responses_of_the_rfc_evict_the_oldest_entries() {
        // Appendix C.6, with a table of 256 bytes.
        let mut table = Table { max: 256, ..Table::default() };
        let first = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        let block = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
                     919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        assert_eq!(fields(&mut table, block), pairs(&first));
        assert_eq!(table.size, 222);
        let second = [&[(":status", "307")], &first[1..]].concat();
        assert_eq!(fields(&mut table, "4883 640e ffc1 c0bf"), pairs(&second));
        assert_eq!(table.size, 222);
        let third = [
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", "https://www.example.com"),
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ];
        let block = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 \
                     821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed \
                     4ee5 b106 3d50 07";
        assert_eq!(fields(&mut table, block), pairs(&third));
        assert_eq!((table.size, table.entries.len()), (215, 3));
    }

    #[test]
    fn what_came_since_a_loss_is_known_and_what_came_before_is_left_out() {
        let mut table = Table::default();
        fields(&mut table, "400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65");
        table.lose();
        // Index 62 is unknown, as a field and as a name; what is inserted takes its place.
        let (outcome, list) = read(&mut table, &hex("be 7e 0161 4001 6201 63 be bf c0"));
        assert_eq!(outcome, Ok(()));
        assert_eq!(list.iter().collect::<Vec<_>>(), [(&b"b"[..], &b"c"[..]), (b"b", b"c")]);
        assert_eq!(list.omitted(), 4, "62, its name, the entry with that name, and what was before it");
    }

    #[test]
    fn a_bomb_takes_no_more_than_the_budget() {
        let mut table = Table::default();
        let mut block = hex("4001 61 7f ad1e");
        block.extend_from_slice(&[b'x'; 4012]);
        let (outcome, _) = read(&mut table, &block);
        assert_eq!(outcome, Ok(()));
        let (mut list, mut budget) = (FieldList::default(), 10_000);
        assert_eq!(table.read(&[0xbe; 16_000], &mut budget, &mut list), Ok(()));
        assert_eq!((list.iter().count(), list.omitted()), (2, 15_998));
        assert!(list.bytes.len() <= 10_000);
    }

    #[test]
    fn sizes_change_and_impossible_ones_are_broken() {
        let mut table = Table::default();
        let (outcome, list) = read(&mut table, &hex("20 3fe11f"));
        assert_eq!((outcome, list.updates()), (Ok(()), &[0, 4096][..]));
        for block in ["3fffffffff0f", "ff", "ffffffffffff", "41", "4105aa", "40ff"] {
            assert_eq!(read(&mut table, &hex(block)).0, Err(Broken), "{block}");
        }
        assert_eq!(read(&mut table, &hex("80")).1.omitted(), 1, "there is no index 0");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_tables_keep_to_their_size(blocks in prop::collection::vec(
            prop::collection::vec(prop_oneof![any::<u8>(), 0x3e_u8..0x44, 0xbd_u8..0xc4], 0..200), 0..9,
        )) {
            let mut table = Table::default();
            for block in blocks {
                let (mut list, mut budget) = (FieldList::default(), 5000);
                if table.read(&block, &mut budget, &mut list).is_err() {
                    table.lose();
                }
                prop_assert!(table.size <= table.max && list.bytes.len() <= 5000);
                prop_assert_eq!(table.size, table.entries.iter().map(|entry| entry.len() + ENTRY).sum::<usize>());
                prop_assert!(table.bytes.len() <= 2 * MAX_TABLE);
                for index in 0..table.entries.len() {
                    prop_assert!(table.get(STATIC.len() + 1 + index).is_some());
                }
            }
        }
    }
}
