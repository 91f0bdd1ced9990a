//! `mirror-xdp read` on small captures of traffic that tools of this kind get wrong: one test for each. Each
//! `NAME.pcap.gz` has the right outcome beside it, in `NAME.pcap.txt`. The directory is named by `MIRROR_XDP_FIELD`, or
//! is `../shared/field` beside the workspace. It is not part of the repository; without it, these tests are skipped with
//! a message.

mod decoding;
mod flows;
mod front;
mod streams;
