//! `vilab check`. A lab file goes in; its errors come out. It never changes anything.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::params::ParamArgs;
use super::{DONE, FAILED, output};
use crate::error::{Error, Result};
use crate::lab;
use crate::model::Lab;
use crate::spec::Diagnostic;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab check lab.yaml")]
pub(super) struct Args {
    /// The lab files, `-` for standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    params: ParamArgs,
    /// Print the errors as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let checked: Vec<_> =
        args.files.iter().map(|file| (file, lab::load_with(file, &args.params.params, None))).collect();
    if args.json {
        let files: Vec<Value> = checked.iter().map(|(file, result)| as_json(file, result)).collect();
        output::json(&json!({ "schema": "vilab.check/1", "files": files }))?;
    } else {
        checked.iter().for_each(|(file, result)| print(file, result));
    }
    Ok(if checked.iter().all(|(_, result)| result.is_ok()) { DONE } else { FAILED })
}

fn print(file: &Path, result: &Result<Lab>) {
    match result {
        Ok(lab) => {
            let (name, file) = (&lab.name, file.display());
            let (networks, nodes) = (lab.named_networks().count(), lab.named_nodes().count());
            output::note(&format!(
                "{file}: lab {name}, {}, {}",
                count(networks, "network"),
                count(nodes, "node")
            ));
        }
        Err(e) => output::error(e),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn as_json(file: &Path, result: &Result<Lab>) -> Value {
    match result {
        Ok(lab) => json!({ "file": file, "ok": true, "lab": lab.name, "errors": [] }),
        Err(e) => json!({ "file": file, "ok": false, "errors": errors(e) }),
    }
}

/// Each with its place, from 1; without where the file could not even be read.
fn errors(e: &Error) -> Vec<Value> {
    let Some(report) = e.report() else {
        return vec![json!({ "message": e.what(), "causes": e.causes() })];
    };
    let place = |(index, d): (usize, &Diagnostic)| {
        let (line, column) = report.position(d.span);
        json!({
            "rule": d.rule, "line": line, "column": column,
            "message": d.title, "label": d.label, "help": d.help,
            "within": report.within(index),
        })
    };
    report.diagnostics().iter().enumerate().map(place).collect()
}
