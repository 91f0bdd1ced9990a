//! The parts that messages and the event share: kinds of requests, tags of packed details, and the fields of errors.

/// Kinds of requests.
pub(super) const TLS: u8 = 0;
pub(super) const STARTUP: u8 = 1;
pub(super) const PASSWORD: u8 = 2;
pub(super) const QUERY: u8 = 3;
pub(super) const EXTENDED: u8 = 4;
pub(super) const TERMINATE: u8 = 5;
pub(super) const SASL: u8 = 6;

/// Tags of packed details.
pub(super) const KIND: u8 = 0;
pub(super) const PARAMETERS: u8 = 1;
pub(super) const TLS_ACCEPTED: u8 = 2;
pub(super) const MESSAGE: u8 = 3;
pub(super) const PARAMETER: u8 = 4;
pub(super) const PROCESS: u8 = 5;
pub(super) const ERROR: u8 = 6;
pub(super) const COMPLETED: u8 = 7;
pub(super) const DATA: u8 = 8;
pub(super) const SASL_MECHANISM: u8 = 9;

/// Returns a field of an error: each has a type, and ends with zero.
pub(super) fn field(content: &[u8], kind: u8) -> &[u8] {
    let mut fields = content.split(|&byte| byte == 0);
    fields.find_map(|field| field.split_first().filter(|(of, _)| **of == kind)).map_or(&[], |(_, text)| text)
}
