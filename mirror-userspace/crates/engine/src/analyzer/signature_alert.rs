//! The event of an alert that a rule raises.

use std::borrow::Cow;

use mirror_protocols::eve::{EveEvent, EveWriter, Packer, Unpacker};
use mirror_records::ALERT;
use mirror_signatures::compile::Signature;
use mirror_signatures::rule::{Action, RuleId};
use serde::Serialize;

use crate::inspection::Alert;

/// An alert of a rule.
pub(super) struct SignatureAlert<'a> {
    id: RuleId,
    severity: u8,
    /// True if the rule would have dropped the packet.
    is_drop: bool,
    /// The number of the transaction.
    transaction: Option<u64>,
    category: &'a [u8],
    message: &'a [u8],
}

impl<'a> SignatureAlert<'a> {
    /// Returns the alert of a rule that has matched.
    pub(super) fn new(signature: &'a Signature, alert: &Alert) -> Self {
        let rule = &signature.rule;
        Self {
            id: rule.id,
            severity: signature.priority,
            is_drop: !matches!(rule.header.action, Action::Alert | Action::Pass),
            transaction: alert.transaction,
            category: signature.category.as_bytes(),
            message: rule.message.as_bytes(),
        }
    }
}

/// The object `alert`.
#[derive(Serialize)]
struct Object<'a> {
    action: &'static str,
    gid: u32,
    signature_id: u32,
    rev: u32,
    signature: Cow<'a, str>,
    category: Cow<'a, str>,
    severity: u8,
}

impl EveEvent for SignatureAlert<'_> {
    const TYPE: &'static str = ALERT;
    type Unpacked<'a> = SignatureAlert<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u32(self.id.gid);
        packer.u32(self.id.sid);
        packer.u32(self.id.rev);
        packer.u8(self.severity);
        packer.u8(u8::from(self.is_drop));
        packer.u64(self.transaction.unwrap_or(u64::MAX));
        packer.bytes(self.category);
        packer.rest(self.message);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<SignatureAlert<'a>> {
        Some(SignatureAlert {
            id: RuleId { gid: unpacker.u32()?, sid: unpacker.u32()?, rev: unpacker.u32()? },
            severity: unpacker.u8()?,
            is_drop: unpacker.u8()? != 0,
            transaction: unpacker.u64().filter(|number| *number != u64::MAX),
            category: unpacker.bytes()?,
            message: unpacker.rest(),
        })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        writer.line(&Object {
            action: "allowed",
            gid: self.id.gid,
            signature_id: self.id.sid,
            rev: self.id.rev,
            signature: String::from_utf8_lossy(self.message),
            category: String::from_utf8_lossy(self.category),
            severity: self.severity,
        })
    }
}
