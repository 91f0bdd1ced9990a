//! Turns of the tests of a program: most run side by side, and tests that load the machine or measure time run
//! alone. A turn lasts until the test's thread ends.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

#[expect(dead_code, reason = "the guards are held, not read")]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Waits until no other test runs alone.
pub(crate) fn share() {
    // The threads that a test starts have no names, and no turns besides the test's.
    if thread::current().name().is_none() {
        return;
    }
    TURN.with_borrow_mut(|turn| {
        turn.get_or_insert_with(|| Turn::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)));
    });
}

/// Waits until this is the only test that runs.
pub(crate) fn alone() {
    TURN.with_borrow_mut(|turn| {
        if !matches!(turn, Some(Turn::Alone(_))) {
            // A shared turn ends first: it would be waited for.
            *turn = None;
            *turn = Some(Turn::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_test_that_runs_alone_waits_for_the_others_and_they_for_it() {
        let ended = &AtomicBool::new(false);
        thread::scope(|scope| {
            share();
            let (begun, waits) = channel();
            scope.spawn(move || {
                begun.send(()).unwrap();
                alone();
                assert!(ended.load(Ordering::SeqCst), "another test runs");
            });
            waits.recv().unwrap();
            assert!(MACHINE.try_write().is_err(), "nothing runs alone while another test runs");
            ended.store(true, Ordering::SeqCst);
            // The end of this thread's turn, as at the end of its test.
            TURN.set(None);
        });
        share();
    }
}
