//! The table of signatures. It has those of the protocols' folders, and here those of all other protocols.

use AppProto::{
    BittorrentDht, Dcerpc, Dhcp, Dns, Ftp, Http, Http2, Ike, Imap, Krb5, Mqtt, Nfs, Ntp, Quic, Rdp, Rfb, Sip,
    Smb, Smtp, Snmp, Telnet, Tftp, Tls,
};
use Direction::{ToClient, ToServer};
use Test::{Begins, Content};
use mirror_packet::Direction;

use super::{AppProto, Transport};
use crate::{Protocol, dns, http2, quic};

/// The verdict on the first bytes of a direction, in ascending order of confidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// They do not match.
    No,
    /// More bytes are needed.
    More,
    /// They match.
    Yes,
}

impl From<bool> for Probe {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// The signature of a protocol.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    pub(super) protocol: AppProto,
    transport: Transport,
    /// The direction that is checked; `None` for either.
    pub(super) from: Option<Direction>,
    /// Ports on which it applies; empty for all.
    pub(super) ports: &'static [u16],
    /// It does not apply if the flow may be seen in reverse, since the port alone almost decides.
    pub(super) weak: bool,
    test: Test,
}

/// The test of a signature.
#[derive(Clone, Copy, Debug)]
pub enum Test {
    /// The first bytes are one of these, ignoring case.
    Begins(&'static [&'static [u8]]),
    /// A function that checks the content.
    Content(fn(&[u8]) -> Probe),
}

impl Signature {
    /// Creates the signature of a protocol over TCP. `from` is the direction that is checked, or `None` for
    /// either; `ports` are those on which it applies, or empty for all.
    #[must_use]
    pub const fn stream(
        protocol: AppProto,
        from: Option<Direction>,
        ports: &'static [u16],
        test: Test,
    ) -> Self {
        Self { protocol, transport: Transport::Tcp, from, ports, weak: false, test }
    }

    /// Creates the signature of a protocol over UDP.
    #[must_use]
    pub const fn datagram(
        protocol: AppProto,
        from: Option<Direction>,
        ports: &'static [u16],
        test: Test,
    ) -> Self {
        Self { transport: Transport::Udp, ..Self::stream(protocol, from, ports, test) }
    }

    const fn weak(self) -> Self {
        Self { weak: true, ..self }
    }

    /// Checks the first bytes of a direction.
    #[must_use]
    pub fn look(&self, bytes: &[u8]) -> Probe {
        match self.test {
            Begins(words) => words.iter().map(|word| begins(word, bytes)).max().unwrap_or(Probe::No),
            Content(test) => test(bytes),
        }
    }

    /// Returns true if a table's list has the signature.
    const fn is_in(&self, transport: Transport, everywhere: bool) -> bool {
        self.transport as u8 == transport as u8 && self.ports.is_empty() == everywhere
    }
}

/// Returns the number of signatures in a table's list.
const fn count(lists: &[&[Signature]], transport: Transport, everywhere: bool) -> usize {
    let (mut count, mut list) = (0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            count += lists[list][at].is_in(transport, everywhere) as usize;
            at += 1;
        }
        list += 1;
    }
    count
}

/// Returns a table's list: the signatures out of these lists, in their order.
const fn gather<const N: usize>(
    lists: &[&[Signature]],
    transport: Transport,
    everywhere: bool,
) -> [Signature; N] {
    let mut gathered = [lists[0][0]; N];
    let (mut count, mut list) = (0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            if lists[list][at].is_in(transport, everywhere) {
                gathered[count] = lists[list][at];
                count += 1;
            }
            at += 1;
        }
        list += 1;
    }
    gathered
}

macro_rules! lists {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine $engine:tt detected $detected:tt) => {
        /// All signatures.
        const LISTS: &[&[Signature]] = &[SIGNATURES, $(<crate::$folder::$type as Protocol>::SIGNATURES),*];
    };
}
crate::protocols! { lists () }

/// Returns the table of a transport protocol.
macro_rules! table {
    ($transport:expr) => {
        Table::new(
            const { &gather::<{ count(LISTS, $transport, true) }>(LISTS, $transport, true) },
            const { &gather::<{ count(LISTS, $transport, false) }>(LISTS, $transport, false) },
        )
    };
}

fn begins(word: &[u8], bytes: &[u8]) -> Probe {
    let len = word.len().min(bytes.len());
    match (word.get(..len), bytes.get(..len)) {
        (Some(word), Some(bytes)) if !word.eq_ignore_ascii_case(bytes) => Probe::No,
        _ if len < word.len() => Probe::More,
        _ => Probe::Yes,
    }
}

/// The signatures of a transport protocol. In each list, the first match decides.
pub(super) struct Table {
    /// Those that apply on every port.
    pub(super) everywhere: &'static [Signature],
    /// Those that apply on some ports.
    pub(super) on_ports: &'static [Signature],
    /// One bit for each port, set if one of `on_ports` applies there.
    ports: [u64; Self::PORTS / 64],
}

impl Table {
    const PORTS: usize = 1 << 16;

    const fn new(everywhere: &'static [Signature], on_ports: &'static [Signature]) -> Self {
        let mut ports = [0; Self::PORTS / 64];
        let mut rest = on_ports;
        while let [signature, behind @ ..] = rest {
            let mut own = signature.ports;
            while let [port, further @ ..] = own {
                ports[*port as usize / 64] |= 1 << (*port % 64);
                own = further;
            }
            rest = behind;
        }
        Self { everywhere, on_ports, ports }
    }

    /// Returns true if one of `on_ports` applies on this port.
    pub(super) const fn has(&self, port: u16) -> bool {
        self.ports[port as usize / 64] >> (port % 64) & 1 == 1
    }
}

/// The signatures of streams.
pub(super) static STREAMS: Table = table!(Transport::Tcp);

/// The signatures of datagrams.
pub(super) static DATAGRAMS: Table = table!(Transport::Udp);

/// The signatures of protocols without a folder of their own.
const SIGNATURES: &[Signature] = &[
    stream(Http, Some(ToServer), &[], Content(http_request)),
    stream(Http, Some(ToClient), &[], Begins(&[b"HTTP/0.9", b"HTTP/1.0", b"HTTP/1.1"])),
    stream(Http2, Some(ToServer), &[], Begins(&[b"PRI * "])),
    stream(Tls, Some(ToServer), &[], Content(tls_from_client)),
    stream(Tls, Some(ToClient), &[], Content(tls_from_server)),
    stream(Smtp, Some(ToServer), &[], Begins(&[b"EHLO", b"HELO", b"QUIT"])),
    stream(Ftp, Some(ToServer), &[], Begins(&[b"USER ", b"PASS ", b"PORT "])),
    stream(Imap, Some(ToServer), &[], Begins(&[b"1 capability"])),
    stream(Imap, Some(ToClient), &[], Begins(&[b"* OK "])),
    stream(Rfb, None, &[], Begins(&[b"RFB "])),
    stream(Smb, None, &[], Content(smb)),
    stream(Dcerpc, None, &[], Content(dcerpc)),
    stream(Dns, None, &[53], Content(dns_stream)),
    stream(Smtp, Some(ToClient), &[25, 465, 587], Content(greeting)),
    stream(Ftp, Some(ToClient), &[21], Content(greeting)),
    stream(Smb, None, &[139, 445], Content(netbios_session)),
    stream(Krb5, None, &[88], Content(kerberos_stream)),
    stream(Mqtt, None, &[1883], Content(mqtt)),
    stream(Http2, Some(ToClient), &[80], Content(http2_settings)),
    stream(Nfs, None, &[2049], Content(rpc_stream)),
    stream(Rdp, None, &[3389], Begins(&[&[3, 0]])),
    stream(Http2, None, &[], Content(http2_frames)),
    stream(Telnet, None, &[23], Content(|bytes| if bytes.len() < 2 { Probe::More } else { Probe::Yes })),
    datagram(Dcerpc, Some(ToServer), &[], Content(dcerpc_datagram)),
    datagram(BittorrentDht, None, &[], Begins(&[b"d1:ad2:id20:"])),
    datagram(Dns, None, &[53], Content(|bytes| dns::probe(bytes).into())),
    datagram(Krb5, None, &[88], Content(kerberos)),
    datagram(Snmp, None, &[161, 162], Content(snmp)),
    datagram(Ntp, None, &[123], Content(ntp)),
    datagram(Nfs, None, &[2049], Content(rpc)),
    datagram(Dhcp, None, &[67, 68], Content(dhcp)),
    datagram(Tftp, Some(ToServer), &[69], Content(tftp)),
    datagram(Ike, None, &[500], Content(ike)),
    datagram(Sip, None, &[5060, 5061], Content(sip)),
    datagram(Quic, None, &[443, 80], Content(|bytes| quic::probe(bytes).into())).weak(),
    datagram(Quic, None, &[443, 80], Content(|bytes| quic::probe_version(bytes).into())),
    datagram(Quic, None, &[], Content(|bytes| quic::probe_initial(bytes).into())),
    // A server may begin with other packets than Initial ones, and with short connection IDs.
    datagram(Quic, Some(ToClient), &[], Content(|bytes| quic::probe_version(bytes).into())),
];

const fn stream(protocol: AppProto, from: Option<Direction>, ports: &'static [u16], test: Test) -> Signature {
    Signature::stream(protocol, from, ports, test)
}

const fn datagram(
    protocol: AppProto,
    from: Option<Direction>,
    ports: &'static [u16],
    test: Test,
) -> Signature {
    Signature::datagram(protocol, from, ports, test)
}

/// The methods of HTTP/1.1, `WebDAV` (RFC 4918) and versioning (RFC 3253).
const METHODS: [&[u8]; 28] = [
    b"GET",
    b"PUT",
    b"POST",
    b"HEAD",
    b"TRACE",
    b"OPTIONS",
    b"CONNECT",
    b"DELETE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
    b"CHECKOUT",
    b"UNCHECKOUT",
    b"CHECKIN",
    b"UPDATE",
    b"LABEL",
    b"REPORT",
    b"MKWORKSPACE",
    b"MKACTIVITY",
    b"MERGE",
    b"INVALID",
    b"VERSION-CONTROL",
    b"BASELINE-CONTROL",
];

/// Matches a method, followed by a space or a tab.
fn http_request(bytes: &[u8]) -> Probe {
    let Some(end) = bytes.iter().take(17).position(|byte| matches!(byte, b' ' | b'\t')) else {
        let open =
            METHODS.iter().any(|method| bytes.len() <= method.len() && begins(method, bytes) != Probe::No);
        return if open { Probe::More } else { Probe::No };
    };
    let word = bytes.get(..end).unwrap_or_default();
    if word == b"get" && !matches!(bytes.get(end + 1), None | Some(b'/' | b'h' | b'*')) {
        // A key in Memcached's protocol of text.
        return Probe::No;
    }
    METHODS.iter().any(|method| method.eq_ignore_ascii_case(word)).into()
}

/// Matches a record of SSL 3.0 to TLS 1.3 with one of these content types (RFC 8446, section 5.1).
fn tls_record(bytes: &[u8], types: &[u8]) -> Probe {
    match bytes {
        [kind, ..] if !types.contains(kind) => Probe::No,
        [_] | [_, 3] => Probe::More,
        [_, 3, 0..=3, ..] => Probe::Yes,
        _ => Probe::No,
    }
}

/// Matches a handshake, or the first record of an SSL 2.0 client hello: length, type 1, version.
fn tls_from_client(bytes: &[u8]) -> Probe {
    match bytes {
        [0x80..=0xff, _, 1, 0, 2, ..] | [0x80..=0xff, _, 1, 3, 0..=3, ..] => Probe::Yes,
        [0x80..=0xff] | [0x80..=0xff, _] | [0x80..=0xff, _, 1] | [0x80..=0xff, _, 1, 0 | 3] => Probe::More,
        _ => tls_record(bytes, &[1, 22]),
    }
}

/// Matches alert, handshake or application data.
fn tls_from_server(bytes: &[u8]) -> Probe {
    tls_record(bytes, &[21, 22, 23])
}

/// Matches SMB 1, 2 and 3, the latter also encrypted, behind four bytes of length.
fn smb(bytes: &[u8]) -> Probe {
    match bytes {
        [_, _, _, _, 0xfd..=0xff, b'S', b'M', b'B', ..] => Probe::Yes,
        [0, _, _] | [0, _, _, _] | [0, _, _, _, 0xfd..=0xff] => Probe::More,
        _ => Probe::No,
    }
}

/// Matches a session request, its responses and keep-alive (RFC 1002, section 4.3.1).
fn netbios_session(bytes: &[u8]) -> Probe {
    matches!(bytes, [0x81..=0x85, _, _, _, ..]).into()
}

/// Matches a connection-oriented header: version 5.0, data representation.
fn dcerpc(bytes: &[u8]) -> Probe {
    match bytes {
        [5, 0, _, _, form, float, ..] => (form & 0xee == 0 && *float <= 3 && bytes.len() >= 16).into(),
        [5] | [5, 0] | [5, 0, _] | [5, 0, _, _] | [5, 0, _, _, _] => Probe::More,
        _ => Probe::No,
    }
}

/// Matches a connectionless header: version 4, type, flags, data representation, and at its end the length of
/// the body. DNS messages with a matching identifier pass all checks but the last.
fn dcerpc_datagram(bytes: &[u8]) -> Probe {
    let ([4, kind, _, _, form, float, ..], Some([low, high])) = (bytes, bytes.get(74..76)) else {
        return Probe::No;
    };
    let little_endian = form & 0x10 != 0;
    let body = if little_endian { [*low, *high].map(usize::from) } else { [*high, *low].map(usize::from) };
    let len = 80 + body[0] + (body[1] << 8);
    (*kind <= 19 && form & 0xee == 0 && *float <= 3 && len <= bytes.len()).into()
}

fn dns_stream(bytes: &[u8]) -> Probe {
    if dns::probe_tcp(bytes) {
        Probe::Yes
    } else if bytes.len() < 14 {
        Probe::More
    } else {
        Probe::No
    }
}

/// Matches the first line of an SMTP or FTP server.
fn greeting(bytes: &[u8]) -> Probe {
    match begins(b"220", bytes) {
        Probe::Yes => match bytes.get(3) {
            Some(b' ' | b'-') => Probe::Yes,
            Some(_) => Probe::No,
            None => Probe::More,
        },
        other => other,
    }
}

/// Reads the header of a BER value with a definite length. Returns the tag, and the bytes behind tag and
/// length.
fn ber(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (len, rest) = rest.split_first()?;
    let more = if len & 0x80 != 0 { usize::from(len & 0x7f) } else { 0 };
    if more > 4 {
        return None;
    }
    Some((*tag, rest.get(more..)?))
}

/// Matches an application tag up to 30, in it a sequence, and in that the version: 5 (RFC 4120).
fn kerberos(bytes: &[u8]) -> Probe {
    let version = || {
        let (tag, rest) = ber(bytes)?;
        let (sequence, rest) = ber(rest)?;
        (tag & 0xc0 == 0x40 && tag & 0x1f <= 30 && sequence == 0x30).then_some(rest)
    };
    matches!(version(), Some([_, _, 2, 1, 5, _, ..])).into()
}

fn kerberos_stream(bytes: &[u8]) -> Probe {
    match bytes {
        [0, 0, 0..=0x40, _, message @ ..] if message.len() > 10 => kerberos(message),
        [0, 0, 0..=0x40, ..] | [0] | [0, 0] => Probe::More,
        _ => Probe::No,
    }
}

/// Matches a sequence that begins with the version: 0, 1 or 3 (RFC 1157, 1901, 3412).
fn snmp(bytes: &[u8]) -> Probe {
    matches!(ber(bytes), Some((0x30, [2, 1, 0 | 1 | 3, ..]))).into()
}

/// Matches version 3 or 4 (RFC 5905, section 7.3).
fn ntp(bytes: &[u8]) -> Probe {
    match bytes {
        [first, ..] => (matches!(first >> 3 & 7, 3 | 4) && bytes.len() >= 48).into(),
        [] => Probe::No,
    }
}

/// Matches a packet type other than 0 with a quality of service up to 2.
fn mqtt(bytes: &[u8]) -> Probe {
    match bytes {
        [first, _, ..] => (first >> 4 != 0 && first >> 1 & 3 <= 2).into(),
        _ => Probe::More,
    }
}

/// Matches a SETTINGS frame of at most 16 KiB (RFC 9113, section 4.1), with which a server begins.
fn http2_settings(bytes: &[u8]) -> Probe {
    match bytes {
        [0, high, low, 4, 0 | 1, stream, _, _, _, ..] => {
            (u16::from_be_bytes([*high, *low]) <= 16_384 && stream & 0x80 == 0).into()
        }
        _ => Probe::No,
    }
}

/// Matches frames of a connection whose beginning is missing, or of a server.
fn http2_frames(bytes: &[u8]) -> Probe {
    http2::resumes(bytes).map_or(Probe::More, Probe::from)
}

/// Matches a call of the program NFS, version 2 to 4, or an accepted and successful reply (RFC 5531, section
/// 9).
fn rpc(bytes: &[u8]) -> Probe {
    let word = |index: usize| {
        let bytes = bytes.get(4 * index..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    };
    match word(1) {
        Some(0) => (word(3) == Some(100_003) && matches!(word(4), Some(2..=4))).into(),
        Some(1) => (word(2) == Some(0)).into(),
        _ => Probe::No,
    }
}

/// Matches the same behind a record mark (RFC 5531, section 11).
fn rpc_stream(bytes: &[u8]) -> Probe {
    match bytes {
        [_, _, _, _, message @ ..] if !message.is_empty() => rpc(message),
        _ => Probe::More,
    }
}

/// Matches a request or reply with the magic cookie (RFC 2131).
fn dhcp(bytes: &[u8]) -> Probe {
    let cookie = bytes.get(236..240) == Some(&[99, 130, 83, 99]);
    (matches!(bytes, [1 | 2, ..]) && cookie).into()
}

/// Matches a read or write request: file name and mode, each terminated by zero (RFC 1350).
fn tftp(bytes: &[u8]) -> Probe {
    let [0, 1 | 2, strings @ ..] = bytes else { return Probe::No };
    let mode = strings.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    [&b"octet"[..], b"netascii", b"mail"].iter().any(|known| known.eq_ignore_ascii_case(mode)).into()
}

/// Matches a header of 28 bytes, version 1 or 2.0 (RFC 7296, section 3.1).
fn ike(bytes: &[u8]) -> Probe {
    let [version, exchange] = match bytes.get(17..19) {
        Some([version, exchange]) if bytes.len() >= 28 => [*version, *exchange],
        _ => return Probe::No,
    };
    let len = bytes.get(24..28).and_then(<[u8]>::first_chunk).map(|len| u32::from_be_bytes(*len) as usize);
    match version {
        0x10..=0x1f => Probe::Yes,
        0x20 => ((34..=37).contains(&exchange) && len == Some(bytes.len())).into(),
        _ => Probe::No,
    }
}

/// Matches a request or status line.
fn sip(bytes: &[u8]) -> Probe {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    (line.starts_with(b"SIP/2.0 ") || line.ends_with(b" SIP/2.0")).into()
}
