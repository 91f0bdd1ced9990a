//! The lab, which `cargo xtask run` shows, sees all that it is meant to see.

use mirror_xdp_tests::lab::{self, Outcome};
use mirror_xdp_tests::require;

#[test]
fn the_lab_sees_names_applications_and_every_frame() {
    if !require::privileges() {
        return;
    }
    let Some(binary) = require::binary() else { return };
    assert_eq!(lab::run(&binary).unwrap(), Outcome::Passed);
}
