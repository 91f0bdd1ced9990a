//! NICs of EC2 by the recorded answers of their drivers: production code parses the bytes of each answer, and
//! the result is judged.

use mirror_device::nic::losses::select;
use mirror_device::nic::recorded::{
    channels, driver, features, rings, rss, statistics, udp_hash, xdp_features,
};

use super::tests::ena;
use super::*;

const OF_KERNEL: &str = include_str!("ena-of-kernel.txt");
const OF_AMAZON: &str = include_str!("ena-2.17.txt");

/// Returns the answer with this name.
fn answer(recording: &str, name: &str) -> Vec<u8> {
    let line = recording.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    let digits = line.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}

/// Returns the facts about the NIC of a recording, on a machine that is otherwise in order.
fn facts(recording: &str) -> Facts {
    let answer = |name| answer(recording, name);
    let counters = statistics(&answer("strings"), &answer("stats"));
    Facts {
        driver: Some(driver(&answer("drvinfo"))),
        xdp: xdp_features(&answer("netdev")),
        channels: Some(channels(&answer("ethtool.channels"))),
        rings: Some(rings(&answer("ethtool.rings"))),
        features: features(&answer("ethtool.features")),
        rss: Some(rss(&answer("rxfh"))),
        udp_hash: Some(udp_hash([&answer("udp4"), &answer("udp6")])),
        losses: select("ena", &counters, &[]),
        ..ena()
    }
}

fn check(checks: &[Check], name: &str) -> Check {
    checks.iter().find(|check| check.check == name).unwrap().clone()
}

#[test]
fn an_ena_as_it_comes_has_all_that_is_wrong_named() {
    let checks = judge(&facts(OF_KERNEL));
    let wrong: Vec<_> =
        checks.iter().filter(|check| check.state != State::Fine).map(|check| check.check).collect();
    assert_eq!(wrong, ["driver", "channels", "rings", "rss", "losses"], "{checks:#?}");
    let of = |name| check(&checks, name);

    assert!(of("driver").found.starts_with("ena 6.8.0-1024-aws, at 0000:00:06.0: the kernel's own driver"));
    assert_eq!(of("xdp").found, "native, redirect");
    assert_eq!(of("channels").fix.as_deref(), Some("ethtool -L ens6 combined 2"));
    assert_eq!(of("rings").fix.as_deref(), Some("ethtool -G ens6 rx 8192"));
    assert!(of("rss").found.contains("rank 5 of 7"), "{}", of("rss").found);
    let losses = of("losses").found;
    assert!(
        losses.contains("pps_allowance_exceeded 1234") && losses.contains("page_alloc_fail 3"),
        "{losses}"
    );
    assert!(!losses.contains("bw_in") && !losses.contains("xdp_drop"), "{losses}");
}

#[test]
fn an_ena_that_was_prepared_is_fine() {
    let facts = facts(OF_AMAZON);
    let checks = judge(&facts);
    assert!(checks.iter().all(|check| check.state == State::Fine), "{checks:#?}");
    assert_eq!(check(&checks, "xdp").found, "native, redirect, zero-copy, frames of several buffers");
    assert!(check(&checks, "rss").found.contains("4 of 4 queues, 32 to 32 each"));
    let feature = |name: &str| facts.features.iter().find(|feature| feature.name == name).unwrap();
    // As netlink reports them: on and changeable, off and changeable, on and fixed.
    let told = ["rx-gro", "rx-lro", "highdma"].map(|name| (feature(name).active, feature(name).changeable));
    assert_eq!(told, [(true, true), (false, true), (true, false)]);
}

/// With the key that the doctor sets, every queue is reached.
#[test]
fn the_key_that_mends_a_recorded_one_is_of_full_rank() {
    let mut facts = facts(OF_KERNEL);
    let Some(Change::RssKey(key)) = check(&judge(&facts), "rss").change else { panic!("no new key") };
    facts.rss.as_mut().unwrap().key = key;
    let mended = check(&judge(&facts), "rss");
    assert!(mended.state == State::Fine && mended.found.contains("rank 7 of 7"), "{}", mended.found);
}
