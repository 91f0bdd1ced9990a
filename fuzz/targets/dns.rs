//! DNS messages, and the records written for them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mirror_userspace::protocols::dns::{self, Message};

fuzz_target!(|bytes: &[u8]| {
    let _ = dns::probe(bytes);
    let _ = dns::probe_tcp(bytes);
    if let Ok(message) = Message::parse(bytes) {
        for event in message.events(0) {
            serde_json::to_vec(&event).expect("every message has a JSON form");
        }
    }
});
