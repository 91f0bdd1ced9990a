//! One question to several appliances.

use mirror_xdp_tests::appliance::{Bed, wait_until};
use mirror_xdp_tests::frames::{Flow, dns_query, mirrored};
use serde_json::Value;

#[test]
fn the_figures_of_several_appliances_are_added_and_a_missing_one_is_named() {
    let Some(bed) = Bed::new(1) else { return };
    let appliance = bed.start(&[]);
    bed.send(&[mirrored(7).carrying(&Flow::v4(1000, 53).udp(&dns_query(1, "shop.test")))]);
    let here = "http://127.0.0.1:9470";
    let status =
        |arguments: &[&str]| bed.run_to_end(bed.command(&[&["fleet", "status"], arguments].concat()));
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&status(arguments).stdout).unwrap() };
    // The same appliance twice is two.
    wait_until("the frame is counted", || json(&[here, here, "--json"])["total"]["delivered"] == 2);
    let both = json(&[here, here, "--json"]);
    assert_eq!(both["appliances"][0]["figures"]["delivered"], 1);
    assert_eq!(both["total"]["lost"], 0);
    let output = status(&[here, "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.contains("127.0.0.1:1: connection refused"), "{}", output.stdout);
    assert!(output.stdout.lines().any(|line| line.starts_with("all ")), "{}", output.stdout);
    let _ = appliance.stop();
}
