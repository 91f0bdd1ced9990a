//! The lab, which `cargo xtask run` shows, passes all its checks, and a browser shows the same on its page.
//!
//! If `MIRROR_XDP_PICTURES` is set, pictures of the page are written to the directory that it names, by an
//! absolute path.
#![expect(clippy::unwrap_used, reason = "a helper fails as the test that called it does")]

use std::env;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mirror_xdp_tests::appliance::wait_until;
use mirror_xdp_tests::browser::{self, Look, text};
use mirror_xdp_tests::lab::{self, Outcome};
use mirror_xdp_tests::{http, require};
use serde_json::Value;

/// The time that the page is open before a picture.
const SHOWN: Duration = Duration::from_secs(12);

#[test]
fn the_lab_sees_names_applications_and_every_frame_and_its_page_shows_them() {
    if !require::privileges() {
        return;
    }
    let (Some(binary), Some(browser)) = (require::binary(), require::browser()) else { return };
    let outcome = lab::run_visited(&binary, &|address| {
        let page = Page { address, browser: &browser };
        page.wait_for_services();
        page.shows_what_the_api_says();
        if let Some(directory) = env::var_os("MIRROR_XDP_PICTURES") {
            page.take_pictures(&PathBuf::from(directory));
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Passed);
}

struct Page<'a> {
    address: SocketAddr,
    browser: &'a Path,
}

impl Page<'_> {
    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn summary(&self) -> Value {
        let stream = TcpStream::connect(self.address).unwrap();
        http::ask_by(stream, self.address, "GET /api/v1/summary", &[]).unwrap().json()
    }

    fn wait_for_services(&self) {
        wait_until("the lab's services have been asked", || {
            let summary = self.summary();
            ["dns", "http", "tls"]
                .iter()
                .all(|name| services(&summary).any(|service| service["app_proto"] == *name))
        });
    }

    /// Counters only grow, so the page shows values between those of the API before and after.
    fn shows_what_the_api_says(&self) {
        let before = self.summary();
        let document = browser::document(Command::new(self.browser), &self.url());
        let after = self.summary();
        let number = |id: &str| text(&document, id).replace([',', '|'], "").parse::<u64>().unwrap();
        for (id, of) in [("seen", &seen as &dyn Fn(&Value) -> u64), ("captured", &captured), ("lost", &lost)]
        {
            let shown = number(id);
            assert!((of(&before)..=of(&after)).contains(&shown), "{id}: {shown}, {before}, {after}");
        }
        assert_eq!(number("vnis-total"), 1);
        assert!(text(&document, "vnis").contains("|7||capture0||"), "{}", text(&document, "vnis"));
        let table = text(&document, "services");
        for service in services(&before) {
            let address = service["dest_ip"].as_str().unwrap().parse::<IpAddr>().unwrap();
            let server = SocketAddr::new(address, service["dest_port"].as_u64().unwrap() as u16);
            let row = format!("|7||{server}||{}||", service["app_proto"].as_str().unwrap_or_default());
            assert!(table.contains(&row), "{row}: {table}");
        }
        let interface = &before["interfaces"][0];
        let row = format!("|capture0||{}||up||", interface["mode"].as_str().unwrap());
        assert!(text(&document, "interfaces").contains(&row), "{}", text(&document, "interfaces"));
        assert_eq!(
            text(&document, "alerts").contains("nothing lost"),
            after["alerts"] == Value::Array(Vec::new())
        );
        assert!(document.contains("id=\"state\" role=\"status\" class=\"\""), "{document}");
    }

    /// Takes pictures for a wide window and for a telephone, both in light and in dark colours.
    fn take_pictures(&self, directory: &Path) {
        let looks = [
            ("page.png", (1280, 1120), false),
            ("page-dark.png", (1280, 1120), true),
            ("page-phone.png", (390, 1900), false),
            ("page-phone-dark.png", (390, 1900), true),
        ];
        for (name, size, dark) in looks {
            let look = Look { size, dark };
            browser::picture(Command::new(self.browser), self.address, look, SHOWN, &directory.join(name));
        }
    }
}

fn services(summary: &Value) -> impl Iterator<Item = &Value> {
    summary["services"].as_array().unwrap().iter().filter(|service| service["dest_ip"].is_string())
}

fn seen(summary: &Value) -> u64 {
    summary["interfaces"][0]["program"]["seen"].as_u64().unwrap()
}

fn captured(summary: &Value) -> u64 {
    summary["workers"].as_array().unwrap().iter().map(|worker| worker["delivered"].as_u64().unwrap()).sum()
}

fn lost(summary: &Value) -> u64 {
    let losses = summary["losses"].as_array().unwrap().iter();
    let critical = losses.filter(|loss| loss["severity"] == "critical");
    critical.map(|loss| loss["count"].as_u64().unwrap()).sum()
}
