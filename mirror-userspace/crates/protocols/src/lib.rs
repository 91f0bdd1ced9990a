//! Protocol code without I/O: bytes in, values out. Nothing here uses a clock, a socket or a flow table. For
//! any input, nothing panics, and the work is at most proportional to the input's length. Functions that a
//! worker calls allocate nothing, except for the buffers of handshakes, which are reused. Functions that the
//! sink's thread calls to write a record may allocate.
//!
//! Each protocol has a folder, and a row in [`protocols!`]. [`template`] is a small one to copy. A folder has the
//! protocol's parser and its [typed events](eve); those that implement [`Protocol`] have everything else, too.
//!
//! ```
//! use mirror_protocols::{Direction, Transcript, detect::Transport, ssh::Ssh};
//!
//! let mut flow = Transcript::<Ssh>::new(Transport::Tcp);
//! flow.data(Direction::ToClient, b"SSH-2.0-OpenSSH_9.2\r\n");
//! let event = &flow.end()[0];
//! assert_eq!(event["ssh"]["server"]["software_version"], "OpenSSH_9.2");
//! ```

pub mod detect;
pub mod dns;
pub mod eve;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod pack;
pub mod preamble;
pub mod protocol;
pub mod quic;
mod reader;
pub mod service;
mod table;
pub mod text;
pub mod tls;
mod transcript;

pub use mirror_packet::Direction;
pub use protocol::Protocol;
pub use table::{ANALYZED, Analyzed, fuzz_any};
pub use transcript::{Transcript, fuzz};

macro_rules! folders {
    (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
     engine $engine:tt detected $detected:tt) => {
        $(#[doc = concat!("`", stringify!($name), "`: ", $content, ".")] pub mod $folder;)*
    };
}
crate::protocols! { folders () }

#[cfg(test)]
mod tests {
    //! Tests that every protocol with a folder of its own passes.

    macro_rules! tests {
        (() folders { $($variant:ident $name:ident: $folder:ident::$type:ident, $default:ident, $content:literal;)* }
         engine $engine:tt detected $detected:tt) => {
            $(mod $name {
                use crate::$folder::$type as Tested;
                use crate::detect::{AppProto, Detection, Detector, OptIn};
                use crate::{Protocol, Transcript, fuzz};

                fn events(piece: usize) -> Vec<serde_json::Value> {
                    let mut transcript = Transcript::<Tested>::new(Tested::EXAMPLE.endpoints.transport);
                    for &(direction, payload) in Tested::EXAMPLE.payloads {
                        payload.chunks(piece).for_each(|bytes| transcript.data(direction, bytes));
                    }
                    transcript.end()
                }

                #[test]
                fn the_example_is_recognised_and_if_off_only_on_request() {
                    let found = |opt_in: OptIn| {
                        let mut detector = Detector::default();
                        for &(direction, payload) in Tested::EXAMPLE.payloads {
                            detector.feed_with(opt_in, Tested::EXAMPLE.endpoints, direction, payload);
                        }
                        detector.flow()
                    };
                    let expected = Detection::Found(AppProto::$variant);
                    assert_eq!(found(OptIn::default().with(AppProto::$variant)), expected);
                    assert_eq!(found(OptIn::default()) == expected, crate::on_or_off!($default));
                    assert_eq!(AppProto::$variant.name(), stringify!($name));
                }

                #[test]
                fn the_example_becomes_events_of_the_type_in_the_row() {
                    let events = events(usize::MAX);
                    assert!(!events.is_empty());
                    for event in events {
                        assert!(event.get(stringify!($name)).or(event.get("service")).is_some(), "{event}");
                    }
                }

                #[test]
                fn segments_of_any_length_become_the_same_events() {
                    if Tested::EXAMPLE.endpoints.transport == crate::detect::Transport::Tcp {
                        for piece in 1..100 {
                            assert_eq!(events(piece), events(usize::MAX), "{piece} bytes each");
                        }
                    }
                }

                #[test]
                fn examples_with_changed_bytes_and_gaps_do_not_panic() {
                    let payloads = Tested::EXAMPLE.payloads;
                    for (number, (_, payload)) in payloads.iter().enumerate() {
                        for at in 0..payload.len().min(255) {
                            for change in [0, 1, 0x1a, 0x80, 0xff] {
                                let mut input = vec![0];
                                input.extend([4, 0].repeat(number));
                                input.extend([4, at as u8 + 1]);
                                input.extend(vec![0; at]);
                                input.push(change);
                                input.extend([2 | at as u8 & 1, 0]);
                                input.extend([4, 0].repeat(payloads.len()));
                                fuzz::<Tested>(&input);
                            }
                        }
                    }
                }

                proptest::proptest! {
                    #[test]
                    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
                        fuzz::<Tested>(&bytes);
                    }
                }
            })*
        };
    }
    crate::protocols! { tests () }
}
