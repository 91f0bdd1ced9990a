//! Reads the keys of `[signatures]`: rule files, variables, tenants.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mirror_signatures::engine::AlertPayload;
use mirror_signatures::sources::TenantSource;
use mirror_signatures::variables::{Resolver, Variables};
use serde_json::{Value as Json, json};

use super::document::Value;
use super::sections::{Reader, vni_ranges};
use crate::config::SignatureSettings;

/// The accepted elements of `signatures.files`.
const FILE: &str = "an absolute path, with *, ? and [...] for several files";

/// The names in `signatures.payload`.
const PAYLOAD: [&str; 3] = ["payload", "payload_printable", "packet"];

pub(super) fn files(reader: &mut Reader<'_>, value: &Value<'_>) {
    reader.config.signatures.sources.files = patterns(value);
}

fn patterns(value: &Value<'_>) -> Vec<String> {
    let pattern = |element: &Value<'_>| {
        let text = element.text_of(FILE)?;
        if !text.starts_with('/') || text.contains('\0') {
            element.wrong(format!("`{text}` is not an absolute path"), FILE);
        }
        Some(text.to_owned())
    };
    value.list().unwrap_or_default().iter().filter_map(pattern).collect()
}

pub(super) fn variables(reader: &mut Reader<'_>, value: &Value<'_>) {
    reader.config.signatures.sources.variables = pairs(value, &[]);
}

/// Reads names and values of variables, which add to `others`.
fn pairs(value: &Value<'_>, others: &[(String, String)]) -> Vec<(String, String)> {
    const ALLOWED: &str =
        "write addresses or ports such as \"[10.0.0.0/8,!10.1.0.0/16]\", \"!$HOME_NET\" or \"any\"";
    let mut variables = Variables::default();
    for (name, value) in others {
        // These have been checked.
        let _ = variables.set(name, value);
    }
    let mut own = Vec::new();
    for (name, element) in value.pairs().unwrap_or_default() {
        let Some(text) = element.text_of("a text") else { continue };
        match variables.set(name, text) {
            Ok(()) => own.push((name.to_owned(), text.to_owned(), element)),
            Err(reason) => element.wrong(reason, "letters, digits and _, as in HOME_NET"),
        }
    }
    let mut resolver = Resolver::new(&variables);
    for (name, text, element) in &own {
        // A variable is one of addresses or of ports.
        let of = format!("${name}");
        if resolver.ports(&of).is_err()
            && let Err(reason) = resolver.addresses(&of)
        {
            element.wrong(format!("`{text}`: {reason}"), ALLOWED);
        }
    }
    own.into_iter().map(|(name, text, _)| (name, text)).collect()
}

pub(super) fn payload(reader: &mut Reader<'_>, value: &Value<'_>) {
    let allowed = PAYLOAD.map(|name| format!("\"{name}\"")).join(", ");
    let payload = &mut reader.config.signatures.payload;
    for element in value.list().unwrap_or_default() {
        match element.text_of(&allowed) {
            Some("payload") => payload.encoded = true,
            Some("payload_printable") => payload.printable = true,
            Some("packet") => payload.packet = true,
            Some(other) => element.wrong(format!("`{other}` is none of them"), &allowed),
            None => {}
        }
    }
}

pub(super) fn payload_names(payload: AlertPayload) -> Json {
    let wanted = [payload.encoded, payload.printable, payload.packet];
    PAYLOAD.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(name, _)| json!(name)).collect()
}

/// Reads the tenants. A VNI of two tenants is a mistake.
pub(super) fn tenants(reader: &mut Reader<'_>, value: &Value<'_>) {
    let of = super::section("signatures.tenants").expect("the table has this section");
    let sources = &mut reader.config.signatures.sources;
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut taken: Vec<(RangeInclusive<u32>, String)> = Vec::new();
    for (index, element) in value.list().unwrap_or_default().iter().enumerate() {
        let Some(table) = element.table(of) else { continue };
        let mut tenant = TenantSource::default();
        if let Some(value) = table.require("name")
            && let Some(text) = value.text()
        {
            text.clone_into(&mut tenant.name);
            if text.is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
                value.wrong(format!("\"{text}\" is not a name"), "1 to 64 bytes without control characters");
            } else if let Some(first) = names.insert(text.to_owned(), index) {
                let what = format!("\"{text}\" is the name of signatures.tenants[{first}] already");
                value.wrong(what, "give each tenant a name of its own");
            }
        }
        if let Some(value) = table.require("vnis") {
            for range in vni_ranges(&value) {
                let meets = |(other, _): &&(RangeInclusive<u32>, String)| {
                    other.start() <= range.end() && range.start() <= other.end()
                };
                if let Some((_, other)) = taken.iter().find(meets) {
                    let what = format!("VNI {} is one of \"{other}\" already", range.start());
                    value.wrong(what, "a VNI belongs to one tenant");
                }
                tenant.vnis.push((*range.start(), *range.end()));
                taken.push((range, tenant.name.clone()));
            }
        }
        if let Some(value) = table.get("variables") {
            tenant.variables = pairs(&value, &sources.variables);
        }
        tenant.files = table.get("files").map(|value| patterns(&value));
        sources.tenants.push(tenant);
    }
}

pub(super) fn shown_variables(variables: &[(String, String)]) -> Json {
    let map: serde_json::Map<_, _> =
        variables.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    if map.is_empty() { Json::Null } else { map.into() }
}

pub(super) fn shown_tenants(settings: &SignatureSettings) -> Json {
    let range = |(first, last): &(u32, u32)| {
        if first == last { json!(first) } else { json!(format!("{first}-{last}")) }
    };
    let tenant = |tenant: &TenantSource| {
        json!({
            "name": tenant.name,
            "vnis": tenant.vnis.iter().map(range).collect::<Vec<_>>(),
            "variables": shown_variables(&tenant.variables),
            "files": tenant.files,
        })
    };
    settings.sources.tenants.iter().map(tenant).collect()
}
