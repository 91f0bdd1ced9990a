//! The buffers that rules inspect: one row for each.
//!
//! A row names a buffer in the new and in the old spelling, and says which protocol, direction and unit of traffic it
//! belongs to. The parser, the checks of a rule and the documentation use the rows.

use mirror_packet::Direction;

/// A protocol that recognition tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Application {
    /// HTTP of any version.
    Http,
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// DNS.
    Dns,
    /// TLS.
    Tls,
    /// SSH.
    Ssh,
    /// QUIC.
    Quic,
    /// SMTP.
    Smtp,
    /// FTP, the control connection.
    Ftp,
    /// FTP, a data connection.
    FtpData,
    /// SMB.
    Smb,
    /// DCE/RPC.
    Dcerpc,
    /// `BitTorrent`'s distributed hash table.
    BittorrentDht,
    /// DHCP.
    Dhcp,
    /// Internet Key Exchange.
    Ike,
    /// IMAP.
    Imap,
    /// Kerberos 5.
    Krb5,
    /// MQTT.
    Mqtt,
    /// NFS.
    Nfs,
    /// NTP.
    Ntp,
    /// RDP.
    Rdp,
    /// RFB.
    Rfb,
    /// SIP.
    Sip,
    /// SNMP.
    Snmp,
    /// Telnet.
    Telnet,
    /// TFTP.
    Tftp,
}

/// The protocols with their names in rules; the first name of a protocol is the usual one.
const APPLICATIONS: [(&str, Application); 28] = [
    ("http", Application::Http),
    ("http1", Application::Http1),
    ("http2", Application::Http2),
    ("dns", Application::Dns),
    ("tls", Application::Tls),
    ("ssl", Application::Tls),
    ("ssh", Application::Ssh),
    ("quic", Application::Quic),
    ("smtp", Application::Smtp),
    ("ftp", Application::Ftp),
    ("ftp-data", Application::FtpData),
    ("smb", Application::Smb),
    ("dcerpc", Application::Dcerpc),
    ("bittorrent-dht", Application::BittorrentDht),
    ("dhcp", Application::Dhcp),
    ("ike", Application::Ike),
    ("ikev2", Application::Ike),
    ("imap", Application::Imap),
    ("krb5", Application::Krb5),
    ("mqtt", Application::Mqtt),
    ("nfs", Application::Nfs),
    ("ntp", Application::Ntp),
    ("rdp", Application::Rdp),
    ("rfb", Application::Rfb),
    ("sip", Application::Sip),
    ("snmp", Application::Snmp),
    ("telnet", Application::Telnet),
    ("tftp", Application::Tftp),
];

impl Application {
    /// Returns the protocol of a name, in lower case.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        APPLICATIONS.iter().find(|row| row.0.as_bytes() == name).map(|row| row.1)
    }

    /// Returns the name in rules.
    #[must_use]
    pub fn name(self) -> &'static str {
        APPLICATIONS.iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }

    /// Returns true if traffic can be of both protocols at once, which only HTTP and its versions are.
    #[must_use]
    pub const fn fits(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Http, Self::Http1 | Self::Http2) | (Self::Http1 | Self::Http2, Self::Http)
        ) || self as u8 == other as u8
    }
}

/// The unit of traffic whose content a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// The payload of a packet, or the ordered data of a connection.
    Payload,
    /// A header of a packet.
    Packet,
    /// A part of a transaction that is a line, a name or another short value.
    Transaction,
    /// A part of a transaction that can be long and arrives in pieces.
    Body,
}

/// The direction of the traffic that has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Directions {
    /// Requests.
    ToServer,
    /// Responses.
    ToClient,
    /// Both.
    Both,
}

impl Directions {
    /// Returns true if traffic of this direction has the buffer.
    #[must_use]
    pub const fn contains(self, direction: Direction) -> bool {
        match self {
            Self::ToServer => matches!(direction, Direction::ToServer),
            Self::ToClient => matches!(direction, Direction::ToClient),
            Self::Both => true,
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Description {
    /// The buffer.
    pub buffer: Buffer,
    /// The keyword that selects the buffer for the keywords behind it.
    pub name: &'static str,
    /// Other spellings of that keyword.
    pub sticky: &'static [&'static str],
    /// The old modifier of the content in front of it.
    pub modifier: Option<&'static str>,
    /// The letter among the flags of `pcre`.
    pub letter: Option<u8>,
    /// The protocols that have the buffer; none for packets and payload.
    pub applications: &'static [Application],
    /// The directions that have the buffer.
    pub directions: Directions,
    /// The unit of traffic.
    pub unit: Unit,
    /// True if a transaction can have several; each mention in a rule may then match another one.
    pub several: bool,
}

macro_rules! buffers {
    ($($(#[$doc:meta])* $variant:ident $name:literal [$($sticky:literal),*] $modifier:expr, $letter:expr;
       [$($application:ident),*] $directions:ident $unit:ident $several:literal)*) => {
        /// A buffer that rules inspect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Buffer {
            $($(#[$doc])* $variant,)*
        }

        /// All buffers, in the order of [`Buffer`].
        pub const BUFFERS: &[Description] = &[$(Description {
            buffer: Buffer::$variant,
            name: $name,
            sticky: &[$($sticky),*],
            modifier: $modifier,
            letter: $letter,
            applications: &[$(Application::$application),*],
            directions: Directions::$directions,
            unit: Unit::$unit,
            several: $several,
        }),*];

        impl Buffer {
            /// Returns the row of the buffer.
            #[must_use]
            pub const fn description(self) -> &'static Description {
                match self {
                    $(Self::$variant => const {
                        &Description {
                            buffer: Buffer::$variant,
                            name: $name,
                            sticky: &[$($sticky),*],
                            modifier: $modifier,
                            letter: $letter,
                            applications: &[$(Application::$application),*],
                            directions: Directions::$directions,
                            unit: Unit::$unit,
                            several: $several,
                        }
                    },)*
                }
            }
        }
    };
}

buffers! {
    /// The payload of a packet or the data of a connection.
    Payload "pkt_data" [] None, None; [] Both Payload false
    /// The normalised URI.
    HttpUri "http.uri" [] Some("http_uri"), Some(b'U'); [Http] ToServer Transaction false
    /// The URI as it was sent.
    HttpUriRaw "http.uri.raw" [] Some("http_raw_uri"), Some(b'I'); [Http] ToServer Transaction false
    /// The method.
    HttpMethod "http.method" [] Some("http_method"), Some(b'M'); [Http] ToServer Transaction false
    /// The request line.
    HttpRequestLine "http.request_line" ["http_request_line"] None, None; [Http] ToServer Transaction false
    /// The body of the request.
    HttpRequestBody "http.request_body" [] Some("http_client_body"), Some(b'P'); [Http] ToServer Body false
    /// The headers, normalised.
    HttpHeader "http.header" [] Some("http_header"), Some(b'H'); [Http] Both Transaction false
    /// The headers as they were sent.
    HttpHeaderRaw "http.header.raw" [] Some("http_raw_header"), Some(b'D'); [Http] Both Transaction false
    /// The headers of a request, one at a time.
    HttpRequestHeader "http.request_header" ["http_request_header"] None, None; [Http] ToServer Transaction true
    /// The headers of a response, one at a time.
    HttpResponseHeader "http.response_header" ["http_response_header"] None, None; [Http] ToClient Transaction true
    /// The names of the headers.
    HttpHeaderNames "http.header_names" ["http_header_names"] None, None; [Http] Both Transaction false
    /// The cookies.
    HttpCookie "http.cookie" [] Some("http_cookie"), Some(b'C'); [Http] Both Transaction false
    /// The `User-Agent`.
    HttpUserAgent "http.user_agent" [] Some("http_user_agent"), Some(b'V'); [Http] ToServer Transaction false
    /// The host, in lower case and without port.
    HttpHost "http.host" [] Some("http_host"), Some(b'W'); [Http] ToServer Transaction false
    /// The host as it was sent.
    HttpHostRaw "http.host.raw" [] Some("http_raw_host"), Some(b'Z'); [Http] ToServer Transaction false
    /// `Accept`.
    HttpAccept "http.accept" ["http_accept"] None, None; [Http] ToServer Transaction false
    /// `Accept-Encoding`.
    HttpAcceptEnc "http.accept_enc" ["http_accept_enc"] None, None; [Http] ToServer Transaction false
    /// `Accept-Language`.
    HttpAcceptLang "http.accept_lang" ["http_accept_lang"] None, None; [Http] ToServer Transaction false
    /// `Referer`.
    HttpReferer "http.referer" ["http_referer"] None, None; [Http] ToServer Transaction false
    /// `Connection`.
    HttpConnection "http.connection" ["http_connection"] None, None; [Http] Both Transaction false
    /// `Content-Type`.
    HttpContentType "http.content_type" ["http_content_type"] None, None; [Http] Both Transaction false
    /// `Content-Length`.
    HttpContentLen "http.content_len" ["http_content_len"] None, None; [Http] Both Transaction false
    /// The first line and the headers.
    HttpStart "http.start" ["http_start"] None, None; [Http] Both Transaction false
    /// The version of the protocol.
    HttpProtocol "http.protocol" ["http_protocol"] None, None; [Http] Both Transaction false
    /// The status code.
    HttpStatCode "http.stat_code" [] Some("http_stat_code"), Some(b'S'); [Http] ToClient Transaction false
    /// The status message.
    HttpStatMsg "http.stat_msg" [] Some("http_stat_msg"), Some(b'Y'); [Http] ToClient Transaction false
    /// The status line.
    HttpResponseLine "http.response_line" ["http_response_line"] None, None; [Http] ToClient Transaction false
    /// The body of the response.
    HttpResponseBody "http.response_body" [] Some("http_server_body"), Some(b'Q'); [Http] ToClient Body false
    /// `Server`.
    HttpServer "http.server" ["http_server"] None, None; [Http] ToClient Transaction false
    /// `Location`.
    HttpLocation "http.location" ["http_location"] None, None; [Http] ToClient Transaction false
    /// The name of a field of HTTP/2.
    Http2HeaderName "http2.header_name" [] None, None; [Http2] Both Transaction true
    /// A file that is transferred.
    FileData "file.data" ["file_data"] None, None; [Http, Smtp, Smb, FtpData, Nfs] Both Body false
    /// A name that is asked for.
    DnsQuery "dns.query" ["dns_query"] None, None; [Dns] ToServer Transaction true
    /// A name of the question section.
    DnsQueryName "dns.query.name" ["dns.queries.rrname"] None, None; [Dns] Both Transaction true
    /// A name of the answer section.
    DnsAnswerName "dns.answer.name" ["dns.answers.rrname"] None, None; [Dns] Both Transaction true
    /// The server name of a handshake.
    TlsSni "tls.sni" ["tls_sni"] None, None; [Tls] ToServer Transaction false
    /// The subject of the certificate.
    TlsCertSubject "tls.cert_subject" ["tls_cert_subject"] None, None; [Tls] ToClient Transaction false
    /// The issuer of the certificate.
    TlsCertIssuer "tls.cert_issuer" ["tls_cert_issuer"] None, None; [Tls] ToClient Transaction false
    /// The serial number of the certificate.
    TlsCertSerial "tls.cert_serial" ["tls_cert_serial"] None, None; [Tls] ToClient Transaction false
    /// The SHA-1 of the certificate.
    TlsCertFingerprint "tls.cert_fingerprint" ["tls_cert_fingerprint"] None, None; [Tls] ToClient Transaction false
    /// The certificates in DER.
    TlsCerts "tls.certs" ["tls_certs"] None, None; [Tls] ToClient Transaction true
    /// The alternative names of the certificate.
    TlsSubjectAltName "tls.subjectaltname" [] None, None; [Tls] ToClient Transaction true
    /// The random bytes of a hello.
    TlsRandom "tls.random" [] None, None; [Tls] Both Transaction false
    /// The first four random bytes of a hello, once a time.
    TlsRandomTime "tls.random_time" [] None, None; [Tls] Both Transaction false
    /// The other 28 random bytes of a hello.
    TlsRandomBytes "tls.random_bytes" [] None, None; [Tls] Both Transaction false
    /// The JA3 of the client.
    Ja3Hash "ja3.hash" ["ja3_hash"] None, None; [Tls, Quic] ToServer Transaction false
    /// The text that is hashed for JA3.
    Ja3String "ja3.string" ["ja3_string"] None, None; [Tls, Quic] ToServer Transaction false
    /// The JA3S of the server.
    Ja3sHash "ja3s.hash" [] None, None; [Tls, Quic] ToClient Transaction false
    /// The text that is hashed for JA3S.
    Ja3sString "ja3s.string" [] None, None; [Tls, Quic] ToClient Transaction false
    /// The JA4 of the client.
    Ja4Hash "ja4.hash" [] None, None; [Tls, Quic] ToServer Transaction false
    /// The protocol version of SSH.
    SshProto "ssh.proto" ["ssh_proto"] None, None; [Ssh] Both Transaction false
    /// The software version of SSH.
    SshSoftware "ssh.software" ["ssh_software"] None, None; [Ssh] Both Transaction false
    /// The HASSH of the client.
    SshHassh "ssh.hassh" [] None, None; [Ssh] ToServer Transaction false
    /// The text that is hashed for the client's HASSH.
    SshHasshString "ssh.hassh.string" [] None, None; [Ssh] ToServer Transaction false
    /// The HASSH of the server.
    SshHasshServer "ssh.hassh.server" [] None, None; [Ssh] ToClient Transaction false
    /// The text that is hashed for the server's HASSH.
    SshHasshServerString "ssh.hassh.server.string" [] None, None; [Ssh] ToClient Transaction false
    /// The server name of a QUIC handshake.
    QuicSni "quic.sni" [] None, None; [Quic] ToServer Transaction false
    /// The version of QUIC.
    QuicVersion "quic.version" [] None, None; [Quic] Both Transaction false
    /// The IPv4 header.
    Ipv4Header "ipv4.hdr" [] None, None; [] Both Packet false
    /// The IPv6 header.
    Ipv6Header "ipv6.hdr" [] None, None; [] Both Packet false
    /// The TCP header.
    TcpHeader "tcp.hdr" [] None, None; [] Both Packet false
    /// The UDP header.
    UdpHeader "udp.hdr" [] None, None; [] Both Packet false
    /// The header of ICMP.
    Icmpv4Header "icmpv4.hdr" [] None, None; [] Both Packet false
    /// The header of ICMP for IPv6.
    Icmpv6Header "icmpv6.hdr" [] None, None; [] Both Packet false
    /// The source address, for data sets.
    IpSource "ip.src" [] None, None; [] Both Packet false
    /// The destination address, for data sets.
    IpDestination "ip.dst" [] None, None; [] Both Packet false
}

impl Buffer {
    /// Returns the keyword that selects the buffer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.description().name
    }

    /// Returns the buffers that are the body of a message of a direction.
    #[must_use]
    pub const fn of_body(direction: Direction) -> [Self; 2] {
        match direction {
            Direction::ToServer => [Self::HttpRequestBody, Self::FileData],
            Direction::ToClient => [Self::HttpResponseBody, Self::FileData],
        }
    }

    /// Returns the buffer with this keyword.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        BUFFERS.iter().find(|row| row.name == name).map(|row| row.buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_spelling_and_letter_belongs_to_one_buffer() {
        let mut names = HashSet::new();
        let mut letters = HashSet::new();
        for (index, row) in BUFFERS.iter().enumerate() {
            assert_eq!(row.buffer as usize, index);
            for name in [row.name].iter().chain(row.sticky).chain(&row.modifier) {
                assert!(names.insert(*name), "{name}");
            }
            assert!(row.letter.is_none_or(|letter| letters.insert(letter)), "{}", row.name);
        }
    }

    #[test]
    fn versions_of_http_fit_each_other_as_far_as_they_can_be_equal() {
        assert!(Application::Http.fits(Application::Http2) && Application::Http1.fits(Application::Http));
        assert!(!Application::Http1.fits(Application::Http2) && !Application::Tls.fits(Application::Quic));
        assert!(Application::Ftp.fits(Application::Ftp));
    }
}
