//! The page in a browser shows the values of the API.
use mirror_xdp_tests::appliance::{Bed, wait_until};
use mirror_xdp_tests::browser::{self, text};
use mirror_xdp_tests::frames::{Flow, dns_answer, dns_query, mirrored};
use mirror_xdp_tests::{http, require};
use serde_json::Value;

#[test]
fn it_shows_what_the_api_says() {
    let Some(bed) = Bed::new(2) else { return };
    let Some(program) = require::browser() else { return };
    let appliance = bed.start(&[]);
    let mut frames: Vec<_> =
        (0..60).map(|flow| mirrored(7).carrying(&Flow::v4(4000 + flow % 4, 443).udp(&[7; 900]))).collect();
    let dns = Flow::v4(5353, 53);
    frames.push(mirrored(8).carrying(&dns.udp(&dns_query(1, "shop.test"))));
    frames.push(mirrored(8).carrying(&dns.reversed().udp(&dns_answer(1, "shop.test", [10, 0, 0, 1].into()))));
    bed.send(&frames);
    let summary = || -> Value {
        let answer = http::ask(&bed.appliance, "127.0.0.1:9470".parse().unwrap(), "GET /api/v1/summary", &[]);
        answer.unwrap().json()
    };
    wait_until("all is counted, and the request measured", || {
        let summary = summary();
        let analysed: u64 =
            summary["workers"].as_array().unwrap().iter().filter_map(|w| w["analysed"].as_u64()).sum();
        analysed == 62 && summary["services"].as_array().is_some_and(|services| !services.is_empty())
    });
    let document =
        browser::document(bed.appliance.command(&program.to_string_lossy()), "http://127.0.0.1:9470/");
    let summary = summary();
    let seen: u64 = summary["interfaces"][0]["program"]["seen"].as_u64().unwrap();
    assert_eq!(text(&document, "seen"), format!("{seen}|"));
    assert_eq!(text(&document, "captured"), "62|");
    assert_eq!(text(&document, "flows-active"), "5|");
    assert_eq!(text(&document, "lost"), "0|");
    for flow in summary["flows"].as_array().unwrap() {
        let client = format!("|{}:{}|", flow["src_ip"].as_str().unwrap(), flow["src_port"]);
        assert!(text(&document, "flows").contains(&client), "{client}: {}", text(&document, "flows"));
    }
    for vni in summary["vnis"]["vnis"].as_array().unwrap() {
        let row = format!("|{}||mirror0||{}|", vni["vni"], vni["packets"]);
        assert!(text(&document, "vnis").contains(&row), "{row}: {}", text(&document, "vnis"));
    }
    let service = &summary["services"][0];
    let row = format!("|{}:53||dns||1||0|", service["dest_ip"].as_str().unwrap());
    assert!(text(&document, "services").contains(&row), "{row}: {}", text(&document, "services"));
    assert!(document.contains("id=\"state\" role=\"status\" class=\"\""), "{document}");
    appliance.stop().assert_conserved();
}
