//! Reloads the configuration while the capture runs: either all changes take effect, or none.
//!
//! The effective settings are compared key by key, including the flags. A changed key that cannot change at
//! run time is a mistake, reported like all others, and then nothing changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror_base::one_line;
use mirror_control::api::{ChangedSignatures, Refused, Reloaded};
use mirror_control::capture::Capture;
use mirror_control::config::{self, Config, Diagnostic, Diagnostics, settings};
use mirror_control::rule_loader::{Ready, RuleLoader, Wanted};
use mirror_records::sink::Sink;
use mirror_signatures::engine::Engine;
use mirror_signatures::rule::RuleId;
use mirror_signatures::sources::Changed;
use mirror_store::Store;
use tokio::time::Instant;

use super::{Args, InForce, sink_settings};
use crate::cli::log::{self, announce};

/// Sections that take effect as one policy.
const POLICY: [&str; 2] = ["admission", "filter"];

/// Returns true if a key belongs to the policy.
fn is_policy(key: &str) -> bool {
    key.split_once('.').is_some_and(|(section, _)| POLICY.contains(&section))
}

/// The parts of a running capture that accept new settings.
pub(super) struct Running<'a> {
    pub(super) capture: &'a mut Capture,
    pub(super) sink: &'a Sink,
    pub(super) store: Option<&'a Store>,
}

/// The settings in force, and the flags that take precedence over the file.
pub(super) struct Reloader<'a> {
    args: &'a Args,
    current: Config,
    loader: RuleLoader,
    /// The hash of the rule files in force.
    digest: Option<u64>,
}

impl<'a> Reloader<'a> {
    pub(super) const fn new(
        args: &'a Args,
        current: Config,
        loader: RuleLoader,
        digest: Option<u64>,
    ) -> Self {
        Self { args, current, loader, digest }
    }

    /// Returns the time between two `stats` events.
    pub(super) const fn stats_interval(&self) -> Duration {
        self.current.capture.stats_interval
    }

    /// Reloads the configuration, applies it, and reports the result. If something is wrong, the current
    /// settings stay in force.
    pub(super) async fn reload(&mut self, running: Running<'_>) -> Result<Reloaded, Refused> {
        let Some(path) = self.args.config() else {
            let error = "nothing to reload: there is no --config".to_owned();
            return Err(Refused { error, mistakes: Vec::new() });
        };
        let begun = Instant::now();
        match self.try_reload(path, running).await {
            Ok((rules, changed, signatures)) => {
                let milliseconds = begun.elapsed().as_millis() as u64;
                let others = if changed.is_empty() {
                    String::new()
                } else {
                    format!("; changed: {}", changed.join(", "))
                };
                announce(&format!(
                    "mirror-xdp: {}: read again, {rules} rules in force after {milliseconds} ms{others}",
                    path.display()
                ));
                if let Some(signatures) = &signatures {
                    announce(&format!("mirror-xdp: {}", described(signatures)));
                }
                Ok(Reloaded { rules, changed, signatures, milliseconds })
            }
            Err(error) => {
                let mistakes = match error.downcast_ref() {
                    Some(config::Error::Wrong(mistakes)) => mistakes.all().to_vec(),
                    _ => Vec::new(),
                };
                let error = one_line(error.as_ref());
                announce(&format!("mirror-xdp: not reloaded, what is in force stays: {error}"));
                Err(Refused { error, mistakes })
            }
        }
    }

    /// Returns the number of rules in force, the other keys that changed, and the rules that raise alerts if their files
    /// did.
    async fn try_reload(
        &mut self,
        path: &Path,
        running: Running<'_>,
    ) -> anyhow::Result<(usize, Vec<&'static str>, Option<ChangedSignatures>)> {
        // Settings that matter only at the start, such as the files of secrets, are not checked.
        let checked = config::check(path, |key| !is_policy(key))?;
        if let Some(mistakes) = Diagnostics::of(checked.mistakes) {
            return Err(config::Error::from(mistakes).into());
        }
        let (new, lines) = (self.args.settings(checked.config), checked.lines);
        let line = |key: &str| {
            let section = key.split_once('.').map_or(key, |(section, _)| section);
            lines.get(key).or_else(|| lines.get(section)).copied().unwrap_or(1)
        };
        let (before, after) = (self.args.in_force(&self.current), self.args.in_force(&new));
        let changes: Vec<_> = changes(&before, &after).collect();
        let fixed = changes.iter().filter(|change| !settings::is_live(change.key));
        let mistakes = fixed.map(|change| change.mistake(path, line(change.key))).collect();
        if let Some(mistakes) = Diagnostics::of(mistakes) {
            return Err(config::Error::from(mistakes).into());
        }
        // The steps that can fail come first.
        let indicators = Arc::new(new.alerts.load()?);
        let signatures = self.load_signatures(&new, running.capture).await?;
        running.capture.set_policy(new.policy.clone())?;
        running.capture.tune(new.tuning(), indicators).await;
        let signatures = match signatures {
            Some((fresh, difference)) => {
                self.digest = Some(fresh.digest);
                running.capture.inspect(fresh.engine).await;
                Some(difference)
            }
            None => None,
        };
        running.sink.set(sink_settings(&new));
        if let Some(store) = running.store {
            store.set(&new.store.settings.policy, &new.store.settings.retention);
        }
        log::set_level(new.log.level.as_deref());
        for Change { key, before, after } in &changes {
            tracing::debug!("{key} changes from {before} to {after}");
        }
        self.current = new;
        let rules = self.current.policy.sets.iter().map(|set| set.rules.len()).sum();
        let keys = changes.iter().map(|change| change.key).filter(|key| !is_policy(key)).collect();
        Ok((rules, keys, signatures))
    }

    /// Loads the rules that raise alerts, if their files or settings have changed, and compares them with those in force.
    async fn load_signatures(
        &self,
        new: &Config,
        capture: &Capture,
    ) -> anyhow::Result<Option<(Ready, ChangedSignatures)>> {
        let before = capture.rules().get();
        if before.is_none() && new.signatures.sources.is_empty() {
            return Ok(None);
        }
        let is_same = new.signatures.payload == self.current.signatures.payload;
        let wanted = Wanted {
            sources: new.signatures.sources.clone(),
            payload: new.signatures.payload,
            known: self.digest.filter(|_| is_same),
        };
        let Some(ready) = self.loader.load(wanted).await? else { return Ok(None) };
        ready.refused.iter().for_each(|line| tracing::warn!("{line}"));
        crate::cli::inspect::warn(&ready.report);
        let of = |engine: &Option<Arc<Engine>>| engine.clone();
        let (old, now) = (of(&before), of(&ready.engine));
        let rules =
            |engine: &Option<Arc<Engine>>| engine.as_ref().map_or(0, |engine| engine.signatures().len());
        let differences = Changed::between(
            old.as_ref().map_or(&[], |engine| engine.signatures()),
            now.as_ref().map_or(&[], |engine| engine.signatures()),
        );
        let sids = |ids: Vec<RuleId>| ids.into_iter().map(|id| id.sid).collect();
        let changed = ChangedSignatures {
            rules: rules(&now),
            refused: ready.report.refused_count,
            added: sids(differences.added),
            removed: sids(differences.removed),
            changed: sids(differences.changed),
        };
        Ok(Some((ready, changed)))
    }
}

/// Describes in a line what has changed, with the first of the rules.
fn described(signatures: &ChangedSignatures) -> String {
    const NAMED: usize = 10;
    let ChangedSignatures { rules, refused, added, removed, changed } = signatures;
    let list = |name: &str, sids: &[u32]| {
        let named: Vec<_> = sids.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if sids.len() > NAMED { ", …" } else { "" };
        let named = if named.is_empty() { String::new() } else { format!(" ({}{more})", named.join(", ")) };
        format!("{} {name}{named}", sids.len())
    };
    format!(
        "{rules} signatures in force, {refused} refused: {}, {}, {}",
        list("added", added),
        list("removed", removed),
        list("changed", changed)
    )
}

/// A key whose value differs.
struct Change<'v> {
    key: &'static str,
    before: &'v serde_json::Value,
    after: &'v serde_json::Value,
}

impl Change<'_> {
    /// Reports that the key cannot change while the capture runs.
    fn mistake(&self, path: &Path, line: usize) -> Diagnostic {
        let written = |value: &serde_json::Value| {
            if value.is_null() { "not set".to_owned() } else { value.to_string() }
        };
        Diagnostic {
            file: path.to_owned(),
            line,
            key: self.key.to_owned(),
            what: format!("a change to {} takes a restart", written(self.after)),
            allowed: format!("while the capture runs it stays what it was: {}", written(self.before)),
        }
    }
}

fn changes<'v>(before: &'v [InForce], after: &'v [InForce]) -> impl Iterator<Item = Change<'v>> {
    // Both lists have the same keys in the same order.
    let pairs = before.iter().zip(after);
    pairs
        .filter(|((_, before, _), (_, after, _))| before != after)
        .map(|((key, before, _), (_, after, _))| Change { key, before, after })
}
