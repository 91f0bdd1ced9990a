//! The event of a request: the object `service`.

use std::marker::PhantomData;

use serde::Serialize;

use super::statement::{self, Dialect};
use super::{Service, Status};
use crate::eve::{EveEvent, EveWriter, Measured, Packer, Unpacker};
use crate::text::Bytes;

/// A request with its answer, as an event of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEvent<'a, S> {
    /// The operation.
    pub operation: &'a [u8],
    /// Its object; empty if the statement names it.
    pub object: &'a [u8],
    /// The statement as it was sent.
    pub statement: &'a [u8],
    /// The language of the statement.
    pub dialect: Dialect,
    /// The result.
    pub status: Status,
    /// The code of the error.
    pub code: &'a [u8],
    /// Rows of the answer.
    pub rows: Option<u64>,
    /// Bytes of the answer.
    pub bytes: u64,
    /// Nanoseconds from the request to the first message of the answer.
    pub latency: Option<u64>,
    /// Values of the protocol's own, [packed](crate::pack).
    pub details: &'a [u8],
    /// If it is not 0: this many requests have no events, and all else is empty.
    pub omitted: u64,
    /// The protocol.
    pub service: PhantomData<S>,
}

impl<S> Default for ServiceEvent<'_, S> {
    fn default() -> Self {
        Self {
            operation: &[],
            object: &[],
            statement: &[],
            dialect: Dialect::default(),
            status: Status::None,
            code: &[],
            rows: None,
            bytes: 0,
            latency: None,
            details: &[],
            omitted: 0,
            service: PhantomData,
        }
    }
}

/// The object `service`.
#[derive(Debug, Default, Serialize)]
pub struct ServiceObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<Bytes<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Bytes<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl<S> ServiceEvent<'_, S> {
    /// Returns the object `service`, with the literals of the statement or without.
    #[must_use]
    pub fn object(&self, literals: bool) -> ServiceObject<'_> {
        if self.omitted > 0 {
            return ServiceObject { omitted: Some(self.omitted), ..ServiceObject::default() };
        }
        let object = statement::object(self.dialect, self.object, self.statement);
        let statement = statement::write(self.dialect, self.statement, literals);
        ServiceObject {
            operation: Some(Bytes(self.operation)),
            object: Some(object).filter(|object| !object.is_empty()),
            statement: Some(statement).filter(|statement| !statement.is_empty()),
            status: Some(self.status.name()),
            code: Some(Bytes(self.code)).filter(|_| !self.code.is_empty()),
            rows: self.rows,
            bytes: Some(self.bytes).filter(|&bytes| bytes > 0),
            latency_ms: self.latency.map(|latency| latency as f64 / 1e6),
            omitted: None,
        }
    }
}

impl ServiceObject<'_> {
    /// Returns the statement as it is written.
    pub(crate) fn statement(&self) -> Option<&str> {
        self.statement.as_deref()
    }
}

/// Stands for an unknown number of rows in packed bytes.
const UNKNOWN: u64 = u64::MAX;

impl<'a, S> ServiceEvent<'a, S> {
    /// Packs the values, see [`EveEvent::pack`].
    pub(crate) fn pack_values(&self, packer: &mut Packer<'_>) {
        packer.u64(self.omitted);
        packer.u8(self.status as u8);
        packer.duration(self.latency);
        packer.bytes(self.operation);
        packer.u8(self.dialect as u8);
        packer.u64(self.rows.unwrap_or(UNKNOWN));
        packer.u64(self.bytes);
        packer.bytes(self.object);
        packer.bytes(self.statement);
        packer.bytes(self.code);
        packer.rest(self.details);
    }

    /// Unpacks the values, see [`EveEvent::unpack`].
    pub(crate) fn unpack_values(unpacker: &mut Unpacker<'a>) -> Option<Self> {
        let omitted = unpacker.u64()?;
        let status = Status::of(unpacker.u8()?);
        let latency = unpacker.duration()?;
        let operation = unpacker.bytes()?;
        Some(Self {
            operation,
            dialect: Dialect::of(unpacker.u8()?),
            rows: Some(unpacker.u64()?).filter(|&rows| rows != UNKNOWN),
            bytes: unpacker.u64()?,
            object: unpacker.bytes()?,
            statement: unpacker.bytes()?,
            code: unpacker.bytes()?,
            details: unpacker.rest(),
            status,
            latency,
            omitted,
            service: PhantomData,
        })
    }

    /// Unpacks the operation, see [`EveEvent::operation`].
    pub(crate) fn unpack_operation(unpacker: &mut Unpacker<'a>) -> Option<&'a [u8]> {
        // In front of it: a number, the status, the latency.
        unpacker.take(size_of::<u64>() + 1 + size_of::<u64>())?;
        unpacker.bytes()
    }
}

impl<S: Service> EveEvent for ServiceEvent<'_, S> {
    const TYPE: &'static str = S::TYPE;
    type Unpacked<'a> = ServiceEvent<'a, S>;

    fn pack(&self, packer: &mut Packer<'_>) {
        self.pack_values(packer);
    }

    fn unpack<'a>(unpacker: &mut Unpacker<'a>) -> Option<ServiceEvent<'a, S>> {
        ServiceEvent::unpack_values(unpacker)
    }

    fn write(&self, writer: &mut impl EveWriter) -> serde_json::Result<()> {
        S::write(self, writer)
    }

    fn measured(&self) -> Option<Measured> {
        let measured = Measured { latency: self.latency, error: self.status == Status::Error };
        // The end of a connection, and a step of a login, are no requests.
        (self.omitted == 0 && !self.operation.is_empty()).then_some(measured)
    }

    fn operation<'a>(unpacker: &mut Unpacker<'a>) -> Option<&'a [u8]> {
        ServiceEvent::<S>::unpack_operation(unpacker)
    }
}
