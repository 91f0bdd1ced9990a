//! The buffers that analyzers hand over to rules.

use super::inspection::{alerts, bench};
use super::*;

const REQUEST: &[u8] =
    b"POST /a/../b%20c?d HTTP/1.1\r\nhost: A.Example:8080\r\nContent-Length: 8\r\n\r\nuser=one";

/// Returns text as a member of gzip that is not compressed, without a digest.
fn gzip(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap();
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    [&header, &len.to_le_bytes()[..], &(!len).to_le_bytes(), text, &[0; 8]].concat()
}

/// Returns a response whose body is encoded and in chunks of nine bytes.
fn response(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 Fine\r\nSet-Cookie: k=v\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in gzip(body).chunks(9) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Returns the alerts of a connection to the HTTP port whose sides send these bytes in pieces, without order.
fn of_talk(rules: &str, talk: &[(bool, &[u8])], piece: usize) -> Vec<u64> {
    let mut bench = bench(rules);
    let mut connection = Tcp::new(4000);
    connection.server.1 = 80;
    connection.open(&mut bench);
    for (from_client, bytes) in talk {
        for piece in bytes.chunks(piece) {
            bench.frame(&connection.segment(*from_client, "A", piece));
        }
    }
    connection.close(&mut bench);
    let mut alerts = alerts(bench);
    alerts.sort_unstable();
    alerts
}

#[test]
fn heads_and_decoded_bodies_are_inspected_however_they_are_cut() {
    let rules = r#"alert http any any -> any any (http.method; content:"POST"; http.uri; content:"/b c?d"; bsize:6; http.request_body; content:"user=one"; bsize:8; sid:1;)
alert http any any -> any any (http.host; content:"a.example"; bsize:9; http.host.raw; content:"A.Example:8080"; sid:2;)
alert http any any -> any any (http.header_names; content:"|0d 0a|host|0d 0a|Content-Length|0d 0a 0d 0a|"; startswith; endswith; sid:3;)
alert http any any -> any any (flow:to_client; http.stat_code; content:"200"; file.data; content:"the secret"; startswith; sid:4;)
alert http any any -> any any (flow:to_client; http.cookie; content:"k=v"; http.header; content:!"k=v"; http.stat_msg; content:"Fine"; sid:5;)
alert http any any -> any any (http.response_body; content:"user=one"; sid:6;)
alert http any any -> any any (flow:to_client; http.response_body; content:"word"; endswith; sid:7;)"#;
    let response = response(b"the secret word");
    for piece in [1, 7, usize::MAX] {
        assert_eq!(
            of_talk(rules, &[(true, REQUEST), (false, &response)], piece),
            [1, 2, 3, 4, 5, 7],
            "{piece}"
        );
    }
}

#[test]
fn each_of_many_transactions_has_its_own_buffers() {
    let rules = r#"alert http any any -> any any (http.uri; content:"/0"; http.request_body; content:"body"; sid:1;)
alert http any any -> any any (http.uri; content:"/1"; http.method; content:"POST"; sid:2;)"#;
    let requests: Vec<u8> = (0..6)
        .flat_map(|number| match number % 2 {
            0 => format!("GET /{} HTTP/1.1\r\n\r\n", number % 4).into_bytes(),
            _ => format!("POST /{number} HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody").into_bytes(),
        })
        .collect();
    assert_eq!(of_talk(rules, &[(true, &requests)], usize::MAX), [2]);
}

#[test]
fn a_body_is_inspected_up_to_its_limit_and_where_its_connection_ends() {
    let rules = r#"alert http any any -> any any (flow:to_client; file.data; content:"at the end"; endswith; sid:1;)
alert http any any -> any any (flow:to_client; file.data; content:"beyond"; sid:2;)"#;
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    let short = [&head[..], b"text at the end"].concat();
    assert_eq!(of_talk(rules, &[(true, b"GET / HTTP/1.1\r\n\r\n"), (false, &short)], 1000), [1]);
    let long = [&head[..], &vec![b'x'; 100 * 1024 - 10], b"at the endbeyond"].concat();
    assert_eq!(of_talk(rules, &[(true, b"GET / HTTP/1.1\r\n\r\n"), (false, &long)], 1000), [1]);
}

#[test]
fn banners_of_ssh_are_inspected() {
    let rules = r#"alert ssh any any -> any any (flow:to_server; ssh.software; content:"client_1"; bsize:8; sid:1;)
alert ssh any any -> any any (flow:to_client; ssh.proto; content:"2.0"; ssh.software; content:"server"; sid:2;)"#;
    let talk: [(bool, &[u8]); 2] = [(false, b"SSH-2.0-server here\r\n"), (true, b"SSH-2.0-client_1\r\n")];
    assert_eq!(of_talk(rules, &talk, usize::MAX), [1, 2]);
}
