//! The arguments by which `read` loads rule files.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use mirror_signatures::config::classification::Classes;
use mirror_signatures::engine::Engine;
use mirror_signatures::ruleset::Loader;
use mirror_signatures::variables::Variables;

use super::progress::grouped;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RulesArgs {
    /// Raise alerts by these rule files of Suricata; `mirror-xdp rules check` names what is refused in them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rules: Vec<PathBuf>,

    /// Set a variable of addresses or ports of the rules; those of networks are `any` unless set
    #[arg(long = "rules-var", value_name = "NAME=VALUE", value_parser = super::rules::variable, requires = "rules")]
    variables: Vec<(String, String)>,
}

impl RulesArgs {
    /// Loads the rules, if there are any.
    pub(super) fn load(&self) -> anyhow::Result<Option<Arc<Engine>>> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let mut variables = Variables::default();
        for (name, value) in &self.variables {
            variables.set(name, value).map_err(anyhow::Error::msg)?;
        }
        let classes = Classes::default();
        let mut loader = Loader::new(&variables, &classes);
        for path in &self.rules {
            loader.read(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        let set = loader.finish();
        if set.report.refused_count > 0 {
            let (refused, total) = (set.report.refused_count as u64, set.report.total as u64);
            tracing::warn!(
                "{} of {} rules are refused; `mirror-xdp rules check` names them",
                grouped(refused),
                grouped(total)
            );
        }
        let engine = Engine::new(set.signatures).map_err(anyhow::Error::msg)?;
        Ok(Some(Arc::new(engine)))
    }
}
