//! `vilab graph`. A lab file goes in; a picture of the lab comes out, as SVG, Mermaid, DOT or JSON. It needs no running lab
//! and no rights, and never changes anything but the file it is told to write.

use std::path::PathBuf;

use serde_json::json;

use super::params::ParamArgs;
use super::{DONE, output};
use crate::error::{Context as _, Error, Kind, Result};
use crate::graph::{self, Graph, Refused};
use crate::lab;
use crate::routing::Rib;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab graph lab.yaml -o lab.svg\n  vilab graph lab.yaml --vi blue -o map.svg\n  vilab graph lab.yaml --format mermaid"
)]
pub(super) struct Args {
    /// The lab file, `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    params: ParamArgs,
    /// What to write; without it what the name of the output file says, else SVG
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Draw this VI and what it rides on, and what the base nodes are to it; several times for several
    #[arg(long, value_name = "VI")]
    vi: Vec<String>,
    /// The file to write; else standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Svg,
    Mermaid,
    Dot,
    Json,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = lab::load_with(&args.file, &args.params.params, None)?;
    let graph = Graph::of(&lab, &Rib::compute(&lab), &args.vi).map_err(|refused| {
        let error = Error::usage(refused.to_string());
        match refused {
            Refused::NoSuchVi(_) => {
                let names: Vec<&str> = lab.named_networks().skip(1).map(|n| n.name.as_str()).collect();
                error.hint(format!("it has {}", names.join(", ")))
            }
            Refused::TooMany { .. } => error.hint("--vi draws one VI and what it rides on"),
        }
    })?;
    let text = match args.format.unwrap_or_else(|| named(args.output.as_ref())) {
        Format::Svg => graph::svg(&graph),
        Format::Mermaid => graph::mermaid(&graph),
        Format::Dot => graph::dot(&graph),
        Format::Json => as_json(&graph)?,
    };
    match &args.output {
        None => output::line(text.trim_end()),
        Some(file) => std::fs::write(file, text)
            .doing(Kind::Environment, || format!("cannot write {}", file.display()))?,
    }
    Ok(DONE)
}

/// The format that a file's name asks for.
fn named(file: Option<&PathBuf>) -> Format {
    match file.and_then(|f| f.extension()).and_then(|e| e.to_str()) {
        Some("mmd" | "mermaid") => Format::Mermaid,
        Some("dot" | "gv") => Format::Dot,
        Some("json") => Format::Json,
        _ => Format::Svg,
    }
}

fn as_json(graph: &Graph) -> Result<String> {
    let mut value = json!({ "schema": "vilab.graph/1" });
    let whole = serde_json::to_value(graph).doing(Kind::Bug, || "cannot write JSON".into())?;
    if let (Some(to), serde_json::Value::Object(from)) = (value.as_object_mut(), whole) {
        to.extend(from);
    }
    let text = serde_json::to_string_pretty(&value).doing(Kind::Bug, || "cannot write JSON".into())?;
    Ok(text + "\n")
}
