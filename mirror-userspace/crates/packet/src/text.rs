//! Texts of numbers, times and addresses, formatted without `core::fmt`, which takes most of the time of
//! rendering records.

use std::net::IpAddr;

use mirror_xdp_common::Address;

/// A short text of ASCII characters.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// The decimal digits of each byte, followed by a full stop, and the number of these characters.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let digits = [byte / 100, byte / 10 % 10, byte % 10];
        let mut at = if byte >= 100 {
            0
        } else if byte >= 10 {
            1
        } else {
            2
        };
        let (text, len) = &mut octets[byte];
        while at < 3 {
            text[*len as usize] = b'0' + digits[at] as u8;
            *len += 1;
            at += 1;
        }
        text[*len as usize] = b'.';
        *len += 1;
        byte += 1;
    }
    octets
};

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Text<N> {
    /// An empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Appends ASCII characters, all of them or, where there is no room, none.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// Appends an ASCII character.
    #[inline]
    pub fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    /// Appends the last `count` decimal digits of a number.
    #[inline]
    pub fn digits(&mut self, mut number: u32, count: usize) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + count) {
            for digit in place.iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
            self.len += count;
        }
    }

    /// Appends a byte in two hexadecimal digits.
    #[inline]
    pub fn hex(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.bytes(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }

    /// Returns the characters.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The text as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// Returns bytes in hexadecimal digits, as digests are written.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for &byte in bytes {
        let mut two = Text::<2>::new();
        two.hex(byte);
        digits.push_str(two.as_str());
    }
    digits
}

/// The text of an address, with room for one character more than an address can have.
pub type AddressText = Text<40>;

/// Returns the text of an IPv4 address.
#[inline]
#[must_use]
pub fn ipv4(octets: [u8; 4]) -> AddressText {
    let mut text = AddressText::new();
    for octet in octets {
        let (digits, len) = OCTETS[usize::from(octet)];
        if let Some(place) = text.bytes.get_mut(text.len..text.len + 4) {
            place.copy_from_slice(&digits);
            text.len += usize::from(len);
        }
    }
    // Removes the last full stop.
    text.len -= 1;
    text
}

/// Returns the text of an IPv6 address as Suricata writes it, without zero compression.
#[must_use]
pub fn ipv6(octets: [u8; 16]) -> AddressText {
    let mut text = AddressText::new();
    for (index, byte) in octets.into_iter().enumerate() {
        if index > 0 && index % 2 == 0 {
            text.byte(b':');
        }
        text.hex(byte);
    }
    text
}

/// Returns the text of an address. The address itself does not show whether it is IPv6.
#[inline]
#[must_use]
pub fn address(address: Address, is_ipv6: bool) -> AddressText {
    if is_ipv6 {
        ipv6((u128::from(address.high) << 64 | u128::from(address.low)).to_be_bytes())
    } else {
        ipv4((address.low as u32).to_be_bytes())
    }
}

/// Returns the text of an address.
#[must_use]
pub fn ip_address(ip: IpAddr) -> AddressText {
    address(ip.into(), ip.is_ipv6())
}

/// Characters of a time.
const TIME_LEN: usize = 31;

/// Writes times, in UTC to the microsecond. Caches the day of the last one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Days since the epoch.
    day: u64,
    date: [u8; 11],
}

impl Default for Clock {
    fn default() -> Self {
        Self { day: 0, date: *b"1970-01-01T" }
    }
}

impl Clock {
    const SECONDS_A_DAY: u64 = 86_400;

    /// Returns the text of a time in nanoseconds since the epoch.
    #[inline]
    pub fn text(&mut self, time: u64) -> [u8; TIME_LEN] {
        let (seconds, micros) = (time / 1_000_000_000, (time / 1_000 % 1_000_000) as u32);
        let day = seconds / Self::SECONDS_A_DAY;
        if day != self.day {
            self.turn_to(day);
        }
        let second = (seconds % Self::SECONDS_A_DAY) as u32;
        let mut text = *b"1970-01-01T00:00:00.000000+0000";
        if let Some(date) = text.first_chunk_mut() {
            *date = self.date;
        }
        for (at, value) in [
            (11, second / 3600),
            (14, second / 60 % 60),
            (17, second % 60),
            (20, micros / 10_000),
            (22, micros / 100 % 100),
            (24, micros % 100),
        ] {
            text[at] = b'0' + (value / 10) as u8;
            text[at + 1] = b'0' + (value % 10) as u8;
        }
        text
    }

    #[cold]
    fn turn_to(&mut self, day: u64) {
        let date = time::Date::from_julian_day(UNIX_EPOCH_DAY + day as i32)
            .expect("2⁶⁴ nanoseconds after the epoch are in the year 2554");
        let mut text = Text::<11>::new();
        text.digits(date.year() as u32, 4);
        text.byte(b'-');
        text.digits(u8::from(date.month()).into(), 2);
        text.byte(b'-');
        text.digits(date.day().into(), 2);
        text.byte(b'T');
        *self = Self { day, date: text.bytes };
    }
}

/// The day of the Unix epoch, as a Julian day.
const UNIX_EPOCH_DAY: i32 = time::OffsetDateTime::UNIX_EPOCH.date().to_julian_day();

/// Returns a number of thousandths, or of millionths, as JSON writes fractional numbers: `12.5`, `7.0`.
#[inline]
#[must_use]
pub fn decimal(value: u64, places: u32) -> Text<24> {
    let unit = 10_u64.pow(places);
    let mut text = Text::new();
    text.bytes(itoa::Buffer::new().format(value / unit).as_bytes());
    text.byte(b'.');
    let mut fraction = value % unit;
    let mut digits = places as usize;
    while digits > 1 && fraction.is_multiple_of(10) {
        fraction /= 10;
        digits -= 1;
    }
    text.digits(fraction as u32, digits);
    text
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_written_as_everybody_does(octets in any::<[u8; 4]>(), groups in any::<[u16; 8]>()) {
            let text = ipv4(octets);
            prop_assert_eq!(text.as_str(), Ipv4Addr::from(octets).to_string());
            let full = groups.map(|group| format!("{group:04x}")).join(":");
            let text = ipv6(Ipv6Addr::from(groups).octets());
            prop_assert_eq!(text.as_str(), full);
        }

        #[test]
        fn times_are_written_as_the_calendar_says(times in proptest::collection::vec(any::<u64>(), 1..5)) {
            use time::macros::format_description;
            let format = format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+0000"
            );
            let mut clock = Clock::default();
            for time in times {
                let date = time::OffsetDateTime::from_unix_timestamp_nanos(time.into()).unwrap();
                let text = clock.text(time);
                prop_assert_eq!(str::from_utf8(&text).unwrap(), date.format(&format).unwrap());
            }
        }

        #[test]
        fn decimals_are_what_they_stand_for(micros in any::<u32>(), nanos in 0_u64..1_000_000_000_000_000) {
            let of = |value: f64| serde_json::to_string(&value).unwrap();
            let text = decimal(micros.into(), 3);
            prop_assert_eq!(text.as_str(), of(f64::from(micros) / 1e3));
            // Other writers use an exponent for smaller numbers.
            let nanos = nanos.max(10_000);
            let text = decimal(nanos, 6);
            prop_assert_eq!(text.as_str(), of(nanos as f64 / 1e6));
        }
    }
}
