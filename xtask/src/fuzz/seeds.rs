//! The first inputs of the fuzz targets: the frames and messages of tests and benchmarks, in the form that
//! each target reads.

use std::net::Ipv4Addr;
use std::path::Path;
use std::{fs, io};

use mirror_xdp_tests::bench::traffic::{mixed, write_pcap};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, geneve_option, mirrored};
use mirror_xdp_tests::tls::{client_hello, server_hello, with_len8, with_len16};

/// The link type of Ethernet in capture files.
const ETHERNET: u8 = 1;

/// Writes the seeds of each target into a directory of that name.
pub(super) fn write(directory: &Path) -> io::Result<()> {
    let seeds: [(&str, Vec<Vec<u8>>); 11] = [
        ("dns", messages()),
        ("http", http().into_iter().map(|message| [&[40], &message[..]].concat()).collect()),
        ("tls", vec![pieces(&[(0, client_hello("www.example.com")), (1, server_hello())])]),
        ("quic", quic().into_iter().map(|datagram| lengths(0, &datagram)).collect()),
        ("detect", openings()),
        ("packet", frames().into_iter().map(|frame| [&[ETHERNET, 0], &frame[..]].concat()).collect()),
        ("capture_file", captures()?),
        ("worker", conversations()),
        ("expression", expressions().map(|text| text.as_bytes().to_vec()).into()),
        ("manifest", manifests().map(|text| text.as_bytes().to_vec()).into()),
        ("store", changes()),
    ];
    for (target, seeds) in seeds {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// Expressions as `extract` accepts them.
fn expressions() -> [&'static str; 6] {
    [
        "host 172.31.0.1 and port 53 and vni 7",
        "not (udp or outer src 10.0.0.0/16) and not vni 100-199",
        "community-id 1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "vni 7 or vni 8 and ( tcp[0] & 1 != 0 or ip6 net fd31::/16 )",
        "src portrange 40000-40010 and greater 500",
        "ether host ff:ff:ff:ff:ff:ff or vlan 7 and arp",
    ]
}

/// Lines of a store's manifest, well-formed but with false digests.
fn manifests() -> [&'static str; 2] {
    [
        concat!(
            r#"{"number":1,"time":1,"previous":"","event":"segment","#,
            r#""file":"00000001-w0-20260101T000000Z.pcapng","size":4096,"sha256":"00","index_size":1,"#,
            r#""index_sha256":"00","packets":1,"bytes":60,"first":1,"last":1,"vnis":[7],"#,
            "\"recovered\":false,\"digest\":\"00\"}\n",
        ),
        concat!(
            r#"{"number":2,"time":1,"previous":"00","event":"deleted","#,
            "\"file\":\"00000001-w0-20260101T000000Z.pcapng\",\"reason\":\"age\",\"digest\":\"00\"}\n",
        ),
    ]
}

/// Changes to files of stores: store (finished or not), file, kind of change. The target makes the stores.
fn changes() -> Vec<Vec<u8>> {
    let mut changes = Vec::new();
    for which in [0, 1, 2, 3, 0x80, 0x81, 0x82, 0x83] {
        for file in 0..4 {
            for how in [0x80, 0x81, 0x82] {
                changes.push(vec![which, file, how, 60, 0, 0xff, 0, 9, 1, 1, 0]);
            }
        }
    }
    changes
}

fn messages() -> Vec<Vec<u8>> {
    let answer = dns_answer(7, "www.example.com", Ipv4Addr::LOCALHOST);
    vec![dns_query(7, "www.example.com"), answer.clone(), with_len16(&answer)]
}

fn http() -> Vec<Vec<u8>> {
    vec![
        b"POST /a?b=c HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n"
            .to_vec(),
        b"5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: x\r\n\r\n".to_vec(),
    ]
}

/// Encodes pieces as the target of TLS reads them: a byte for length and direction, then the piece.
fn pieces(turns: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let piece = |from: u8, bytes: &[u8]| [&[(bytes.len() as u8) << 1 | from], bytes].concat();
    turns.iter().flat_map(|(from, bytes)| bytes.chunks(100).flat_map(|bytes| piece(*from, bytes))).collect()
}

/// Datagrams that begin with the headers of Initial, Version Negotiation and Retry packets (RFC 9000, section
/// 17.2).
fn quic() -> Vec<Vec<u8>> {
    let ids =
        [with_len8(&[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]), with_len8(&[1, 2, 3, 4])].concat();
    let long = |first: u8, version: u32, rest: &[u8]| {
        let mut datagram = [&[first], &version.to_be_bytes()[..], &ids, rest].concat();
        datagram.resize(1200, 0);
        datagram
    };
    // An empty token, and a length of 1157 bytes.
    vec![
        long(0xc3, 1, &[0, 0x44, 0x85]),
        long(0xd3, 0x6b33_43cf, &[0, 0x44, 0x85]),
        long(0xf0, 0, &[0, 0, 0, 1]),
    ]
}

/// Encodes a datagram as the target of QUIC reads it: two bytes for direction and length, then the datagram.
fn lengths(from: u8, datagram: &[u8]) -> Vec<u8> {
    let [high, low] = (datagram.len() as u16).to_be_bytes();
    [&[from | high << 1, low], datagram].concat()
}

/// Encodes first bytes as the target of detection reads them: transport and direction, port, offset of the
/// cut.
fn openings() -> Vec<Vec<u8>> {
    let over = |kind: u8, port: u16, bytes: &[u8]| {
        let [high, low] = port.to_be_bytes();
        [&[kind, high, low, 3], bytes].concat()
    };
    let mut openings: Vec<_> = http().iter().map(|message| over(0, 80, message)).collect();
    openings.extend(messages().iter().map(|message| over(1, 53, message)));
    openings.extend(quic().iter().map(|datagram| over(1, 443, datagram)));
    openings.push(over(0, 443, &client_hello("www.example.com")));
    openings.push(over(0, 22, b"SSH-2.0-OpenSSH_9.2\r\n"));
    openings.push(over(2, 25, b"220 mail.example ESMTP\r\n"));
    openings
}

/// Frames with all kinds of headers.
fn frames() -> Vec<Vec<u8>> {
    let inner = Flow::v4(40_000, 53).udp(&dns_query(7, "www.example.com"));
    let tagged = Flow::v6(40_000, 80).vlan(7).vlan(8);
    let mut frames = vec![
        inner.clone(),
        Flow::v4(1, 2).ping(7, 1),
        mirrored(7).carrying(&inner),
        mirrored(7).over_ipv6().vlan(42).ip_options(&[1; 4]).carrying(&inner),
        mirrored(7).by_gateway(1, 2, 3).carrying(&inner),
        mirrored(7).geneve().geneve_options(&geneve_option(0x0108, 1, &[0; 8])).carrying(&inner),
    ];
    frames.extend(tagged.tcp_handshake());
    frames
}

fn captures() -> io::Result<Vec<Vec<u8>>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("seed.pcap");
    write_pcap(&path, &frames())?;
    Ok(vec![fs::read(path)?])
}

/// Encodes frames as the target of the worker reads them: length, time step, session.
fn conversations() -> Vec<Vec<u8>> {
    let one =
        |session: u8, frame: &[u8]| [&(frame.len() as u16).to_be_bytes()[..], &[1, session], frame].concat();
    let mixed = mixed();
    let plain: Vec<u8> = mixed.iter().take(40).flat_map(|frame| one(0, frame)).collect();
    // Mirrored at both ends.
    let both: Vec<u8> =
        mixed.iter().take(30).flat_map(|frame| [one(1, frame), one(2, frame)].concat()).collect();
    let headers = frames().iter().flat_map(|frame| one(3, frame)).collect();
    vec![plain, both, headers]
}
