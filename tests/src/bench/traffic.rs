//! A mix of conversations that is typical of a VPC: name resolution, web requests, long transfers, pings.
//! Code generates it, so that every machine measures the same frames.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use etherparse::TcpHeader;

use crate::frames::{Flow, dns_answer, dns_query};

/// The payload of a full TCP segment, in bytes: with TCP and IP headers and the encapsulation it fits into
/// 1500.
const SEGMENT: usize = 1400;

/// Returns the inner frames of the mix, interleaved: about 1,200 frames of 75 flows.
#[must_use]
pub fn mixed() -> Vec<Vec<u8>> {
    Network(0).mixed()
}

/// Repeats the mix endlessly, each time between other hosts: not every program distinguishes flows by their
/// mirror session.
pub fn mixed_anew() -> impl Iterator<Item = Vec<u8>> {
    (0..).flat_map(|round| Network(round).mixed())
}

/// A network whose hosts occur in no other; there are some 30,000 such networks.
#[derive(Clone, Copy)]
struct Network(u16);

impl Network {
    fn mixed(self) -> Vec<Vec<u8>> {
        let mut conversations = Vec::new();
        for host in 0..40 {
            conversations.push(self.resolution(host));
        }
        for host in 0..20 {
            conversations.push(self.transfer(host, 80, &http_request(host), 4));
        }
        for host in 20..25 {
            conversations.push(self.transfer(host, 443, &client_hello(), 60));
        }
        for host in 0..10 {
            conversations.push((0..6).map(|number| self.flow(host, 0, 0).ping(host, number)).collect());
        }
        interleave(conversations)
    }

    fn flow(self, host: u16, client: u16, server: u16) -> Flow {
        let [block, network] = self.0.to_be_bytes();
        let end = |side: u8, port| {
            let address = [10, side + 2 * (block % 127), network, 10 + (host % 200) as u8];
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port)
        };
        Flow { client: end(1, client), server: end(2, server), vlans: Vec::new() }
    }

    fn resolution(self, host: u16) -> Vec<Vec<u8>> {
        let flow = self.flow(host, 30_000 + host, 53);
        let name = format!("service-{host}.eu-west-1.example.com");
        vec![
            flow.udp(&dns_query(host, &name)),
            flow.reversed().udp(&dns_answer(host, &name, Ipv4Addr::new(10, 2, 0, host as u8))),
        ]
    }

    /// Makes a connection: a request, `segments` full segments back, each second one acknowledged, and the
    /// end.
    fn transfer(self, host: u16, port: u16, request: &[u8], segments: u32) -> Vec<Vec<u8>> {
        let flow = self.flow(host, 40_000 + host, port);
        let back = flow.reversed();
        let header = |sequence_number, acknowledgment_number| TcpHeader {
            sequence_number,
            acknowledgment_number,
            window_size: 64_240,
            ack: true,
            ..TcpHeader::default()
        };
        let mut frames = flow.tcp_handshake();
        let mut mine = 1001;
        let mut theirs = 9001;
        frames.push(flow.tcp(TcpHeader { psh: true, ..header(mine, theirs) }, request));
        mine += request.len() as u32;
        for segment in 0..segments {
            let mut payload = if segment == 0 && port == 80 {
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nServer: example\r\n\r\n".to_vec()
            } else {
                Vec::new()
            };
            payload.resize(SEGMENT, b'a' + (segment % 26) as u8);
            frames.push(back.tcp(header(theirs, mine), &payload));
            theirs += SEGMENT as u32;
            if segment % 2 == 1 {
                frames.push(flow.tcp(header(mine, theirs), b""));
            }
        }
        frames.push(flow.tcp(TcpHeader { fin: true, ..header(mine, theirs) }, b""));
        frames.push(back.tcp(TcpHeader { fin: true, ..header(theirs, mine + 1) }, b""));
        frames.push(flow.tcp(header(mine + 1, theirs + 1), b""));
        frames
    }
}

/// Takes a frame of each conversation in turn until all are exhausted.
fn interleave(conversations: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    let mut conversations: Vec<_> = conversations.into_iter().map(Vec::into_iter).collect();
    let mut frames = Vec::new();
    loop {
        let before = frames.len();
        for conversation in &mut conversations {
            frames.extend(conversation.next());
        }
        if frames.len() == before {
            return frames;
        }
    }
}

fn http_request(host: u16) -> Vec<u8> {
    format!("GET /item/{host} HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
        .into_bytes()
}

/// The beginning of a TLS record with a `ClientHello` (RFC 8446), padded with zeros.
fn client_hello() -> Vec<u8> {
    let mut record = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    record.resize(5 + 512, 0);
    record
}

/// A frame and its time, in nanoseconds from an arbitrary start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The capture time in nanoseconds.
    pub time: u64,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// Gives frames times that are a microsecond apart.
pub fn each_microsecond(frames: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Timed> {
    (0..).zip(frames).map(|(index, frame)| Timed { time: index * 1000, frame })
}

/// Writes frames to a pcap file, with times a microsecond apart.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) -> io::Result<()> {
    write_timed(path, each_microsecond(frames.iter().cloned())).map(|_| ())
}

/// Writes frames to a pcap file and returns their number.
pub fn write_timed(path: &Path, frames: impl Iterator<Item = Timed>) -> io::Result<u64> {
    const START: u64 = 1_600_000_000;
    let mut file = BufWriter::new(File::create(path)?);
    // Microseconds, version 2.4, no offset of time, no precision, the longest frame, Ethernet.
    for field in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 262_144, 1] {
        file.write_all(&field.to_le_bytes())?;
    }
    let mut count = 0;
    for Timed { time, frame } in frames {
        let (second, microsecond) = (START + time / 1_000_000_000, time / 1000 % 1_000_000);
        let length = frame.len() as u64;
        for field in [second, microsecond, length, length] {
            file.write_all(&(field as u32).to_le_bytes())?;
        }
        file.write_all(&frame)?;
        count += 1;
    }
    file.flush()?;
    Ok(count)
}
