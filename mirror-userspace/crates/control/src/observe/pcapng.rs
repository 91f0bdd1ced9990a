//! Writes observed frames as pcapng for Wireshark, with an interface for each mirror session and nanoseconds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use mirror_packet::{FrameInfo, MirrorSession};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

/// The maximum number of interfaces: sessions beyond it share one.
const MAX_INTERFACES: usize = 4096;
/// The value of `if_tsresol` for nanoseconds.
const NANOSECONDS: u8 = 9;

/// Writes frames as they arrive.
pub struct Writer<W: Write> {
    out: PcapNgWriter<W>,
    interfaces: HashMap<Option<MirrorSession>, u32>,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    pub fn new(out: W) -> io::Result<Self> {
        Ok(Self { out: PcapNgWriter::new(out).map_err(io_error)?, interfaces: HashMap::new() })
    }

    /// Writes a frame.
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) -> io::Result<()> {
        let block = EnhancedPacketBlock {
            interface_id: self.interface(info.mirror)?,
            timestamp: Duration::from_nanos(info.time),
            original_len: info.original_len.max(frame.len() as u32),
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        };
        self.out.write_pcapng_block(block).map(|_| ()).map_err(io_error)
    }

    /// Flushes the underlying writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.get_mut().flush()
    }

    fn interface(&mut self, mirror: Option<MirrorSession>) -> io::Result<u32> {
        let mirror = if self.interfaces.len() < MAX_INTERFACES { mirror } else { None };
        if let Some(&interface) = self.interfaces.get(&mirror) {
            return Ok(interface);
        }
        let (name, description) = match mirror {
            Some(MirrorSession { vni, outer_source, outer_destination, .. }) => {
                (format!("vni{vni}"), format!("VNI {vni} mirrored by {outer_source} to {outer_destination}"))
            }
            None => ("plain".to_owned(), "frames that were not mirrored".to_owned()),
        };
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(description)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.out.write_pcapng_block(block).map_err(io_error)?;
        let interface = self.interfaces.len() as u32;
        self.interfaces.insert(mirror, interface);
        Ok(interface)
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use mirror_xdp_common::hash::FlowHash;
    use mirror_xdp_common::{Address, Vni};
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    #[test]
    fn each_session_is_an_interface() {
        let mirror = |vni| MirrorSession {
            vni: Vni::new(vni).unwrap(),
            outer_source: Address::from_v4(0x0a00_0001),
            outer_destination: Address::from_v4(0x0a00_0002),
            endpoint: 0,
        };
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (number, mirror) in
            [Some(mirror(7)), None, Some(mirror(8)), Some(mirror(7))].into_iter().enumerate()
        {
            let time = 1_000_000_007 + number as u64;
            let info = FrameInfo { time, original_len: 100, flow_hash: FlowHash(0), mirror, side: None };
            writer.frame(&info, &[number as u8; 60]).unwrap();
        }
        writer.flush().unwrap();
        drop(writer);
        let mut reader = PcapNgReader::new(&file[..]).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => {
                    names.extend(interface.options.iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    }));
                }
                Block::EnhancedPacket(packet) => {
                    assert_eq!((packet.original_len, packet.data.len()), (100, 60));
                    packets.push((packet.interface_id, packet.timestamp.as_nanos() as u64));
                }
                _ => {}
            }
        }
        assert_eq!(names, ["vni7", "plain", "vni8"]);
        let times = [1_000_000_007, 1_000_000_008, 1_000_000_009, 1_000_000_010];
        assert_eq!(packets, [0, 1, 2, 0].into_iter().zip(times).collect::<Vec<_>>());
    }
}
