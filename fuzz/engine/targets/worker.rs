//! The whole worker, from frames to records. The first bytes of a frame are its length, the time that passes,
//! and its mirror session.

use mirror_engine::worker::{Worker, WorkerConfig};
use mirror_packet::{FrameInfo, MirrorSession};
use mirror_records::sink::{Overflow, Sink};
use mirror_xdp_common::hash::FlowHashKey;
use mirror_xdp_common::inner::InnerHeaders;
use mirror_xdp_common::{Address, Vni};

const SEED: u64 = 7;

/// Returns one of a few sessions, or none.
fn mirror(session: u8) -> Option<MirrorSession> {
    let number = u32::from(session & 3);
    (number > 0).then(|| MirrorSession {
        vni: Vni::new(number).expect("the number has two bits"),
        outer_source: Address::from_v4(number),
        outer_destination: Address::from_v4(9),
        endpoint: 0,
    })
}

pub(crate) fn fuzz(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("the temporary directory takes files");
    let sink = Sink::open(directory.path()).expect("the directory is new");
    let config = WorkerConfig { max_flows: 8, hash_seed: SEED, dedup: true, ..WorkerConfig::default() };
    let mut worker = Worker::new(config, sink.producer(Overflow::Wait));
    let mut time = 1_000_000_000_000;
    let mut rest = bytes;
    let mut frames = 0;
    while let Some(([high, low, passed, session], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        let (frame, behind) = behind.split_at(len);
        time += u64::from(*passed).pow(2) * 10_000_000;
        let flow_hash = InnerHeaders::parse(frame, 0).flow_hash(&FlowHashKey::new(SEED));
        let mirror = mirror(*session);
        worker.frame(&FrameInfo { time, original_len: len as u32, flow_hash, mirror, side: None }, frame);
        worker.tick(time);
        frames += 1;
        rest = behind;
    }
    worker.finish();
    let counters = worker.counters();
    let refused: u64 = counters.refused.iter().map(|(_, count)| count).sum();
    let accounted = counters.analysed + refused + counters.duplicates;
    assert_eq!((counters.delivered, frames), (accounted, counters.delivered));
    assert_eq!((sink.finish().lost, counters.records_lost), (0, 0));
}
