//! Bounds how often the same question is asked: clients that ask in between receive the last answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// The number of answers of one kind to keep.
const ANSWERS: usize = 8;

/// The last answers to questions of one kind. Questions wait for each other, so that none is asked twice at
/// the same time.
#[derive(Debug)]
pub(super) struct Cache<Q, A> {
    fresh: Duration,
    answers: Mutex<VecDeque<(Q, Instant, Arc<A>)>>,
}

impl<Q: PartialEq, A> Cache<Q, A> {
    /// Creates a cache whose answers are valid for the time `fresh`.
    pub(super) const fn new(fresh: Duration) -> Self {
        Self { fresh, answers: Mutex::const_new(VecDeque::new()) }
    }

    /// Returns the last answer if it is fresh, else that of `ask`. Errors are not cached.
    pub(super) async fn get<E>(
        &self,
        question: Q,
        ask: impl AsyncFnOnce(&Q) -> Result<A, E>,
    ) -> Result<Arc<A>, E> {
        let mut answers = self.answers.lock().await;
        answers.retain(|(_, time, _)| time.elapsed() < self.fresh);
        if let Some((_, _, answer)) = answers.iter().find(|(asked, _, _)| *asked == question) {
            return Ok(Arc::clone(answer));
        }
        let answer = Arc::new(ask(&question).await?);
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back((question, Instant::now(), Arc::clone(&answer)));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_put_once_while_its_answer_is_fresh() {
        let cache = Cache::new(Duration::from_secs(3600));
        let mut put = 0;
        for question in [1, 1, 2, 1, 2] {
            let answer = cache.get(question, async |&question| {
                put += 1;
                Ok::<_, ()>(question * 10)
            });
            assert_eq!(*answer.await.unwrap(), question * 10);
        }
        assert_eq!(put, 2);
        let stale = Cache::new(Duration::ZERO);
        for _ in 0..3 {
            stale
                .get((), async |()| {
                    put += 1;
                    Ok::<_, ()>(())
                })
                .await
                .unwrap();
        }
        assert_eq!(put, 5);
        assert_eq!(stale.get((), async |()| Err::<(), _>("no")).await.unwrap_err(), "no");
    }
}
