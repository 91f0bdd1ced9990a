//! Malformed mirror traffic is dropped, each kind counted by its own counter only, and reaches neither the
//! kernel nor a worker.

use mirror_xdp_tests::appliance::Bed;
use mirror_xdp_tests::frames::{Flow, mirrored};

/// Sends `frame` alone, and asserts that it increments this counter and no other.
fn assert_raises(bed: &Bed, counter: &str, what: &str, frame: Vec<u8>) {
    let report = bed.capture(&[frame], &[]);
    report.assert_conserved();
    assert_eq!(report.reasons(), [(counter.to_owned(), 1)], "{what}");
    assert_eq!((report.seen(), report.redirected()), (1, 0), "{what}");
}

fn inner() -> Vec<u8> {
    Flow::default().udp(b"hello")
}

#[test]
fn outer_fragments_are_dropped_and_later_ones_passed() {
    let Some(bed) = Bed::new(1) else { return };
    for (family, session) in [("IPv4", mirrored(1)), ("IPv6", mirrored(1).over_ipv6())] {
        let first = session.clone().fragment(0, true).carrying(&inner());
        assert_raises(&bed, "outer_fragment", family, first);
        let later = session.clone().fragment(1480, true).carrying(&inner());
        assert_raises(&bed, "outer_later_fragment", family, later);
        let last = session.fragment(2960, false).carrying(&inner());
        assert_raises(&bed, "outer_later_fragment", family, last);
    }
}

#[test]
fn a_wrong_ip_length_has_its_counter() {
    let Some(bed) = Bed::new(1) else { return };
    let counter = "outer_ip_length";
    assert_raises(
        &bed,
        counter,
        "IPv4 longer than the frame",
        mirrored(1).ip_length(2000).carrying(&inner()),
    );
    assert_raises(&bed, counter, "IPv4 within the UDP header", mirrored(1).ip_length(27).carrying(&inner()));
    let v6 = || mirrored(1).over_ipv6();
    assert_raises(&bed, counter, "IPv6 longer than the frame", v6().ip_length(2000).carrying(&inner()));
    assert_raises(&bed, counter, "IPv6 within the UDP header", v6().ip_length(7).carrying(&inner()));
}

#[test]
fn a_wrong_udp_length_has_its_counter() {
    let Some(bed) = Bed::new(1) else { return };
    for (family, session) in [("IPv4", mirrored(1)), ("IPv6", mirrored(1).over_ipv6())] {
        for length in [0, 7, 1000, 65_535] {
            let frame = session.clone().udp_length(length).carrying(&inner());
            assert_raises(&bed, "outer_udp_length", &format!("{family}, {length}"), frame);
        }
    }
}

#[test]
fn a_datagram_that_ends_within_the_vxlan_header_has_its_counter() {
    let Some(bed) = Bed::new(1) else { return };
    for length in [0, 1, 7] {
        let frame = mirrored(1).datagram(&[8, 0, 0, 0, 0, 0, 1, 0][..length]);
        assert_raises(&bed, "vxlan_truncated", &format!("{length} bytes"), frame);
    }
}

#[test]
fn a_vxlan_header_without_a_vni_has_its_counter() {
    let Some(bed) = Bed::new(1) else { return };
    for flags in [0x00, 0xf7] {
        let frame = mirrored(1).vxlan_flags(flags).carrying(&inner());
        assert_raises(&bed, "vxlan_no_vni", &format!("flags {flags:#04x}"), frame);
    }
}

#[test]
fn an_inner_frame_without_an_ethernet_header_has_its_counter() {
    let Some(bed) = Bed::new(1) else { return };
    for length in [0, 13] {
        let frame = mirrored(1).carrying(&inner()[..length]);
        assert_raises(&bed, "inner_too_short", &format!("{length} bytes"), frame);
    }
}

#[test]
fn malformed_frames_of_all_kinds_at_once_are_told_apart() {
    let Some(bed) = Bed::new(1) else { return };
    let good = mirrored(1).carrying(&inner());
    let frames = [
        mirrored(1).fragment(0, true).carrying(&inner()),
        good.clone(),
        mirrored(1).ip_length(9000).carrying(&inner()),
        mirrored(1).udp_length(7).carrying(&inner()),
        mirrored(1).datagram(b"short"),
        good.clone(),
        mirrored(1).vxlan_flags(0).carrying(&inner()),
        mirrored(1).carrying(b"short"),
        mirrored(1).fragment(8, false).carrying(&inner()),
        mirrored(1).port(53).carrying(&inner()),
        good,
    ];
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    let expected = [
        "inner_too_short",
        "not_mirror",
        "outer_fragment",
        "outer_ip_length",
        "outer_later_fragment",
        "outer_udp_length",
        "vxlan_no_vni",
        "vxlan_truncated",
    ];
    assert_eq!(report.reasons(), expected.map(|name| (name.to_owned(), 1)));
    assert_eq!(report.analysed(), 3);
}

#[test]
fn inner_frames_that_make_no_sense_are_analysed_or_refused_but_never_lost() {
    let Some(bed) = Bed::new(1) else { return };
    let whole = Flow::v4(20_000, 53).udp(&mirror_xdp_tests::frames::dns_query(1, "example.com"));
    // Truncated at each byte from the Ethernet header on, as by the packet length of a mirror session.
    let mut frames: Vec<_> =
        (14..=whole.len()).map(|length| mirrored(1).carrying(&whole[..length])).collect();
    // Each byte of the headers changed: the lowest bit, the highest bit, and all bits.
    for at in 12..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut wrong = whole.clone();
            wrong[at] ^= flip;
            frames.push(mirrored(1).carrying(&wrong));
        }
    }
    let report = bed.capture(&frames, &[]);
    report.assert_conserved();
    assert_eq!(report.redirected(), frames.len() as u64);
    assert_eq!(report.lost(), 0);
    assert_eq!(report.reasons(), []);
}
