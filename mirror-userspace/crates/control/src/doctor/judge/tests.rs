//! NICs that are not at hand, by their answers elsewhere, and the expected judgement.

use mirror_device::nic::ioctl::Driver;
use mirror_device::nic::losses::{Counters, select};
use mirror_device::nic::rss::Rss;
use mirror_device::nic::{Channels, Feature, Interface, Link, Rings, Setting, XdpFeatures};

use super::*;
use crate::doctor::{Attached, HugePages, Machine, Numa};

const RELEASE: &str = "6.8.0-1024-aws";

/// ENA in perfect order, on a machine with four CPUs.
pub(super) fn ena() -> Facts {
    let rss = Rss {
        key: vec![0x5a; 40],
        table: (0..128).map(|entry| entry % 4).collect(),
        function: 1,
        transformation: 0,
    };
    Facts {
        machine: Machine {
            release: RELEASE.to_owned(),
            missing: Vec::new(),
            lockable: None,
            memory: 2 << 30,
            huge_pages: Some(HugePages { bytes: 2 << 20, total: 128, free: 128 }),
            cpus: (0..4).collect(),
            online: (0..4).collect(),
            workers: Vec::new(),
        },
        interface: Interface {
            name: "ens6".to_owned(),
            index: 3,
            mtu: 3498,
            up: true,
            link: Link { up: true, losses: 0 },
            ethernet: true,
            mac: None,
            xdp: Vec::new(),
        },
        driver: Some(Driver {
            name: "ena".to_owned(),
            version: "2.17.0g".to_owned(),
            firmware: String::new(),
            bus: "0000:00:06.0".to_owned(),
        }),
        xdp: Some(XdpFeatures::new(0x2f, 1)),
        channels: Some(Channels { combined: Setting { current: 4, maximum: 8 }, ..Channels::default() }),
        rings: Some(Rings {
            rx: Setting { current: 8192, maximum: 8192 },
            tx: Setting { current: 512, maximum: 512 },
        }),
        features: vec![Feature { name: "rx-lro".to_owned(), active: false, changeable: false }],
        rss: Some(Rss { key: rss.better_key(), ..rss }),
        udp_hash: Some([HASH_ALL; 2]),
        steering_rules: 0,
        losses: losses(&[]),
        interrupts: (0..4).map(|queue| interrupt(queue, queue)).collect(),
        numa: None,
        attached: Vec::new(),
        taken_ports: Vec::new(),
    }
}

fn interrupt(queue: u32, cpu: u32) -> Interrupt {
    Interrupt {
        number: 30 + queue,
        name: format!("ens6-Tx-Rx-{queue}"),
        cpus: cpu.to_string(),
        effective: cpu.to_string(),
        counts: Vec::new(),
    }
}

fn losses(counters: &[(&str, u64)]) -> Counters {
    let counters: Vec<_> = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    select("ena", &counters, &[])
}

/// Returns the single check that is not fine.
fn only(facts: &Facts) -> Check {
    let mut checks = judge(facts);
    checks.retain(|check| check.state != State::Fine);
    assert_eq!(checks.len(), 1, "{checks:#?}");
    checks.remove(0)
}

/// Returns the verdict after a change to the facts about ENA: check, state, command.
fn said(change: impl FnOnce(&mut Facts)) -> (&'static str, State, Option<String>) {
    let mut facts = ena();
    change(&mut facts);
    let check = only(&facts);
    (check.check, check.state, check.fix)
}

#[test]
fn a_prepared_ena_is_fine() {
    let checks = judge(&ena());
    assert!(checks.iter().all(|check| check.state == State::Fine && check.fix.is_none()), "{checks:#?}");
    let rss = checks.iter().find(|check| check.check == "rss").unwrap();
    assert!(
        rss.found.contains("rank 7 of 7") && rss.found.contains("4 of 4 queues, 32 to 32"),
        "{}",
        rss.found
    );
}

#[test]
fn each_setting_that_is_wrong_has_its_command() {
    let warning = |check, fix: &str| (check, State::Warning, Some(fix.to_owned()));
    let broken = |check, fix: &str| (check, State::Broken, Some(fix.to_owned()));
    assert_eq!(said(|f| f.interface.mtu = 9001), warning("mtu", "ip link set dev ens6 mtu 3498"));
    assert_eq!(said(|f| f.interface.mtu = 1500), warning("mtu", "ip link set dev ens6 mtu 3498"));
    assert_eq!(said(|f| f.interface.up = false), broken("interface", "ip link set dev ens6 up"));
    assert_eq!(said(|f| f.machine.cpus = (0..8).collect()).2.as_deref(), Some("ethtool -L ens6 combined 8"));
    assert_eq!(
        said(|f| f.rings.as_mut().unwrap().rx.current = 1024),
        warning("rings", "ethtool -G ens6 rx 8192")
    );
    let lro = Feature { name: "rx-lro".to_owned(), active: true, changeable: true };
    assert_eq!(said(|f| f.features = vec![lro]), warning("offloads", "ethtool -K ens6 rx-lro off"));
    assert_eq!(
        said(|f| f.machine.huge_pages.as_mut().unwrap().free = 3),
        warning("huge_pages", "sysctl -w vm.nr_hugepages=189")
    );
    assert_eq!(
        said(|f| f.udp_hash = Some([HASH_ALL, 0x30])),
        warning("udp_hash", "ethtool -N ens6 rx-flow-hash udp4 sdfn; ethtool -N ens6 rx-flow-hash udp6 sdfn")
    );
    assert_eq!(
        said(|f| f.interrupts = (0..2).map(|queue| interrupt(queue, 0)).collect()),
        warning(
            "interrupts",
            "echo 0 > /proc/irq/30/smp_affinity_list; echo 1 > /proc/irq/31/smp_affinity_list"
        )
    );
}

/// The CPUs to which the doctor moves the interrupts of two queues, with CPUs given to workers.
#[test]
fn interrupts_are_kept_off_the_cpus_of_workers() {
    let moved = |workers: &[usize], taken_by: [u32; 2]| {
        let mut facts = ena();
        facts.machine.workers = workers.to_vec();
        facts.interrupts = vec![interrupt(0, taken_by[0]), interrupt(1, taken_by[1])];
        let check = judge(&facts).into_iter().find(|check| check.check == "interrupts").unwrap();
        assert_eq!(check.state == State::Fine, check.change.is_none(), "{check:?}");
        match check.change {
            Some(Change::Affinity(to)) => Some(to.into_iter().map(|(_, cpus)| cpus).collect::<Vec<_>>()),
            _ => None,
        }
    };
    let to = |cpus: [&str; 2]| Some(cpus.map(str::to_owned).to_vec());
    assert_eq!(moved(&[2, 3], [0, 1]), None);
    assert_eq!(moved(&[2, 3], [0, 2]), to(["0", "1"]));
    assert_eq!(moved(&[2, 3], [1, 1]), to(["0", "1"]), "two CPUs are free for them");
    assert_eq!(moved(&[1, 2, 3], [0, 3]), to(["0", "0"]), "one is free");
    assert_eq!(moved(&[1, 2, 3], [0, 0]), None);
    // If workers have all CPUs, each queue is received on the CPU of a worker, a different one for each.
    assert_eq!(moved(&[3, 2, 1, 0], [0, 0]), to(["3", "2"]));
    assert_eq!(moved(&[3, 2, 1, 0], [3, 2]), None);
    // If the capture chooses, it takes the CPUs that are left.
    assert_eq!(moved(&[], [0, 1]), None);
}

#[test]
fn what_people_have_to_do_is_not_done_for_them() {
    let unmended = |change: fn(&mut Facts)| {
        let mut facts = ena();
        change(&mut facts);
        let check = only(&facts);
        assert_eq!(check.change, None);
        (check.check, check.state)
    };
    let other =
        |f: &mut Facts| f.attached = vec![Attached { description: "program fw".to_owned(), ours: false }];
    assert_eq!(unmended(other), ("programs", State::Broken));
    assert_eq!(unmended(|f| f.machine.missing = vec!["CAP_BPF"]), ("capabilities", State::Broken));
    assert_eq!(unmended(|f| f.machine.lockable = Some(8 << 20)), ("locked_memory", State::Broken));
    assert_eq!(
        unmended(|f| f.taken_ports = vec![(4789, "the VXLAN interface vxlan0".to_owned())]),
        ("ports", State::Broken)
    );
    assert_eq!(unmended(|f| f.interface.ethernet = false), ("interface", State::Broken));
    assert_eq!(unmended(|f| f.machine.release = "5.10.0-1".to_owned()), ("kernel", State::Broken));
    assert_eq!(unmended(|f| f.machine.release = "5.19.0".to_owned()), ("kernel", State::Warning));
    assert_eq!(unmended(|f| f.steering_rules = 2), ("steering", State::Warning));
    assert_eq!(unmended(|f| f.xdp = Some(XdpFeatures::new(0, 0))), ("xdp", State::Warning));
    assert_eq!(unmended(|f| f.numa = Some(Numa { node: 1, cpus: vec![8, 9] })), ("numa", State::Warning));
}

#[test]
fn a_large_mtu_says_which_profile_results() {
    let found = |mtu, version: &str| {
        let mut facts = ena();
        facts.interface.mtu = mtu;
        facts.driver.as_mut().unwrap().version = version.to_owned();
        judge(&facts).into_iter().find(|check| check.check == "mtu").unwrap().found
    };
    assert!(found(9001, "2.17.0g").contains("jumbo profile"));
    assert!(found(9001, "2.13.2g").contains("generic"));
    assert!(found(3600, "2.13.2g").contains("generic"));
    assert!(found(3600, "2.17.0g").contains("fits into one buffer"));
}

#[test]
fn a_capture_that_runs_is_no_stranger() {
    let mut facts = ena();
    facts.attached = vec![Attached { description: "program capture".to_owned(), ours: true }];
    facts.machine.huge_pages.as_mut().unwrap().free = 0;
    assert!(judge(&facts).iter().all(|check| check.state == State::Fine));
}

#[test]
fn a_degenerate_key_is_named_and_the_new_one_is_not() {
    let mut facts = ena();
    let rss = facts.rss.as_mut().unwrap();
    rss.key = vec![0xff; 40];
    let check = only(&facts);
    assert!(check.found.contains("rank 1 of 7"), "{}", check.found);
    assert!(check.fix.unwrap().starts_with("ethtool -X ens6 hkey ff:ff:"));
    let Some(Change::RssKey(key)) = check.change else { panic!("no new key") };
    facts.rss.as_mut().unwrap().key = key;
    assert!(judge(&facts).iter().all(|check| check.state == State::Fine));
}

#[test]
fn a_hash_that_is_not_known_is_not_judged() {
    for change in [
        (|f| f.rss = None) as fn(&mut Facts),
        |f| f.rss.as_mut().unwrap().function = 4,
        |f| f.rss.as_mut().unwrap().transformation = 1,
        |f| f.rss.as_mut().unwrap().key.clear(),
    ] {
        let mut facts = ena();
        change(&mut facts);
        assert!(judge(&facts).iter().all(|check| check.state == State::Fine));
    }
}

/// Driver, MTU, channels, and the expected judgement.
#[test]
fn the_drivers_of_ena_have_their_limits() {
    let facts = |version: &str, mtu, queues, cpus| {
        let mut facts = ena();
        facts.driver.as_mut().unwrap().version = version.to_owned();
        facts.interface.mtu = mtu;
        facts.channels.as_mut().unwrap().combined.current = queues;
        facts.machine.cpus = (0..cpus).collect();
        facts.rss = None;
        facts.interrupts = Vec::new();
        facts.machine.huge_pages.as_mut().unwrap().free = 1000;
        judge(&facts).into_iter().filter(|check| check.state != State::Fine).collect::<Vec<_>>()
    };
    let names = |checks: &[Check]| checks.iter().map(|check| check.check).collect::<Vec<_>>();

    // The driver of the kernel tree: half of the channels, MTU up to 3498.
    let checks = facts(RELEASE, 3600, 8, 8);
    assert_eq!(names(&checks), ["driver", "mtu", "channels"]);
    assert_eq!(checks[2].fix.as_deref(), Some("ethtool -L ens6 combined 4"));
    assert!(checks[2].found.contains("at most 4"), "{}", checks[2].found);
    assert_eq!(names(&facts(RELEASE, 3498, 4, 8)), ["driver"]);

    assert_eq!(names(&facts("2.13.0g", 3498, 4, 4)), ["driver"]);
    assert_eq!(names(&facts("2.13.2g", 3600, 4, 4)), ["mtu"]);
    assert_eq!(names(&facts("2.14.0g", 3600, 8, 8)), ["channels"]);
    assert_eq!(names(&facts("2.17.0g", 3600, 8, 8)), [""; 0]);
}

#[test]
fn what_the_device_lost_is_told_with_what_helps() {
    let mut facts = ena();
    facts.losses = losses(&[("pps_allowance_exceeded", 7), ("rx_overruns", 0), ("queue_0_rx_xdp_drop", 9)]);
    let check = only(&facts);
    assert_eq!((check.check, check.state), ("losses", State::Warning));
    assert!(check.found.contains("pps_allowance_exceeded 7") && check.found.contains("larger instance"));
    assert!(!check.found.contains("rx_overruns") && !check.found.contains("xdp_drop"), "{}", check.found);
}

#[test]
fn a_veth_with_one_queue_says_what_it_was_made_with() {
    let mut facts = ena();
    facts.driver = Some(Driver { name: "veth".to_owned(), version: "1.0".to_owned(), ..Driver::default() });
    let one = Setting { current: 1, maximum: 1 };
    facts.channels = Some(Channels { rx: one, ..Channels::default() });
    (facts.rings, facts.rss, facts.udp_hash, facts.interrupts) = (None, None, None, Vec::new());
    let check = only(&facts);
    assert_eq!((check.check, check.fix), ("channels", None));
    assert!(check.found.contains("numrxqueues"), "{}", check.found);

    facts.channels = Some(Channels { rx: Setting { current: 1, maximum: 4 }, ..Channels::default() });
    assert_eq!(only(&facts).fix.as_deref(), Some("ethtool -L ens6 rx 4"));

    // Its peer sends by more queues than it receives by: no XDP in the driver, even with few CPUs.
    facts.xdp = Some(XdpFeatures::new(0, 0));
    facts.machine.cpus = vec![0];
    let checks = judge(&facts);
    let fix = |name| checks.iter().find(|check| check.check == name).unwrap();
    assert_eq!((fix("xdp").state, fix("channels").state), (State::Warning, State::Warning));
    assert_eq!(fix("channels").fix.as_deref(), Some("ethtool -L ens6 rx 4"));
}
