//! Validates values against a schema of an `OpenAPI` description, strictly: a field that the description does not name
//! is a violation, even where the description would allow it.

use serde_json::{Map, Value, json};

/// Returns all violations of `schema` by `value`, each with its place; references are resolved in
/// `description`.
#[must_use]
pub fn violations(description: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut root = strict(description, schema);
    if let (Value::Object(root), Some(components)) = (&mut root, description.get("components")) {
        let schemas = components["schemas"].as_object().into_iter().flatten();
        let schemas = schemas.map(|(name, schema)| (name.clone(), strict(description, schema)));
        root.insert("components".to_owned(), json!({ "schemas": schemas.collect::<Map<_, _>>() }));
    }
    match jsonschema::validator_for(&root) {
        Ok(validator) => {
            let found = validator.iter_errors(value);
            found.map(|error| format!("{}: {error}", error.instance_path())).collect()
        }
        Err(error) => vec![format!("the schema is not valid: {error}")],
    }
}

/// Returns a schema of which objects have the named fields only. The parts of `allOf` become one object.
fn strict(description: &Value, schema: &Value) -> Value {
    let Value::Object(words) = schema else { return schema.clone() };
    let mut words = words.clone();
    if let Some(Value::Array(parts)) = words.remove("allOf") {
        for part in &parts {
            merge(&mut words, &whole(description, part));
        }
    }
    for (word, below) in &mut words {
        match (word.as_str(), &mut *below) {
            ("properties", Value::Object(fields)) => {
                for field in fields.values_mut() {
                    *field = strict(description, field);
                }
            }
            ("items" | "additionalProperties", _) => *below = strict(description, below),
            ("oneOf" | "anyOf", Value::Array(choices)) => {
                for choice in choices {
                    *choice = strict(description, choice);
                }
            }
            _ => {}
        }
    }
    if words.contains_key("properties") {
        words.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    Value::Object(words)
}

/// Returns a schema that contains no reference and no `allOf` at its top.
fn whole(description: &Value, schema: &Value) -> Map<String, Value> {
    let mut words = schema.as_object().cloned().unwrap_or_default();
    if let Some(path) = words.remove("$ref") {
        let path = path.as_str().unwrap_or_default().trim_start_matches('#');
        merge(&mut words, &whole(description, description.pointer(path).unwrap_or(&Value::Null)));
    }
    if let Some(Value::Array(parts)) = words.remove("allOf") {
        for part in &parts {
            merge(&mut words, &whole(description, part));
        }
    }
    words
}

/// Adds the fields of another object to an object.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (word, value) in from {
        match (into.get_mut(word), value) {
            (Some(Value::Object(fields)), Value::Object(more)) => fields.extend(more.clone()),
            (Some(Value::Array(names)), Value::Array(more)) => names.extend(more.iter().cloned()),
            (Some(_), _) => {}
            (None, _) => {
                into.insert(word.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_violation_is_found_at_its_place() {
        let count = json!({ "type": "integer", "minimum": 0 });
        let base = json!({ "type": "object", "properties": { "kind": { "enum": ["a"] } } });
        let description = json!({ "components": { "schemas": { "Count": count, "Base": base } } });
        let list = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Count" } });
        let own = json!({ "type": "object", "properties": { "list": list }, "required": ["list"] });
        let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Base" }, own] });
        let of = |value| violations(&description, &schema, &value);
        assert_eq!(of(json!({ "list": [1, 2], "kind": "a" })), [""; 0]);
        for (value, place) in [
            (json!([]), ": [] is not of type \"object\""),
            (json!({}), ": \"list\" is a required property"),
            (json!({ "list": [1, -1] }), "/list/1: "),
            (json!({ "list": ["x"] }), "/list/0: "),
            (json!({ "list": [], "kind": "b" }), "/kind: "),
            (json!({ "list": [], "more": 1 }), ": Additional properties"),
        ] {
            assert!(
                of(value.clone()).iter().any(|found| found.starts_with(place)),
                "{value}: {:?}",
                of(value.clone())
            );
        }
    }
}
