//! Malicious capture files, which declare, or decompress to, far more than they contain. `mirror-xdp read`
//! uses at most 64 MB for any of them.
//!
//! There is one test only, because the memory of other children of this process would count as the reader's.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use etherparse::{IpNumber, TcpHeader};
use mirror_xdp_tests::appliance::PATIENCE;
use mirror_xdp_tests::frames::Flow;
use mirror_xdp_tests::process::{Output, Process};
use mirror_xdp_tests::require;
use nix::sys::resource::{UsageWho, getrusage};

/// The memory limit for reading, in KiB.
const MOST: i64 = 64 * 1024;

/// Writes the content of a file.
type Content = fn(&mut dyn Write);

/// The compression of a file. Files are written as a stream, so that this process stays small.
#[derive(Clone, Copy)]
enum Form {
    Plain,
    Gzip,
    /// Zstandard, with the binary logarithm of its window size.
    Zstd(u32),
}

fn write(path: &Path, form: Form, content: impl FnOnce(&mut dyn Write)) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    match form {
        Form::Plain => content(&mut file),
        Form::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            content(&mut gzip);
            file = gzip.finish().unwrap();
        }
        Form::Zstd(window) => {
            let mut zstd = zstd::Encoder::new(file, 1).unwrap();
            zstd.window_log(window).unwrap();
            content(&mut zstd);
            file = zstd.finish().unwrap();
        }
    }
    file.flush().unwrap();
}

fn words(out: &mut dyn Write, words: &[u32]) {
    for word in words {
        out.write_all(&word.to_le_bytes()).unwrap();
    }
}

/// Writes a pcapng block.
fn block(out: &mut dyn Write, kind: u32, body: &[u8]) {
    let len = body.len() as u32 + 12;
    words(out, &[kind, len]);
    out.write_all(body).unwrap();
    words(out, &[len]);
}

fn section(out: &mut dyn Write) {
    block(out, 0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
}

/// Writes the section header and the interface that packets need.
fn begin(out: &mut dyn Write) {
    section(out);
    block(out, 1, &[1, 0, 0, 0, 0, 0, 0, 0]);
}

fn packet(out: &mut dyn Write, interface: u32, frame: &[u8], options: &[u8]) {
    let len = frame.len() as u32;
    let mut body: Vec<u8> = [interface, 0, 0, len, len].iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend(frame);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(options);
    block(out, 6, &body);
}

fn frame() -> Vec<u8> {
    Flow::v4(4000, 5000).udp(b"hello")
}

/// Writes the header of a pcap file.
fn pcap(out: &mut dyn Write, snaplen: u32) {
    words(out, &[0xa1b2_c3d4, 0x0004_0002, 0, 0, snaplen, 1]);
}

/// Writes pseudo-random bytes, which do not compress.
fn noise(out: &mut dyn Write, len: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..len / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).unwrap();
    }
}

/// The length of the longest block that is accepted.
const LONG: usize = 4 * 1024 * 1024 - 1024;

const BOMBS: [(&str, Form, Content); 18] = [
    ("interfaces", Form::Zstd(20), |out| {
        section(out);
        (0..400_000).for_each(|_| block(out, 1, &[1, 0, 0, 0, 0, 0, 0, 0]));
    }),
    ("interfaces with long options", Form::Zstd(20), |out| {
        section(out);
        let mut body = vec![1, 0, 0, 0, 0, 0, 0, 0];
        // Comments without text.
        body.extend([1, 0, 0, 0].repeat(LONG / 4));
        (0..20).for_each(|_| block(out, 1, &body));
    }),
    ("sections", Form::Zstd(20), |out| (0..300_000).for_each(|_| begin(out))),
    ("a section with long options", Form::Plain, |out| {
        let mut body = vec![0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
        body.extend([1, 0, 0, 0].repeat(30_000));
        block(out, 0x0a0d_0d0a, &body);
        block(out, 1, &[1, 0, 0, 0, 0, 0, 0, 0]);
        packet(out, 0, &frame(), &[]);
        body.extend([1, 0, 0, 0].repeat(LONG / 4 - 30_000));
        block(out, 0x0a0d_0d0a, &body);
    }),
    ("packets with long options", Form::Zstd(20), |out| {
        begin(out);
        let options = [1, 0, 0, 0].repeat((LONG - 200) / 4);
        (0..20).for_each(|_| packet(out, 0, &frame(), &options));
    }),
    ("simple packets", Form::Zstd(20), |out| {
        begin(out);
        (0..300_000).for_each(|_| block(out, 3, &[0; 4]));
    }),
    ("names of hosts", Form::Zstd(20), |out| {
        begin(out);
        let record = [1, 0, 8, 0, 192, 0, 2, 1, b'a', b'b', b'c', 0];
        (0..10).for_each(|_| block(out, 4, &record.repeat(1 << 20)));
        packet(out, 0, &frame(), &[]);
    }),
    ("secrets of 4 GB", Form::Zstd(20), |out| {
        begin(out);
        words(out, &[10, 0xffff_fffc]);
        (0..100).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap());
    }),
    ("a packet of 4 GB", Form::Plain, |out| {
        begin(out);
        words(out, &[6, 0xffff_fffc, 0, 0, 0, 0xffff_ff00, 0xffff_ff00]);
        (0..10).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap());
    }),
    ("records of 4 GB", Form::Plain, |out| {
        pcap(out, u32::MAX);
        words(out, &[1, 1, u32::MAX, u32::MAX]);
        (0..10).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap());
    }),
    ("records as long as can be", Form::Gzip, |out| {
        pcap(out, 65_535);
        let bytes = vec![0; LONG];
        for _ in 0..20 {
            words(out, &[1, 1, LONG as u32, LONG as u32]);
            out.write_all(&bytes).unwrap();
        }
    }),
    ("zeros in gzip", Form::Gzip, |out| (0..100).for_each(|_| out.write_all(&[0; 1 << 20]).unwrap())),
    ("records of nothing", Form::Zstd(20), |out| {
        pcap(out, 0);
        (0..500_000).for_each(|_| words(out, &[0, 0, 0, 0]));
    }),
    ("a large window", Form::Zstd(24), |out| {
        begin(out);
        (0..40).for_each(|_| {
            words(out, &[10, (1 << 20) + 12]);
            noise(out, 1 << 20);
            words(out, &[(1 << 20) + 12]);
        });
        packet(out, 0, &vec![7; LONG - 200], &[]);
    }),
    ("a window that is too large", Form::Zstd(27), |out| {
        begin(out);
        noise(out, 1 << 16);
    }),
    ("unfinished data of every kind", Form::Plain, |out| {
        pcap(out, 65_535);
        unfinished(out);
    }),
    ("empty members of gzip", Form::Plain, |out| {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        pcap(&mut member, 65_535);
        out.write_all(&member.finish().unwrap()).unwrap();
        let empty = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()).finish().unwrap();
        (0..2_000_000).for_each(|_| out.write_all(&empty).unwrap());
    }),
    ("tags upon tags", Form::Plain, |out| {
        pcap(out, 65_535);
        let mut tagged = frame();
        for _ in 0..15_000 {
            tagged.splice(12..12, [0x81, 0, 0, 9]);
        }
        for number in 0..100 {
            words(out, &[number, 0, tagged.len() as u32, tagged.len() as u32]);
            out.write_all(&tagged).unwrap();
        }
    }),
];

/// Writes records of 10,500 flows with data that waits for more, which never comes: about eight kilobytes each.
fn unfinished(out: &mut dyn Write) {
    let mut record = |frame: Vec<u8>| {
        words(out, &[1_600_000_000, 0, frame.len() as u32, frame.len() as u32]);
        out.write_all(&frame).unwrap();
    };
    let part = [b'a'; 1400];
    for number in 0..1500_u16 {
        let client = 1024 + number;
        let mut connection = |server: u16, first: &[u8], at: u32, end: &[u8]| {
            let flow = Flow::v4(client, server);
            flow.tcp_handshake().into_iter().for_each(&mut record);
            let mut sequence_number = 1001 + at;
            for part in std::iter::once(first).chain([&part[..]; 6]).chain([end]) {
                let header = TcpHeader {
                    sequence_number,
                    acknowledgment_number: 9001,
                    ack: true,
                    ..TcpHeader::default()
                };
                record(flow.tcp(header, part));
                sequence_number += part.len() as u32;
            }
        };
        // A hello, a segment that is missing, a head, a request without an answer, a message of DNS.
        connection(443, &[22, 3, 1, 0x3f, 0, 1, 0, 0x3e, 0xf0, 3, 3], 0, b"");
        connection(8080, b"", 20_000, b"");
        connection(8000, b"GET /open HTTP/1.1\r\nHost: example.com\r\nX: ", 0, b"");
        connection(80, b"GET /", 0, b" HTTP/1.1\r\n\r\n");
        connection(53, &[0xff, 0xff, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], 0, b"");
        // The name of a destination in front of nothing.
        let name = [&[5, 1, 0, 5, 1, 0, 3, 255][..], &[b'a'; 255], &[0, 80]].concat();
        connection(1080, &name, 0, b"");
        for at in 0..6 {
            let mut frame = Flow::v4(client, 9).packet(IpNumber::UDP, &part);
            let offset = (175 * (at + 1)) | 0x2000_u16;
            frame[18..20].copy_from_slice(&number.to_be_bytes());
            frame[20..22].copy_from_slice(&offset.to_be_bytes());
            frame[24..26].fill(0);
            record(frame);
        }
    }
}

fn read(binary: &Path, file: &Path) -> Output {
    let log_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary);
    command.args(["read", "--json", "--log-dir"]).arg(log_dir.path()).arg(file);
    Process::spawn(&mut command).unwrap().wait(PATIENCE).unwrap()
}

#[test]
fn hostile_capture_files_take_at_most_64_mb() {
    let Some(binary) = require::binary() else { return };
    let directory = tempfile::tempdir().unwrap();
    for (name, form, content) in BOMBS {
        let path = directory.path().join("bomb");
        write(&path, form, content);
        let output = read(&binary, &path);
        // It reads the file, or refuses it with one line.
        let refused = output.stderr.len() == 1 && output.status.code() == Some(1);
        assert!(output.status.success() || refused, "{name}: {:?}", output.stderr);
        let taken = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        println!("{name}: {} MiB so far; {:?}", taken / 1024, output.stderr);
        assert!(taken <= MOST, "{name}: {taken} KiB");
    }
}
