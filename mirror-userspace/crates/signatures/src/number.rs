//! Numbers in options, and comparisons with them.

use crate::diagnostic::shown;

/// Makes a comparison of a number.
type Make = fn(u64) -> Compare;

/// A comparison with a number. Ranges exclude both ends, as in Suricata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// `N` or `=N`.
    Equal(u64),
    /// `!N` or `!=N`.
    NotEqual(u64),
    /// `<N`.
    Less(u64),
    /// `<=N`.
    LessOrEqual(u64),
    /// `>N`.
    Greater(u64),
    /// `>=N`.
    GreaterOrEqual(u64),
    /// `LOW<>HIGH`, without both.
    Between(u64, u64),
    /// `!LOW<>HIGH`: what `Between` excludes.
    Outside(u64, u64),
}

impl Compare {
    /// Reads a comparison with a number of at most `max`.
    pub fn parse(text: &[u8], max: u64) -> Result<Self, String> {
        let text = text.trim_ascii();
        if let Some((low, high)) = split_once(text, b"<>") {
            let (low, negated) = match low.trim_ascii().strip_prefix(b"!") {
                Some(low) => (low, true),
                None => (low, false),
            };
            let (low, high) = (unsigned(low, max)?, unsigned(high, max)?);
            // Between N and N+1 there is no number.
            if high <= low.saturating_add(1) {
                return Err(format!("no number is between {low} and {high}; both ends are excluded"));
            }
            return Ok(if negated { Self::Outside(low, high) } else { Self::Between(low, high) });
        }
        let operators: [(&[u8], Make); 8] = [
            (b"!=", Self::NotEqual),
            (b"<=", Self::LessOrEqual),
            (b">=", Self::GreaterOrEqual),
            (b"==", Self::Equal),
            (b"!", Self::NotEqual),
            (b"<", Self::Less),
            (b">", Self::Greater),
            (b"=", Self::Equal),
        ];
        for (operator, make) in operators {
            if let Some(rest) = text.strip_prefix(operator) {
                let compare = make(unsigned(rest, max)?);
                return match compare {
                    Self::Less(0) => Err("no number is less than 0".to_owned()),
                    Self::Greater(number) if number >= max => {
                        Err(format!("the largest number here is {max}, and none is greater than {number}"))
                    }
                    _ => Ok(compare),
                };
            }
        }
        unsigned(text, max).map(Self::Equal)
    }

    /// Returns true if the number satisfies the comparison.
    #[must_use]
    pub const fn matches(self, number: u64) -> bool {
        match self {
            Self::Equal(other) => number == other,
            Self::NotEqual(other) => number != other,
            Self::Less(other) => number < other,
            Self::LessOrEqual(other) => number <= other,
            Self::Greater(other) => number > other,
            Self::GreaterOrEqual(other) => number >= other,
            Self::Between(low, high) => low < number && number < high,
            Self::Outside(low, high) => !(low < number && number < high),
        }
    }

    /// Returns the largest number that can satisfy the comparison.
    #[must_use]
    pub const fn largest(self) -> u64 {
        match self {
            Self::Equal(number) | Self::LessOrEqual(number) => number,
            Self::Less(number) | Self::Between(_, number) => number.saturating_sub(1),
            Self::NotEqual(_) | Self::Greater(_) | Self::GreaterOrEqual(_) | Self::Outside(..) => u64::MAX,
        }
    }
}

/// Reads a decimal or hexadecimal number of at most `max`.
pub fn unsigned(text: &[u8], max: u64) -> Result<u64, String> {
    let text = text.trim_ascii();
    let number = match text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        Some(digits) => digits_of(digits, 16),
        None => digits_of(text, 10),
    };
    match number {
        Some(number) if number <= max => Ok(number),
        Some(_) => Err(format!("{} is too large; the largest number here is {max}", shown(text))),
        None if !text.is_empty() && text.iter().all(u8::is_ascii_digit) => {
            Err(format!("{} is too large; the largest number here is {max}", shown(text)))
        }
        None => Err(format!("{} is not a number", shown(text))),
    }
}

/// Reads a number with an optional sign whose absolute value is at most `max`.
pub fn signed(text: &[u8], max: i64) -> Result<i64, String> {
    let text = text.trim_ascii();
    let (digits, negative) = match text {
        [b'-', digits @ ..] => (digits, true),
        [b'+', digits @ ..] => (digits, false),
        _ => (text, false),
    };
    let number = unsigned(digits, max.unsigned_abs())?;
    let number = i64::try_from(number).map_err(|_| format!("{} is too large", shown(text)))?;
    Ok(if negative { -number } else { number })
}

/// Reads digits of a radix without sign or spaces; `None` if there are none, others, or too many.
#[must_use]
pub fn digits_of(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// Splits at the first occurrence of `by`.
#[must_use]
pub fn split_once<'a>(text: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memchr::memmem::find(text, by)?;
    Some((text.get(..at)?, text.get(at + by.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read_and_hold_for_the_right_numbers() {
        let cases: [(&str, &[u64], &[u64]); 9] = [
            ("10", &[10], &[9, 11]),
            ("= 0x0a", &[10], &[9]),
            ("!10", &[9, 11], &[10]),
            ("!=10", &[9], &[10]),
            ("<10", &[0, 9], &[10]),
            ("<=10", &[10], &[11]),
            (" > 10 ", &[11], &[10]),
            (">=10", &[10], &[9]),
            ("10<>20", &[11, 19], &[10, 20]),
        ];
        for (text, yes, no) in cases {
            let compare = Compare::parse(text.as_bytes(), 1000).unwrap();
            assert!(yes.iter().all(|number| compare.matches(*number)), "{text}");
            assert!(!no.iter().any(|number| compare.matches(*number)), "{text}");
        }
        for wrong in
            ["", "x", "<", "10<>11", "20<>10", "1001", "<0", ">1000", "-1", "1 2", "99999999999999999999"]
        {
            assert!(Compare::parse(wrong.as_bytes(), 1000).is_err(), "{wrong}");
        }
    }

    #[test]
    fn signed_numbers_are_bounded() {
        assert_eq!(signed(b" -14", 100), Ok(-14));
        assert_eq!(signed(b"+14", 100), Ok(14));
        assert!(signed(b"-101", 100).unwrap_err().contains("too large"));
        assert!(signed(b"--1", 100).is_err());
    }
}
