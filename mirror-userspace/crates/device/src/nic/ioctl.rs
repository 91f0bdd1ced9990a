//! Driver information that only the `SIOCETHTOOL` ioctl provides: name and version, the driver's own
//! statistics, and the hash that spreads frames over the queues (netlink can read it since Linux 6.2, and
//! only the newest kernels can set it). This is the only module here with unsafe code.
//!
//! A request is a structure that the kernel reads and writes. If its length is variable, the kernel writes as
//! much as the driver has *now*, whatever was asked for: a queue that came up in between makes the answer
//! longer. The memory for it therefore ends before an inaccessible page (`Room`).
#![expect(unsafe_code, reason = "the kernel reads and writes the requests")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::rss::Rss;

/// Numbers of `include/uapi/linux/ethtool.h`.
mod uapi {
    pub(super) const GDRVINFO: u32 = 0x03;
    pub(super) const GSTRINGS: u32 = 0x1b;
    pub(super) const GSTATS: u32 = 0x1d;
    pub(super) const GRXFH: u32 = 0x29;
    pub(super) const SRXFH: u32 = 0x2a;
    pub(super) const GRXCLSRLCNT: u32 = 0x2e;
    pub(super) const GSSET_INFO: u32 = 0x37;
    pub(super) const GRSSH: u32 = 0x46;
    pub(super) const SRSSH: u32 = 0x47;
    pub(super) const SS_STATS: u32 = 1;
    pub(super) const GSTRING_LEN: usize = 32;
    pub(super) const UDP_V4_FLOW: u32 = 0x02;
    pub(super) const UDP_V6_FLOW: u32 = 0x06;
    pub(super) const RXFH_INDIR_NO_CHANGE: u32 = u32::MAX;
    /// Bytes of `struct ethtool_rxnfc`, and the offset of the number of rules in it.
    pub(super) const RXNFC_LEN: usize = 192;
    pub(super) const RXNFC_RULE_COUNT: usize = 184;
}

/// Addresses and ports: all UDP fields that a NIC can hash (`RXH_IP_SRC`, `RXH_IP_DST`, `RXH_L4_B_0_1` and
/// `RXH_L4_B_2_3`).
pub const HASH_ALL: u64 = 1 << 4 | 1 << 5 | HASH_SOURCE_PORT | 1 << 7;

/// The source port (`RXH_L4_B_0_1`).
pub const HASH_SOURCE_PORT: u64 = 1 << 6;

/// An upper bound on the entries of any answer.
const MAX_ENTRIES: usize = 1 << 16;

/// The driver of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its name, such as `ena`.
    pub name: String,
    /// Its version; drivers from the kernel tree have the version of the kernel.
    pub version: String,
    /// The version of the device's firmware; empty if it has none.
    pub firmware: String,
    /// The address of the device on its bus; empty for a software interface.
    pub bus: String,
}

/// Memory for a request, followed by an inaccessible page.
struct Room {
    start: NonNull<c_void>,
    /// Usable bytes: a whole number of pages.
    len: usize,
    page: usize,
}

impl Room {
    /// Allocates `len` bytes, all 0.
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: asks for a number and touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let len = len.max(1).next_multiple_of(page);
        let whole = NonZeroUsize::new(len + page).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            mmap_anonymous(None, whole, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }?;
        let room = Self { start, len, page };
        // SAFETY: the last page of the mapping made above, which nothing refers to.
        unsafe { mprotect(start.byte_add(len), page, ProtFlags::PROT_NONE) }?;
        Ok(room)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes of a mapping that lives as long as `self`, initialised by the kernel.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes_mut().get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_ne_bytes());
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes().get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.bytes().get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    /// Returns the NUL-terminated text in a field of this many bytes.
    fn text(&self, at: usize, len: usize) -> String {
        let bytes = self.bytes().get(at..at + len).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// Reads a `struct ethtool_drvinfo`.
    fn driver(&self) -> Driver {
        Driver {
            name: self.text(4, 32),
            version: self.text(36, 32),
            firmware: self.text(68, 32),
            bus: self.text(100, 32),
        }
    }

    /// Reads a `struct ethtool_stats` of this many counters, with the names in a `struct ethtool_gstrings`.
    fn statistics(&self, names: &Self, count: usize) -> Option<Vec<(String, u64)>> {
        if names.u32(8) as usize != count || self.u32(4) as usize != count {
            return None;
        }
        let name = |index| names.text(12 + index * uapi::GSTRING_LEN, uapi::GSTRING_LEN);
        Some((0..count).map(|index| (name(index), self.u64(8 + index * size_of::<u64>()))).collect())
    }

    /// Reads a `struct ethtool_rxfh` with this many entries of the table and bytes of the key.
    fn rss(&self, entries: usize, bytes: usize) -> Rss {
        let key_at = 24 + entries * size_of::<u32>();
        let [function, transformation] =
            self.bytes().get(16..18).and_then(<[u8]>::first_chunk).map_or([0; 2], |b| *b);
        Rss {
            key: self.bytes().get(key_at..key_at + bytes).unwrap_or_default().to_vec(),
            table: (0..entries).map(|entry| self.u32(24 + entry * size_of::<u32>())).collect(),
            function,
            transformation,
        }
    }

    /// Reads the hashed fields from a `struct ethtool_rxnfc`.
    fn flow_hash(&self) -> u64 {
        self.u64(8)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `new`, which nothing borrows any more.
        let _ = unsafe { munmap(self.start, self.len + self.page) };
    }
}

/// The driver of an interface, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Device {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Device {
    /// Opens the driver of the interface of this name.
    pub fn open(interface: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(Errno::ENODEV.into());
        }
        for (place, byte) in name.iter_mut().zip(interface.bytes()) {
            *place = byte.cast_signed();
        }
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, name })
    }

    /// Sends a request; the kernel writes the answer in its place.
    fn call(&self, room: &mut Room) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: room.start.as_ptr().cast() },
        };
        // SAFETY: `request` is what the ioctl asks for. The kernel writes from the room's start on, as much
        // as the request says, or, for strings and statistics, as the driver has; beyond the room it meets
        // a page that it cannot write to, and says EFAULT.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }

    /// Returns name and version of the driver.
    pub fn driver(&self) -> io::Result<Driver> {
        // struct ethtool_drvinfo: cmd, driver, version, fw_version, bus_info, …
        let mut room = Room::new(256)?;
        room.put_u32(0, uapi::GDRVINFO);
        self.call(&mut room)?;
        Ok(room.driver())
    }

    /// Returns the driver's own counters, in its order; empty if it has none.
    pub fn statistics(&self) -> io::Result<Vec<(String, u64)>> {
        // struct ethtool_sset_info: cmd, reserved, sset_mask, data
        let mut info = Room::new(32)?;
        info.put_u32(0, uapi::GSSET_INFO);
        info.put(8, &(1_u64 << uapi::SS_STATS).to_ne_bytes());
        self.call(&mut info)?;
        if info.u64(8) == 0 {
            return Ok(Vec::new());
        }
        let count = (info.u32(16) as usize).min(MAX_ENTRIES);
        // struct ethtool_gstrings: cmd, string_set, len, data
        let mut names = Room::new(12 + count * uapi::GSTRING_LEN)?;
        names.put_u32(0, uapi::GSTRINGS);
        names.put_u32(4, uapi::SS_STATS);
        names.put_u32(8, count as u32);
        self.call(&mut names)?;
        // struct ethtool_stats: cmd, n_stats, data
        let mut values = Room::new(8 + count * size_of::<u64>())?;
        values.put_u32(0, uapi::GSTATS);
        values.put_u32(4, count as u32);
        self.call(&mut values)?;
        // Queues may have come or gone in between; then names and values do not belong together.
        values.statistics(&names, count).ok_or_else(|| Errno::EAGAIN.into())
    }

    /// Returns the hash that spreads frames over the queues.
    pub fn rss(&self) -> io::Result<Rss> {
        // struct ethtool_rxfh: cmd, rss_context, indir_size, key_size, hfunc, input_xfrm, …, rss_config
        let mut sizes = Room::new(24)?;
        sizes.put_u32(0, uapi::GRSSH);
        self.call(&mut sizes)?;
        let (table, key) = (sizes.u32(8), sizes.u32(12));
        let (entries, bytes) = ((table as usize).min(MAX_ENTRIES), (key as usize).min(MAX_ENTRIES));
        let mut room = Room::new(24 + entries * size_of::<u32>() + bytes)?;
        room.put_u32(0, uapi::GRSSH);
        room.put_u32(8, table);
        room.put_u32(12, key);
        self.call(&mut room)?;
        Ok(room.rss(entries, bytes))
    }

    /// Sets the hash key; table and function stay.
    pub fn set_rss_key(&self, key: &[u8]) -> io::Result<()> {
        let now = self.rss()?;
        let mut room = Room::new(24 + key.len())?;
        room.put_u32(0, uapi::SRSSH);
        room.put_u32(8, uapi::RXFH_INDIR_NO_CHANGE);
        room.put_u32(12, u32::try_from(key.len()).map_err(io::Error::other)?);
        room.put(17, &[now.transformation]);
        room.put(24, key);
        self.call(&mut room)
    }

    /// Returns the hashed fields of UDP over IPv4 and over IPv6, `RXH_…`.
    pub fn udp_hash(&self) -> io::Result<[u64; 2]> {
        Ok([self.flow_hash(uapi::UDP_V4_FLOW)?, self.flow_hash(uapi::UDP_V6_FLOW)?])
    }

    fn flow_hash(&self, flow: u32) -> io::Result<u64> {
        // struct ethtool_rxnfc: cmd, flow_type, data, …
        let mut room = Room::new(uapi::RXNFC_LEN)?;
        room.put_u32(0, uapi::GRXFH);
        room.put_u32(4, flow);
        self.call(&mut room)?;
        Ok(room.flow_hash())
    }

    /// Sets the hashed fields of UDP over IPv4 and over IPv6.
    pub fn set_udp_hash(&self, fields: [u64; 2]) -> io::Result<()> {
        for (flow, fields) in [uapi::UDP_V4_FLOW, uapi::UDP_V6_FLOW].into_iter().zip(fields) {
            let mut room = Room::new(uapi::RXNFC_LEN)?;
            room.put_u32(0, uapi::SRXFH);
            room.put_u32(4, flow);
            room.put(8, &fields.to_ne_bytes());
            self.call(&mut room)?;
        }
        Ok(())
    }

    /// Returns the number of rules that send certain frames to certain queues (ntuple filters).
    pub fn steering_rules(&self) -> io::Result<u32> {
        let mut room = Room::new(uapi::RXNFC_LEN)?;
        room.put_u32(0, uapi::GRXCLSRLCNT);
        self.call(&mut room)?;
        Ok(room.u32(uapi::RXNFC_RULE_COUNT))
    }
}

/// Recorded answers as bytes, for tests. A recording that is not whole panics.
#[cfg(any(test, feature = "recorded"))]
#[expect(clippy::missing_panics_doc, reason = "tests")]
pub(super) mod recorded {
    use super::{Driver, Room, Rss, uapi};

    fn room(answer: &[u8]) -> Room {
        let mut room = Room::new(answer.len()).expect("the recording is whole");
        room.put(0, answer);
        room
    }

    /// The driver of a recorded `ETHTOOL_GDRVINFO`.
    #[must_use]
    pub fn driver(answer: &[u8]) -> Driver {
        room(answer).driver()
    }

    /// The statistics of recorded names and values.
    #[must_use]
    pub fn statistics(names: &[u8], values: &[u8]) -> Vec<(String, u64)> {
        let names = room(names);
        room(values).statistics(&names, names.u32(8) as usize).expect("the recording is whole")
    }

    /// The hash of a recorded `ETHTOOL_GRSSH`.
    #[must_use]
    pub fn rss(answer: &[u8]) -> Rss {
        let room = room(answer);
        room.rss(room.u32(8) as usize, room.u32(12) as usize)
    }

    /// The hashed fields of UDP over IPv4 and IPv6, recorded.
    #[must_use]
    pub fn udp_hash(answers: [&[u8]; 2]) -> [u64; 2] {
        assert_eq!(answers.map(|answer| room(answer).u32(4)), [uapi::UDP_V4_FLOW, uapi::UDP_V6_FLOW]);
        answers.map(|answer| room(answer).flow_hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_where_it_says() {
        let mut room = Room::new(5000).unwrap();
        let len = room.bytes().len();
        assert!(len >= 5000);
        room.put_u32(len - 4, 7);
        assert_eq!(room.u32(len - 4), 7);
        assert_eq!((room.u32(len - 3), room.u64(len - 4)), (0, 0), "beyond the end there is nothing");
        room.put(0, b"name\0rest");
        assert_eq!((room.text(0, 32), room.text(len, 32)), ("name".to_owned(), String::new()));
    }

    #[test]
    fn the_loopback_interface_says_who_it_is() {
        let device = Device::open("lo").unwrap();
        assert_eq!(device.statistics().unwrap_or_default(), []);
        assert!(device.rss().is_err());
        assert!(Device::open("no-such-interface-at-all").is_err());
    }
}
