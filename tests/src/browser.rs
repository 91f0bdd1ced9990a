//! A headless browser, which opens the page of a running capture.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::http;
use crate::process::Process;

/// Time limit for the browser, for machines under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// The appearance of a page.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Width and height of the window in pixels.
    pub size: (u32, u32),
    /// True if the viewer prefers dark colours.
    pub dark: bool,
}

/// Returns the document at `url` after its scripts have run for a while; `browser` starts the browser.
#[must_use]
pub fn document(browser: Command, url: &str) -> String {
    run(browser, &["--dump-dom", "--virtual-time-budget=2500", url])
}

/// Takes a picture (PNG) of the page of the API at `api` after the page has been open for `time`.
pub fn picture(mut browser: Command, api: SocketAddr, look: Look, time: Duration, path: &Path) {
    let (width, height) = look.size;
    if look.dark {
        browser.arg("--blink-settings=preferredColorScheme=0");
    }
    let page = delayed(api, time).expect("a port is free");
    let arguments = [
        &format!("--screenshot={}", path.display()),
        &format!("--window-size={width},{height}"),
        "--hide-scrollbars",
        &format!("http://{page}/"),
    ];
    run(browser, &arguments);
}

/// Serves the page at an address at which it takes `time` to load: the browser takes a picture once the page
/// has loaded.
fn delayed(api: SocketAddr, time: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for browser in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(browser, api, time));
        }
    });
    Ok(address)
}

/// Answers a connection of the browser: with the page, with nothing after `time`, or with the API's answer.
fn answer(mut browser: TcpStream, api: SocketAddr, time: Duration) -> io::Result<()> {
    const WAIT: &str = "/wait";
    let mut head = vec![0; 16_384];
    let read = browser.read(&mut head)?;
    head.truncate(read);
    let text = String::from_utf8_lossy(&head);
    let mut upstream = TcpStream::connect(api)?;
    match text.split(' ').nth(1) {
        Some("/") => {
            let page = http::ask_by(upstream, api, "GET /", &[])?.body;
            let page = page.replace("</body>", &format!("<img src=\"{WAIT}\" hidden></body>"));
            let length = page.len();
            let head = format!("Content-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n");
            write!(browser, "HTTP/1.1 200 OK\r\n{head}Connection: close\r\n\r\n{page}")
        }
        Some(WAIT) => {
            thread::sleep(time);
            write!(browser, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        }
        _ => {
            upstream.write_all(&head)?;
            let (mut from, mut to) = (browser.try_clone()?, upstream.try_clone()?);
            thread::spawn(move || io::copy(&mut from, &mut to));
            io::copy(&mut upstream, &mut browser).map(|_| ())
        }
    }
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

/// Returns the text of the element with this identifier, with a `|` in place of each tag.
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
