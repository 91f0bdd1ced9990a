//! The modes by which frames get from the driver into buffers: requested, obtained, and reported.

use mirror_xdp_tests::appliance::{Bed, INTERFACE, of_type};
use mirror_xdp_tests::frames::{Flow, mirrored};

/// Returns standard error and exit code of a capture that starts with these arguments and ends at once.
fn told(bed: &Bed, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let command = bed.run_command(&[INTERFACE], &[arguments, &["--duration", "100ms"]].concat());
    let output = bed.run_to_end(command);
    (output.stderr, output.status.code())
}

#[test]
fn zero_copy_that_a_driver_has_not_is_refused_or_done_without_in_one_line() {
    let Some(bed) = Bed::new(2) else { return };
    let (lines, code) = told(&bed, &["--zero-copy", "required"]);
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(line.contains(INTERFACE) && line.contains("zero-copy"), "{line}");
    assert_eq!(code, Some(1));

    let (lines, code) = told(&bed, &["--zero-copy", "auto"]);
    let about: Vec<_> = lines.iter().filter(|line| line.contains("zero-copy")).collect();
    let [line] = &about[..] else { panic!("not one line: {lines:#?}") };
    assert!(line.contains("the driver has none"), "{line}");
    assert_eq!(code, Some(0));

    let (lines, code) = told(&bed, &["--zero-copy", "off"]);
    assert!(!lines.iter().any(|line| line.contains("zero-copy")), "{lines:#?}");
    assert_eq!(code, Some(0));
}

#[test]
fn jumbo_frames_are_put_together_from_several_buffers() {
    let Some(bed) = Bed::new(1) else { return };
    for (namespace, interface) in [(&bed.far, "source0"), (&bed.appliance, INTERFACE)] {
        namespace.ip(&format!("link set {interface} mtu 9001")).unwrap();
    }
    for sockets in ["1", "2"] {
        let appliance = bed.start(&["--sockets-per-queue", sockets]);
        assert!(appliance.announced[0].contains("jumbo"), "{:?}", appliance.announced);
        // Lengths around the limits of each number of buffers, up to the longest frame.
        let lengths = [10, 3600, 3700, 3720, 3800, 7500, 7600, 7700, 8900];
        let frames: Vec<_> = (0..300)
            .map(|index| {
                let flow = Flow::v4(20_000 + index % 100, 9);
                mirrored(1).carrying(&flow.udp(&vec![index as u8; lengths[usize::from(index) % 9]]))
            })
            .collect();
        let outer = mirrored(1).carrying(&[]).len() as u64;
        bed.send(&frames);
        let report = appliance.stop();
        report.assert_conserved();
        assert_eq!(report.analysed(), frames.len() as u64);
        let inner: u64 = frames.iter().map(|frame| frame.len() as u64 - outer).sum();
        let bytes: u64 = report
            .list("/workers")
            .iter()
            .map(|worker| worker["delivered_bytes"].as_u64().expect("a count"))
            .sum();
        assert_eq!(bytes, inner);
        let records = bed.records();
        let last = of_type(&records, "flow").into_iter().rev().take(100);
        let recorded: u64 = last.map(|flow| flow["flow"]["bytes_toserver"].as_u64().expect("a count")).sum();
        assert_eq!(recorded, inner);
        assert_eq!(report.list("/interfaces")[0]["profile"], "jumbo");
    }
}
