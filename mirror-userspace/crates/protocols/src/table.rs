//! The table of protocols: one row for each. Everything that lists protocols is made from it.

/// Expands the macro `$with!` with `$args` and the rows of the table of protocols.
///
/// From the rows come: the variants of [`AppProto`](crate::detect::AppProto), the signatures of detection, the
/// dispatch of the engine, the keys of `analyzers` and `types` in the configuration, `--eve-types`, the table in
/// `docs/records.md`, fuzzing, and the tests that every protocol passes.
#[macro_export]
macro_rules! protocols {
    ($with:ident $args:tt) => {
        $with! {
            $args

            // Protocols whose folder has everything: they implement `Protocol`.
            // VARIANT name: folder::Type, on or off by default, "content of its events".
            // A protocol that is off is neither recognised nor analysed unless the configuration names it.
            folders {
                Ssh ssh: ssh::Ssh, on, "software and protocol versions of both sides";
                Redis redis: redis::Redis, on, "commands to Redis, with results and latencies";
                Mysql mysql: mysql::Mysql, on, "statements to `MySQL`, with results and latencies";
                Pgsql pgsql: pgsql::Pgsql, on, "statements to `PostgreSQL`, with results and latencies";
                Memcached memcached: memcached::Memcached, on, "commands to Memcached, with results and latencies";
                Mongodb mongodb: mongodb::Mongodb, on, "commands to `MongoDB`, with results and latencies";
                Kafka kafka: kafka::Kafka, on, "requests to Kafka, with results and latencies";
                Ldap ldap: ldap::Ldap, on, "operations of LDAP, with results and latencies";
                Amqp amqp: amqp::Amqp, on, "methods of AMQP 0.9.1, with results and latencies";
                Cassandra cassandra: cassandra::Cassandra, on, "requests to Cassandra, with results and latencies";
                Ident ident: template::Ident, off, "user names that servers asked clients for (RFC 1413)";
            }

            // Protocols whose analyzer is in the engine, since it uses more than `Protocol` offers: indicators,
            // limits on events, a change of protocol. Their signatures are in `detect::signatures`.
            // VARIANT name, "content of its events".
            engine {
                Dns dns, "queries and answers, over UDP and TCP";
                Http http, "HTTP/1.x transactions, and streams of HTTP/2";
                Tls tls, "handshakes: versions, server name, certificate, JA3, JA3S, JA4";
                Quic quic, "handshakes: version, server name, JA3, JA4";
            }

            // Protocols that are only recognised: by `detect::signatures`, or by `preamble` in front of another one.
            // HTTP/2 has the analyzer of `http`.
            // VARIANT "name", "description".
            detected {
                BittorrentDht "bittorrent-dht", "`BitTorrent`'s distributed hash table";
                Dcerpc "dcerpc", "DCE/RPC";
                Dhcp "dhcp", "DHCP";
                Ftp "ftp", "FTP, control connection";
                Http2 "http2", "HTTP/2";
                Ike "ike", "Internet Key Exchange";
                Imap "imap", "IMAP";
                Krb5 "krb5", "Kerberos 5";
                Mqtt "mqtt", "MQTT";
                Nfs "nfs", "NFS";
                Nntp "nntp", "NNTP, in front of TLS";
                Ntp "ntp", "NTP";
                Pop3 "pop3", "POP3, in front of TLS";
                Rdp "rdp", "RDP";
                Rfb "rfb", "RFB, the protocol of VNC";
                Sieve "sieve", "`ManageSieve`, in front of TLS";
                Sip "sip", "SIP";
                Smb "smb", "SMB";
                Smtp "smtp", "SMTP";
                Snmp "snmp", "SNMP";
                Socks "socks", "SOCKS, in front of another protocol";
                Telnet "telnet", "Telnet";
                Tftp "tftp", "TFTP";
                Xmpp "xmpp", "XMPP, in front of TLS";
            }
        }
    };
}

/// A protocol that has an analyzer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Analyzed {
    /// The `event_type` of its events, its `app_proto`, and its name in `analyzers`.
    pub name: &'static str,
    /// The content of its events.
    pub content: &'static str,
    /// True if it is analysed by default.
    pub by_default: bool,
}

macro_rules! analyzed {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine { $($engine_variant:ident $engine_name:ident, $engine_content:literal;)* }
     detected $detected:tt) => {
        /// The protocols that have an analyzer.
        pub const ANALYZED: &[Analyzed] = &[
            $(Analyzed {
                name: stringify!($engine_name),
                content: $engine_content,
                by_default: true,
            },)*
            $(Analyzed {
                name: stringify!($name),
                content: $content,
                by_default: $crate::on_or_off!($default),
            },)*
        ];
    };
}
crate::protocols! { analyzed () }

macro_rules! fuzzing {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine $engine:tt detected $detected:tt) => {
        /// The bodies of the fuzz targets.
        const FUZZ: &[fn(&[u8])] = &[$(crate::fuzz::<crate::$folder::$type>),*];
    };
}
crate::protocols! { fuzzing () }

/// Fuzzes the protocol that the first byte selects: the body of a fuzz target. See [`fuzz`](crate::fuzz).
pub fn fuzz_any(bytes: &[u8]) {
    if let Some((&which, bytes)) = bytes.split_first() {
        FUZZ[usize::from(which) % FUZZ.len()](bytes);
    }
}

/// Converts the default in a row of [`protocols!`] to a boolean.
#[doc(hidden)]
#[macro_export]
macro_rules! on_or_off {
    (on) => {
        true
    };
    (off) => {
        false
    };
}
