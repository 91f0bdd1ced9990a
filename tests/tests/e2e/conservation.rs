//! Every frame is accounted for under load, whatever its content.

use std::thread;

use mirror_xdp_tests::appliance::Bed;
use mirror_xdp_tests::frames::{Flow, mirrored};
use nix::sys::signal::Signal;

/// Frames of each of the two senders: together some hundred thousand.
const FRAMES: usize = 150_000;

/// Returns a mix of frames: of eight, five are well-formed, two malformed, and one is not mirror traffic.
fn mix(sender: u16) -> Vec<Vec<u8>> {
    let mut mix = Vec::new();
    for flow in 0..64 {
        let inner = Flow::v4(10_000 + 64 * sender + flow, 9).udp(&vec![flow as u8; usize::from(flow) * 20]);
        let session = mirrored(1 + u32::from(flow)).source_port(50_000 + 64 * sender + flow);
        mix.extend([
            session.carrying(&inner),
            session.clone().over_ipv6().carrying(&inner),
            session.clone().vlan(7).carrying(&inner),
            session.clone().ip_options(&[1; 8]).carrying(&inner),
            session.clone().trailer(6).carrying(&inner),
            session.clone().udp_length(65_535).carrying(&inner),
            session.clone().vxlan_flags(0).carrying(&inner),
            session.clone().port(5353).carrying(&inner),
        ]);
    }
    mix
}

#[test]
fn every_frame_is_accounted_for_under_load() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let before = bed.received();
    thread::scope(|scope| {
        for sender in 0..2 {
            let injector = bed.injector();
            scope.spawn(move || {
                let mix = mix(sender);
                for frame in mix.iter().cycle().take(FRAMES) {
                    injector.send(frame).unwrap();
                }
            });
        }
    });
    let sent = 2 * FRAMES as u64;
    bed.wait_until_received(before + sent);
    let report = appliance.stop();
    report.assert_conserved();
    // Only the two senders use this cable.
    assert_eq!(report.seen(), sent);
    let eighth = sent / 8;
    let reasons = ["not_mirror", "outer_udp_length", "vxlan_no_vni"].map(|name| (name.to_owned(), eighth));
    assert_eq!(report.reasons(), reasons);
    assert_eq!(report.redirected(), 5 * eighth);
    assert_eq!(report.analysed() + report.lost(), 5 * eighth);
    assert!(report.analysed() > 0);
}

#[test]
fn stopping_under_load_loses_count_of_nothing() {
    let Some(bed) = Bed::new(2) else { return };
    let appliance = bed.start(&[]);
    let injector = bed.injector();
    let report = thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mix = mix(0);
            for frame in mix.iter().cycle().take(FRAMES) {
                injector.send(frame).unwrap();
            }
        });
        // In the midst of the traffic, by count and not by time.
        bed.wait_until_received(FRAMES as u64 / 8);
        let report = appliance.stop();
        sender.join().unwrap();
        report
    });
    report.assert_conserved();
    assert!(report.seen() >= FRAMES as u64 / 8);
}

#[test]
fn frames_that_find_the_ring_full_are_counted_as_lost() {
    let Some(bed) = Bed::new(1) else { return };
    let mut appliance = bed.start(&[]);
    // A stopped process takes nothing from the ring, however large that is.
    appliance.signal(Signal::SIGSTOP);
    let frame = mirrored(1).carrying(&Flow::default().udp(b"hello"));
    let frames = vec![frame; 100_000];
    bed.send(&frames);
    appliance.signal(Signal::SIGCONT);
    let report = appliance.stop();
    report.assert_conserved();
    assert_eq!(report.seen(), frames.len() as u64);
    assert_eq!(report.reasons(), []);
    assert!(report.lost() > 0);
    assert!(report.analysed() > 0);
    assert_eq!(report.analysed() + report.lost(), frames.len() as u64);
}
