//! The store as the recorder of a worker.

use mirror_engine::FlowIndex;
use mirror_engine::hooks::Recorder;
use mirror_packet::{FlowKey, FrameInfo, LinkType};

use crate::StoreHandle;

impl Recorder for StoreHandle {
    #[inline]
    fn is_recording(&self) -> bool {
        true
    }

    #[inline]
    fn begin_frame(&mut self, rule: u32, info: &FrameInfo, link: Option<LinkType>, frame: &[u8]) {
        self.begin_frame(rule, info, link, frame);
    }

    #[inline]
    fn flow(&mut self, index: FlowIndex, begins: bool, key: &FlowKey, findable: bool) {
        self.flow(index.get(), begins, key, findable);
    }

    #[inline]
    fn alert(&mut self, index: FlowIndex) {
        self.alert(index.get());
    }

    #[inline]
    fn unite(&mut self, gone: FlowIndex, kept: FlowIndex) {
        self.unite(gone.get(), kept.get());
    }

    #[inline]
    fn wants_rest_of(&self, index: FlowIndex) -> bool {
        self.wants_rest_of(index.get())
    }

    #[inline]
    fn end_frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        self.end_frame(info, frame);
    }

    #[inline]
    fn tick(&mut self, now: u64) {
        self.tick(now);
    }

    #[inline]
    fn finish(&mut self) {
        self.finish();
    }
}
