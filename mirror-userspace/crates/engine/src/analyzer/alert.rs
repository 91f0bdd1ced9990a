//! Alerts: events about flows that deserve attention. The events are those of Suricata, so that every reader
//! of its alerts can read these.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use mirror_packet::text::hex;
use mirror_protocols::eve::{EveEvent, EveWriter, Packer, Unpacker};
use mirror_protocols::tls::{Carrier, ClientHello, Ja3, write_ja4};
use mirror_records::ALERT;
use serde::Serialize;

use super::Context;
use super::credit::{self, Allowance};
use crate::indicators::Indicators;

/// An alert, as an event of its flow.
pub(super) struct AlertEvent<'a> {
    /// The cause, see [`Cause`].
    pub(super) cause: u8,
    /// The value that it is about.
    pub(super) about: &'a [u8],
}

/// The cause of an alert. Its discriminant is the signature's number, counted from [`FIRST_SIGNATURE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// An analyzer that the user registered.
    Analyzer,
    /// One of the two addresses: 16 bytes.
    Address,
    /// A name in a DNS query: the indicator.
    Query,
    /// The server's name in a hello of TLS or QUIC: the indicator.
    ServerName,
    /// The host of an HTTP request: the indicator.
    Host,
    /// The JA3 of a hello: the digest.
    Ja3,
    /// The JA4 of a hello.
    Ja4,
}

/// User-defined signatures begin at a million, by Suricata's convention.
const FIRST_SIGNATURE: u32 = 1_000_000;

/// Suricata's `bad-unknown`.
const CATEGORY: &str = "Potentially Bad Traffic";
const SEVERITY: u8 = 2;

/// The object `alert`.
#[derive(Serialize)]
struct Object<'a> {
    action: &'static str,
    gid: u32,
    signature_id: u32,
    rev: u32,
    signature: Cow<'a, str>,
    category: &'static str,
    severity: u8,
    /// The indicator and its type, as the values of a rule's `metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    indicator: [Cow<'a, str>; 1],
    indicator_type: [&'static str; 1],
}

impl EveEvent for AlertEvent<'_> {
    const TYPE: &'static str = ALERT;
    type Unpacked<'a> = AlertEvent<'a>;

    fn pack(&self, packer: &mut Packer<'_>) {
        packer.u8(self.cause);
        packer.rest(self.about);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<AlertEvent<'a>> {
        Some(AlertEvent { cause: unpacker.u8()?, about: unpacker.rest() })
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        let Self { cause, about } = *self;
        let text = String::from_utf8_lossy(about);
        let address = || about.try_into().map_or(Ipv6Addr::UNSPECIFIED, <Ipv6Addr as From<[u8; 16]>>::from);
        let (kind, indicator): (_, Cow<'_, str>) = match cause {
            1 => ("address", address().to_canonical().to_string().into()),
            2..=4 => ("domain", text.clone()),
            5 => ("ja3", hex(about).into()),
            6 => ("ja4", text.clone()),
            _ => ("", Cow::default()),
        };
        let metadata =
            (!kind.is_empty()).then_some(Metadata { indicator: [indicator], indicator_type: [kind] });
        let signature = match cause {
            1 => format!("indicator: address {}", address().to_canonical()).into(),
            2 => format!("indicator: {text} asked for in DNS").into(),
            3 => format!("indicator: {text} as TLS server name").into(),
            4 => format!("indicator: {text} as HTTP host").into(),
            5 => format!("indicator: JA3 {}", hex(about)).into(),
            6 => format!("indicator: JA4 {text}").into(),
            _ => text,
        };
        writer.line(&Object {
            action: "allowed",
            gid: 1,
            signature_id: FIRST_SIGNATURE + u32::from(cause),
            rev: 1,
            signature,
            category: CATEGORY,
            severity: SEVERITY,
            metadata,
        })
    }
}

/// The indicators that a built-in analyzer looks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    indicators: Option<Arc<Indicators>>,
    values: Vec<u16>,
    text: String,
}

impl Watch {
    /// Sets the indicators.
    pub(super) fn set(&mut self, indicators: &Arc<Indicators>) {
        self.indicators = Some(Arc::clone(indicators));
    }

    pub(super) const fn is_on(&self) -> bool {
        self.indicators.is_some()
    }

    /// Checks a name that a client has sent.
    pub(super) fn name(&self, cause: Cause, name: &[u8], context: &mut Context<'_>) {
        if let Some(domain) = self.domain_of(name) {
            context.alert(cause, domain);
        }
    }

    /// Looks at one of many names that a flow may have, as far as its allowance for alerts goes. The flow has raised
    /// one in any case: its packets are kept.
    pub(super) fn one_of_names(
        &self,
        cause: Cause,
        name: &[u8],
        allowance: &mut Allowance,
        context: &mut Context<'_>,
    ) {
        let Some(domain) = self.domain_of(name) else { return };
        if allowance.spend(credit::EVENT + domain.len() + context.relay_cost()) {
            context.alert(cause, domain);
        } else {
            context.alerted.set(true);
        }
    }

    fn domain_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.indicators.as_ref().and_then(|indicators| indicators.domain_of(name))
    }

    /// Checks the fingerprints of a client.
    pub(super) fn fingerprints(
        &mut self,
        hello: &ClientHello<'_>,
        carrier: Carrier,
        context: &mut Context<'_>,
    ) {
        let Some(indicators) = &self.indicators else { return };
        if indicators.has_any_ja3() {
            let digest = Ja3::client_digest(hello);
            if indicators.has_ja3(&digest) {
                context.alert(Cause::Ja3, &digest);
            }
        }
        if indicators.has_any_ja4() {
            self.text.clear();
            // Writing to a string cannot fail.
            let _ = write_ja4(&mut self.text, &mut self.values, hello, carrier);
            if indicators.has_ja4(&self.text) {
                context.alert(Cause::Ja4, self.text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_signature_of_its_own() {
        let causes = [Cause::Analyzer, Cause::Address, Cause::Query, Cause::ServerName, Cause::Host];
        let numbers: Vec<_> = causes.into_iter().chain([Cause::Ja3, Cause::Ja4]).map(|it| it as u8).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6], "as `write` knows them");
    }
}
