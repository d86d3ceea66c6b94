//! The JSON Schemas of the files that vilab reads: published as the command prints them, agreed with by every lab, and of one
//! mind with the decoder about what a file looks like.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "common/labs.rs"]
mod all;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;
use vilab::model::{self, Expectations};
use vilab::spec::schema;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml_files(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    found.sort();
    found
}

/// Labs that are right, the project's and the fixtures'.
fn good() -> Vec<PathBuf> {
    let graded = yaml_files("fixtures/grading").into_iter().filter(|p| !p.ends_with("expectations.yaml"));
    all::labs().into_iter().chain(yaml_files("fixtures/labs")).chain(graded).collect()
}

fn lab_validator() -> Validator {
    jsonschema::draft7::new(&schema::lab()).expect("a schema of draft 07")
}

/// As an editor reads it: YAML 1.2, with types.
fn typed(text: &str) -> Option<Value> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    value.apply_merge().ok()?;
    serde_json::to_value(value).ok()
}

fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|e| format!("{} at {}", e, e.instance_path())).collect()
}

#[test]
fn the_published_schemas_are_those_of_the_command() {
    for (file, flag) in
        [("docs/lab.schema.json", None), ("docs/expectations.schema.json", Some("--expectations"))]
    {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vilab"));
        let output = command.arg("schema").args(flag).output().unwrap();
        assert!(output.status.success());
        let same = String::from_utf8(output.stdout).unwrap() == read(Path::new(file));
        assert!(same, "{file} is not current: vilab schema {} > {file}", flag.unwrap_or_default());
    }
}

#[test]
fn they_are_schemas_themselves() {
    for schema in [schema::lab(), schema::expectations()] {
        jsonschema::draft7::meta::validate(&schema).expect("a schema of draft 07");
    }
}

#[test]
fn every_lab_agrees_and_names_its_schema_in_its_first_line() {
    let validator = lab_validator();
    let grading = PathBuf::from("fixtures/grading/expectations.yaml");
    for path in good().into_iter().chain([grading]) {
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        let named = first.strip_prefix("# yaml-language-server: $schema=").expect("a line for editors");
        let published = path.parent().unwrap().join(named);
        assert!(published.exists(), "{}: {named}", path.display());
        let expectations = published.ends_with("expectations.schema.json");
        let own = expectations.then(|| jsonschema::draft7::new(&schema::expectations()).unwrap());
        let found = errors(own.as_ref().unwrap_or(&validator), &typed(&text).unwrap());
        assert!(found.is_empty(), "{}: {}", path.display(), found.join("\n"));
    }
}

#[test]
fn flat_labs_agree_too() {
    let validator = lab_validator();
    for path in good() {
        let flat = vilab::lab::flat(&path, &[]).unwrap();
        let found = errors(&validator, &typed(&flat).unwrap());
        assert!(found.is_empty(), "{}: {}", path.display(), found.join("\n"));
    }
}

/// What is wrong by its form alone, whatever the names mean.
const OF_FORM: [&str; 3] = ["unknown-key", "missing-key", "wrong-type"];

#[test]
fn labs_that_are_wrong_in_form_are_refused() {
    let validator = lab_validator();
    let mut refused = 0;
    for path in yaml_files("fixtures/wrong") {
        let error = vilab::lab::load(&path).unwrap_err();
        let of_form = error.report().unwrap().diagnostics().iter().any(|d| OF_FORM.contains(&d.rule));
        let Some(value) = typed(&read(&path)).filter(|_| of_form) else { continue };
        assert!(!validator.is_valid(&value), "{} is refused by vilab only", path.display());
        refused += 1;
    }
    assert!(refused >= 6, "{refused} fixtures are wrong in form");
}

#[test]
fn wrong_values_are_refused() {
    let validator = lab_validator();
    let lab = |rest: &str| {
        format!(
            "name: t\nbase: {{links: [X -- Y]}}\nvis: {{v: {{nodes: {{a: X, b: Y}}, links: [a -- b]}}}}\n{rest}"
        )
    };
    assert!(validator.is_valid(&typed(&lab("tests: [{ping: a -> b}]")).unwrap()));
    let wrong = [
        "dataplane: fast",
        "tests: [{ping: a b}]",
        "tests: [{ping: a -> b, wait: 1s}]",
        "tests: [{name: nothing}]",
        "tests: [{wait: 10}]",
        "tests: [{ttl: {from: a, to: b, is: 256}}]",
        "tests: [{impair: {link: a -- b, loss: 3}}]",
        "tests: [{converged: false}]",
        "gateways: [{name: x}]",
        "apps: [{at: a, run: x, ready: {tcp: 80, log: y}}]",
        "apps: [{at: a, run: x, restart: no}]",
    ];
    for rest in wrong {
        assert!(!validator.is_valid(&typed(&lab(rest)).unwrap()), "{rest}");
        assert!(model::parse(Path::new("t.yaml"), &lab(rest)).is_err(), "{rest}");
    }
    let with = "name: t\nbase: {}\nvis: {v: {nodes: {a: X}, with: {depth: 1}}}\n";
    assert!(!validator.is_valid(&typed(with).unwrap()));
    let names = ["1name", "Name", &"n".repeat(32)];
    for name in names {
        assert!(!validator.is_valid(&typed(&lab("").replace("name: t", &format!("name: {name}"))).unwrap()));
    }
}

/// Every map of the language once; names need not mean anything.
const EVERYTHING: &str = "
name: everything
params: {p: 1}
templates:
  t:
    ports: {up: {node: top, optional: true}}
    nodes: {top: {at: X, role: host}}
    links: []
base:
  nodes: {X: {role: router}}
  links:
    - X -- Y
    - {link: X -- Y, forward: {delay: 1ms}, backward: {delay: 1ms}}
    - {tree: {of: [a, b]}}
    - {grid: {prefix: g, rows: 2, cols: 2}}
vis:
  v: {nodes: {a: {at: X}, b: Y, i: {use: t}}, links: [{link: a -- b}], emulate: {resolve: computed}}
gateways: [{link: v/a -- base/X}]
apps: [{at: v/a, run: x, ready: {log: y}}]
tests:
  - ping: {from: a, to: b}
  - trace: {from: a, to: b, hops: [b]}
  - ttl: {from: a, to: b, is: 1}
  - headers: {from: a, to: b, at: X, is: [{in: X}]}
  - depth: {vi: v, headers: 1}
  - mtu: {from: a, to: b, is: 100}
  - source: {from: a, to: b, is: a}
  - route: {node: a, to: b, via: [b]}
  - tcp: {from: a, to: b}
  - exec: {at: a, run: x}
  - inject: {at: X, stack: [a -> b], is: dropped}
  - impair: {link: a -- b}
";
const EXPECTED: &str = "params: {p: 1}\ntests:\n- {ping: {from: a, to: b}}\n- {wait: 1s}\n";

/// All keys that a file may have anywhere, by the schemas and by the pages of the language.
fn keys() -> BTreeSet<String> {
    let pages = ["docs/language.md", "docs/test.md"].map(|page| read(Path::new(page))).concat();
    let is_key = |c: char| c.is_ascii_lowercase() || c == '-';
    let code = pages.split('`').skip(1).step_by(2).filter(|code| code.len() < 80);
    let words = code.flat_map(|code| code.split(|c| !is_key(c))).filter(|w| w.len() > 1).map(str::to_owned);
    let mut found: BTreeSet<String> = words.collect();
    [schema::lab(), schema::expectations()].iter().for_each(|schema| properties(schema, &mut found));
    found
}

fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(parts) => {
            let own = parts.get("properties").and_then(Value::as_object);
            found.extend(own.into_iter().flat_map(|own| own.keys().cloned()));
            parts.values().for_each(|part| properties(part, found));
        }
        Value::Array(parts) => parts.iter().for_each(|part| properties(part, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The paths of all maps in a value, as JSON pointers.
fn maps(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(items) => {
            found.push(at.to_owned());
            items.iter().for_each(|(key, value)| maps(value, &format!("{at}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| maps(value, &format!("{at}/{i}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Titles of the errors about unknown keys.
fn unknown(parse: &dyn Fn(&str) -> Option<vilab::error::Error>, text: &str) -> Vec<String> {
    let error = parse(text);
    let diagnostics = error.iter().filter_map(|e| e.report()).flat_map(|r| r.diagnostics());
    diagnostics.filter(|d| d.rule == "unknown-key").map(|d| d.title.clone()).collect()
}

/// Adds each key to each map, one at a time: decoder and schema must agree on whether it may be there.
fn same_keys(text: &str, schema: &Value, parse: &dyn Fn(&str) -> Option<vilab::error::Error>) {
    let whole = typed(text).unwrap();
    assert!(unknown(parse, text).is_empty());
    let validator = jsonschema::draft7::new(schema).unwrap();
    assert_eq!(errors(&validator, &whole), Vec::<String>::new());
    let mut places = Vec::new();
    maps(&whole, "", &mut places);
    let (mut wrong, keys) = (Vec::new(), keys());
    for place in places {
        // `use` makes another thing of a map, and `with` without it is an error of its own.
        for key in keys.iter().filter(|key| !["use", "with"].contains(&key.as_str())) {
            let mut changed = whole.clone();
            let map = changed.pointer_mut(&place).and_then(Value::as_object_mut).unwrap();
            if map.contains_key(key) {
                continue;
            }
            map.insert(key.clone(), "zzz".into());
            let refused =
                unknown(parse, &changed.to_string()).iter().any(|t| t.contains(&format!("`{key}`")));
            let known = knows(schema, schema, &whole, place.split('/').skip(1), key);
            if refused == known {
                wrong.push(format!(
                    "{place}: `{key}`: the schema {}",
                    if known { "has it" } else { "lacks it" }
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether some way through the schema lets the map at `place` have `key`.
fn knows<'a>(
    whole: &Value,
    schema: &Value,
    value: &Value,
    mut place: impl Iterator<Item = &'a str> + Clone,
    key: &str,
) -> bool {
    if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        return knows(whole, whole.pointer(path.trim_start_matches('#')).unwrap(), value, place, key);
    }
    let ways = ["anyOf", "allOf"].iter().filter_map(|way| schema.get(way)?.as_array()).flatten();
    let has_form =
        |way: &&Value| way.get("$ref").is_some() || way.get("type").is_some() || way.get("anyOf").is_some();
    for way in ways.filter(has_form) {
        if knows(whole, way, value, place.clone(), key) {
            return true;
        }
    }
    if schema.get("type").and_then(Value::as_str) != Some(if value.is_array() { "array" } else { "object" }) {
        return false;
    }
    let shape = schema.get("properties").and_then(Value::as_object);
    let keys = value.as_object().into_iter().flat_map(|map| map.keys());
    if shape.is_some_and(|shape| keys.into_iter().any(|key| !shape.contains_key(key))) {
        return false;
    }
    let step = place.next();
    let named = |key: &str| {
        let own = schema.get("properties").and_then(|p| p.get(key));
        own.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object()))
    };
    match (step, value) {
        (None, _) => {
            let free = schema.get("properties").is_none()
                && schema.get("additionalProperties") != Some(&Value::Bool(false));
            free || named(key).is_some()
        }
        (Some(step), Value::Array(items)) => {
            let item = items.get(step.parse::<usize>().unwrap()).unwrap();
            knows(whole, &schema["items"], item, place, key)
        }
        (Some(step), _) => {
            let inner = value.get(step).unwrap();
            named(step)
                .map_or(schema.get("properties").is_none(), |schema| knows(whole, schema, inner, place, key))
        }
    }
}

#[test]
fn schema_and_decoder_know_the_same_keys() {
    let path = Path::new("t.yaml");
    same_keys(EVERYTHING, &schema::lab(), &|text| model::parse(path, text).err());
    same_keys(EXPECTED, &schema::expectations(), &|text| Expectations::parse(path, text).err());
}
