//! The programs to measure: how to start them, recognise that they are ready, and read their counters.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::process::Output;

/// A capture program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// mirror-xdp with all analyses.
    MirrorXdp,
    /// tcpdump, which writes to `/dev/null`: its best case.
    Tcpdump,
    /// netsniff-ng, which does the same.
    NetsniffNg,
    /// Suricata without rules, on `AF_PACKET`, with the same kinds of records as mirror-xdp.
    SuricataAfPacket,
    /// The same on `AF_XDP`.
    SuricataAfXdp,
    /// mirror-xdp, which also stores all packets.
    MirrorXdpStore,
    /// tcpdump, which writes to the disk.
    TcpdumpDisk,
}

impl Subject {
    /// The subjects of the level `path`, mirror-xdp first.
    pub const ALL: [Self; 5] =
        [Self::MirrorXdp, Self::Tcpdump, Self::NetsniffNg, Self::SuricataAfPacket, Self::SuricataAfXdp];

    /// The subjects that write packets to a disk.
    pub const TO_DISK: [Self; 2] = [Self::MirrorXdpStore, Self::TcpdumpDisk];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MirrorXdp => "mirror-xdp",
            Self::Tcpdump => "tcpdump",
            Self::NetsniffNg => "netsniff-ng",
            Self::SuricataAfPacket => "suricata-af-packet",
            Self::SuricataAfXdp => "suricata-af-xdp",
            Self::MirrorXdpStore => "mirror-xdp-store",
            Self::TcpdumpDisk => "tcpdump-disk",
        }
    }

    /// The program that must be installed.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::MirrorXdp | Self::MirrorXdpStore => "mirror-xdp",
            Self::Tcpdump | Self::TcpdumpDisk => "tcpdump",
            Self::NetsniffNg => "netsniff-ng",
            Self::SuricataAfPacket | Self::SuricataAfXdp => "suricata",
        }
    }

    /// Returns true for mirror-xdp, which must not fail.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::MirrorXdp | Self::MirrorXdpStore)
    }

    /// Returns program and arguments; its output files go into `directory`.
    pub fn command(self, binary: &Path, interface: &str, directory: &Path) -> io::Result<Vec<String>> {
        let directory = directory.to_string_lossy().into_owned();
        let words: Vec<String> = match self {
            Self::MirrorXdp | Self::MirrorXdpStore => {
                let binary = binary.to_string_lossy().into_owned();
                let mut command =
                    words(&[&binary, "run", "--interface", interface, "--log-dir", &directory, "--json"]);
                if self == Self::MirrorXdpStore {
                    command.extend(["--store".to_owned(), format!("{directory}/packets")]);
                }
                command
            }
            Self::Tcpdump | Self::TcpdumpDisk => {
                let file = format!("{directory}/packets.pcap");
                let file = if self == Self::TcpdumpDisk { &file } else { "/dev/null" };
                words(&["tcpdump", "-i", interface, "-n", "-s", "0", "-B", "16384", "-Z", "root", "-w", file])
            }
            Self::NetsniffNg => words(&[
                "netsniff-ng",
                "--in",
                interface,
                "--out",
                "/dev/null",
                "--silent",
                "--ring-size",
                "16MiB",
                "--no-promisc",
            ]),
            Self::SuricataAfPacket | Self::SuricataAfXdp => {
                let configuration = format!("{directory}/suricata.yaml");
                fs::write(&configuration, suricata(interface))?;
                let engine = if self == Self::SuricataAfPacket { "--af-packet" } else { "--af-xdp" };
                let engine = format!("{engine}={interface}");
                words(&[
                    "suricata",
                    "-c",
                    &configuration,
                    "-S",
                    "/dev/null",
                    "-l",
                    &directory,
                    &engine,
                    "--runmode=workers",
                ])
            }
        };
        Ok(words)
    }

    /// Returns the prefix of the line that announces that the capture runs.
    #[must_use]
    pub const fn ready(self) -> &'static str {
        match self {
            Self::MirrorXdp | Self::MirrorXdpStore => "capturing on",
            Self::Tcpdump | Self::TcpdumpDisk => "tcpdump: listening on",
            Self::NetsniffNg => "Running!",
            Self::SuricataAfPacket | Self::SuricataAfXdp => "Notice: threads: Threads created",
        }
    }

    /// Returns the frames captured, from the output and files of a program that has ended.
    pub fn received(self, output: &Output, directory: &Path) -> io::Result<u64> {
        let missing = || {
            io::Error::other(format!(
                "{} did not say what it has captured: {:?} {}",
                self.name(),
                output.stderr,
                output.stdout
            ))
        };
        let text = || output.stderr.iter().map(String::as_str).chain(output.stdout.lines());
        let number_before = |words: &str| {
            text().find_map(|line| line.split_once(words)?.0.split_whitespace().last()?.parse().ok())
        };
        match self {
            Self::MirrorXdp | Self::MirrorXdpStore => {
                let account: Value = serde_json::from_str(&output.stdout).map_err(|_| missing())?;
                let workers = account["workers"].as_array().ok_or_else(missing)?;
                let count = |worker: &Value| match self {
                    Self::MirrorXdpStore => worker["store"]["kept"].as_u64(),
                    _ => worker["delivered"].as_u64(),
                };
                Ok(workers.iter().filter_map(count).sum())
            }
            Self::Tcpdump | Self::TcpdumpDisk => number_before(" packets captured").ok_or_else(missing),
            Self::NetsniffNg => number_before(" packets passed filter").ok_or_else(missing),
            Self::SuricataAfPacket | Self::SuricataAfXdp => {
                let records = fs::read_to_string(directory.join("eve.json"))?;
                let last = records.lines().rev().find(|line| line.contains("\"event_type\":\"stats\""));
                let last: Value = serde_json::from_str(last.ok_or_else(missing)?)?;
                last["stats"]["decoder"]["vxlan"].as_u64().ok_or_else(missing)
            }
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns Suricata's configuration: one thread, the record types that mirror-xdp writes, defaults for
/// everything else.
#[must_use]
pub fn suricata(interface: &str) -> String {
    format!(
        "%YAML 1.1
---
vars:
  address-groups:
    {{HOME_NET: any, EXTERNAL_NET: any, HTTP_SERVERS: any, SMTP_SERVERS: any, SQL_SERVERS: any,
      DNS_SERVERS: any, TELNET_SERVERS: any, AIM_SERVERS: any, DC_SERVERS: any}}
  port-groups:
    {{HTTP_PORTS: '80', SHELLCODE_PORTS: '!80', ORACLE_PORTS: 1521, SSH_PORTS: 22, FTP_PORTS: 21,
      FILE_DATA_PORTS: '[80,110,143]'}}
stats: {{enabled: yes, interval: 3600}}
# Without GRO a veth interface takes no frames of XDP.
capture: {{disable-offloading: false}}
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      community-id: true
      types: [alert, dns, http, tls, quic, ssh, flow, stats: {{totals: yes}}]
af-packet:
  - interface: {interface}
    threads: 1
    cluster-id: 99
    cluster-type: cluster_flow
    defrag: yes
    use-mmap: yes
    tpacket-v3: yes
    ring-size: 4096
af-xdp:
  - interface: {interface}
    threads: 1
decoder:
  vxlan: {{enabled: true, ports: 4789}}
"
    )
}
