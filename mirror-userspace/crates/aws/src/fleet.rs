//! The names of several accounts and regions, each refreshed apart: one that cannot be reached keeps its last names, with
//! their age.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use futures_util::future::join_all;
use mirror_records::names::{Host, NamesFile, Session, Time, VERSION};

use crate::client::{CallError, Client, ClientSettings};
use crate::discovery::{Description, describe};

/// A client, and what it found out.
#[derive(Debug)]
struct Account {
    client: Client,
    /// The last description, and its time.
    known: Option<(Description, Time)>,
    /// The last refresh failed, and that has been reported.
    is_failing: bool,
}

/// Accounts and regions.
#[derive(Debug)]
pub struct Fleet {
    accounts: Vec<Account>,
    /// The keys of the tags that records show.
    tags: Vec<String>,
}

impl Fleet {
    /// Makes a client for each of the settings.
    ///
    /// # Errors
    ///
    /// Fails if a client cannot be made.
    pub fn new(settings: &[ClientSettings], tags: Vec<String>) -> Result<Self, CallError> {
        let account =
            |settings| Client::new(settings).map(|client| Account { client, known: None, is_failing: false });
        Ok(Self { accounts: settings.iter().map(account).collect::<Result<_, _>>()?, tags })
    }

    /// Asks all accounts at the same time. Returns the failures of those whose last refresh did not fail.
    pub async fn refresh(&mut self) -> Vec<Failure> {
        let tags = &self.tags;
        let answers = join_all(self.accounts.iter_mut().map(async |account| {
            let time = Time::now();
            match describe(&account.client, tags).await {
                Ok(description) => {
                    account.known = Some((description, time));
                    if std::mem::take(&mut account.is_failing) {
                        tracing::info!("{}: can be described again", place(account.client.settings()));
                    }
                    None
                }
                Err(error) => {
                    let is_known = std::mem::replace(&mut account.is_failing, true);
                    let failure = Failure { place: place(account.client.settings()), error };
                    (!is_known).then_some(failure)
                }
            }
        }))
        .await;
        answers.into_iter().flatten().collect()
    }

    /// Returns whether the last refresh of every account failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.accounts.iter().all(|account| account.is_failing)
    }

    /// Returns what is known of each account, with its time.
    pub fn known(&self) -> impl Iterator<Item = &(Description, Time)> {
        self.accounts.iter().filter_map(|account| account.known.as_ref())
    }

    /// Returns the names of all accounts as a file. Those that were true at another time than the newest say so.
    #[must_use]
    pub fn names(&self, valid_for: Duration) -> NamesFile {
        let newest = self.known().map(|&(_, time)| time).max();
        let mut sessions: BTreeSet<Session> = BTreeSet::new();
        let mut hosts: BTreeSet<&Host> = BTreeSet::new();
        for (description, time) in self.known() {
            let as_of = Some(*time).filter(|_| Some(*time) != newest);
            sessions.extend(description.sessions.iter().map(|session| Session { as_of, ..session.clone() }));
            // An interface of a shared VPC is seen by several accounts.
            hosts.extend(&description.hosts);
        }
        NamesFile {
            version: VERSION,
            as_of: newest,
            valid_for: Some(valid_for.as_secs()),
            sessions: sessions.into_iter().collect(),
            hosts: hosts.into_iter().cloned().collect(),
        }
    }

    /// Returns whether a mirror session is unknown: its VNI, or the VNI with its outer source if that is given.
    #[must_use]
    pub fn is_unknown(&self, vni: u32, source: Option<IpAddr>) -> bool {
        let mut sessions = self.known().flat_map(|(description, _)| &description.sessions);
        !sessions.any(|session| session.vni == vni && source.is_none_or(|source| session.source == source))
    }
}

/// An account that could not be described.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {error}")]
pub struct Failure {
    place: String,
    error: CallError,
}

/// Names an account and region for people.
fn place(settings: &ClientSettings) -> String {
    match &settings.role {
        Some(role) => format!("{} in {}", role.arn, settings.region),
        None => settings.region.clone(),
    }
}

/// Writes a file of names in place of the one before: a reader sees the old or the new one, never a part.
///
/// # Errors
///
/// Fails if the file cannot be written.
pub fn write(names: &NamesFile, path: &Path) -> io::Result<()> {
    let directory = mirror_base::file::directory_of(path);
    let name = path.file_name().ok_or_else(|| io::Error::other("is not the name of a file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = directory.join(temporary);
    let text = serde_json::to_vec(names)?;
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}
