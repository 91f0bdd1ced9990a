//! Who looks on while a worker works: `mirror-xdp tail` and the tap.
//!
//! An [`Observer`] is called with each frame before the worker analyses it. It comes and goes while the
//! capture runs: whoever wants to look on leaves it in the worker's [`Mailbox`], and the worker looks into
//! that in its tick. A worker without observers pays for one branch a frame.
//!
//! What observers have in common is [`copy`]: a filter, a bounded ring that frames are copied into, and
//! counters of those that it had no room for. What is made of the copies happens on other threads:
//! [`control`] hands them to `mirror-xdp tail`, [`tap`] sends them out of an interface.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mirror_packet::FrameInfo;

/// Observers that a worker has at most.
pub const MAX_OBSERVERS: usize = 16;

pub use crate::hooks::Observer;

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
    /// Whether nobody looks on.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows a frame to all of them.
    #[cold]
    pub fn frame(&mut self, info: &FrameInfo, frame: &[u8]) {
        for (_, observer) in &mut self.0 {
            observer.frame(info, frame);
        }
    }
}

/// Where observers are left for a worker, and where it puts those that are to go. They are freed by who
/// left them there.
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
    /// Lets observers in and out, on the worker's thread. Somebody else at the mailbox is not waited for.
    pub fn collect(&self, observers: &mut Observers) {
        if !self.changed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut letters) = self.letters.try_lock() else { return };
        self.changed.store(false, Ordering::Relaxed);
        let Letters { coming, leaving, gone } = &mut *letters;
        // Nothing here takes memory: there is room for all that may come, and for all that may go.
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
        // Whatever is in there is whole: letters are moved in and out.
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
        // What a worker that has ended did not take in needs nobody to let it out.
        letters.coming.retain(|(own, _)| *own != number);
        letters.leaving.push(number);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Frees observers that the worker has let go.
    fn empty(&self) {
        // Freed when nobody holds the lock.
        let gone = std::mem::replace(&mut self.letters().gone, Vec::with_capacity(MAX_OBSERVERS));
        drop(gone);
    }
}

/// The mailboxes of all workers: by them, one looks on at a capture.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    mailboxes: Arc<[Arc<Mailbox>]>,
    subscribers: Arc<Mutex<usize>>,
}

/// There are as many observers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_OBSERVERS} others look on already; wait until one has ended")]
pub struct TooMany;

impl Workers {
    /// The workers that look into these mailboxes.
    #[must_use]
    pub fn new(mailboxes: impl IntoIterator<Item = Arc<Mailbox>>) -> Self {
        Self { mailboxes: mailboxes.into_iter().collect(), subscribers: Arc::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty()
    }

    /// Gives each worker its observer, in the order of the workers; they look on until the subscription
    /// ends.
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

    /// Waits until all workers have let in who was waiting, but not longer than so; says whether they have.
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

    /// Frees what workers have let go since.
    pub fn sweep(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.empty());
    }

    fn subscribers(&self) -> MutexGuard<'_, usize> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as this is there, its observers look on.
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
        // The worker has not looked yet: it lets the old ones out before there are too many.
        let _again = workers.subscribe([observer()]).unwrap();
        let mut observers = Observers::default();
        mailbox.collect(&mut observers);
        assert_eq!(observers.0.len(), 1);
    }
}
