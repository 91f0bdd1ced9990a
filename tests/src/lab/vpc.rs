//! The small VPC: client, server and appliance, each a network namespace, and the programs that communicate.
//!
//! ```text
//! client ────────────── eth0 server mirror0 ─ ─ ─ ─ ─ ─ ─ ─ capture0 appliance
//! 10.20.0.10            10.20.0.20, resolver 10.20.0.2                10.99.0.2
//! ```

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Namespace;
use crate::process::{Process, run};

/// The mirrored interface.
pub(super) const SERVER_INTERFACE: &str = "eth0";
/// The interface on which mirror traffic arrives.
pub(super) const CAPTURE: &str = "capture0";

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 10);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 20);
/// The third address of the network, as in a VPC.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x10);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x20);
/// An address at which no host answers.
pub(super) const SILENT: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 99);
const MIRROR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The mirror target.
pub(super) const APPLIANCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Receive queues of the appliance.
const QUEUES: usize = 2;
/// Room for the encapsulation of a full frame of the server's interface.
const MIRROR_MTU: u32 = 2000;

/// Bytes of a bulk transfer.
pub(super) const BULK: u64 = 4 << 20;

/// The three hosts and the cables between them.
pub(super) struct Vpc {
    client: Namespace,
    pub(super) server: Namespace,
    pub(super) appliance: Arc<Namespace>,
    files: TempDir,
}

impl Vpc {
    pub(super) fn new() -> io::Result<Self> {
        let vpc = Self {
            client: Namespace::new()?,
            server: Namespace::new()?,
            appliance: Arc::new(Namespace::new()?),
            files: tempfile::Builder::new().prefix("mirror-xdp-lab.").tempdir()?,
        };
        vpc.client.veth("eth0", &vpc.server, SERVER_INTERFACE, 1)?;
        vpc.server.veth("mirror0", &vpc.appliance, CAPTURE, QUEUES)?;
        let addresses: [(&Namespace, &str, IpAddr, u8); 7] = [
            (&vpc.client, "eth0", CLIENT.into(), 24),
            (&vpc.client, "eth0", CLIENT_V6.into(), 64),
            (&vpc.server, SERVER_INTERFACE, SERVER.into(), 24),
            (&vpc.server, SERVER_INTERFACE, RESOLVER.into(), 24),
            (&vpc.server, SERVER_INTERFACE, SERVER_V6.into(), 64),
            (&vpc.server, "mirror0", MIRROR.into(), 24),
            (&vpc.appliance, CAPTURE, APPLIANCE.into(), 24),
        ];
        for (namespace, interface, address, prefix) in addresses {
            namespace.address(interface, address, prefix)?;
        }
        for (namespace, interface) in [(&vpc.server, "mirror0"), (&vpc.appliance, CAPTURE)] {
            namespace.ip(&format!("link set {interface} mtu {MIRROR_MTU}"))?;
            namespace.up(interface)?;
        }
        // This limits the data in flight to the ring of a virtual interface, 256 frames, which takes the
        // place of a NIC's.
        vpc.client.enter(|| fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 65536 131072"))??;
        // Newer kernels (6.16) fill that ring from a queueing discipline, if there is one, and drop nothing.
        let command = &mut vpc.server.command("tc");
        run(command.args(["qdisc", "add", "dev", "mirror0", "root", "pfifo", "limit", "10000"]))?;
        vpc.client.up("eth0")?;
        vpc.server.up(SERVER_INTERFACE)?;
        // Address resolution succeeds, so the SYN is sent; the server does not forward, so there is no
        // answer.
        let mac = vpc.server.mac(SERVER_INTERFACE)?.map(|byte| format!("{byte:02x}")).join(":");
        vpc.client.ip(&format!("neighbour add {SILENT} lladdr {mac} dev eth0"))?;
        Ok(vpc)
    }

    /// Waits until all frames sent by the source have gone through the cable to the appliance.
    pub(super) fn drain_cable(&self) -> io::Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            let command = &mut self.server.command("tc");
            let queues = run(command.args(["-json", "-statistics", "qdisc", "show", "dev", "mirror0"]))?;
            let queue: Value = serde_json::from_str(&queues)?;
            let number = |pointer: &str| queue.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
            let arrived = statistic(&self.appliance, CAPTURE, "rx/packets")? + self.cable_drops()?;
            let all = number("/0/qlen") == 0 && arrived >= number("/0/packets");
            if all || Instant::now() > deadline {
                return Ok(());
            }
        }
    }

    /// Returns the frames that the cable to the appliance dropped because the ring of its far end was full.
    pub(super) fn cable_drops(&self) -> io::Result<u64> {
        statistic(&self.server, "mirror0", "tx/dropped")
    }

    /// Starts the servers, waits until they serve, and starts the client. All end when the result is dropped.
    pub(super) fn start_programs(&self) -> io::Result<Vec<Process>> {
        let directory = self.files.path();
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        fs::create_dir(directory.join("www"))?;
        fs::write(directory.join("www/index.html"), "<!doctype html><title>The lab</title>\n".repeat(100))?;
        fs::write(directory.join("www/style.css"), "body { font-family: sans-serif }\n")?;
        File::create(directory.join("www/bulk.bin"))?.set_len(BULK)?;
        fs::write(directory.join("resolv.conf"), format!("nameserver {RESOLVER}\n"))?;
        // Names are resolved by DNS, whatever this machine is configured for.
        fs::write(directory.join("nsswitch.conf"), "hosts: files dns\n")?;
        fs::write(directory.join("client.sh"), CLIENT_SCRIPT)?;
        run(Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=shop.test"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", "subjectAltName=DNS:api.shop.test"])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")]))?;

        // Not as a daemon: one that changes its user would outlive a lab that is killed.
        let mut dns = Process::spawn(
            self.server
                .command("dnsmasq")
                .args(["--no-daemon", "--conf-file=/dev/null", "--pid-file="])
                .args(["--no-hosts", "--no-resolv", "--bind-interfaces", "--local=/test/"])
                .arg(format!("--listen-address={RESOLVER}"))
                .arg(format!("--host-record=www.shop.test,{SERVER},{SERVER_V6}"))
                .arg(format!("--host-record=api.shop.test,{SERVER}"))
                .arg(format!("--host-record=files.shop.test,{SERVER}"))
                .arg("--cname=cdn.shop.test,www.shop.test"),
        )?;
        dns.wait_for_line("dnsmasq: started", super::PATIENCE)?;
        let http =
            self.server.command("busybox").args(["httpd", "-f", "-p", "80", "-h", &path("www")]).spawned()?;
        let tls = self
            .server
            .command("openssl")
            .current_dir(directory.join("www"))
            .args(["s_server", "-quiet", "-WWW", "-accept", "443"])
            .args(["-key", &path("key.pem"), "-cert", &path("cert.pem")])
            .spawned()?;
        for port in [80, 443] {
            self.wait_until_served(port)?;
        }
        let client = self
            .client
            .command("unshare")
            .args(["--mount", "sh", &path("client.sh")])
            .env("LAB", directory)
            .env("SILENT", SILENT.to_string())
            .spawned()?;
        Ok(vec![client, tls, http, dns])
    }

    /// Waits until a server accepts connections on this port. The attempts use the loopback interface, which
    /// is not mirrored.
    fn wait_until_served(&self, port: u16) -> io::Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        let address = SocketAddr::from((SERVER, port));
        self.server.enter(|| {
            loop {
                match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                    Ok(_) => return Ok(()),
                    Err(error) if Instant::now() > deadline => {
                        return Err(io::Error::new(
                            error.kind(),
                            format!("nobody serves {address}: {error}"),
                        ));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        })?
    }
}

/// Returns one of an interface's counters.
fn statistic(namespace: &Namespace, interface: &str, name: &str) -> io::Result<u64> {
    let links = namespace.ip(&format!("-json -statistics link show {interface}"))?;
    let links: Value = serde_json::from_str(&links)?;
    let missing = || io::Error::other(format!("{interface} does not tell {name}"));
    links.pointer(&format!("/0/stats64/{name}")).and_then(Value::as_u64).ok_or_else(missing)
}

/// Spawns a command at the end of its method chain, where it reads better than a call around it.
trait Spawned {
    fn spawned(&mut self) -> io::Result<Process>;
}

impl Spawned for Command {
    fn spawned(&mut self) -> io::Result<Process> {
        Process::spawn(self)
    }
}

/// The client's script, which runs in a mount namespace of its own.
const CLIENT_SCRIPT: &str = r#"
for file in resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$LAB/$file" "/etc/$file" || exit; fi
done
fetch() { curl --silent --max-time 30 --output /dev/null "$@"; }
# A SYN that nobody answers.
fetch --connect-timeout 5 "http://$SILENT/" &
while :; do
    fetch http://www.shop.test/index.html
    fetch --cacert "$LAB/cert.pem" https://api.shop.test/index.html
    fetch -6 http://www.shop.test/index.html
    fetch http://cdn.shop.test/style.css
    fetch http://files.shop.test/bulk.bin
    # A name that does not exist.
    fetch http://typo.shop.test/
    sleep 0.3
done
"#;
