//! The description of the API in `OpenAPI`, derived from the handlers and the types of their answers.

use std::sync::LazyLock;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::view::Failure;
use crate::api::routes;

/// The answers that every path may give if it needs a token.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description only")]
pub(super) enum Errors {
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(Failure),
    /// The request names another host, or comes from a page of another origin.
    #[response(status = 403)]
    Forbidden(Failure),
    /// The capture is starting or stopping, or too busy to answer.
    #[response(status = 503)]
    Unavailable(Failure),
}

/// The answers that every path may give that needs no token and does not depend on the capture.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description only")]
pub(super) enum OpenErrors {
    /// The request names another host, or comes from a page of another origin.
    #[response(status = 403)]
    Forbidden(Failure),
}

/// The answer to a wrong query.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "a description only")]
pub(super) enum WrongQuery {
    /// The query is wrong.
    #[response(status = 400)]
    BadRequest(Failure),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mirror-xdp",
        description = "The HTTP API of a running capture. Counters start at 0 when the capture begins.",
        version = "1",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        routes::page,
        routes::healthz,
        routes::readyz,
        routes::exposition,
        routes::description,
        routes::stats,
        routes::interfaces,
        routes::workers,
        routes::vnis,
        routes::rules,
        routes::flows,
        routes::services,
        routes::summary,
        routes::events,
        routes::reload,
    ),
    // Error responses only refer to it.
    components(schemas(Failure)),
    security((), ("token" = [])),
    modifiers(&Finish)
)]
struct Api;

/// Adds what no type has: the token. Removes the tags, which are names of modules.
struct Finish;

impl Modify for Finish {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Required if the API has a token."))
            .build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        for path in api.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
                operation.tags = None;
            }
        }
    }
}

/// Returns the description as JSON.
pub(super) fn json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| Api::openapi().to_json().unwrap_or_default());
    &JSON
}

#[cfg(test)]
mod tests {
    use mirror_xdp_tests::schema::violations;
    use serde::Serialize;
    use serde_json::{Value, json};

    use super::super::view::{self, Account, Summary};
    use super::super::{Phase, Snapshot, alerts};
    use super::*;
    use crate::counters;
    use crate::stats::{Policy, Rule, Vni, VniDropped};

    #[track_caller]
    fn assert_described(name: &str, answer: &impl Serialize) {
        let description: Value = serde_json::from_str(json()).unwrap();
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        let found = violations(&description, &schema, &serde_json::to_value(answer).unwrap());
        assert!(found.is_empty(), "{name}: {found:#?}");
    }

    fn snapshot() -> Snapshot {
        let mut stats = counters::tests::complete();
        stats.workers[1].store.as_mut().unwrap().lost.0[0].1 = 4;
        let vni = Vni {
            vni: Some(7),
            packets: 1,
            bytes: 2,
            dropped: VniDropped { rejected: 1, sampled_out: 0, shunted: 0, not_admitted: 0, undelivered: 0 },
            idle_seconds: 0,
        };
        let rule = Rule {
            set: "a".to_owned(),
            number: Some(1),
            direction: Some("both"),
            action: "accept".to_owned(),
            packets: 1,
            bytes: 2,
        };
        let (vnis, rules) =
            (vec![vni, Vni { vni: None, ..vni }], vec![rule.clone(), Rule { number: None, ..rule }]);
        stats.policies = vec![Policy { interface: "v0".to_owned(), generation: 1, vnis, rules }];
        stats.unaccounted = Some(0);
        let received = vec![mirror_device::nic::Received::default()];
        Snapshot { time: std::time::SystemTime::now(), stats, received }
    }

    #[test]
    fn every_field_of_the_account_is_described() {
        let snapshot = snapshot();
        assert_described("Account", &Account::new(&snapshot));
        assert_described("Interfaces", &view::Interfaces { interfaces: view::interfaces(&snapshot) });
        assert_described("Vnis", &view::vnis(&snapshot.stats.policies, 10));
        assert_described("Rules", &view::rules(&snapshot.stats.policies));
    }

    #[test]
    fn every_field_of_the_summary_is_described() {
        let snapshot = snapshot();
        let summary = Summary {
            version: "1",
            time: view::time(&snapshot),
            seconds: 1.0,
            protocols: snapshot.stats.protocols(),
            interfaces: view::interfaces(&snapshot),
            workers: Vec::new(),
            vnis: view::vnis(&snapshot.stats.policies, 10),
            flows: &[],
            services: Vec::new(),
            records: &snapshot.stats.records,
            losses: counters::losses(&snapshot.stats),
            notices: counters::notices(&snapshot.stats),
            alerts: vec![alerts::Alert { severity: counters::Severity::Info, text: "text".to_owned() }],
        };
        assert!(summary.losses.len() > 3);
        assert_described("Summary", &summary);
        let still = vec![1];
        assert_described(
            "Liveness",
            &view::Liveness { healthy: false, phase: Phase::Starting, workers: 2, still },
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let description: Value = serde_json::from_str(json()).unwrap();
        let references = json().split("\"#").skip(1).filter_map(|rest| rest.split('"').next());
        for path in references {
            assert!(description.pointer(path).is_some(), "{path}");
        }
    }

    #[test]
    fn a_field_that_is_not_described_is_found() {
        let description: Value = serde_json::from_str(json()).unwrap();
        let schema = json!({ "$ref": "#/components/schemas/Interfaces" });
        let mut answer =
            serde_json::to_value(view::Interfaces { interfaces: view::interfaces(&snapshot()) }).unwrap();
        answer["interfaces"][0]["program"]["more"] = 1.into();
        assert_eq!(violations(&description, &schema, &answer).len(), 1);
    }
}
