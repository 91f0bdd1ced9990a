//! All queues of all interfaces are captured, whether one or several.

use mirror_xdp_tests::appliance::{Bed, INTERFACE, Report, of_type, received, wait_until};
use mirror_xdp_tests::frames::{Flow, mirrored};
use mirror_xdp_tests::inject::Injector;

/// Returns frames of `sessions` sessions with different UDP source ports, so that they spread over the
/// queues.
fn spread(sessions: u16) -> Vec<Vec<u8>> {
    let inner = |session| Flow::v4(10_000 + session, 9).udp(b"hello");
    (0..sessions).map(|session| mirrored(1).source_port(40_000 + session).carrying(&inner(session))).collect()
}

/// Returns the frames delivered by each queue of the first interface.
fn delivered(report: &Report) -> Vec<u64> {
    let mut delivered = Vec::new();
    for ring in report.list("/interfaces/0/rings") {
        let queue = ring["queue"].as_u64().expect("a number") as usize;
        delivered.resize(delivered.len().max(queue + 1), 0);
        delivered[queue] += ring["delivered"].as_u64().expect("a count");
    }
    delivered
}

#[test]
fn one_queue_delivers_everything() {
    let Some(bed) = Bed::new(1) else { return };
    let report = bed.capture(&spread(200), &[]);
    report.assert_conserved();
    assert_eq!(delivered(&report), [200]);
}

#[test]
fn several_queues_share_the_sessions() {
    for queues in [2, 4] {
        let Some(bed) = Bed::new(queues) else { return };
        let report = bed.capture(&spread(400), &[]);
        report.assert_conserved();
        let delivered = delivered(&report);
        assert_eq!(delivered.len(), queues);
        assert_eq!(delivered.iter().sum::<u64>(), 400);
        assert!(delivered.iter().all(|count| *count > 0), "{delivered:?}");
        let records = bed.records();
        assert_eq!(of_type(&records, "flow").len(), 400);
    }
}

#[test]
fn several_interfaces_are_captured_at_once() {
    let Some(bed) = Bed::new(2) else { return };
    bed.appliance.veth("mirror1", &bed.far, "source1", 1).unwrap();
    bed.appliance.up("mirror1").unwrap();
    bed.far.up("source1").unwrap();
    let appliance = bed.start_on(&[INTERFACE, "mirror1"], &[]);
    assert!(appliance.announced.iter().any(|line| line.starts_with(&format!("capturing on {INTERFACE}:"))));
    assert!(appliance.announced.iter().any(|line| line.starts_with("capturing on mirror1:")));

    bed.send(&spread(30));
    let second = Injector::new(&bed.far, "source1").unwrap();
    let frames = spread(20);
    for frame in &frames {
        second.send(frame).unwrap();
    }
    wait_until("the second interface has received", || received(&bed.appliance, "mirror1") >= 20);
    let report = appliance.stop();
    report.assert_conserved();
    let interfaces = report.list("/interfaces");
    let seen = |name: &str| {
        let interface = interfaces.iter().find(|interface| interface["name"] == name);
        interface.and_then(|interface| interface["program"]["seen"].as_u64())
    };
    assert_eq!((seen(INTERFACE), seen("mirror1")), (Some(30), Some(20)));
    assert_eq!(report.analysed(), 50);
}

#[test]
fn one_interface_that_cannot_be_captured_leaves_the_other_alone() {
    let Some(bed) = Bed::new(1) else { return };
    let process = bed.run_command(&[INTERFACE, "absent0"], &[]);
    let output = bed.run_to_end(process);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.iter().any(|line| line.contains("absent0")), "{:?}", output.stderr);
    let link = bed.appliance.ip(&format!("link show {INTERFACE}")).unwrap();
    assert!(!link.contains("xdp"), "a program was left behind: {link}");
}
