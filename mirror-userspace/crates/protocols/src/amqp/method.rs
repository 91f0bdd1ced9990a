//! Methods: their classes, names and arguments.

use super::METHOD;

/// A method.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method<'a> {
    pub(super) channel: u16,
    class: u16,
    number: u16,
    arguments: &'a [u8],
}

impl<'a> Method<'a> {
    /// Parses a frame; `None` unless it has a method.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let [METHOD, channel, low, _, _, _, _, class, class_low, number, number_low, arguments @ ..] = frame
        else {
            return None;
        };
        Some(Self {
            channel: u16::from_be_bytes([*channel, *low]),
            class: u16::from_be_bytes([*class, *class_low]),
            number: u16::from_be_bytes([*number, *number_low]),
            arguments,
        })
    }

    /// Returns the name.
    pub(super) const fn name(&self) -> Option<&'static str> {
        Some(match (self.class, self.number) {
            (10, 10) => "Connection.Start",
            (10, 11) => "Connection.StartOk",
            (10, 20) => "Connection.Secure",
            (10, 21) => "Connection.SecureOk",
            (10, 30) => "Connection.Tune",
            (10, 31) => "Connection.TuneOk",
            (10, 40) => "Connection.Open",
            (10, 41) => "Connection.OpenOk",
            (10, 50) => "Connection.Close",
            (10, 51) => "Connection.CloseOk",
            (20, 10) => "Channel.Open",
            (20, 11) => "Channel.OpenOk",
            (20, 20) => "Channel.Flow",
            (20, 21) => "Channel.FlowOk",
            (20, 40) => "Channel.Close",
            (20, 41) => "Channel.CloseOk",
            (40, 10) => "Exchange.Declare",
            (40, 11) => "Exchange.DeclareOk",
            (40, 20) => "Exchange.Delete",
            (40, 21) => "Exchange.DeleteOk",
            (40, 30) => "Exchange.Bind",
            (40, 31) => "Exchange.BindOk",
            (40, 40) => "Exchange.Unbind",
            (40, 51) => "Exchange.UnbindOk",
            (50, 10) => "Queue.Declare",
            (50, 11) => "Queue.DeclareOk",
            (50, 20) => "Queue.Bind",
            (50, 21) => "Queue.BindOk",
            (50, 30) => "Queue.Purge",
            (50, 31) => "Queue.PurgeOk",
            (50, 40) => "Queue.Delete",
            (50, 41) => "Queue.DeleteOk",
            (50, 50) => "Queue.Unbind",
            (50, 51) => "Queue.UnbindOk",
            (60, 10) => "Basic.Qos",
            (60, 11) => "Basic.QosOk",
            (60, 20) => "Basic.Consume",
            (60, 21) => "Basic.ConsumeOk",
            (60, 30) => "Basic.Cancel",
            (60, 31) => "Basic.CancelOk",
            (60, 40) => "Basic.Publish",
            (60, 50) => "Basic.Return",
            (60, 60) => "Basic.Deliver",
            (60, 70) => "Basic.Get",
            (60, 71) => "Basic.GetOk",
            (60, 72) => "Basic.GetEmpty",
            (60, 80) => "Basic.Ack",
            (60, 90) => "Basic.Reject",
            (60, 100) => "Basic.RecoverAsync",
            (60, 110) => "Basic.Recover",
            (60, 111) => "Basic.RecoverOk",
            (60, 120) => "Basic.Nack",
            (85, 10) => "Confirm.Select",
            (85, 11) => "Confirm.SelectOk",
            (90, 10) => "Tx.Select",
            (90, 11) => "Tx.SelectOk",
            (90, 20) => "Tx.Commit",
            (90, 21) => "Tx.CommitOk",
            (90, 30) => "Tx.Rollback",
            (90, 31) => "Tx.RollbackOk",
            _ => return None,
        })
    }

    /// Returns true for a client's method that the server answers.
    pub(super) const fn has_answer(&self) -> bool {
        !matches!((self.class, self.number), (10, 31) | (60, 40 | 80 | 90 | 100 | 120))
    }

    /// Returns true for an answer: of the server, or of the client to the end of a channel.
    pub(super) const fn is_answer(&self) -> bool {
        match (self.class, self.number) {
            (10, 11 | 21) => false,
            // The next step of a login answers the one before.
            (10, 20 | 30) => true,
            (_, method) => matches!(method % 10, 1 | 2),
        }
    }

    /// Returns true for a message that the server sends to a consumer, or back to its sender.
    pub(super) const fn is_delivery(&self) -> bool {
        matches!((self.class, self.number), (60, 50 | 60))
    }

    /// Returns the reason why the server closes a channel or the connection.
    pub(super) fn close_code(&self) -> Option<u16> {
        let closes = matches!((self.class, self.number), (10, 50) | (20, 40));
        self.arguments.first_chunk().filter(|_| closes).map(|code| u16::from_be_bytes(*code))
    }

    /// Appends what the method is about: a queue, an exchange, or an exchange and a routing key.
    pub(super) fn describe(&self, text: &mut Vec<u8>) {
        let skipped = match (self.class, self.number) {
            (40 | 50, _) | (60, 20 | 40 | 70) => 2,
            // Reply code and text come first, or a consumer, a number and a flag.
            (60, 50) => {
                2 + string(self.arguments.get(2..).unwrap_or_default()).map_or(0, |(text, _)| text.len() + 1)
            }
            (60, 60) => string(self.arguments).map_or(0, |(text, _)| text.len() + 1) + 8 + 1,
            _ => return,
        };
        let Some((first, rest)) = string(self.arguments.get(skipped..).unwrap_or_default()) else { return };
        text.extend_from_slice(first);
        if matches!((self.class, self.number), (60, 40 | 50 | 60))
            && let Some((key, _)) = string(rest)
            && !key.is_empty()
        {
            if !text.is_empty() {
                text.push(b'/');
            }
            text.extend_from_slice(key);
        }
    }
}

/// Reads a short string, and returns what is behind it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(len.into())
}
