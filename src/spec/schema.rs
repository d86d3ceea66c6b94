//! The form of a lab file as a JSON Schema (draft 07, which editors know best), and that of a file of expectations. Nothing
//! goes in; a schema comes out, with the words that the decoder itself takes. It says what a file looks like, never what its
//! names mean: a file that it refuses is wrong, one that it takes may still be.

mod kinds;
mod links;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::decode::{DATAPLANES, ROUTINGS, SECURITIES};

/// A property: its key, its schema, and what an editor says of it.
type Property = (&'static str, Value, &'static str);

/// Of a lab file.
#[must_use]
pub fn lab() -> Value {
    let properties = [
        ("name", json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,30}$" }), "the lab's name"),
        ("description", or_null(refer("text")), "prose, shown by `status` and `graph`"),
        ("base", refer("base"), "the base network"),
        ("vis", or_null(map_of(refer("vi"))), "the Virtual Internets, by name"),
        (
            "templates",
            or_null(map_of(refer("template"))),
            "parts of VIs that are used by name: control recursion",
        ),
        ("params", refer("params"), "values that `-D name=value` may override, used as `${name}`"),
        ("dataplane", words(&DATAPLANES), "what carries the virtual links (default: auto)"),
        ("gateways", or_null(list_of(refer("gateway"))), "wires between networks, on one base node"),
        ("apps", or_null(list_of(refer("app"))), "programs that run in nodes while the lab is up"),
        ("tests", or_null(list_of(refer("test"))), "what must hold; `vilab test` runs them in order"),
    ];
    document("A lab of vilab", object(&properties, &["name", "base"]))
}

/// Of a file of expectations.
#[must_use]
pub fn expectations() -> Value {
    let tests = json!({ "type": "array", "minItems": 1, "items": refer("graded") });
    let properties = [
        ("description", refer("text"), "prose"),
        ("apps", refer("truth"), "labs may have `apps:` (default: false)"),
        ("params", refer("params"), "parameters of this file, used as `${name}`"),
        ("tests", tests, "what is expected of a lab, in order"),
    ];
    document("What vilab expects of labs", object(&properties, &["tests"]))
}

fn document(title: &str, mut whole: Value) -> Value {
    whole["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    whole["title"] = json!(title);
    let parts = scalars().into_iter().chain(networks()).chain(lists()).chain(kinds::definitions());
    let mut definitions = parts.map(|(name, schema)| (name.to_owned(), schema)).collect::<Map<_, _>>();
    let mut used = BTreeSet::new();
    references(&whole, &definitions, &mut used);
    definitions.retain(|name, _| used.contains(name));
    whole["definitions"] = definitions.into();
    whole
}

/// The definitions that a schema needs.
fn references(schema: &Value, definitions: &Map<String, Value>, used: &mut BTreeSet<String>) {
    match schema {
        Value::Object(parts) => {
            let name = parts.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            if let Some(name) = name
                && used.insert(name.to_owned())
                && let Some(schema) = definitions.get(name)
            {
                references(schema, definitions, used);
            }
            parts.values().for_each(|part| references(part, definitions, used));
        }
        Value::Array(parts) => parts.iter().for_each(|part| references(part, definitions, used)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

// ---- values ----------------------------------------------------------------------------------------------------

fn scalars() -> Vec<(&'static str, Value)> {
    let quantity = |unit: &str| {
        expression_or(json!({ "type": "string", "pattern": format!("^\\s*[0-9.]+\\s*{unit}\\s*$") }))
    };
    let parameter = json!({ "anyOf": [
        { "type": "null" },
        { "type": "array", "items": { "type": "string" } },
        { "type": "object" },
    ] });
    vec![
        // Scalars have no hidden types: `no`, `1` and `true` are text where text is meant.
        ("text", json!({ "type": ["string", "number", "boolean"] })),
        ("expression", json!({ "type": "string", "pattern": "\\$\\{" })),
        ("condition", json!({ "type": ["string", "boolean"], "examples": ["depth > 0"] })),
        ("truth", expression_or(json!({ "enum": [true, false, "true", "false"] }))),
        ("time", quantity("(us|ms|s|m|min)")),
        ("share", quantity("%")),
        ("rate", quantity("[kKmMgGtT]?[bB][iI][tT]")),
        ("prefix", expression_or(json!({ "type": "string", "pattern": "^[0-9.]+/[0-9]+$" }))),
        ("address", expression_or(json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+){3}$" }))),
        ("params", parameter),
        (
            "command",
            any_of([refer("text"), json!({ "type": "array", "minItems": 1, "items": refer("text") })]),
        ),
        ("names", list_of(or_null(refer("text")))),
    ]
}

fn refer(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

fn any_of(schemas: impl IntoIterator<Item = Value>) -> Value {
    json!({ "anyOf": schemas.into_iter().collect::<Vec<_>>() })
}

fn expression_or(schema: Value) -> Value {
    any_of([schema, refer("expression")])
}

fn or_null(schema: Value) -> Value {
    any_of([schema, json!({ "type": "null" })])
}

fn list_of(item: Value) -> Value {
    expression_or(json!({ "type": "array", "items": item }))
}

fn map_of(value: Value) -> Value {
    json!({ "type": "object", "additionalProperties": value })
}

/// A whole number, quoted or not.
fn number(least: u32, most: u32) -> Value {
    let plain = json!({ "type": "integer", "minimum": least, "maximum": most });
    any_of([plain, json!({ "type": "string", "pattern": "^[0-9]+$" }), refer("expression")])
}

fn words<T>(all: &[(&'static str, T)]) -> Value {
    expression_or(json!({ "enum": all.iter().map(|(word, _)| *word).collect::<Vec<_>>() }))
}

/// A map with these keys and no others.
fn object(properties: &[Property], required: &[&str]) -> Value {
    let described = |(key, schema, about): &Property| {
        let schema = match schema.get("$ref") {
            // Draft 07 ignores what stands beside `$ref`.
            Some(_) => json!({ "allOf": [schema], "description": about }),
            None => {
                let mut schema = schema.clone();
                schema["description"] = json!(about);
                schema
            }
        };
        ((*key).to_owned(), schema)
    };
    let properties: Map<String, Value> = properties.iter().map(described).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Exactly one of these keys.
fn one_of(keys: &[&str]) -> Value {
    json!(keys.iter().map(|key| json!({ "required": [key] })).collect::<Vec<_>>())
}

fn mtu() -> Value {
    number(68, 65_535)
}

// ---- networks --------------------------------------------------------------------------------------------------

fn networks() -> Vec<(&'static str, Value)> {
    vec![
        ("base", base()),
        ("base_node", base_node()),
        ("vi", vi()),
        ("vi_node", any_of([refer("text"), vi_node(), instance()])),
        ("template", template()),
        ("link", any_of([refer("text"), links::link()])),
        ("direction", object(&links::impairments(), &[])),
        ("gateway", any_of([refer("text"), links::gateway()])),
    ]
}

fn base() -> Value {
    let nodes = or_null(any_of([refer("names"), map_of(or_null(refer("base_node")))]));
    object(
        &[
            ("nodes", nodes, "a list of names, or a map from names to options; links name nodes too"),
            ("links", or_null(list_of(refer("link"))), "`X -- Y -- Z`, or a map with options"),
            (
                "import",
                refer("text"),
                "a topology file beside this one: GraphML, GML, or containerlab's YAML",
            ),
            (
                "addresses",
                refer("prefix"),
                "pool: a /31 for each link, a /32 for each node (default: 10.0.0.0/9)",
            ),
            ("mtu", mtu(), "of links (default: 1500)"),
            ("routing", words(&ROUTINGS), "default: static"),
        ],
        &[],
    )
}

fn base_node() -> Value {
    let degrees = |most: u32| {
        any_of([
            json!({ "type": "number", "minimum": -f64::from(most), "maximum": most }),
            json!({ "type": "string" }),
        ])
    };
    let location =
        json!({ "type": "array", "items": [degrees(90), degrees(180)], "minItems": 2, "maxItems": 2 });
    let sysctls = json!({ "type": "object", "propertyNames": { "pattern": "^net[./]" }, "additionalProperties": refer("text") });
    object(
        &[
            (
                "role",
                expression_or(json!({ "enum": ["host", "router"] })),
                "default: router where it has two links or more",
            ),
            ("dataplane", words(&DATAPLANES), "of all virtual links that end here, instead of the lab's"),
            ("loopback", refer("address"), "its address"),
            ("sysctls", sysctls, "kernel parameters of its namespace"),
            ("location", expression_or(location), "latitude and longitude in degrees, for `vilab graph`"),
        ],
        &[],
    )
}

fn vi() -> Value {
    let emulate = object(
        &[("resolve", expression_or(json!({ "enum": ["exchange", "computed"] })), "default: exchange")],
        &[],
    );
    let vi_mtu = any_of([json!({ "enum": ["fit", "fragment"] }), mtu()]);
    let mut schema = object(
        &[
            ("over", any_of([refer("text"), refer("names")]), "base, a VI, or several VIs (default: base)"),
            ("nodes", map_of(refer("vi_node")), "name: place, or a map with options"),
            ("links", or_null(list_of(refer("link"))), "`a -- b -- c`, or a map with options"),
            ("routing", words(&ROUTINGS), "default: static"),
            ("addresses", refer("prefix"), "network-layer pool of RFC 1918"),
            ("mtu", vi_mtu, "`fit`, `fragment`, or a number that fits (default: fit)"),
            ("security", words(&SECURITIES), "of its links (default: none)"),
            ("use", refer("text"), "the whole VI from this template"),
            ("with", with(), "values for the template's parameters"),
            ("emulate", emulate, "options of a VI that plays a router"),
            ("owner", refer("text"), "the unprivileged user who may change this VI"),
        ],
        &[],
    );
    schema["anyOf"] = one_of(&["nodes", "use"]);
    schema["dependencies"] = json!({ "with": ["use"] });
    schema
}

fn with() -> Value {
    expression_or(json!({ "type": "object" }))
}

fn vi_node() -> Value {
    let roles = expression_or(json!({ "enum": ["host", "router", "both", "phantom"] }));
    let mut schema = object(
        &[
            ("at", refer("text"), "the node of the base, or of the VI below, it is placed on"),
            ("role", roles, "default: host"),
            ("when", refer("condition"), "the node is there only if this is true"),
            ("emulate", refer("text"), "the VI that plays this router"),
            ("port", refer("text"), "of a phantom VH: the port of the emulated router that it is"),
            ("address", refer("address"), "host address, instead of an allocated one"),
        ],
        &[],
    );
    schema["anyOf"] = one_of(&["at", "emulate"]);
    schema
}

fn instance() -> Value {
    object(
        &[
            ("use", refer("text"), "the node is an instance of this template"),
            ("with", with(), "values for the template's parameters"),
            ("when", refer("condition"), "the instance is there only if this is true"),
        ],
        &["use"],
    )
}

fn template() -> Value {
    let port = object(
        &[("node", refer("text"), "the inner node"), ("optional", refer("truth"), "it may stay unbound")],
        &["node"],
    );
    let ports = or_null(map_of(any_of([refer("text"), port])));
    object(
        &[
            ("description", refer("text"), "prose"),
            ("params", refer("params"), "names and defaults"),
            ("ports", ports, "unbound interfaces, and the inner nodes that own them"),
            ("nodes", map_of(refer("vi_node")), "as those of a VI"),
            ("links", or_null(list_of(refer("link"))), "as those of a VI"),
        ],
        &["nodes"],
    )
}

// ---- lists -----------------------------------------------------------------------------------------------------

fn lists() -> Vec<(&'static str, Value)> {
    let mut ready = object(
        &[
            ("tcp", number(1, 65_535), "something in the node listens there"),
            ("exec", refer("command"), "the command, run in the node, succeeds"),
            ("log", refer("text"), "the app has printed this"),
        ],
        &[],
    );
    ready["oneOf"] = one_of(&["tcp", "exec", "log"]);
    let restart = expression_or(json!({ "enum": ["never", "on-failure", "always"] }));
    let app = object(
        &[
            ("at", refer("text"), "the node"),
            ("run", refer("command"), "split as a shell splits words, no shell; or a list"),
            ("name", refer("text"), "unique in the lab (default: the program's)"),
            ("restart", restart, "default: never"),
            ("ready", ready, "when it is"),
        ],
        &["at", "run"],
    );
    vec![("app", app)]
}
