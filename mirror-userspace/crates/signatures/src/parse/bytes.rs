//! `byte_test`, `byte_jump`, `byte_extract` and `byte_math`: numbers in a buffer.

use super::builder::Builder;
use crate::diagnostic::shown;
use crate::number::{signed, unsigned};
use crate::rule::{
    ByteExtract, ByteJump, ByteMath, ByteSource, ByteTest, Encoding, JumpFrom, Match, MathOperator, Number,
    TestOperator,
};

/// Offsets count at most as many bytes.
const OFFSET: i64 = i32::MAX as i64;
/// Bytes of a number that is written in binary, and as text.
const BINARY: i64 = 8;
const TEXT: i64 = 23;

/// The options behind the first fields.
#[derive(Default)]
struct Common {
    relative: bool,
    little: Option<bool>,
    text: Option<u8>,
    mask: Option<u32>,
    multiplier: Option<u32>,
    align: bool,
    align_to: Option<u8>,
    from: Option<JumpFrom>,
    post_offset: Option<i64>,
}

const DCE: &str = "`dce` needs the byte order of DCE/RPC, which is not parsed";

impl Common {
    /// Reads an option that several of the keywords have; returns false if there is no such option.
    fn read(&mut self, field: &[u8]) -> Result<bool, String> {
        let (key, value) = match field.iter().position(u8::is_ascii_whitespace) {
            Some(space) => {
                (field.get(..space).unwrap_or_default(), field.get(space..).unwrap_or_default().trim_ascii())
            }
            None => (field, &b""[..]),
        };
        match (key, value) {
            (b"relative", b"") => self.relative = true,
            (b"big", b"") | (b"endian", b"big") => self.set_little(false)?,
            (b"little", b"") | (b"endian", b"little") => self.set_little(true)?,
            (b"dce", b"") | (b"endian", b"dce") => return Err(DCE.to_owned()),
            (b"string", b"") => {
                self.text.get_or_insert(0);
            }
            (b"hex", b"") | (b"string", b"hex") => self.text = Some(16),
            (b"dec", b"") | (b"string", b"dec") => self.text = Some(10),
            (b"oct", b"") | (b"string", b"oct") => self.text = Some(8),
            (b"bitmask", mask) => {
                let mask = unsigned(mask, u64::from(u32::MAX))? as u32;
                if mask == 0 {
                    return Err("a mask without bits leaves nothing".to_owned());
                }
                self.mask = Some(mask);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_little(&mut self, little: bool) -> Result<(), String> {
        if self.little.replace(little).is_some() {
            Err("two byte orders are given".to_owned())
        } else {
            Ok(())
        }
    }

    fn source(&self, count: Number, offset: Number) -> Result<ByteSource, String> {
        let encoding = match (self.text, self.little) {
            // The order of digits is that of reading, whatever order is given.
            (Some(radix), _) => Encoding::Text(radix),
            (None, Some(true)) => Encoding::Little,
            (None, _) => Encoding::Big,
        };
        if let Number::Value(count) = count {
            let most = if self.text.is_some() { TEXT } else { BINARY };
            // Of a text without a number of bytes, all digits count.
            let least = i64::from(self.text.is_none());
            if count < least || count > most {
                return Err(format!("{count} bytes are no number here; it has {least} to {most}"));
            }
        }
        Ok(ByteSource { count, offset, relative: self.relative, encoding })
    }
}

fn fields(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn unknown(field: &[u8]) -> String {
    format!("{} is unknown here", shown(field))
}

fn missing(what: &str) -> String {
    format!("the {what} is missing")
}

pub(super) fn byte_test(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut fields = fields(value);
    let count = builder.number(fields.next().ok_or_else(|| missing("number of bytes"))?, TEXT)?;
    let operator = fields.next().ok_or_else(|| missing("operator"))?;
    let (bare, negated) = match operator.strip_prefix(b"!") {
        // `!` alone means `!=`.
        Some(b"") => (&b"="[..], true),
        Some(operator) => (operator.trim_ascii(), true),
        None => (operator, false),
    };
    let operator = match bare {
        b"<" => TestOperator::Less,
        b">" => TestOperator::Greater,
        b"=" | b"==" => TestOperator::Equal,
        b"<=" => TestOperator::LessOrEqual,
        b">=" => TestOperator::GreaterOrEqual,
        b"&" => TestOperator::And,
        b"^" => TestOperator::Xor,
        _ => return Err(format!("{} is no operator", shown(operator))),
    };
    let other = builder.number(fields.next().ok_or_else(|| missing("value"))?, i64::MAX)?;
    let offset = builder.number(fields.next().ok_or_else(|| missing("offset"))?, OFFSET)?;
    let mut common = Common::default();
    for field in fields {
        if !common.read(field)? {
            return Err(unknown(field));
        }
    }
    let source = common.source(count, offset)?;
    let test = ByteTest { source, mask: common.mask, operator, negated, value: other };
    builder.require(Match::ByteTest(Box::new(test)));
    Ok(())
}

pub(super) fn byte_jump(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut fields = fields(value);
    let count = builder.number(fields.next().ok_or_else(|| missing("number of bytes"))?, TEXT)?;
    let offset = builder.number(fields.next().ok_or_else(|| missing("offset"))?, OFFSET)?;
    let mut common = Common::default();
    for field in fields {
        if common.read(field)? {
            continue;
        }
        if let Some(multiplier) = field.strip_prefix(b"multiplier ") {
            common.multiplier = Some(unsigned(multiplier, 65_535)? as u32);
        } else if let Some(post_offset) = field.strip_prefix(b"post_offset ") {
            common.post_offset = Some(signed(post_offset, OFFSET)?);
        } else {
            match field {
                b"align" => common.align = true,
                b"from_beginning" if common.from.is_none() => common.from = Some(JumpFrom::Beginning),
                b"from_end" if common.from.is_none() => common.from = Some(JumpFrom::End),
                _ => return Err(unknown(field)),
            }
        }
    }
    // A jump over a constant distance reads no bytes.
    let source = match count {
        Number::Value(0) => ByteSource { count, offset, relative: common.relative, encoding: Encoding::Big },
        _ => common.source(count, offset)?,
    };
    let jump = ByteJump {
        source,
        mask: common.mask,
        multiplier: common.multiplier.unwrap_or(1),
        align: common.align,
        from: common.from.unwrap_or(JumpFrom::Here),
        post_offset: common.post_offset.unwrap_or(0),
    };
    builder.require(Match::ByteJump(Box::new(jump)));
    Ok(())
}

pub(super) fn byte_extract(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let mut fields = fields(value);
    let count = builder.number(fields.next().ok_or_else(|| missing("number of bytes"))?, TEXT)?;
    let offset = builder.number(fields.next().ok_or_else(|| missing("offset"))?, OFFSET)?;
    let name = fields.next().ok_or_else(|| missing("name of the variable"))?;
    let mut common = Common::default();
    for field in fields {
        if common.read(field)? && common.mask.is_none() {
            continue;
        }
        if let Some(multiplier) = field.strip_prefix(b"multiplier ") {
            common.multiplier = Some(unsigned(multiplier, 65_535)? as u32);
        } else if let Some(align) = field.strip_prefix(b"align ") {
            common.align_to = match align.trim_ascii() {
                b"2" => Some(2),
                b"4" => Some(4),
                _ => return Err("the value is rounded up to a multiple of 2 or 4".to_owned()),
            };
        } else {
            return Err(unknown(field));
        }
    }
    let source = common.source(count, offset)?;
    let variable = builder.declare(name)?;
    let multiplier = common.multiplier.unwrap_or(1);
    builder.require(Match::ByteExtract(Box::new(ByteExtract {
        source,
        multiplier,
        align: common.align_to,
        variable,
    })));
    Ok(())
}

pub(super) fn byte_math(builder: &mut Builder<'_>, value: &[u8]) -> Result<(), String> {
    let (mut count, mut offset, mut operator, mut operand, mut result) = (None, None, None, None, None);
    let mut common = Common::default();
    for field in fields(value) {
        if common.read(field)? {
            continue;
        }
        let space = field.iter().position(u8::is_ascii_whitespace).ok_or_else(|| unknown(field))?;
        let (key, value) =
            (field.get(..space).unwrap_or_default(), field.get(space..).unwrap_or_default().trim_ascii());
        match key {
            b"bytes" => count = Some(builder.number(value, TEXT)?),
            b"offset" => offset = Some(builder.number(value, OFFSET)?),
            b"rvalue" => operand = Some(builder.number(value, i64::from(u32::MAX))?),
            b"result" => result = Some(value),
            b"oper" => {
                operator = Some(match value {
                    b"+" => MathOperator::Add,
                    b"-" => MathOperator::Subtract,
                    b"*" => MathOperator::Multiply,
                    b"/" => MathOperator::Divide,
                    b"<<" => MathOperator::ShiftLeft,
                    b">>" => MathOperator::ShiftRight,
                    _ => return Err(format!("{} is no operator", shown(value))),
                });
            }
            _ => return Err(unknown(field)),
        }
    }
    let source = common
        .source(count.ok_or_else(|| missing("`bytes`"))?, offset.ok_or_else(|| missing("`offset`"))?)?;
    let operator = operator.ok_or_else(|| missing("`oper`"))?;
    let value = operand.ok_or_else(|| missing("`rvalue`"))?;
    if operator == MathOperator::Divide && value == Number::Value(0) {
        return Err("it divides by 0".to_owned());
    }
    let variable = builder.declare(result.ok_or_else(|| missing("`result`"))?)?;
    let math = ByteMath { source, mask: common.mask, operator, value, variable };
    builder.require(Match::ByteMath(Box::new(math)));
    Ok(())
}
