//! A slot for the newest value of a setting, for a thread that must not wait: a worker, the writer of
//! records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A slot where any thread leaves a value and one thread collects it when it has time.
#[derive(Debug)]
pub struct Slot<T> {
    changed: AtomicBool,
    value: Mutex<Option<T>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { changed: AtomicBool::new(false), value: Mutex::new(None) }
    }
}

impl<T> Slot<T> {
    /// Leaves a value. It replaces a value that was not collected.
    pub fn leave(&self, value: T) {
        // The value is always whole: values are moved in and out.
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.changed.store(true, Ordering::Release);
    }

    /// Returns the value left since the last call. Does not wait for a thread that is just leaving one.
    #[inline]
    pub fn collect(&self) -> Option<T> {
        if !self.changed.load(Ordering::Relaxed) {
            return None;
        }
        let mut value = self.value.try_lock().ok()?;
        self.changed.store(false, Ordering::Release);
        value.take()
    }

    /// Returns true if every value was collected.
    pub fn is_collected(&self) -> bool {
        !self.changed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_is_collected_once() {
        let slot = Slot::default();
        assert_eq!(slot.collect(), None);
        assert!(slot.is_collected());
        slot.leave(1);
        slot.leave(2);
        assert!(!slot.is_collected());
        assert_eq!((slot.collect(), slot.collect()), (Some(2), None));
        assert!(slot.is_collected());
    }

    #[test]
    fn who_is_leaving_something_is_not_waited_for() {
        let slot = Slot::default();
        slot.leave(1);
        let held = slot.value.lock().unwrap();
        assert_eq!(slot.collect(), None);
        drop(held);
        assert_eq!(slot.collect(), Some(1));
    }
}
