//! Writes frames as they arrive, in the form of the store's segments.

use std::collections::HashMap;
use std::io::{self, Write};

use mirror_packet::{FrameInfo, MirrorSession};

use super::{
    Interface, MAX_INTERFACE, MAX_PACKET_OVERHEAD, PacketInfo, SECTION_HEADER, SNAPLEN, put_interface,
    put_packet, put_section,
};
use crate::buffer::Buffer;

/// The maximum number of interfaces: sessions beyond it share one.
const MAX_INTERFACES: usize = 4096;

/// A pcapng file with an interface for each mirror session, and times in nanoseconds.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    interfaces: HashMap<Option<MirrorSession>, u32>,
    /// A frame's block, with that of its interface where it is the first frame of it.
    blocks: Buffer,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    ///
    /// # Errors
    ///
    /// Returns the error of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut blocks = Buffer::new(SECTION_HEADER.max(MAX_INTERFACE) + MAX_PACKET_OVERHEAD + SNAPLEN);
        put_section(&mut blocks);
        out.write_all(blocks.as_slice())?;
        Ok(Self { out, interfaces: HashMap::new(), blocks })
    }

    /// Writes a frame; of a longer one, its first 262,144 bytes.
    ///
    /// # Errors
    ///
    /// Returns the error of the underlying writer.
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) -> io::Result<()> {
        self.blocks.clear();
        let interface = self.interface(info.mirror);
        let info = PacketInfo {
            interface,
            time: info.time,
            original_len: info.original_len.max(u32::try_from(frame.len()).unwrap_or(u32::MAX)),
            side: info.side,
            flow_hash: info.flow_hash.0,
            begins: None,
        };
        put_packet(&mut self.blocks, &info, frame.get(..SNAPLEN).unwrap_or(frame));
        self.out.write_all(self.blocks.as_slice())
    }

    /// Flushes the underlying writer.
    ///
    /// # Errors
    ///
    /// Returns its error.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Returns the number of a session's interface. Describes an interface that is new.
    fn interface(&mut self, mirror: Option<MirrorSession>) -> u32 {
        let mirror = mirror.filter(|_| self.interfaces.len() < MAX_INTERFACES);
        let next = self.interfaces.len() as u32;
        let Self { interfaces, blocks, .. } = self;
        *interfaces.entry(mirror).or_insert_with(|| {
            put_interface(blocks, &Interface { mirror });
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use mirror_packet::capture_file::CaptureFile;
    use mirror_xdp_common::hash::FlowHash;
    use mirror_xdp_common::{Address, Vni};

    use super::super::Section;
    use super::*;

    fn mirror(vni: u32) -> MirrorSession {
        MirrorSession {
            vni: Vni::new(vni).unwrap(),
            outer_source: Address::from_v4(0x0a00_0001),
            outer_destination: Address::from_v4(0x0a00_0002),
            endpoint: 0,
        }
    }

    #[test]
    fn each_session_is_an_interface() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        let sessions = [Some(mirror(7)), None, Some(mirror(8)), Some(mirror(7))];
        for (number, mirror) in sessions.into_iter().enumerate() {
            let time = 1_000_000_007 + number as u64;
            let info = FrameInfo { time, original_len: 100, flow_hash: FlowHash(0), mirror, side: None };
            writer.frame(&info, &[number as u8; 60]).unwrap();
        }
        writer.flush().unwrap();
        let mut section = Section::new(&file);
        let mut packets = Vec::new();
        while let Some(packet) = section.next().unwrap() {
            packets.push((packet.interface, packet.time, packet.original_len, packet.frame.len()));
        }
        let sessions: Vec<_> = section.interfaces.iter().map(|interface| interface.mirror).collect();
        assert_eq!(sessions, [Some(mirror(7)), None, Some(mirror(8))]);
        let expected = [(0, 1_000_000_007), (1, 1_000_000_008), (2, 1_000_000_009), (0, 1_000_000_010)];
        assert_eq!(packets, expected.map(|(interface, time)| (interface, time, 100, 60)));
    }

    #[test]
    fn frames_of_any_length_and_sessions_of_any_number_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcapng");
        let mut writer = Writer::new(std::fs::File::create(&path).unwrap()).unwrap();
        let lengths = [0, 1, SNAPLEN - 1, SNAPLEN, SNAPLEN + 5];
        let sessions = MAX_INTERFACES as u32 + 10;
        for (number, len) in (0..sessions).zip(lengths.into_iter().chain(std::iter::repeat(1))) {
            let mirror = Some(mirror(number));
            let info = FrameInfo { time: 0, original_len: 0, flow_hash: FlowHash(0), mirror, side: None };
            writer.frame(&info, &vec![0; len]).unwrap();
        }
        writer.flush().unwrap();
        let mut lens = Vec::new();
        CaptureFile::open(&path).unwrap().for_each(|frame| lens.push(frame.bytes.len())).unwrap();
        assert_eq!(lens.len(), sessions as usize);
        assert_eq!(lens[..5], lengths.map(|len| len.min(SNAPLEN)));
    }
}
