//! VLAN tags of a frame (IEEE 802.1Q).

/// VLAN identifiers of a packet, outermost first: 16 bits each from the lowest on, followed by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vlans(u64);

impl Vlans {
    /// Maximum number of tags, the same as in Suricata.
    pub const MAX: usize = 3;
    const COUNT: u32 = 48;

    /// Returns no tags.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds the identifier of a further tag. The null identifier is not added: its tag holds a priority, and the
    /// frame belongs to no VLAN by it (IEEE 802.1Q, table 9-2). Returns `false` if there are [`Vlans::MAX`]
    /// already.
    pub const fn push(&mut self, id: u16) -> bool {
        if id == 0 {
            return true;
        }
        let there = self.len();
        if there == Self::MAX {
            return false;
        }
        self.0 += 1 << Self::COUNT | (id as u64) << (16 * there);
        true
    }

    /// Returns the number of tags.
    #[must_use]
    pub const fn len(self) -> usize {
        (self.0 >> Self::COUNT) as usize
    }

    /// Returns true if there are no tags.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the tags as one number, different for different tags.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Returns the tags for a number from [`Vlans::word`].
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Returns the identifiers, outermost first.
    pub fn ids(self) -> impl Iterator<Item = u16> {
        (0..self.len()).map(move |index| (self.0 >> (16 * index)) as u16)
    }
}
