//! Bounds the messages of a kind: clients, links in a directory and full disks can cause as many as an attacker
//! likes, and a log that grows without end is a full disk as well.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// Messages of a kind in each [`PERIOD`]. Others are counted.
const MOST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// The messages of a kind: those of one place in the code.
#[derive(Debug)]
struct Kind {
    begun: Instant,
    shown: u32,
    left_out: u64,
    /// The first message that was left out.
    example: String,
}

/// Lets so many warnings and errors of a kind through, and counts the others. Messages of lower levels are those that
/// somebody asked for.
#[derive(Debug, Default)]
pub(super) struct Limit {
    kinds: Mutex<Option<HashMap<Identifier, Kind>>>,
}

impl Limit {
    pub(super) const fn new() -> Self {
        Self { kinds: Mutex::new(None) }
    }

    fn kinds(&self) -> MutexGuard<'_, Option<HashMap<Identifier, Kind>>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a message of a kind is shown. `text` returns the message.
    fn admits(&self, kind: Identifier, now: Instant, text: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds();
        let kind = kinds.get_or_insert_default().entry(kind).or_insert_with(|| Kind {
            begun: now,
            shown: 0,
            left_out: 0,
            example: String::new(),
        });
        // While messages are left out, [`Limit::left_out`] begins the next period.
        if kind.left_out == 0 && now.saturating_duration_since(kind.begun) >= PERIOD {
            (kind.begun, kind.shown) = (now, 0);
        }
        if kind.shown < MOST {
            kind.shown += 1;
            return true;
        }
        if kind.left_out == 0 {
            kind.example = text();
        }
        kind.left_out += 1;
        false
    }

    /// Begins a period for each kind whose last one has ended. Returns the numbers of messages that were left out
    /// in that, with an example of each.
    pub(super) fn left_out(&self, now: Instant) -> Vec<(u64, String)> {
        let mut kinds = self.kinds();
        let ended = kinds
            .iter_mut()
            .flat_map(HashMap::values_mut)
            .filter(|kind| kind.left_out > 0 && now.saturating_duration_since(kind.begun) >= PERIOD);
        let tell = |kind: &mut Kind| {
            (kind.begun, kind.shown) = (now, 0);
            (std::mem::take(&mut kind.left_out), std::mem::take(&mut kind.example))
        };
        ended.map(tell).collect()
    }

    /// Returns the same at the end of the process, for all kinds.
    pub(super) fn rest(&self) -> Vec<(u64, String)> {
        let kinds = self.kinds().take().unwrap_or_default();
        kinds
            .into_values()
            .filter(|kind| kind.left_out > 0)
            .map(|kind| (kind.left_out, kind.example))
            .collect()
    }
}

impl<S> Filter<S> for &'static Limit {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::WARN
            || metadata.target() == super::CONFIGURATION
            || metadata.target() == super::LEFT_OUT
            || self.admits(metadata.callsite(), Instant::now(), || {
                let mut text = Message::default();
                event.record(&mut text);
                text.0
            })
    }
}

/// The text of a message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Layer, SubscriberExt as _};

    use super::*;

    /// Counts the messages that come through.
    struct Seen(&'static AtomicUsize);

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn hostile_floods_of_messages_are_shown_ten_times_a_minute_and_counted() {
        static LIMIT: Limit = Limit::new();
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let subscriber = tracing_subscriber::registry().with(Seen(&SEEN).with_filter(&LIMIT));
        tracing::subscriber::with_default(subscriber, || {
            for client in 0..1000 {
                tracing::warn!("client {client} cannot be served");
            }
            assert_eq!(SEEN.swap(0, Ordering::Relaxed), 10);
            tracing::warn!("another kind");
            assert_eq!(SEEN.swap(0, Ordering::Relaxed), 1);
            // Somebody has asked for these.
            (0..100).for_each(|number| tracing::info!("{number}"));
            (0..100).for_each(|number| tracing::warn!(target: super::super::CONFIGURATION, "{number}"));
            assert_eq!(SEEN.swap(0, Ordering::Relaxed), 200);
        });
        let now = Instant::now();
        assert_eq!(LIMIT.left_out(now), []);
        let expected = [(990, "client 10 cannot be served".to_owned())];
        assert_eq!(LIMIT.left_out(now + PERIOD), expected);
        assert_eq!(LIMIT.left_out(now + 2 * PERIOD), []);
    }

    #[test]
    fn a_kind_is_shown_again_in_the_next_minute() {
        let limit = Limit::new();
        let kind = {
            static KIND: Mutex<Option<Identifier>> = Mutex::new(None);
            struct Take;
            impl<S: tracing::Subscriber> Layer<S> for Take {
                fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
                    *KIND.lock().unwrap() = Some(event.metadata().callsite());
                }
            }
            tracing::subscriber::with_default(tracing_subscriber::registry().with(Take), || {
                tracing::warn!("a kind");
            });
            KIND.lock().unwrap().take().unwrap()
        };
        let now = Instant::now();
        let admitted = |seconds: u64| {
            let now = now + Duration::from_secs(seconds);
            (0..30).filter(|number| limit.admits(kind.clone(), now, || format!("number {number}"))).count()
        };
        assert_eq!([admitted(0), admitted(59)], [10, 0]);
        // The minute is over once its messages are told.
        assert_eq!(admitted(61), 0);
        assert_eq!(limit.left_out(now + Duration::from_secs(61)), [(80, "number 10".to_owned())]);
        assert_eq!(admitted(62), 10);
        assert_eq!(limit.rest(), [(20, "number 10".to_owned())]);
        assert_eq!(limit.rest(), []);
    }
}
