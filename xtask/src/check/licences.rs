//! Checks that all dependencies have licences that this project can be distributed with.
//!
//! cargo-deny would do the same, but takes longer to build than all other checks together.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::command::{cargo, output};

/// The accepted licences, by their SPDX identifiers: permissive ones.
const ACCEPTED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "BSL-1.0",
];

/// The part of `cargo metadata` that is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// The registry; `None` for the crates of this workspace.
    source: Option<String>,
}

/// Fails if a dependency has a licence that is not accepted.
pub(super) fn check() -> Result<()> {
    let json = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))
        .context("cargo metadata failed; run it to see why")?;
    let metadata: Metadata =
        serde_json::from_str(&json).context("cannot read the answer of cargo metadata")?;
    let refused: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some() && !package.license.as_deref().is_some_and(is_accepted))
        .map(|Package { name, version, license, .. }| {
            format!("{name} {version}: {}", license.as_deref().unwrap_or("no licence named"))
        })
        .collect();
    ensure!(
        refused.is_empty(),
        "these dependencies have licences that are not accepted; use others:\n{}",
        refused.join("\n")
    );
    Ok(())
}

/// Returns true if the expression can be satisfied with accepted licences alone.
fn is_accepted(licence: &str) -> bool {
    let accepted =
        |requirement: &LicenseReq| requirement.license.id().is_some_and(|id| ACCEPTED.contains(&id.name));
    Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| expression.evaluate(accepted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_accepted_where_permissive_licences_satisfy_it() {
        for licence in ["MIT", "MIT/Apache-2.0", "LGPL-2.1 OR BSD-2-Clause", "(MIT OR GPL-3.0) AND ISC"] {
            assert!(is_accepted(licence), "{licence}");
        }
        for licence in ["GPL-2.0-only", "MIT AND EUPL-1.2", "AGPL-3.0-only OR EUPL-1.2", "", "Mine"] {
            assert!(!is_accepted(licence), "{licence}");
        }
    }
}
