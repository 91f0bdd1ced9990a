//! Observers of a running worker, such as those of `mirror-xdp tail` and the tap.
//!
//! A worker calls each [`Observer`] with a frame before it analyses the frame. Observers come and go while
//! the capture runs: a subscriber leaves its observer in the worker's [`Mailbox`], which the worker checks in
//! its tick. A worker without observers pays for one branch a frame.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mirror_packet::FrameInfo;

/// The maximum number of observers of a worker.
pub const MAX_OBSERVERS: usize = 16;

use crate::hooks::Observer;

/// An observer and the subscription that it belongs to.
type Numbered = (u64, Box<dyn Observer>);

/// The observers of one worker.
#[derive(Debug)]
pub struct Observers(Vec<Numbered>);

impl Default for Observers {
    fn default() -> Self {
        Self(Vec::with_capacity(MAX_OBSERVERS))
    }
}

impl Observers {
    /// Returns true if there is no observer.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes a frame to all observers.
    #[cold]
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        for (_, observer) in &mut self.0 {
            observer.frame(info, frame);
        }
    }
}

/// A mailbox through which a worker receives observers, and returns those that leave. The thread that left an
/// observer there frees it.
#[derive(Debug, Default)]
pub struct Mailbox {
    changed: AtomicBool,
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    coming: Vec<Numbered>,
    leaving: Vec<u64>,
    gone: Vec<Box<dyn Observer>>,
}

impl Mailbox {
    /// Adds and removes observers, on the worker's thread. Does not wait for a thread that holds the lock.
    pub fn collect(&self, observers: &mut Observers) {
        if !self.changed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut letters) = self.letters.try_lock() else { return };
        self.changed.store(false, Ordering::Relaxed);
        let Letters { coming, leaving, gone } = &mut *letters;
        // Nothing here allocates: the vectors have room for all observers that may come or go.
        while observers.0.len() < MAX_OBSERVERS
            && let Some(observer) = coming.pop()
        {
            observers.0.push(observer);
        }
        while let Some(number) = leaving.pop() {
            if let Some(position) = observers.0.iter().position(|(own, _)| *own == number) {
                gone.push(observers.0.swap_remove(position).1);
            }
        }
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        // The content is always whole: letters are moved in and out.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, observer: Numbered) {
        let mut letters = self.letters();
        letters.gone = Vec::with_capacity(MAX_OBSERVERS);
        letters.coming.push(observer);
        self.changed.store(true, Ordering::Relaxed);
    }

    fn recall(&self, number: u64) {
        let mut letters = self.letters();
        // A worker that has ended removes nothing, so an observer that it did not collect is removed here.
        letters.coming.retain(|(own, _)| *own != number);
        letters.leaving.push(number);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Frees observers that the worker has removed.
    fn empty(&self) {
        // Freed after the lock is released.
        let gone = std::mem::replace(&mut self.letters().gone, Vec::with_capacity(MAX_OBSERVERS));
        drop(gone);
    }
}

/// The mailboxes of all workers, through which a subscriber observes a capture.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    mailboxes: Arc<[Arc<Mailbox>]>,
    subscribers: Arc<Mutex<usize>>,
}

/// The maximum number of observers is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_OBSERVERS} observers are attached already; wait until one has ended")]
pub struct TooMany;

impl Workers {
    /// Groups the workers that own these mailboxes.
    #[must_use]
    pub fn new(mailboxes: impl IntoIterator<Item = Arc<Mailbox>>) -> Self {
        Self { mailboxes: mailboxes.into_iter().collect(), subscribers: Arc::default() }
    }

    /// Returns the number of workers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Returns true if there are no workers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty()
    }

    /// Gives each worker its observer, in the order of the workers. The observers stay until the subscription
    /// is dropped.
    pub fn subscribe(
        &self,
        observers: impl IntoIterator<Item = Box<dyn Observer>>,
    ) -> Result<Subscription, TooMany> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        {
            let mut subscribers = self.subscribers();
            if *subscribers == MAX_OBSERVERS {
                return Err(TooMany);
            }
            *subscribers += 1;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        for (mailbox, observer) in self.mailboxes.iter().zip(observers) {
            mailbox.put((number, observer));
        }
        Ok(Subscription { workers: self.clone(), number })
    }

    /// Waits until all workers have checked their mailboxes, for at most `patience`; returns true if they
    /// have.
    #[must_use]
    pub fn wait_until_collected(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.mailboxes.iter().any(|mailbox| mailbox.changed.load(Ordering::Relaxed)) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Frees the observers that workers have removed since the last call.
    pub fn sweep(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.empty());
    }

    fn subscribers(&self) -> MutexGuard<'_, usize> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription; dropping it removes its observers.
#[derive(Debug)]
pub struct Subscription {
    workers: Workers,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for mailbox in self.workers.mailboxes.iter() {
            mailbox.recall(self.number);
        }
        *self.workers.subscribers() -= 1;
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[derive(Debug)]
    struct Counting(Arc<AtomicU64>);

    impl Observer for Counting {
        fn frame(&mut self, _: &FrameInfo, _: &[u8]) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_observer_looks_on_from_its_coming_until_its_going() {
        let info = FrameInfo::of(&[]);
        let mailbox = Arc::new(Mailbox::default());
        let workers = Workers::new([Arc::clone(&mailbox)]);
        let mut observers = Observers::default();
        let seen = Arc::new(AtomicU64::new(0));
        let observer = || -> Box<dyn Observer> { Box::new(Counting(Arc::clone(&seen))) };

        let subscription = workers.subscribe([observer()]).unwrap();
        assert!(observers.is_empty(), "not before the worker has looked");
        mailbox.collect(&mut observers);
        observers.frame(&info, &[]);
        assert_eq!(seen.load(Ordering::Relaxed), 1);

        drop(subscription);
        mailbox.collect(&mut observers);
        assert!(observers.is_empty());
        assert_eq!(Arc::strong_count(&seen), 2, "the worker frees nothing");
        workers.sweep();
        assert_eq!(Arc::strong_count(&seen), 1);
    }

    #[test]
    fn there_is_a_bound_to_observers() {
        let mailbox = Arc::new(Mailbox::default());
        let workers = Workers::new([Arc::clone(&mailbox)]);
        let observer = || -> Box<dyn Observer> { Box::new(Counting(Arc::default())) };
        let all: Vec<_> = (0..MAX_OBSERVERS).map(|_| workers.subscribe([observer()]).unwrap()).collect();
        assert_eq!(workers.subscribe([observer()]).unwrap_err(), TooMany);
        drop(all);
        // The worker has not checked its mailbox yet: it removes the old observers before there are too many.
        let _again = workers.subscribe([observer()]).unwrap();
        let mut observers = Observers::default();
        mailbox.collect(&mut observers);
        assert_eq!(observers.0.len(), 1);
    }
}
