//! Sets of addresses and ports as sorted ranges.

use std::fmt;
use std::net::IpAddr;

use mirror_xdp_common::Address;

use crate::limits;

/// A number with a next one.
pub trait Ordinal: Copy + Ord + fmt::Debug {
    /// The smallest.
    const MIN: Self;
    /// The largest.
    const MAX: Self;
    /// Returns the next number, or `None` behind the largest.
    fn next(self) -> Option<Self>;
    /// Returns the number in front, or `None` in front of the smallest.
    fn previous(self) -> Option<Self>;
}

macro_rules! ordinal {
    ($($type:ident)*) => {$(
        impl Ordinal for $type {
            const MIN: Self = $type::MIN;
            const MAX: Self = $type::MAX;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

ordinal!(u16 u128);

/// A set of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RangeSet<T>(Box<[(T, T)]>);

/// A set of ports.
pub type PortSet = RangeSet<u16>;
/// A set of addresses; IPv4 addresses are those of `::ffff:0:0/96`.
pub type AddressSet = RangeSet<u128>;

impl<T: Ordinal> RangeSet<T> {
    /// Returns the set of all numbers.
    #[must_use]
    pub fn all() -> Self {
        Self([(T::MIN, T::MAX)].into())
    }

    /// Returns the empty set.
    #[must_use]
    pub fn none() -> Self {
        Self(Box::default())
    }

    /// Returns the set of the numbers from `first` to `last`.
    #[must_use]
    pub fn range(first: T, last: T) -> Self {
        if first <= last { Self([(first, last)].into()) } else { Self::none() }
    }

    /// Returns the numbers of all sets.
    #[must_use]
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self
    where
        T: 'a,
    {
        let mut ranges: Vec<(T, T)> = sets.into_iter().flat_map(|set| set.0.iter().copied()).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if before.1.next().is_none_or(|next| first <= next) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    /// Returns the numbers that are not in the set.
    #[must_use]
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        let mut start = Some(T::MIN);
        for (first, last) in &self.0 {
            if let (Some(start), Some(end)) = (start, first.previous())
                && start <= end
            {
                ranges.push((start, end));
            }
            start = last.next();
        }
        if let Some(start) = start {
            ranges.push((start, T::MAX));
        }
        Self(ranges.into())
    }

    /// Returns the numbers of this set that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self::union([&self.complement(), other]).complement()
    }

    /// Returns true if the number is in the set.
    #[must_use]
    pub fn contains(&self, number: T) -> bool {
        let index = self.0.partition_point(|range| range.1 < number);
        self.0.get(index).is_some_and(|range| range.0 <= number)
    }

    /// Returns true if all numbers are in the set.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self.0 == [(T::MIN, T::MAX)]
    }

    /// Returns true if there is no number in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first and last number of each range, in ascending order.
    #[must_use]
    pub const fn ranges(&self) -> &[(T, T)] {
        &self.0
    }

    /// Returns true if the set has more ranges than a list may have.
    pub(crate) const fn is_too_large(&self) -> bool {
        self.0.len() > limits::RANGES
    }
}

impl AddressSet {
    /// Returns true if the address is in the set.
    #[must_use]
    pub fn contains_address(&self, address: Address) -> bool {
        self.contains(u128::from(address.high) << 64 | u128::from(address.low))
    }
}

/// Returns the number of an address.
#[must_use]
pub const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u16, u16)]) -> PortSet {
        let sets: Vec<_> = ranges.iter().map(|(a, b)| PortSet::range(*a.min(b), *a.max(b))).collect();
        PortSet::union(&sets)
    }

    proptest! {
        #[test]
        fn sets_agree_with_the_numbers_in_them(
            one in prop::collection::vec((any::<u16>(), any::<u16>()), 0..6),
            other in prop::collection::vec((any::<u16>(), any::<u16>()), 0..6),
            number: u16,
        ) {
            let is_in = |ranges: &[(u16, u16)], number: u16| {
                ranges.iter().any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&number))
            };
            let borders = one.iter().chain(&other).flat_map(|(a, b)| [*a, *b, a.wrapping_add(1), b.wrapping_sub(1)]);
            for number in borders.chain([number, 0, u16::MAX]) {
                let (in_one, in_other) = (is_in(&one, number), is_in(&other, number));
                prop_assert_eq!(set(&one).contains(number), in_one);
                prop_assert_eq!(set(&one).complement().contains(number), !in_one);
                prop_assert_eq!(set(&one).without(&set(&other)).contains(number), in_one && !in_other);
            }
        }
    }

    #[test]
    fn all_and_none_are_complements() {
        assert!(PortSet::none().complement().is_all() && PortSet::all().complement().is_empty());
        assert!(set(&[(0, 9), (10, u16::MAX)]).is_all());
        assert_eq!(set(&[(1, 2), (3, 4), (6, 7)]).ranges(), [(1, 4), (6, 7)]);
    }
}
