//! x
use mirror_userspace::datapath::program::{CaptureProgram, Options};

#[test]
fn quick() {
    let program = CaptureProgram::load(&Options::default()).unwrap();
    println!("verified {:?}", program.verified_instructions().unwrap());
}
