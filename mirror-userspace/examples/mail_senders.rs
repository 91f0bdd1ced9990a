//! A user's own analyzer beside the built-in ones: it writes the senders of mail to events of the kind
//! `mail`. It takes `mirror-xdp`'s command line, so it runs on captures and live:
//!
//! ```console
//! $ cargo run --example mail_senders -- read capture.pcap
//! # target/debug/examples/mail_senders run --interface ens6
//! ```

use std::process::ExitCode;

use mirror_userspace::engine::analyzer::{Analyzer, Analyzers, Consumed, Context, Event, Filter, TooMany};
use mirror_userspace::packet::Direction;
use mirror_userspace::protocols::detect::AppProto;
use mirror_userspace::records::EventType;
use serde::Serialize;

/// The fields particular to the event.
#[derive(Serialize)]
struct Mail<'a> {
    from: &'a str,
}

/// The worker packs bytes; the log's thread converts them to JSON.
static MAIL: EventType =
    EventType::new("mail", |bytes, lines| lines.line(&Mail { from: &String::from_utf8_lossy(bytes) }));

struct MailSenders;

impl Analyzer for MailSenders {
    type Flow = ();

    fn data(
        &mut self,
        (): &mut (),
        from: Direction,
        event: Event<'_>,
        context: &mut Context<'_>,
    ) -> Consumed {
        const COMMAND: &[u8] = b"MAIL FROM:";
        let (Event::Data { bytes, .. }, Direction::ToServer) = (event, from) else { return Consumed::Close };
        let mut used = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            if let Some((command, sender)) = line.split_at_checked(COMMAND.len())
                && command.eq_ignore_ascii_case(COMMAND)
            {
                context.emit(&MAIL, &[sender.trim_ascii()]);
            }
            used += line.len();
        }
        // The bytes after the last whole line come again, followed by more.
        Consumed::Used(used)
    }
}

fn register(analyzers: &mut Analyzers) -> Result<(), TooMany> {
    analyzers.register(MailSenders, Filter::all().application(AppProto::Smtp))
}

fn main() -> ExitCode {
    mirror_userspace::cli::main_with(register)
}
