//! Loads rule files beside a running capture: a thread of low priority, so that neither the packet path nor the capture's
//! thread waits for it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mirror_signatures::engine::{AlertPayload, Engine};
use mirror_signatures::ruleset::Report;
use mirror_signatures::sources::{LoadError, Sources};
use tokio::sync::oneshot;

use crate::host::spawn_beside;

/// Rules that are ready.
#[derive(Debug)]
pub struct Ready {
    /// The rules; `None` if the configuration names none.
    pub engine: Option<Arc<Engine>>,
    /// The fate of each rule.
    pub report: Report,
    /// The refusals in the files beside the rules, as text.
    pub refused: Vec<String>,
    /// The hash of the files.
    pub digest: u64,
}

/// A set of rules to load.
#[derive(Debug)]
pub struct Wanted {
    /// The files.
    pub sources: Sources,
    /// The parts of the traffic that alerts contain.
    pub payload: AlertPayload,
    /// The hash of the files that are loaded.
    pub known: Option<u64>,
}

type Answer = Result<Option<Ready>, LoadError>;

/// The thread.
#[derive(Debug)]
pub struct RuleLoader(SyncSender<(Wanted, oneshot::Sender<Answer>)>);

impl RuleLoader {
    /// Starts the thread, which may read what the main thread may read.
    pub fn start() -> io::Result<Self> {
        let (queue, requests) = sync_channel(1);
        spawn_beside("rules", move || run(&requests))?;
        Ok(Self(queue))
    }

    /// Loads rules. Returns `None` if the files have not changed.
    pub async fn load(&self, wanted: Wanted) -> Answer {
        let (answer, receiver) = oneshot::channel();
        let ended = || LoadError::Search("the thread that loads rules has ended".to_owned());
        self.0.try_send((wanted, answer)).map_err(|_| ended())?;
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn run(requests: &Receiver<(Wanted, oneshot::Sender<Answer>)>) {
    while let Ok((wanted, answer)) = requests.recv() {
        // Fails if the requester does not wait any more.
        let _ = answer.send(load(wanted));
    }
}

fn load(wanted: Wanted) -> Answer {
    let Wanted { sources, payload, known } = wanted;
    let Some(loaded) = sources.load_unless(known)? else { return Ok(None) };
    let digest = loaded.digest;
    let refused =
        loaded.refused.iter().map(|(path, refusal)| format!("{}:{refusal}", path.display())).collect();
    if sources.is_empty() {
        return Ok(Some(Ready { engine: None, report: Report::default(), refused, digest }));
    }
    let (engine, report) = loaded.into_engine(payload)?;
    Ok(Some(Ready { engine: Some(Arc::new(engine)), report, refused, digest }))
}
