//! The engine `kernel`: the kernel's own packet generator, if its module is loaded. It makes only UDP
//! datagrams and knows nothing of mirror sessions. Each session is therefore a VXLAN interface (`tunnel`), to
//! which the datagrams are given as inner frames.
//!
//! It is controlled by commands written into files (`Documentation/networking/pktgen.rst`): there is one
//! thread per core, to which interfaces are added, and one file for each of these.

mod tunnel;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;

use mirror_device::nic::Interface;
use mirror_xdp_common::Vni;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use self::tunnel::Tunnels;
use super::encapsulation::{Macs, overhead};
use super::{Encapsulation, Engine, Error, Go, LISTEN, Options, Progress, Ranges, Rate, Target, Traffic};

/// The directory of its files, for the network namespace of the calling thread.
const DIRECTORY: &str = "/proc/thread-self/net/pktgen";

/// The most sessions at a time; each has an interface.
const MAX_SESSIONS: u64 = 64;
/// The longest time between two frames of an interface, in nanoseconds: the kernel reads this many digits.
const MAX_DELAY: f64 = 9_999_999_999.0;
/// The kernel takes this delay as forever.
const FOREVER: u64 = 0x7fff_ffff;

/// The first client address, and the server of the datagrams.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);
const PORTS: [u16; 2] = [20_000, 9];
/// Hardware addresses of the inner frames.
const INNER: Macs = Macs { source: [2, 0, 0, 0, 1, 1], destination: [2, 0, 0, 0, 1, 2] };

/// The generator with its interfaces.
pub(super) struct Kernel<'a> {
    files: Files,
    plan: Plan,
    /// The progress of earlier calls.
    sent: Progress,
    _tunnels: Option<Tunnels<'a>>,
}

/// The plan of a run.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    /// The interfaces over which frames are spread.
    interfaces: Vec<String>,
    /// Bytes of the frames, as the generator makes them, with the number of times that each size occurs.
    sizes: Vec<(u16, u32)>,
    /// Bytes that the encapsulation adds to each frame.
    overhead: usize,
    flows: u32,
    /// Nanoseconds from one frame of an interface to the next.
    delay: u64,
    macs: Macs,
}

impl<'a> Kernel<'a> {
    /// Checks that the generator is loaded and supports the options, and makes the interfaces for it.
    pub(super) fn open(
        runtime: &'a tokio::runtime::Runtime,
        options: &Options,
        interface: &Interface,
        target: &Target,
        max_frame: usize,
    ) -> Result<Self, Error> {
        let files = Files::new(Path::new(DIRECTORY))?;
        let mut plan = Plan::new(options, target, max_frame)?;
        let tunnels = if options.encapsulation == Encapsulation::None {
            plan.interfaces = vec![interface.name.clone()];
            None
        } else {
            let vnis = vnis(options.vnis.as_ref());
            let tunnels = Tunnels::make(runtime, interface, target, options.port, &vnis)?;
            plan.interfaces = tunnels.names().map(str::to_owned).collect();
            Some(tunnels)
        };
        Ok(Self { files, plan, sent: Progress::default(), _tunnels: tunnels })
    }
}

/// Rejects options that the generator does not support, before any other check.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    let sessions = options.vnis.as_ref().map_or(1, Ranges::count);
    let wrong = [
        (matches!(options.traffic, Traffic::Capture(_)), "replay captures"),
        (options.rewrite, "bring new flows with each loop"),
        (options.malformed > 0.0, "break frames"),
        (matches!(options.rate, Rate::Capture(_)), "follow the times of a capture"),
        (options.encapsulation == Encapsulation::Gwlb, "add the envelope of a load balancer"),
        (options.sources.is_some(), "send from addresses that the interface does not have (--source)"),
        (sessions > MAX_SESSIONS, "send for more than 64 sessions (--vni)"),
    ];
    if let Some((_, what)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
        return Err(Error::KernelCannot(what));
    }
    if options.encapsulation == Encapsulation::Aws
        && (options.target.is_none() || options.target_mac.is_some())
    {
        return Err(Error::KernelTarget);
    }
    Ok(())
}

fn vnis(asked: Option<&Ranges<Vni>>) -> Vec<Vni> {
    match asked {
        Some(vnis) => (0..vnis.count()).filter_map(|index| vnis.nth(index)).collect(),
        None => Vni::new(1).into_iter().collect(),
    }
}

impl Plan {
    /// Makes the plan for the options, without the interfaces.
    fn new(options: &Options, target: &Target, max_frame: usize) -> Result<Self, Error> {
        let Traffic::Synthetic { sizes, flows } = &options.traffic else {
            return Err(Error::KernelCannot("replay captures"));
        };
        let overhead = overhead(options.encapsulation, target.destination.is_ipv6());
        let mut counted: Vec<(u16, u32)> = Vec::new();
        // Frames that are too long were already rejected, unless they are to be truncated.
        for size in sizes.iter().map(|&size| usize::from(size).min(max_frame.saturating_sub(overhead)) as u16)
        {
            match counted.iter_mut().find(|(other, _)| *other == size) {
                Some((_, count)) => *count += 1,
                None => counted.push((size, 1)),
            }
        }
        let mut plan = Self {
            interfaces: Vec::new(),
            sizes: counted,
            overhead,
            flows: *flows,
            delay: 0,
            macs: if options.encapsulation == Encapsulation::None { target.macs } else { INNER },
        };
        let sessions =
            if options.encapsulation == Encapsulation::None { 1 } else { vnis(options.vnis.as_ref()).len() };
        plan.delay = plan.delay(options.rate, sessions)?;
        Ok(plan)
    }

    fn mean_size(&self) -> f64 {
        let (bytes, frames) = self.sizes.iter().fold((0, 0), |(bytes, frames), &(size, count)| {
            (bytes + u64::from(size) * u64::from(count), frames + u64::from(count))
        });
        bytes as f64 / frames.max(1) as f64
    }

    fn delay(&self, rate: Rate, interfaces: usize) -> Result<u64, Error> {
        let frames = match rate {
            // Interfaces without a delay would be served one after the other, each until it is done.
            Rate::Max | Rate::Capture(_) => return Ok(u64::from(interfaces > 1)),
            Rate::Frames(rate) => rate,
            Rate::Bits(rate) => rate / 8.0 / (self.mean_size() + self.overhead as f64),
        };
        let delay = interfaces as f64 * 1e9 / frames;
        if delay > MAX_DELAY {
            return Err(Error::KernelCannot("send so slowly"));
        }
        let delay = (delay.round() as u64).max(1);
        Ok(if delay == FOREVER { delay + 1 } else { delay })
    }

    /// Returns the commands for one of the interfaces, which is to send `frames` frames; 0 means no end.
    fn commands(&self, frames: u64) -> Vec<String> {
        let last = Ipv4Addr::from_bits(CLIENTS.to_bits() + self.flows.saturating_sub(1));
        let Self { delay, .. } = self;
        let [from, to] = PORTS;
        let sizes = match &self.sizes[..] {
            [(size, _)] => format!("pkt_size {size}"),
            sizes => {
                let weights: Vec<_> = sizes.iter().map(|(size, weight)| format!("{size},{weight}")).collect();
                format!("imix_weights {}", weights.join(" "))
            }
        };
        vec![
            // Each frame is a new one, because the addresses differ.
            "clone_skb 0".to_owned(),
            format!("count {frames}"),
            format!("delay {delay}"),
            sizes,
            format!("src_mac {}", mac(self.macs.source)),
            format!("dst_mac {}", mac(self.macs.destination)),
            format!("src_min {CLIENTS}"),
            format!("src_max {last}"),
            format!("dst_min {SERVER}"),
            format!("dst_max {SERVER}"),
            format!("udp_src_min {from}"),
            format!("udp_src_max {from}"),
            format!("udp_dst_min {to}"),
            format!("udp_dst_max {to}"),
        ]
    }

    /// Returns the share of each interface in `frames` frames, without the interfaces that have none.
    fn shares(&self, frames: u64) -> Vec<(&str, u64)> {
        let count = self.interfaces.len().max(1) as u64;
        let share = |index: u64| if frames == u64::MAX { 0 } else { (frames + count - 1 - index) / count };
        let shares = (0..).zip(&self.interfaces).map(|(index, name)| (name.as_str(), share(index)));
        // A count of 0 would mean no end.
        shares.filter(|&(_, share)| share > 0 || frames == u64::MAX).collect()
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The files of the generator.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    /// The thread that sends, which belongs to a core.
    thread: String,
}

impl Files {
    fn new(directory: &Path) -> Result<Self, Error> {
        if !directory.is_dir() {
            return Err(Error::NoPktgen);
        }
        let thread = format!("kpktgend_{}", core());
        let files = Self { directory: directory.to_owned(), thread };
        for entry in fs::read_dir(directory).map_err(failed)?.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let running = |line: &str| {
                let interfaces = line.trim_start().strip_prefix("Running:")?.trim();
                (!interfaces.is_empty()).then(|| interfaces.to_owned())
            };
            if name.starts_with("kpktgend_")
                && let Some(by) = files.read(&name)?.lines().find_map(running)
            {
                return Err(Error::PktgenBusy(by));
            }
        }
        Ok(files)
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        fs::read_to_string(self.directory.join(file)).map_err(failed)
    }

    /// Writes a command; the kernel takes one with each write.
    fn write(&self, file: &str, command: &str) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().append(true).open(self.directory.join(file))?;
            file.write_all(format!("{command}\n").as_bytes())
        };
        write().map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => Error::Privilege,
            _ => Error::Kernel {
                what: "the kernel's pktgen refuses",
                cause: format!("`{command}` for {file}: {error}"),
            },
        })
    }

    /// Returns the frames and bytes that an interface has sent since it was started.
    fn progress(&self, interface: &str, overhead: usize) -> Result<Progress, Error> {
        Ok(progress(&self.read(interface)?, overhead))
    }
}

fn failed(error: io::Error) -> Error {
    Error::kernel("cannot read the state of the kernel's pktgen")(error)
}

/// Returns the first core that this thread may run on; the generator's thread of that core is used.
fn core() -> usize {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).find(|&core| set.is_set(core).unwrap_or(false)).unwrap_or_default()
}

/// Parses the file of an interface.
fn progress(text: &str, overhead: usize) -> Progress {
    let behind = |name: &str| text.split_once(name).map(|(_, rest)| rest);
    let number = |name: &str| -> Option<u64> { behind(name)?.split_whitespace().next()?.parse().ok() };
    let frames = number("pkts-sofar:").unwrap_or_default();
    let mixed = behind("imix_size_counts:").and_then(|rest| rest.lines().next()).map(|line| {
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once(','));
        let bytes =
            |(size, count): (&str, &str)| Some(size.parse::<u64>().ok()? * count.parse::<u64>().ok()?);
        pairs.filter_map(bytes).sum()
    });
    // Without mixed sizes, the size applies to every frame.
    let bytes = mixed.unwrap_or_else(|| frames * number("min_pkt_size:").unwrap_or_default());
    Progress { frames, bytes: bytes + frames * overhead as u64 }
}

impl Engine for Kernel<'_> {
    fn send(&mut self, limit: u64, watch: &mut dyn FnMut(Progress) -> Go) -> Result<Progress, Error> {
        let Self { files, plan, sent, .. } = self;
        let left = if limit == u64::MAX { limit } else { limit.saturating_sub(sent.frames) };
        let shares = plan.shares(left);
        if shares.is_empty() {
            return Ok(*sent);
        }
        files.write(&files.thread, "rem_device_all")?;
        for &(interface, share) in &shares {
            files.write(&files.thread, &format!("add_device {interface}"))?;
            for command in plan.commands(share) {
                files.write(interface, &command)?;
            }
        }
        let progress = || {
            shares.iter().try_fold(*sent, |sum, (interface, _)| {
                let Progress { frames, bytes } = files.progress(interface, plan.overhead)?;
                Ok::<_, Error>(Progress { frames: sum.frames + frames, bytes: sum.bytes + bytes })
            })
        };
        // The write of this command returns only when all frames are sent.
        thread::scope(|scope| {
            let start = scope.spawn(|| files.write("pgctrl", "start"));
            let mut outcome = Ok(());
            while !start.is_finished() {
                thread::sleep(LISTEN);
                let go = progress().map(&mut *watch);
                if !matches!(go, Ok(Go::On)) {
                    outcome = files.write("pgctrl", "stop").and(go.map(drop));
                }
            }
            let started = start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            started.and(outcome)
        })?;
        *sent = progress()?;
        watch(*sent);
        Ok(*sent)
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        // Nothing more can be done if this fails.
        let _ = self.files.write(&self.files.thread, "rem_device_all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(interfaces: &[&str]) -> Plan {
        Plan {
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            sizes: vec![(60, 1)],
            overhead: 50,
            flows: 300,
            delay: 0,
            macs: INNER,
        }
    }

    /// A directory that replaces the kernel's, with files that keep what is written to them.
    struct Fake {
        directory: tempfile::TempDir,
    }

    impl Fake {
        fn new(files: &[(&str, &str)]) -> Self {
            let fake = Self { directory: tempfile::tempdir().unwrap() };
            let thread = format!("kpktgend_{}", core());
            for (name, text) in
                [("pgctrl", ""), (&thread, "Running: \nStopped: \nResult: NA\n")].iter().chain(files)
            {
                fs::write(fake.directory.path().join(name), text).unwrap();
            }
            fake
        }

        fn engine(&self, plan: Plan) -> Kernel<'static> {
            let files = Files::new(self.directory.path()).unwrap();
            Kernel { files, plan, sent: Progress::default(), _tunnels: None }
        }

        /// Returns the text written to a file after its initial contents.
        fn written(&self, name: &str) -> Vec<String> {
            let text = fs::read_to_string(self.directory.path().join(name)).unwrap();
            let behind = text.lines().skip_while(|line| !line.starts_with("Result:")).skip(1);
            let all = text.lines().filter(|_| !text.contains("Result:"));
            behind.chain(all).map(str::to_owned).collect()
        }
    }

    const DONE: &str = "\
Params: count 3  min_pkt_size: 60  max_pkt_size: 60
     frags: 0  delay: 0  clone_skb: 0  ifname: pg0
Current:
     pkts-sofar: 3  errors: 0
Result: OK: 12(c11+d0) usec, 3 (60byte,0frags)
";

    #[test]
    fn the_generator_is_told_what_to_send_and_started() {
        let fake = Fake::new(&[("pg0", DONE)]);
        let mut engine = fake.engine(plan(&["pg0"]));
        let sent = engine.send(3, &mut |_| Go::On).unwrap();
        assert_eq!(sent, Progress { frames: 3, bytes: 330 });
        drop(engine);
        let thread = format!("kpktgend_{}", core());
        assert_eq!(fake.written(&thread), ["rem_device_all", "add_device pg0", "rem_device_all"]);
        assert_eq!(fake.written("pgctrl"), ["start"]);
        let expected = [
            "clone_skb 0",
            "count 3",
            "delay 0",
            "pkt_size 60",
            "src_mac 02:00:00:00:01:01",
            "dst_mac 02:00:00:00:01:02",
            "src_min 10.0.0.1",
            "src_max 10.0.1.44",
            "dst_min 11.0.0.1",
            "dst_max 11.0.0.1",
            "udp_src_min 20000",
            "udp_src_max 20000",
            "udp_dst_min 9",
            "udp_dst_max 9",
        ];
        assert_eq!(fake.written("pg0"), expected);
    }

    #[test]
    fn frames_are_shared_out_exactly_and_nobody_gets_no_end_by_mistake() {
        let plan = plan(&["a", "b", "c"]);
        assert_eq!(plan.shares(7), [("a", 3), ("b", 2), ("c", 2)]);
        assert_eq!(plan.shares(2), [("a", 1), ("b", 1)]);
        assert_eq!(plan.shares(0), []);
        assert_eq!(plan.shares(u64::MAX), [("a", 0), ("b", 0), ("c", 0)]);
    }

    #[test]
    fn rates_become_delays() {
        let plan = plan(&["a"]);
        let delay = |rate, interfaces| plan.delay(rate, interfaces).unwrap();
        assert_eq!((delay(Rate::Max, 1), delay(Rate::Max, 2)), (0, 1));
        assert_eq!((delay(Rate::Frames(1000.0), 1), delay(Rate::Frames(1000.0), 4)), (1_000_000, 4_000_000));
        // 110 bytes with the encapsulation.
        assert_eq!(delay(Rate::Bits(880_000.0), 1), 1_000_000);
        assert!(plan.delay(Rate::Frames(0.01), 1).is_err());
        assert_ne!(delay(Rate::Frames(1e9 / 2_147_483_647.0), 1), FOREVER);
    }

    #[test]
    fn mixed_sizes_are_weighted_and_their_bytes_counted() {
        let mixed = Plan { sizes: vec![(60, 7), (590, 4), (1514, 1)], ..plan(&["a"]) };
        assert!(mixed.commands(0).contains(&"imix_weights 60,7 590,4 1514,1".to_owned()));
        let text = "Params: count 0  min_pkt_size: 0\n     imix_weights: 60,7 590,4 1514,1 \nCurrent:\n     \
                    pkts-sofar: 4  errors: 0\n     imix_size_counts: 60,2 590,1 1514,1 \nResult: OK";
        assert_eq!(progress(text, 50), Progress { frames: 4, bytes: 2 * 60 + 590 + 1514 + 4 * 50 });
    }

    #[test]
    fn a_generator_that_is_not_there_or_at_work_is_told() {
        let absent = Files::new(Path::new("/absent")).unwrap_err().to_string();
        assert!(absent.contains("modprobe pktgen"), "{absent}");
        let fake = Fake::new(&[("kpktgend_99", "Running: eth7@0 \nStopped: \n")]);
        let busy = Files::new(fake.directory.path()).unwrap_err().to_string();
        assert!(busy.contains("eth7@0"), "{busy}");
    }

    #[test]
    fn a_command_that_is_refused_is_named() {
        let fake = Fake::new(&[]);
        let error = fake.engine(plan(&["gone0"])).send(1, &mut |_| Go::On).unwrap_err().to_string();
        assert!(error.contains("clone_skb 0") && error.contains("gone0"), "{error}");
    }
}
