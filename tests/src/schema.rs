//! Validates values against a schema of an `OpenAPI` description. It knows the keywords that the API's
//! description uses; any other keyword is a failure, not a pass.

use serde_json::{Map, Value};

/// Returns all violations of `schema` by `value`, each with its place; references are resolved in
/// `description`.
#[must_use]
pub fn violations(description: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(description, schema, value, "", &mut found);
    found
}

fn check(description: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(words) = schema.as_object() else {
        found.push(format!("{at}: the schema is no object: {schema}"));
        return;
    };
    let mut wrong = |what: String| found.push(format!("{at}: {what}: {value}"));
    for (word, expected) in words {
        match word.as_str() {
            "type" if !is_of_type(expected, value) => wrong(format!("is no {expected}")),
            "enum" if !expected.as_array().is_some_and(|all| all.contains(value)) => {
                wrong(format!("none of {expected}"));
            }
            "minimum" if value.as_f64() < expected.as_f64() => wrong(format!("less than {expected}")),
            "maximum" if value.as_f64() > expected.as_f64() => wrong(format!("more than {expected}")),
            "required" => {
                for name in expected.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.get(name).is_none() {
                        wrong(format!("`{name}` is missing"));
                    }
                }
            }
            // Keywords that the value satisfies, that are no condition, or that are checked below.
            "type"
            | "enum"
            | "minimum"
            | "maximum"
            | "description"
            | "default"
            | "properties"
            | "additionalProperties"
            | "items"
            | "$ref" => {}
            word => wrong(format!("`{word}` is not known to this test")),
        }
    }
    if let Some(path) = words.get("$ref").and_then(Value::as_str) {
        match description.pointer(path.trim_start_matches('#')) {
            Some(schema) => check(description, schema, value, at, found),
            None => found.push(format!("{at}: there is no {path}")),
        }
    }
    if let (Some(items), Some(list)) = (words.get("items"), value.as_array()) {
        for (index, item) in list.iter().enumerate() {
            check(description, items, item, &format!("{at}/{index}"), found);
        }
    }
    if let Some(object) = value.as_object() {
        properties(description, words, object, at, found);
    }
}

fn properties(
    description: &Value,
    words: &Map<String, Value>,
    object: &Map<String, Value>,
    at: &str,
    found: &mut Vec<String>,
) {
    let known = words.get("properties").and_then(Value::as_object);
    for (name, value) in object {
        let at = format!("{at}/{name}");
        match (known.and_then(|known| known.get(name)), words.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                check(description, schema, value, &at, found);
            }
            (None, Some(Value::Bool(false))) => found.push(format!("{at}: is not described")),
            (None, _) => {}
        }
    }
}

fn is_of_type(expected: &Value, value: &Value) -> bool {
    match expected.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_violation_is_found_at_its_place() {
        let description = json!({ "schemas": { "Count": { "type": "integer", "minimum": 0 } } });
        let count = json!({ "$ref": "#/schemas/Count" });
        let schema = json!({
            "type": "object",
            "properties": { "list": { "type": "array", "items": count }, "kind": { "enum": ["a"] } },
            "required": ["list"],
            "additionalProperties": false,
        });
        let of = |value| violations(&description, &schema, &value);
        assert!(of(json!({ "list": [1, 2], "kind": "a" })).is_empty());
        for (value, place) in [
            (json!([]), ": is no \"object\""),
            (json!({}), ": `list` is missing"),
            (json!({ "list": [1, -1] }), "/list/1: less than 0"),
            (json!({ "list": ["x"] }), "/list/0: is no \"integer\""),
            (json!({ "list": [], "kind": "b" }), "/kind: none of"),
            (json!({ "list": [], "more": 1 }), "/more: is not described"),
        ] {
            assert!(of(value.clone()).iter().any(|found| found.starts_with(place)), "{value}");
        }
        let unknown = violations(&description, &json!({ "pattern": "x" }), &json!("x"));
        assert_eq!(unknown.len(), 1);
    }
}
