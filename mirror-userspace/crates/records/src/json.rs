//! JSON as `serde_json` writes it, byte for byte, with far fewer instructions. Records consist of many short
//! strings and numbers, and most of their bytes are field names. Strings are searched for characters to
//! escape in words of eight bytes. Rare cases are left to `serde_json`.

use std::fmt::{self, Write as _};

use serde::ser::{
    Error as _, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};
use serde::{Serialize, Serializer};
use serde_json::{Error, Result};

/// Appends `value` to `out`.
pub(super) fn append(out: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    value.serialize(Json { out })
}

/// The serializer, with its destination.
struct Json<'a> {
    out: &'a mut Vec<u8>,
}

/// An array or object that is not closed yet. Each element is followed by a comma; the closing bytes replace
/// the last one.
struct Open<'a> {
    out: &'a mut Vec<u8>,
    /// The closing bytes.
    end: &'static [u8],
}

impl<'a> Open<'a> {
    #[inline]
    fn new(out: &'a mut Vec<u8>, start: u8, end: &'static [u8]) -> Self {
        out.push(start);
        Self { out, end }
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<()> {
        value.serialize(Json { out: self.out })?;
        self.out.push(b',');
        Ok(())
    }

    /// Writes a field of a structure. Inlined, so that the search of its name for escapes is folded away.
    #[inline(always)]
    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        quoted(self.out, name, *b":")?;
        self.element(value)
    }

    #[inline]
    fn close(self) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.extend_from_slice(self.end);
    }
}

/// Returns true if one of these eight bytes may have to be escaped: a control character, a quote, a
/// backslash. False positives are possible.
const fn may_need_escape(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Borrows out of a byte below `limit` set its highest bit, where it was not set before.
    const fn below(word: u64, limit: u64) -> u64 {
        word.wrapping_sub(ONES * limit) & !word & HIGH
    }
    below(word, 0x20) | below(word ^ (ONES * b'"' as u64), 1) | below(word ^ (ONES * b'\\' as u64), 1) != 0
}

fn needs_escape(text: &[u8]) -> bool {
    let word = |bytes: &[u8; 8]| may_need_escape(u64::from_ne_bytes(*bytes));
    if let Some(last) = text.last_chunk() {
        // The rest behind the last whole word is checked in a word that overlaps it.
        let (words, _) = text.as_chunks();
        return words.iter().any(word) || word(last);
    }
    if let (Some(&[a, b, c, d]), Some(&[e, f, g, h])) = (text.first_chunk(), text.last_chunk()) {
        return word(&[a, b, c, d, e, f, g, h]);
    }
    text.iter().any(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))
}

/// Writes a text in quotes. The length of `after` is known at compile time, so that writing it takes a store
/// or two.
#[inline(always)]
fn quoted<const N: usize>(out: &mut Vec<u8>, text: &str, after: [u8; N]) -> Result<()> {
    if needs_escape(text.as_bytes()) {
        serde_json::to_writer(&mut *out, text)?;
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(&after);
    Ok(())
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    quoted(out, text, [])
}

/// Writes a variant's name and opens its content: `{"name":[`.
fn open_variant<'a>(out: &'a mut Vec<u8>, name: &str, start: u8, end: &'static [u8]) -> Result<Open<'a>> {
    out.push(b'{');
    text(out, name)?;
    out.push(b':');
    Ok(Open::new(out, start, end))
}

macro_rules! integers {
    ($($method:ident: $number:ty),*) => {
        $(fn $method(self, value: $number) -> Result<()> {
            self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
            Ok(())
        })*
    };
}

/// Types that are left to `serde_json`.
macro_rules! as_before {
    ($($method:ident: $value:ty),*) => {
        $(fn $method(self, value: $value) -> Result<()> {
            serde_json::to_writer(self.out, &value)
        })*
    };
}

impl<'a> Serializer for Json<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Open<'a>;
    type SerializeTuple = Open<'a>;
    type SerializeTupleStruct = Open<'a>;
    type SerializeTupleVariant = Open<'a>;
    type SerializeMap = Open<'a>;
    type SerializeStruct = Open<'a>;
    type SerializeStructVariant = Open<'a>;

    integers!(serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128);
    integers!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128);
    as_before!(serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_bytes: &[u8]);

    fn serialize_bool(self, value: bool) -> Result<()> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<()> {
        text(self.out, value)
    }

    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<()> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<()> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        let mut object = Open::new(self.out, b'{', b"}");
        object.field(variant, value)?;
        object.close();
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Open<'a>> {
        Ok(Open::new(self.out, b'[', b"]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Open<'a>> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Open<'a>> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Open<'a>> {
        open_variant(self.out, variant, b'[', b"]}")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Open<'a>> {
        Ok(Open::new(self.out, b'{', b"}"))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Open<'a>> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Open<'a>> {
        open_variant(self.out, variant, b'{', b"}}")
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<()> {
        let start = self.out.len();
        self.out.push(b'"');
        write!(Utf8(self.out), "{value}").map_err(Error::custom)?;
        // Usually there is nothing to escape. Otherwise the text is written again.
        if self.out.get(start + 1..).is_some_and(needs_escape) {
            self.out.truncate(start);
            return serde_json::to_writer(self.out, &value.to_string());
        }
        self.out.push(b'"');
        Ok(())
    }
}

/// Appends text to a byte buffer.
struct Utf8<'a>(&'a mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl SerializeMap for Open<'_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let start = self.out.len();
        key.serialize(Json { out: self.out })?;
        match self.out.get(start) {
            Some(b'"') => Ok(()),
            // Numbers and the like become text.
            Some(first) if !matches!(first, b'{' | b'[' | b'n') => {
                self.out.insert(start, b'"');
                self.out.push(b'"');
                Ok(())
            }
            _ => Err(Error::custom("key must be a string")),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.out.push(b':');
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.close();
        Ok(())
    }
}

macro_rules! elements {
    ($($sequence:ident: $method:ident),*) => {
        $(impl $sequence for Open<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.element(value)
            }

            fn end(self) -> Result<()> {
                self.close();
                Ok(())
            }
        })*
    };
}

macro_rules! fields {
    ($($structure:ident),*) => {
        $(impl $structure for Open<'_> {
            type Ok = ();
            type Error = Error;

            #[inline(always)]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
                self.field(name, value)
            }

            fn end(self) -> Result<()> {
                self.close();
                Ok(())
            }
        })*
    };
}

elements!(SerializeSeq: serialize_element, SerializeTuple: serialize_element);
elements!(SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field);
fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A value of each kind in Rust.
    #[derive(Debug, Serialize)]
    struct Everything {
        #[serde(rename = "na\"me")]
        text: String,
        letter: char,
        numbers: (i8, u16, i64, u64, f32, f64),
        maybe: Option<bool>,
        nothing: (),
        unit: Unit,
        map: BTreeMap<i32, Vec<String>>,
        address: IpAddr,
        variants: [Variant; 4],
        #[serde(flatten)]
        more: BTreeMap<String, Newtype>,
    }

    #[derive(Debug, Serialize)]
    struct Unit;

    #[derive(Debug, Serialize)]
    struct Newtype(f64);

    #[derive(Debug, Serialize)]
    enum Variant {
        Unit,
        Newtype(String),
        Tuple(u8, String),
        Struct { a: u8, b: Vec<u8> },
    }

    fn json(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        append(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn everything_is_written_as_serde_json_does(
            (text, letter, number, float) in (any::<String>(), any::<char>(), any::<i64>(), any::<f64>()),
            words in proptest::collection::vec("[a-z\"\\\\\u{0}-\u{1f}é€]{0,20}", 0..5),
            maybe in any::<Option<bool>>(),
        ) {
            let everything = Everything {
                text: text.clone(),
                letter,
                numbers: (number as i8, number as u16, number, number as u64, float as f32, float),
                maybe,
                nothing: (),
                unit: Unit,
                map: [(number as i32, words.clone()), (7, Vec::new())].into(),
                address: IpAddr::from((number as u128).to_be_bytes()),
                variants: [
                    Variant::Unit,
                    Variant::Newtype(text.clone()),
                    Variant::Tuple(number as u8, text.clone()),
                    Variant::Struct { a: number as u8, b: words.concat().into_bytes() },
                ],
                more: words.iter().map(|word| (word.clone(), Newtype(float))).collect(),
            };
            prop_assert_eq!(json(&everything), serde_json::to_string(&everything).unwrap());
            for word in words {
                let shown = format_args!("{word}{letter}").to_string();
                prop_assert_eq!(json(&Shown(&shown)), serde_json::to_string(&shown).unwrap());
            }
        }

        #[test]
        fn values_come_back(text in any::<String>()) {
            let value = serde_json::json!({ &text: [text, null, { "a": true }] });
            prop_assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
        }
    }

    struct Shown<'a>(&'a str);

    impl Serialize for Shown<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            serializer.collect_str(self.0)
        }
    }

    #[test]
    fn every_byte_that_is_escaped_is_found_wherever_it_stands() {
        for place in 0..20 {
            for byte in 0..0x80 {
                let mut text = "a".repeat(20).into_bytes();
                text[place] = byte;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(json(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }

    #[test]
    fn a_key_that_is_no_text_is_refused() {
        let mut out = Vec::new();
        assert!(append(&mut out, &BTreeMap::from([(vec![1], 2)])).is_err());
        assert!(append(&mut out, &BTreeMap::from([((), 2)])).is_err());
    }
}
