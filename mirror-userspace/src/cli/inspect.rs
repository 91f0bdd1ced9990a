//! Rule files that raise alerts: the arguments of `read`, and what `read` and `run` load.

use std::path::PathBuf;
use std::sync::Arc;

use mirror_control::config::SignatureSettings;
use mirror_signatures::engine::Engine;
use mirror_signatures::ruleset::Report;
use mirror_signatures::sources::Sources;
use mirror_signatures::variables::Variables;

use super::progress::grouped;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RulesArgs {
    /// Raise alerts by these rule files of Suricata, in place of those of the configuration; `mirror-xdp rules check`
    /// names what is refused in them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rules: Vec<PathBuf>,

    /// Set a variable of addresses or ports of the rules; those of networks are `any` unless set
    #[arg(long = "rules-var", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
}

impl RulesArgs {
    /// Replaces the settings that are given.
    pub(super) fn apply(&self, settings: &mut SignatureSettings) {
        if !self.rules.is_empty() {
            settings.sources.files = self.rules.iter().map(|path| Sources::file(path)).collect();
        }
        settings.sources.variables.extend(self.variables.iter().cloned());
    }
}

/// Parses a variable in the notation of an argument.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Variables::default().set(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Loads the rules of the settings, if there are any. Returns them, and the hash of their files.
pub(super) fn load(settings: &SignatureSettings) -> anyhow::Result<Option<(Arc<Engine>, u64)>> {
    if settings.sources.is_empty() {
        return Ok(None);
    }
    let loaded = settings.sources.load()?;
    let digest = loaded.digest;
    for (path, refusal) in &loaded.refused {
        tracing::warn!("{}:{refusal}", path.display());
    }
    let (engine, report) = loaded.into_engine(settings.payload)?;
    warn(&report);
    Ok(Some((Arc::new(engine), digest)))
}

/// Warns of rules that are not loaded, or not in force for a tenant.
pub(super) fn warn(report: &Report) {
    if report.refused_count > 0 {
        let (refused, total) = (report.refused_count as u64, report.total as u64);
        tracing::warn!(
            "{} of {} rules are refused; `mirror-xdp rules check` names them",
            grouped(refused),
            grouped(total)
        );
    }
    if let Some(first) = report.without.first() {
        tracing::warn!(
            "{} rules are not in force for a tenant, such as \"{}\": {}",
            grouped(report.without.len() as u64),
            first.tenant,
            first.refusal
        );
    }
}
