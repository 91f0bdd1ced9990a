//! The table of keywords: what each does, or why it is refused.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::FixedState;

use super::builder::Builder;
use super::{bytes, conditions, content, meta, states};
use crate::buffer::{BUFFERS, Buffer};
use crate::diagnostic::shown;
use crate::facts::Http2Fact;
use crate::rule::{Condition, Side};
use crate::transform::Transform;

/// The effect of a keyword.
#[derive(Clone)]
enum Keyword {
    /// Selects a buffer for the keywords behind it.
    Sticky(Buffer),
    /// Moves the content in front to a buffer.
    Modifier(Buffer),
    /// Transforms the selected buffer.
    Transform(Transform),
    /// Has no value.
    Plain(fn(&mut Builder<'_>) -> Result<(), String>),
    /// Has a value.
    Valued(fn(&mut Builder<'_>, &[u8]) -> Result<(), String>),
    /// May have a value.
    Optional(fn(&mut Builder<'_>, Option<&[u8]>) -> Result<(), String>),
    /// A comparison with a number of at most this.
    Compared(u64, fn(crate::number::Compare) -> Condition),
    /// A comparison with a count of a side.
    Counted(Option<Side>, fn(Side, crate::number::Compare) -> Condition),
    /// Is known and not supported.
    Refused(&'static str),
}

const ENGINE: &str = "events of Suricata's inside do not exist here";
const FILES: &str = "files are not extracted";
const LUA: &str = "scripts are not run";
const FRAMES: &str = "frames of Suricata's parsers do not exist here";
const CHECKSUMS: &str = "checksums of mirrored packets are not verified, since NICs often compute them later";
const CERTIFICATE_TIMES: &str = "the validity of certificates is not compared with the clock";
const IPS: &str = "packets are not changed";
const NOT_SUPPORTED: &str = "it is not supported";

/// The largest number of 32 bits.
const LARGEST: u64 = 0xffff_ffff;

/// Keywords that are known and not supported.
const REFUSED: &[(&str, &str)] = &[
    ("lua", LUA),
    ("luajit", LUA),
    ("luaxform", LUA),
    ("frame", FRAMES),
    ("app-layer-event", ENGINE),
    ("app-layer-state", ENGINE),
    ("decode-event", ENGINE),
    ("stream-event", ENGINE),
    ("engine-event", ENGINE),
    ("filestore", FILES),
    ("filemagic", FILES),
    ("file.magic", FILES),
    ("file.name", FILES),
    ("filename", FILES),
    ("fileext", FILES),
    ("filemd5", FILES),
    ("filesha1", FILES),
    ("filesha256", FILES),
    ("filesize", FILES),
    ("replace", IPS),
    ("nfq_set_mark", IPS),
    ("ipv4-csum", CHECKSUMS),
    ("tcpv4-csum", CHECKSUMS),
    ("tcpv6-csum", CHECKSUMS),
    ("udpv4-csum", CHECKSUMS),
    ("udpv6-csum", CHECKSUMS),
    ("icmpv4-csum", CHECKSUMS),
    ("icmpv6-csum", CHECKSUMS),
    ("http2.header", "use `http.request_header` or `http.response_header`"),
    ("tls_cert_expired", CERTIFICATE_TIMES),
    ("tls_cert_valid", CERTIFICATE_TIMES),
    ("tls_cert_notbefore", CERTIFICATE_TIMES),
    ("tls_cert_notafter", CERTIFICATE_TIMES),
    ("tls.store", "certificates are not stored in files"),
    ("geoip", "there is no database of countries"),
    ("datarep", "data sets have no scores here; use `dataset`"),
    ("flowvar", "captures into variables are not supported"),
    ("pktvar", "captures into variables are not supported"),
    ("ssl_state", NOT_SUPPORTED),
    ("tls.alpn", NOT_SUPPORTED),
    ("tls.cert_chain_len", NOT_SUPPORTED),
    ("quic.ua", NOT_SUPPORTED),
    ("quic.cyu.hash", NOT_SUPPORTED),
    ("quic.cyu.string", NOT_SUPPORTED),
    ("dns.response.rrname", NOT_SUPPORTED),
    ("pcrexform", NOT_SUPPORTED),
    ("from_base64", NOT_SUPPORTED),
    ("gunzip", NOT_SUPPORTED),
    ("zlib_deflate", NOT_SUPPORTED),
    ("domain", NOT_SUPPORTED),
    ("tld", NOT_SUPPORTED),
    ("asn1", NOT_SUPPORTED),
    ("rpc", NOT_SUPPORTED),
    ("ftpbounce", NOT_SUPPORTED),
    ("ftpdata_command", NOT_SUPPORTED),
    ("l3_proto", NOT_SUPPORTED),
    ("vlan.id", NOT_SUPPORTED),
    ("vlan.layers", NOT_SUPPORTED),
    ("flow.elephant", NOT_SUPPORTED),
    ("uripath", NOT_SUPPORTED),
];

/// The beginnings of keywords whose protocols are recognised at most.
const NOT_PARSED: &[&str] = &[
    "bittorrent_dht.",
    "cip_",
    "dce_",
    "dcerpc.",
    "dhcp.",
    "dnp3",
    "email.",
    "enip",
    "file.data.",
    "ftp.",
    "ike.",
    "ikev1.",
    "ikev2.",
    "imap.",
    "krb5",
    "ldap.",
    "llmnr.",
    "mdns.",
    "mime.",
    "modbus",
    "mqtt.",
    "mysql.",
    "nfs",
    "ntp.",
    "pgsql.",
    "pop3.",
    "rdp.",
    "rfb.",
    "sip.",
    "smb.",
    "smtp.",
    "snmp.",
    "template.",
    "tftp.",
    "websocket.",
];

static KEYWORDS: LazyLock<HashMap<&'static [u8], Keyword, FixedState>> = LazyLock::new(table);

fn table() -> HashMap<&'static [u8], Keyword, FixedState> {
    use Keyword::{Compared, Counted, Modifier, Optional, Plain, Refused, Sticky, Valued};

    let mut table = HashMap::with_hasher(FixedState::default());
    let mut add = |name: &'static str, keyword| {
        let before = table.insert(name.as_bytes(), keyword);
        debug_assert!(before.is_none(), "{name} is there twice");
    };
    for row in BUFFERS {
        for name in [row.name].iter().chain(row.sticky) {
            add(name, Sticky(row.buffer));
        }
        if let Some(name) = row.modifier {
            add(name, Modifier(row.buffer));
        }
    }
    for (name, reason) in REFUSED {
        add(name, Refused(reason));
    }
    let transforms: [(&str, Transform); 14] = [
        ("dotprefix", Transform::DotPrefix),
        ("to_lowercase", Transform::Lowercase),
        ("to_uppercase", Transform::Uppercase),
        ("header_lowercase", Transform::HeaderLowercase),
        ("strip_pseudo_headers", Transform::StripPseudoHeaders),
        ("strip_whitespace", Transform::StripWhitespace),
        ("compress_whitespace", Transform::CompressWhitespace),
        ("url_decode", Transform::UrlDecode),
        ("to_md5", Transform::Md5),
        ("to_sha1", Transform::Sha1),
        ("to_sha256", Transform::Sha256),
        ("md5", Transform::Md5),
        ("sha1", Transform::Sha1),
        ("sha256", Transform::Sha256),
    ];
    for (name, transform) in transforms {
        add(name, Keyword::Transform(transform));
    }
    let rows: [(&str, Keyword); 80] = [
        // About the rule.
        ("msg", Valued(meta::msg)),
        ("sid", Valued(|builder, value| meta::identifier(&mut builder.sid, value, 1))),
        ("gid", Valued(|builder, value| meta::identifier(&mut builder.gid, value, 0))),
        ("rev", Valued(|builder, value| meta::identifier(&mut builder.rev, value, 0))),
        ("classtype", Valued(meta::classtype)),
        ("priority", Valued(meta::priority)),
        ("reference", Valued(meta::reference)),
        (
            "metadata",
            Valued(|builder, value| {
                meta::metadata(builder, value);
                Ok(())
            }),
        ),
        ("target", Valued(meta::target)),
        ("tag", Valued(meta::tag)),
        ("requires", Valued(|_, _| Ok(()))),
        (
            "noalert",
            Plain(|builder| {
                builder.is_silent = true;
                Ok(())
            }),
        ),
        // In Suricata 8, the opposite of `noalert`.
        (
            "alert",
            Plain(|builder| {
                builder.is_silent = false;
                Ok(())
            }),
        ),
        (
            "bypass",
            Plain(|builder| {
                builder.bypasses = true;
                Ok(())
            }),
        ),
        // A hint about how the rule is found, which is decided here.
        ("prefilter", Plain(|_| Ok(()))),
        ("threshold", Valued(|builder, value| states::threshold(builder, value, false))),
        ("detection_filter", Valued(|builder, value| states::threshold(builder, value, true))),
        // Content.
        ("content", Valued(content::content)),
        ("uricontent", Valued(|builder, value| content::content_in(builder, value, Some(Buffer::HttpUri)))),
        ("nocase", Plain(content::nocase)),
        // Without effect in Suricata as well.
        ("rawbytes", Plain(|builder| builder.last_content().map(|_| ()))),
        ("depth", Valued(|builder, value| content::position(builder, b"depth", value))),
        ("offset", Valued(|builder, value| content::position(builder, b"offset", value))),
        ("distance", Valued(|builder, value| content::position(builder, b"distance", value))),
        ("within", Valued(|builder, value| content::position(builder, b"within", value))),
        ("startswith", Plain(content::startswith)),
        ("endswith", Plain(content::endswith)),
        ("fast_pattern", Optional(content::fast_pattern)),
        ("pcre", Valued(content::pcre)),
        ("isdataat", Valued(content::isdataat)),
        ("bsize", Valued(content::bsize)),
        ("urilen", Valued(content::urilen)),
        ("absent", Optional(content::absent)),
        ("entropy", Valued(content::entropy)),
        ("base64_decode", Optional(content::base64_decode)),
        ("base64_data", Plain(content::base64_data)),
        ("dataset", Valued(content::dataset)),
        ("xor", Valued(content::xor)),
        ("tls.subject", Valued(|b, value| content::named_content(b, value, Buffer::TlsCertSubject))),
        ("tls.issuerdn", Valued(|b, value| content::named_content(b, value, Buffer::TlsCertIssuer))),
        ("tls.fingerprint", Valued(|b, value| content::named_content(b, value, Buffer::TlsCertFingerprint))),
        ("byte_test", Valued(bytes::byte_test)),
        ("byte_jump", Valued(bytes::byte_jump)),
        ("byte_extract", Valued(bytes::byte_extract)),
        ("byte_math", Valued(bytes::byte_math)),
        // State.
        ("flowbits", Valued(states::flowbits)),
        ("xbits", Valued(states::xbits)),
        ("hostbits", Valued(states::hostbits)),
        ("flowint", Valued(states::flowint)),
        // Packets and flows.
        ("flow", Valued(conditions::flow)),
        ("dsize", Compared(65_535, Condition::PayloadSize)),
        ("ttl", Compared(255, Condition::Ttl)),
        ("tos", Compared(255, Condition::Tos)),
        ("id", Compared(65_535, Condition::IpId)),
        ("ip_proto", Valued(conditions::ip_proto)),
        ("fragbits", Valued(conditions::fragbits)),
        ("fragoffset", Compared(65_535, Condition::FragmentOffset)),
        ("ipopts", Valued(conditions::ipopts)),
        (
            "sameip",
            Plain(|builder| {
                builder.conditions.push(Condition::SameAddress);
                Ok(())
            }),
        ),
        ("flags", Valued(conditions::tcp_flags)),
        ("tcp.flags", Valued(conditions::tcp_flags)),
        ("seq", Compared(LARGEST, Condition::TcpSequence)),
        ("ack", Compared(LARGEST, Condition::TcpAcknowledgement)),
        ("window", Compared(65_535, Condition::TcpWindow)),
        ("tcp.mss", Valued(conditions::tcp_mss)),
        ("itype", Compared(255, Condition::IcmpType)),
        ("icode", Compared(255, Condition::IcmpCode)),
        ("icmp_id", Compared(65_535, Condition::IcmpId)),
        ("icmp_seq", Compared(65_535, Condition::IcmpSequence)),
        ("stream_size", Valued(conditions::stream_size)),
        ("flow.age", Compared(LARGEST, Condition::FlowAge)),
        ("flow.pkts", Counted(None, Condition::FlowPackets)),
        ("flow.pkts_toserver", Counted(Some(Side::Client), Condition::FlowPackets)),
        ("flow.pkts_toclient", Counted(Some(Side::Server), Condition::FlowPackets)),
        ("flow.bytes", Counted(None, Condition::FlowBytes)),
        ("flow.bytes_toserver", Counted(Some(Side::Client), Condition::FlowBytes)),
        ("flow.bytes_toclient", Counted(Some(Side::Server), Condition::FlowBytes)),
        ("app-layer-protocol", Valued(conditions::app_layer_protocol)),
        ("dns.opcode", Compared(15, Condition::DnsOpcode)),
        ("dns.rcode", Compared(65_535, Condition::DnsRcode)),
    ];
    for (name, keyword) in rows {
        add(name, keyword);
    }
    add("dns.rrtype", Compared(65_535, Condition::DnsType));
    add("http2.frametype", Valued(conditions::http2_frame_type));
    add("http2.errorcode", Valued(conditions::http2_error));
    add("http2.settings", Valued(conditions::http2_settings));
    add("http2.priority", Compared(255, |compare| Condition::Http2(Http2Fact::Priority, compare)));
    add("http2.window", Compared(LARGEST, |compare| Condition::Http2(Http2Fact::Window, compare)));
    add("http2.size_update", Compared(LARGEST, |compare| Condition::Http2(Http2Fact::TableSize, compare)));
    add("tls.version", Valued(conditions::tls_version));
    add("ssl_version", Valued(conditions::tls_version));
    add("iprep", Valued(conditions::iprep));
    add("mirror.vni", Valued(conditions::vni));
    add("mirror.session", Valued(conditions::session));
    table
}

/// Returns the keyword of a name in any case.
fn find(name: &[u8]) -> Option<&'static Keyword> {
    KEYWORDS.get(name).or_else(|| KEYWORDS.get(name.to_ascii_lowercase().as_slice()))
}

/// Returns true for a keyword that is supported.
pub(super) fn is_known(name: &[u8]) -> bool {
    find(name).is_some_and(|keyword| !matches!(keyword, Keyword::Refused(_)))
}

/// Applies a keyword to a rule.
pub(super) fn apply(builder: &mut Builder<'_>, name: &[u8], value: Option<&[u8]>) -> Result<(), String> {
    if name.is_empty() {
        return Err("a keyword is missing".to_owned());
    }
    let Some(keyword) = find(name) else {
        let lower = name.to_ascii_lowercase();
        let is_not_parsed = NOT_PARSED.iter().any(|family| lower.starts_with(family.as_bytes()));
        let reason = if is_not_parsed {
            "the protocol is not parsed, or not this part of it"
        } else {
            "there is no such keyword"
        };
        return Err(reason.to_owned());
    };
    let value = value.filter(|value| !value.is_empty());
    let none = || match value {
        Some(value) => Err(format!("it has no value; {} follows", shown(value))),
        None => Ok(()),
    };
    let required = || value.ok_or_else(|| "its value is missing".to_owned());
    match keyword {
        Keyword::Refused(reason) => Err((*reason).to_owned()),
        Keyword::Sticky(buffer) => none().and_then(|()| builder.select(*buffer, name)),
        Keyword::Modifier(buffer) => none().and_then(|()| builder.move_content(*buffer)),
        Keyword::Transform(transform) => none().and_then(|()| builder.transform(transform.clone())),
        Keyword::Plain(function) => none().and_then(|()| function(builder)),
        Keyword::Valued(function) => function(builder, required()?),
        Keyword::Optional(function) => function(builder, value),
        Keyword::Compared(max, condition) => conditions::compared(builder, required()?, *max, *condition),
        Keyword::Counted(side, condition) => conditions::counted(builder, required()?, *side, *condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_found_in_any_case_and_families_are_not_parsed() {
        assert!(
            is_known(b"content") && is_known(b"Content") && is_known(b"http_uri") && is_known(b"http.uri")
        );
        assert!(!is_known(b"lua") && !is_known(b"nonsense"));
        for (name, _) in REFUSED {
            assert!(find(name.as_bytes()).is_some(), "{name}");
        }
        for family in NOT_PARSED {
            assert!(!KEYWORDS.keys().any(|name| name.starts_with(family.as_bytes())), "{family}");
        }
    }
}
