//! The tests build capture files byte by byte, so that each form and each kind of damage is possible.

use std::fs;
use std::io::Write as _;

use super::buffer::INITIAL as BUFFER;
use super::*;
use crate::SECOND;

/// Time, link layer, length on the wire and bytes of a frame.
type Owned = (u64, Option<LinkType>, u32, Vec<u8>);

#[derive(Clone, Copy)]
struct Order(bool);

impl Order {
    const BIG: Self = Self(true);
    const LITTLE: Self = Self(false);

    fn u16(self, value: u16) -> [u8; 2] {
        if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
    }
}

/// Returns a pcap file with frames of 1, 2 and 3 bytes, one second and one unit apart.
fn pcap(order: Order, nanoseconds: bool) -> Vec<u8> {
    let magic = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    pcap_of(order, magic, &[])
}

/// Returns the same with this magic number, and with `extra` behind the header of each record.
fn pcap_of(order: Order, magic: u32, extra: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(order.u32(magic));
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    for word in [0, 0, 65_535, 1] {
        file.extend(order.u32(word));
    }
    for number in 1..=3_u32 {
        for word in [number, number, number, number + 10] {
            file.extend(order.u32(word));
        }
        file.extend(extra);
        file.extend(vec![number as u8; number as usize]);
    }
    file
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = order.u32(padded as u32 + 12);
    let mut block = Vec::new();
    block.extend(order.u32(kind));
    block.extend(len);
    block.extend(body);
    block.resize(8 + padded, 0);
    block.extend(len);
    block
}

fn section(order: Order) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(order.u32(0x1a2b_3c4d));
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend([0xff; 8]);
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: Order, link: u16, resolution: Option<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(order.u16(link));
    body.extend(order.u16(0));
    body.extend(order.u32(0));
    if let Some(resolution) = resolution {
        body.extend(order.u16(9));
        body.extend(order.u16(1));
        body.extend([resolution, 0, 0, 0]);
        body.extend([0; 4]);
    }
    block(order, 1, &body)
}

fn packet(order: Order, interface: u32, units: u64, bytes: &[u8], original: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [interface, (units >> 32) as u32, units as u32, bytes.len() as u32, original] {
        body.extend(order.u32(word));
    }
    body.extend(bytes);
    block(order, 6, &body)
}

/// Returns two sections. The first has interfaces of different link layers and time units.
fn pcapng(order: Order) -> Vec<u8> {
    let mut file = section(order);
    file.extend(interface(order, 1, None));
    file.extend(interface(order, 113, Some(9)));
    // Units of 2⁻¹⁰ seconds.
    file.extend(interface(order, 101, Some(0x8a)));
    file.extend(packet(order, 0, 1_500_000, &[1], 11));
    file.extend(packet(order, 1, 1_500_000_001, &[2, 2], 12));
    file.extend(packet(order, 2, 1536, &[3, 3, 3], 13));
    file.extend(section(order));
    file.extend(interface(order, 276, None));
    file.extend(packet(order, 0, 2_000_000, &[4; 4], 14));
    file
}

/// Returns a packet in the form before the current one. 7 packets were lost before it.
fn obsolete_packet(order: Order, interface: u16, units: u64, bytes: &[u8], original: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(order.u16(interface));
    body.extend(order.u16(7));
    for word in [(units >> 32) as u32, units as u32, bytes.len() as u32, original] {
        body.extend(order.u32(word));
    }
    body.extend(bytes);
    block(order, 2, &body)
}

fn simple_packet(order: Order, bytes: &[u8], original: u32) -> Vec<u8> {
    block(order, 3, &[&order.u32(original)[..], bytes].concat())
}

fn read(bytes: &[u8]) -> (Vec<Owned>, Result<(), CaptureFileError>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    fs::write(&path, bytes).unwrap();
    let mut frames = Vec::new();
    let outcome = CaptureFile::open(&path).and_then(|file| {
        file.for_each(|frame| frames.push((frame.time, frame.link, frame.original_len, frame.bytes.to_vec())))
    });
    (frames, outcome)
}

fn expected_pcap(unit: u64) -> Vec<Owned> {
    (1..=3_u32)
        .map(|number| {
            let time = u64::from(number) * (SECOND + unit);
            (time, Some(LinkType::Ethernet), number + 10, vec![number as u8; number as usize])
        })
        .collect()
}

fn expected_pcapng() -> Vec<Owned> {
    vec![
        (1_500_000_000, Some(LinkType::Ethernet), 11, vec![1]),
        (1_500_000_001, Some(LinkType::LinuxSll), 12, vec![2, 2]),
        (1_500_000_000, Some(LinkType::RawIp), 13, vec![3; 3]),
        (2_000_000_000, Some(LinkType::LinuxSll2), 14, vec![4; 4]),
    ]
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_resolutions() {
    for order in [Order::BIG, Order::LITTLE] {
        for (nanoseconds, unit) in [(false, 1000), (true, 1)] {
            let (frames, outcome) = read(&pcap(order, nanoseconds));
            outcome.unwrap();
            assert_eq!(frames, expected_pcap(unit));
        }
    }
}

/// The form of Alexey Kuznetzov's patches has longer headers of records.
#[test]
fn modified_pcap_is_read_in_both_byte_orders_and_wherever_it_is_cut() {
    for order in [Order::BIG, Order::LITTLE] {
        let file = pcap_of(order, 0xa1b2_cd34, &[7; 8]);
        let (frames, outcome) = read(&file);
        outcome.unwrap();
        assert_eq!(frames, expected_pcap(1000));
        every_truncation(&file, &expected_pcap(1000), &[24, 24 + 25, 24 + 25 + 26]);
    }
    let mut empty = pcap_of(Order::BIG, 0xa1b2_cd34, &[7; 8])[..24].to_vec();
    empty.extend([0; 24 + 20]);
    let (frames, outcome) = read(&empty);
    assert_eq!(frames.len(), 1, "a record without bytes is as long as its header");
    assert!(matches!(outcome, Err(CaptureFileError::Damaged { offset: 48, .. })), "{outcome:?}");
}

#[test]
fn pcapng_is_read_with_all_its_interfaces_and_sections() {
    for order in [Order::BIG, Order::LITTLE] {
        let (frames, outcome) = read(&pcapng(order));
        outcome.unwrap();
        assert_eq!(frames, expected_pcapng());
    }
}

#[test]
fn packets_of_every_form_are_packets() {
    for order in [Order::BIG, Order::LITTLE] {
        let mut file = section(order);
        file.extend(interface(order, 1, None));
        file.extend(interface(order, 101, None));
        file.extend(obsolete_packet(order, 1, 1_000_000, &[1, 1, 1], 11));
        file.extend(simple_packet(order, &[2, 2], 2));
        // A section of the other byte order, with interfaces of its own.
        let other = Order(!order.0);
        file.extend(section(other));
        file.extend(interface(other, 113, None));
        file.extend(obsolete_packet(other, 0, 2_000_000, &[3], 1));
        let (frames, outcome) = read(&file);
        outcome.unwrap();
        assert_eq!(
            frames,
            [
                (SECOND, Some(LinkType::RawIp), 11, vec![1, 1, 1]),
                // It has neither an interface of its own nor a time.
                (SECOND, Some(LinkType::Ethernet), 2, vec![2, 2]),
                (2 * SECOND, Some(LinkType::LinuxSll), 1, vec![3]),
            ]
        );
    }
}

#[test]
fn hostile_blocks_that_contradict_themselves_are_errors_that_name_the_mistake() {
    let order = Order::LITTLE;
    let with_option = |code: u16, len: u16, value: &[u8]| {
        let mut body = [&order.u16(1)[..], &[0; 6], &order.u16(code), &order.u16(len)].concat();
        body.extend(value);
        block(order, 1, &body)
    };
    let usual = interface(order, 1, None);
    for (blocks, reason) in [
        (simple_packet(order, &[1], 1), "not described"),
        (obsolete_packet(order, 0, 0, &[1], 1), "not described"),
        ([&usual[..], &obsolete_packet(order, 1, 0, &[1], 1)].concat(), "not described"),
        ([&usual[..], &packet(order, u32::MAX, 0, &[1], 1)].concat(), "not described"),
        ([&usual[..], &simple_packet(order, &[1], 40)].concat(), "longer than its block"),
        ([&usual[..], &block(order, 2, &[0; 16])].concat(), "too short"),
        ([&usual[..], &block(order, 3, &[])].concat(), "too short"),
        (block(order, 1, &[0; 4]), "too short"),
        (with_option(2, 40, b"eth0"), "option that is longer"),
        ([with_option(9, 1, &[20, 0, 0, 0]), packet(order, 0, 0, &[1], 1)].concat(), "time resolution"),
        (
            [with_option(9, 1, &[0x80 | 64, 0, 0, 0]), packet(order, 0, 0, &[1], 1)].concat(),
            "time resolution",
        ),
        ([with_option(9, 0, &[]), packet(order, 0, 0, &[1], 1)].concat(), "time resolution"),
        (with_option(14, 4, &[0; 4]), "time offset"),
        (block(order, 0x0a0d_0d0a, &order.u32(0x1a2b_3c4d)), "too short"),
        (
            block(order, 0x0a0d_0d0a, &[&order.u32(0x1a2b_3c4d)[..], &[2, 0, 0, 0], &[0xff; 8]].concat()),
            "version",
        ),
        (block(order, 0x0a0d_0d0a, &[0; 16]), "byte order"),
    ] {
        let good = [section(order), interface(order, 1, None), packet(order, 0, 0, &[9], 1)].concat();
        let (frames, outcome) = read(&[&good[..], &section(order), &blocks].concat());
        assert_eq!(frames.len(), 1, "{reason}");
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}, not: {reason}");
    }
}

/// A file is not refused for an interface whose packets it does not have.
#[test]
fn hostile_interfaces_that_no_packet_uses_refuse_nothing() {
    for order in [Order::BIG, Order::LITTLE] {
        for resolution in [20, 0x80 | 64, 0xff] {
            let mut file = section(order);
            file.extend(interface(order, 1, Some(resolution)));
            file.extend(interface(order, 1, None));
            file.extend(packet(order, 1, 1_000_000, &[1], 11));
            // It has no time of its own.
            file.extend(simple_packet(order, &[2, 2], 2));
            let (frames, outcome) = read(&file);
            outcome.unwrap();
            let ethernet = Some(LinkType::Ethernet);
            assert_eq!(frames, [(SECOND, ethernet, 11, vec![1]), (SECOND, ethernet, 2, vec![2, 2])]);
        }
    }
}

#[test]
fn a_section_with_a_header_longer_than_the_buffer_is_read() {
    let order = Order::LITTLE;
    let mut body = [&order.u32(0x1a2b_3c4d)[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    body.extend([1, 0, 0, 0].repeat(BUFFER));
    let header = block(order, 0x0a0d_0d0a, &body);
    let file = [header, interface(order, 1, None), packet(order, 0, 1_000_000, &[1], 11)].concat();
    let (frames, outcome) = read(&file);
    outcome.unwrap();
    assert_eq!(frames.len(), 1);
}

#[test]
fn extreme_resolutions_of_time_are_read() {
    let order = Order::LITTLE;
    // Seconds, 10⁻¹⁹ seconds, seconds, and 2⁻⁶³ seconds.
    for (option, units, time) in [
        (0, 5, 5 * SECOND),
        (19, 5_000_000_000_000_000_000, SECOND / 2),
        (0x80, 5, 5 * SECOND),
        (0x80 | 63, 1 << 62, SECOND / 2),
        (0, u64::MAX, u64::MAX),
    ] {
        let mut file = section(order);
        file.extend(interface(order, 1, Some(option)));
        file.extend(packet(order, 0, units, &[1], 1));
        let (frames, outcome) = read(&file);
        outcome.unwrap();
        assert_eq!(frames[0].0, time, "{option:#x}");
    }
}

#[test]
fn compressed_files_are_read_as_they_are() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&pcapng(Order::LITTLE)).unwrap();
    let zstd = zstd::encode_all(pcapng(Order::LITTLE).as_slice(), 0).unwrap();
    for file in [gzip.finish().unwrap(), zstd] {
        let (frames, outcome) = read(&file);
        outcome.unwrap();
        assert_eq!(frames, expected_pcapng());
    }
}

/// Cuts `file` at every byte: the frames before the cut are read, and the rest is an error that contains the
/// offset at which it begins.
fn every_truncation(file: &[u8], expected: &[Owned], begins: &[usize]) {
    for cut in 0..file.len() {
        let (frames, outcome) = read(&file[..cut]);
        let whole = begins.contains(&cut);
        assert_eq!(frames, expected[..frames.len()], "cut at {cut}");
        match outcome {
            Ok(()) => assert!(whole, "cut at {cut}"),
            Err(CaptureFileError::Damaged { offset, .. }) => {
                assert!(!whole, "cut at {cut}");
                let begin = begins.iter().rfind(|&&begin| begin <= cut).unwrap();
                assert_eq!(offset, *begin, "cut at {cut}");
            }
            Err(CaptureFileError::Empty { .. }) => assert_eq!(cut, 0),
            Err(CaptureFileError::Format { .. }) => assert!(cut < begins[0], "cut at {cut}"),
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
}

#[test]
fn a_pcap_file_cut_at_any_byte_gives_the_frames_before_the_cut() {
    let begins = [24, 24 + 17, 24 + 17 + 18];
    every_truncation(&pcap(Order::LITTLE, false), &expected_pcap(1000), &begins);
}

#[test]
fn a_pcapng_file_cut_at_any_byte_gives_the_frames_before_the_cut() {
    let file = pcapng(Order::LITTLE);
    let mut begins = Vec::new();
    let mut at = 0;
    while at < file.len() {
        at += u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
        begins.push(at);
    }
    every_truncation(&file, &expected_pcapng(), &begins);
}

#[test]
fn a_compressed_file_that_is_cut_says_so() {
    let file = zstd::encode_all(pcap(Order::LITTLE, false).as_slice(), 0).unwrap();
    let (_, outcome) = read(&file[..file.len() - 3]);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("incomplete"), "{error}");
}

#[test]
fn impossible_lengths_are_damage() {
    for len in [0x7fff_ffff_u32, u32::MAX, 17 * 1024 * 1024] {
        let mut file = pcap(Order::LITTLE, false);
        file[24 + 8..24 + 12].copy_from_slice(&len.to_le_bytes());
        let (frames, outcome) = read(&file);
        assert!(frames.is_empty());
        assert!(matches!(outcome, Err(CaptureFileError::Damaged { offset: 24, .. })), "{outcome:?}");
    }
}

/// A block that is not needed may be longer than any buffer.
#[test]
fn hostile_blocks_of_any_length_are_passed_over() {
    const SECRETS: u32 = 10;
    for order in [Order::BIG, Order::LITTLE] {
        let mut file = section(order);
        file.extend(interface(order, 1, None));
        file.extend(packet(order, 0, 1_000_000, &[1], 11));
        file.extend(block(order, SECRETS, &vec![7; 3 * MAX_RECORD]));
        file.extend(packet(order, 0, 2_000_000, &[2], 12));
        let end = file.len();
        file.extend(block(order, SECRETS, &[7; 100]));
        let (frames, outcome) = read(&file);
        outcome.unwrap();
        let bytes: Vec<_> = frames.iter().map(|frame| frame.3.clone()).collect();
        assert_eq!(bytes, [[1], [2]]);
        for cut in [end + 1, end + 12, file.len() - 4, file.len() - 1] {
            let (frames, outcome) = read(&file[..cut]);
            assert_eq!(frames.len(), 2);
            assert!(matches!(outcome, Err(CaptureFileError::Damaged { offset, .. }) if offset == end));
        }
        // The second length must equal the first.
        file.truncate(file.len() - 4);
        file.extend(order.u32(16));
        let outcome = read(&file).1;
        assert!(matches!(outcome, Err(CaptureFileError::Damaged { offset, .. }) if offset == end));
    }
}

#[test]
fn hostile_numbers_of_interfaces_are_refused_and_a_section_begins_anew() {
    let mut file = section(Order::LITTLE);
    for _ in 0..MAX_INTERFACES {
        file.extend(interface(Order::LITTLE, 1, None));
    }
    file.extend(packet(Order::LITTLE, MAX_INTERFACES as u32 - 1, 0, &[1], 1));
    let mut sections = file.repeat(3);
    let (frames, outcome) = read(&sections);
    outcome.unwrap();
    assert_eq!(frames.len(), 3);
    let end = sections.len();
    sections.extend(interface(Order::LITTLE, 1, None));
    sections.extend(packet(Order::LITTLE, 0, 0, &[1], 1));
    let (frames, outcome) = read(&sections);
    assert_eq!(frames.len(), 3);
    let error = outcome.unwrap_err();
    assert!(matches!(error, CaptureFileError::Damaged { offset, .. } if offset == end), "{error}");
    assert!(error.to_string().contains("more than 65536 interfaces"), "{error}");
}

#[test]
fn hostile_lengths_of_blocks_are_damage() {
    for len in [0, 8, 13, MAX_RECORD as u32 + 4, 0xffff_fffc, u32::MAX] {
        for kind in [1_u32, 3, 6] {
            let mut file = section(Order::LITTLE);
            let begin = file.len();
            file.extend(kind.to_le_bytes());
            file.extend(len.to_le_bytes());
            file.extend([0; 64]);
            let (frames, outcome) = read(&file);
            assert!(frames.is_empty());
            assert!(matches!(outcome, Err(CaptureFileError::Damaged { offset, .. }) if offset == begin));
        }
    }
}

#[test]
fn hostile_windows_of_zstd_are_refused_with_what_to_do() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(MAX_ZSTD_WINDOW_LOG + 1).unwrap();
    encoder.write_all(&pcapng(Order::LITTLE)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.pcapng.zst");
    fs::write(&path, encoder.finish().unwrap()).unwrap();
    let error = CaptureFile::open(&path).err().unwrap().to_string();
    assert!(error.contains("16 MiB") && error.contains("--long=31"), "{error}");
    // The bad frame follows one that is read.
    let mut file = zstd::encode_all(pcapng(Order::LITTLE).as_slice(), 0).unwrap();
    file.extend(fs::read(&path).unwrap());
    let (frames, outcome) = read(&file);
    assert_eq!(frames, expected_pcapng());
    assert!(outcome.unwrap_err().to_string().contains("--long=31"));
}

/// Returns a file of gzip members with these contents.
fn members<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut file = Vec::new();
    for content in contents {
        let mut member = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        member.write_all(content).unwrap();
        file = member.finish().unwrap();
    }
    file
}

/// An empty member takes twenty bytes, and as much time as any other.
#[test]
fn hostile_members_of_gzip_without_content_are_refused_beyond_a_bound() {
    let content = pcapng(Order::LITTLE);
    let (begin, end) = content.split_at(50);
    let split = |empty| {
        let nothing = std::iter::repeat_n(&[][..], empty);
        members([begin].into_iter().chain(nothing).chain([end, &[]]))
    };
    let (frames, outcome) = read(&split(1023));
    outcome.unwrap();
    assert_eq!(frames, expected_pcapng());
    let (_, outcome) = read(&split(1024));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("more than 1024 empty gzip members"), "{error}");
    // Members of a byte each are content.
    let (frames, outcome) = read(&members(content.chunks(1)));
    outcome.unwrap();
    assert_eq!(frames, expected_pcapng());
}

#[test]
fn a_packet_of_an_unknown_interface_is_damage() {
    let mut file = section(Order::LITTLE);
    file.extend(packet(Order::LITTLE, 0, 0, &[1], 1));
    let (frames, outcome) = read(&file);
    assert!(frames.is_empty());
    assert!(matches!(outcome, Err(CaptureFileError::Damaged { .. })));
}

#[test]
fn what_is_no_capture_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| CaptureFile::open(&directory.path().join(name)).err().unwrap();
    fs::write(directory.path().join("empty"), "").unwrap();
    fs::write(directory.path().join("text"), "hello, this is no capture file").unwrap();
    assert!(matches!(open("missing"), CaptureFileError::Open { .. }));
    assert!(matches!(open("empty"), CaptureFileError::Empty { .. }));
    assert!(matches!(open("text"), CaptureFileError::Format { .. }));
    assert!(matches!(open("."), CaptureFileError::Directory { .. }));
    assert!(open("text").to_string().contains("text is not a capture file"));
}

/// Length in bytes of each record of [`long`].
const RECORD: usize = 16 + 700;

/// Returns a pcap file of `frames` numbered frames, and those frames.
fn long(frames: u32) -> (Vec<u8>, Vec<Owned>) {
    let mut file = pcap(Order::LITTLE, true)[..24].to_vec();
    let mut expected = Vec::new();
    for number in 0..frames {
        for word in [number, 1, 700, 900] {
            file.extend(word.to_le_bytes());
        }
        let bytes: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(700).collect();
        file.extend(&bytes);
        expected.push((u64::from(number) * SECOND + 1, Some(LinkType::Ethernet), 900, bytes));
    }
    (file, expected)
}

#[test]
fn a_long_file_is_read_wherever_it_ends() {
    let (file, expected) = long(2_000);
    let (frames, outcome) = read(&file);
    outcome.unwrap();
    assert!(frames == expected);
    for whole in [400, 1_100, 1_999] {
        for cut in [1, 15, 16, 17, RECORD - 1] {
            let begin = 24 + whole * RECORD;
            let (frames, outcome) = read(&file[..begin + cut]);
            assert!(frames == expected[..whole], "{} frames", frames.len());
            let Err(CaptureFileError::Damaged { offset, .. }) = outcome else { panic!("{outcome:?}") };
            assert_eq!(offset, begin);
        }
    }
}

/// A single record of unusual form does not keep the others from being read.
#[test]
fn a_long_file_with_a_record_longer_than_any_buffer_is_read() {
    let (mut file, expected) = long(1_000);
    let giant = vec![7; 2 * BUFFER];
    for word in [0, 0, giant.len() as u32, giant.len() as u32] {
        file.extend(word.to_le_bytes());
    }
    file.extend(&giant);
    file.extend(&long(1_000).0[24..]);
    let (frames, outcome) = read(&file);
    outcome.unwrap();
    assert_eq!(frames.len(), 2_001);
    assert!(frames[..1_000] == expected && frames[1_001..] == expected);
    assert!(frames[1_000].3 == giant);
}
