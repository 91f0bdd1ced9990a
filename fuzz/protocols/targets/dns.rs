//! DNS messages, and the records written for them.

use mirror_protocols::dns::{self, Message};

pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = dns::probe(bytes);
    let _ = dns::probe_tcp(bytes);
    if let Ok(message) = Message::parse(bytes) {
        for event in message.events(0) {
            serde_json::to_vec(&event).expect("every message has a JSON form");
        }
    }
}
