//! A browser without a screen, which looks at the page of a running capture.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::Process;

/// How long the browser may take, for machines under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a page looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Columns and lines of the window.
    pub size: (u32, u32),
    /// Whether whoever looks prefers dark colours.
    pub dark: bool,
}

/// The document at `url` as it is after its scripts have run for a while; `browser` starts the browser.
#[must_use]
pub fn document(browser: Command, url: &str) -> String {
    run(browser, &["--dump-dom", "--virtual-time-budget=2500", url])
}

/// Takes a picture of a page (PNG) after its scripts have run for so long.
pub fn picture(browser: Command, url: &str, look: Look, time: Duration, path: &Path) {
    let (width, height) = look.size;
    let scheme = if look.dark { "--blink-settings=preferredColorScheme=0" } else { "--hide-scrollbars" };
    let arguments = [
        &format!("--screenshot={}", path.display()),
        &format!("--window-size={width},{height}"),
        &format!("--virtual-time-budget={}", time.as_millis()),
        "--hide-scrollbars",
        scheme,
        url,
    ];
    run(browser, &arguments);
}

fn run(mut browser: Command, arguments: &[&str]) -> String {
    let profile = tempfile::tempdir().expect("a temporary directory");
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--timeout=20000",
    ]);
    browser.arg(format!("--user-data-dir={}", profile.path().display())).args(arguments);
    let process = Process::spawn(&mut browser).expect("the browser starts");
    let output = process.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.status.success(), "{:?}", output.stderr);
    output.stdout
}

/// The text of the element of a document with this identifier; a `|` wherever there was a tag.
#[must_use]
#[track_caller]
pub fn text(document: &str, id: &str) -> String {
    let rest = document.split_once(&format!("id=\"{id}\""));
    let rest = rest.unwrap_or_else(|| panic!("no {id}: {document}")).1;
    let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
    let end = ["</b>", "</table>", "</ul>"].iter().filter_map(|end| rest.find(end)).min();
    let mut text = String::new();
    for part in rest[..end.unwrap_or(rest.len())].split('<') {
        text += part.split_once('>').map_or(part, |(_, text)| text);
        text.push('|');
    }
    text
}
