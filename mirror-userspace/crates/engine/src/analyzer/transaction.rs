//! The way from analyzers to rules: buffers of transactions in, alerts out.

use mirror_packet::{Conversation, Direction, LonePacket, MirrorSession};
use mirror_records::sink::Producer;
use mirror_signatures::buffer::Buffer;
use mirror_signatures::facts::TransactionFact;

use super::Context;
use super::signature_alert::SignatureAlert;
use crate::inspection::{Alert, Inspection, Progress};

impl Context<'_> {
    /// Returns true if rules are loaded at all.
    #[inline]
    #[must_use]
    pub const fn is_inspected(&self) -> bool {
        self.inspection.is_some()
    }

    /// Returns true if a rule inspects the buffer. Otherwise it need not be made.
    #[inline]
    #[must_use]
    pub fn wants(&self, buffer: Buffer) -> bool {
        self.inspection.as_ref().is_some_and(|inspection| inspection.wants(buffer))
    }

    /// Returns true if a rule asks for facts about frames of HTTP/2. Otherwise they need not be told.
    #[inline]
    #[must_use]
    pub fn wants_frames(&self) -> bool {
        self.inspection.as_ref().is_some_and(|inspection| inspection.wants_frames())
    }

    /// Adds a buffer to the transaction that the next [`Context::transaction`] inspects, if a rule wants it.
    pub fn buffer(&mut self, buffer: Buffer, bytes: &[u8]) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.buffer(buffer, bytes);
        }
    }

    /// Adds a fact to that transaction.
    pub fn fact(&mut self, fact: TransactionFact) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.fact(fact);
        }
    }

    /// Inspects one direction of a transaction with the buffers that were added since the last call: all that it has in
    /// this direction but bodies. With [`Progress::Body`], [`Context::body`] has to follow.
    pub fn transaction(&mut self, id: u64, direction: Direction, progress: Progress) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.transaction(id, direction, progress);
            self.raise();
        }
    }

    /// Passes on the next bytes of a body, decoded. `is_end` ends it, and the direction of the transaction.
    pub fn body(&mut self, id: u64, direction: Direction, bytes: &[u8], is_end: bool) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.body(id, direction, bytes, is_end);
            self.raise();
        }
    }

    /// Ends the inspection of the flow's payload: what follows is encrypted.
    pub fn end_payload(&mut self) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.close();
            self.raise();
        }
    }

    /// Inspects what waits for more data, and forgets the flow.
    pub(crate) fn end_inspection(&mut self) {
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.flush();
            self.raise();
        }
        if let Some(inspection) = self.inspection.as_deref_mut() {
            inspection.end();
        }
    }

    /// Raises the alerts of rules that have just matched.
    pub(crate) fn raise(&mut self) {
        if let Some(inspection) = self.inspection.as_deref_mut()
            && let Some(alert) = inspection.next_alert()
        {
            self.raise_all(alert);
        }
    }

    #[cold]
    fn raise_all(&mut self, first: Alert) {
        let mut next = Some(first);
        while let Some(inspection) = self.inspection.as_deref_mut()
            && let Some(alert) = next.take().or_else(|| inspection.next_alert())
        {
            self.alerted.set(true);
            if self.muted {
                continue;
            }
            let conversation = self.head.conversation(&self.records.sources);
            push_alert(inspection, &alert, self.time, conversation, self.records);
        }
    }
}

/// Writes the record of an alert.
fn push_alert(
    inspection: &Inspection,
    alert: &Alert,
    time: u64,
    conversation: Conversation,
    records: &mut Producer,
) {
    let engine = inspection.engine();
    let Some(signature) = engine.signatures().get(alert.rule as usize) else { return };
    let event = SignatureAlert {
        signature,
        alert,
        facts: inspection.facts(),
        details: inspection.details(alert),
        wanted: engine.payload_of_alerts(),
    };
    records.push_typed(time, conversation, &event);
}

/// Inspects a packet that belongs to no flow, and raises the alerts of the rules that match.
#[cold]
pub(crate) fn inspect_lone(
    inspection: &mut Inspection,
    packet: &LonePacket<'_>,
    (time, mirror): (u64, Option<MirrorSession>),
    records: &mut Producer,
) {
    let conversation = Conversation {
        flow_id: 0,
        source: packet.source,
        destination: packet.destination,
        source_port: 0,
        destination_port: 0,
        protocol: packet.protocol,
        ipv6: packet.ipv6,
        vlans: packet.vlans,
        mirror,
        other_source: None,
    };
    inspection.lone_packet(packet, time, mirror);
    while let Some(alert) = inspection.next_alert() {
        push_alert(inspection, &alert, time, conversation, records);
    }
}
