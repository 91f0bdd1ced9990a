use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use mirror_packet::Vlans;
use mirror_xdp_common::Vni;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn file(text: &str) -> Result<NamesFile, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names.json");
    fs::write(&path, text).unwrap();
    NamesFile::read(&path).map_err(|error| error.to_string())
}

/// Returns the members that a record of a flow from 10.0.0.1 to 10.0.0.2 has, for a session of VNI 7 and source 10.9.0.1.
fn members(files: &[&str], time: u64) -> String {
    let files: Vec<_> = files.iter().map(|text| file(text).unwrap()).collect();
    let address = |last: u32| Address::from_v4(0x0a00_0000 + last);
    let mirror = MirrorSession::new(
        Vni::new(7).unwrap(),
        Address::from_v4(0x0a09_0001),
        Address::from_v4(0x0a09_0002),
    );
    let flow = Conversation {
        flow_id: 1,
        source: address(1),
        destination: address(2),
        source_port: 1000,
        destination_port: 2000,
        protocol: 17,
        ipv6: false,
        vlans: Vlans::new(),
        mirror: Some(mirror),
        other_source: None,
    };
    let mut out = Vec::new();
    Names::new(&files).write(&mut out, &mirror, &flow, time);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_session_is_found_by_vni_and_source_and_hosts_by_address_within_its_vpc() {
    let text = r#"{"version":1,"sessions":[
        {"vni":7,"source":"10.9.0.1","session":"tms-1","name":"web \"1\"","vpc":"vpc-1","tags":{"team":"a"}},
        {"vni":8,"source":"10.9.0.1","session":"tms-2"},{"vni":7,"source":"10.9.0.3","session":"tms-3"}],
        "hosts":[{"vpc":"vpc-1","addresses":["10.0.0.1","fd00::1"],"name":"web-1","type":"instance","id":"i-1"},
        {"vpc":"vpc-2","addresses":["10.0.0.2"],"name":"of another VPC"}]}"#;
    assert_eq!(
        members(&[text], 0),
        r#","session":"tms-1","name":"web \"1\"","vpc":"vpc-1","tags":{"team":"a"},"src":{"name":"web-1","type":"instance","id":"i-1"}"#
    );
    // A second file adds hosts outside AWS.
    let other = r#"{"version":1,"hosts":[{"addresses":["10.0.0.2"],"name":"printer"}]}"#;
    assert!(members(&[text, other], 0).ends_with(r#","dest":{"name":"printer"}"#));
    assert_eq!(members(&[other], 0), r#","dest":{"name":"printer"}"#);
}

#[test]
fn what_fits_several_times_is_listed_and_none_is_chosen() {
    let text = r#"{"version":1,"sessions":[
        {"vni":7,"source":"10.9.0.1","session":"tms-1","name":"a","vpc":"vpc-1","account":"1","tags":{"t":"1"}},
        {"vni":7,"source":"10.9.0.1","session":"tms-2","name":"b","vpc":"vpc-2","account":"1"}],
        "hosts":[{"vpc":"vpc-1","addresses":["10.0.0.1"],"name":"x"},
        {"addresses":["10.0.0.2"],"name":"y"},{"addresses":["10.0.0.2"],"name":"z"}]}"#;
    assert_eq!(
        members(&[text], 0),
        r#","candidates":["tms-1","tms-2"],"account":"1","dest":[{"name":"y"},{"name":"z"}]"#
    );
}

#[test]
fn old_names_say_how_old_they_are() {
    let text = r#"{"version":1,"as_of":"1970-01-01T00:01:40Z","valid_for":60,"sessions":[
        {"vni":7,"source":"10.9.0.1","session":"tms-1"}]}"#;
    assert_eq!(members(&[text], 160 * SECOND), r#","session":"tms-1""#);
    assert_eq!(members(&[text], 161 * SECOND), r#","session":"tms-1","names_age":61"#);
}

#[test]
fn files_of_another_form_are_refused_in_one_line() {
    for (text, words) in [
        ("", "EOF"),
        ("[]", "expected"),
        (r#"{"version":2}"#, "version 2, but this program reads version 1"),
        (r#"{"version":1,"sessions":[{"vni":7}]}"#, "missing field `source`"),
        (r#"{"version":1,"sesions":[]}"#, "unknown field `sesions`"),
        (r#"{"version":1,"as_of":"yesterday"}"#, "`yesterday` is no time"),
        (r#"{"version":1,"sessions":[{"vni":7,"source":"10.9.0.1""#, "EOF"),
    ] {
        let error = file(text).unwrap_err();
        assert!(error.contains(words) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_file_that_everyone_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names.json");
    fs::write(&path, r#"{"version":1}"#).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(
        NamesFile::read(&path).unwrap_err().to_string().ends_with("all users can write to it; chmod o-w")
    );
}

#[test]
fn a_hostile_file_adds_little_to_a_record() {
    let long = "x".repeat(100_000);
    let text = format!(
        r#"{{"version":1,"sessions":[{{"vni":7,"source":"10.9.0.1","session":"{long}"}}],
        "hosts":[{{"addresses":["10.0.0.1"],"name":"{long}"}}]}}"#
    );
    assert_eq!(members(&[&text], 0), r#","src":null"#);
    let tags: Vec<_> = (0..1000).map(|number| format!(r#""{number}":"value""#)).collect();
    let text = format!(
        r#"{{"version":1,"sessions":[{{"vni":7,"source":"10.9.0.1","session":"tms-1","tags":{{{}}}}}]}}"#,
        tags.join(",")
    );
    assert_eq!(members(&[&text], 0), r#","session":"tms-1""#);
}

#[test]
fn a_file_that_changes_is_read_again_and_one_that_breaks_keeps_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names.json");
    let mut watched = Watched::new(std::slice::from_ref(&path));
    assert!(matches!(watched.read(), (None, errors) if errors.is_empty()));
    let replace = |text: &str| {
        let new = directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
    };
    replace(r#"{"version":1,"sessions":[{"vni":7,"source":"10.9.0.1"}]}"#);
    let (names, errors) = watched.read();
    assert_eq!((names.unwrap().sessions(), errors.len()), (1, 0));
    assert!(watched.read().0.is_none());
    replace("{");
    let (names, errors) = watched.read();
    assert!(names.is_none());
    assert!(errors[0].to_string().contains("names.json"), "{errors:?}");
    // It is reported once.
    assert!(watched.read().1.is_empty());
    fs::remove_file(&path).unwrap();
    assert!(matches!(watched.read(), (None, errors) if errors.is_empty()));
    replace(r#"{"version":1}"#);
    assert_eq!(watched.read().0.unwrap().sessions(), 0);
}
