//! What the page may do to a running lab: the same as `vilab link`, `node`, `impair` and `trace`. What is asked goes in; what
//! came of it comes out as JSON. It never does what these commands would refuse.

use serde::Deserialize;
use serde_json::{Value, json};

use super::facts::{link_called, node_called};
use crate::error::{Error, Result};
use crate::lab::Running;
use crate::model::{Lab, LinkId, Target, Wish};
use crate::observe::{self, Followed};
use crate::spec::units;

/// A link or a node is to be down, or up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// Full name.
    name: String,
    down: bool,
}

/// What a link is to do to packets; what is not named stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Impaired {
    link: String,
    /// Of one direction only: the node that sends.
    from: Option<String>,
    delay: Option<String>,
    jitter: Option<String>,
    loss: Option<String>,
    rate: Option<String>,
    #[serde(default)]
    clear: bool,
}

/// A probe.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    from: String,
    to: String,
    /// Bytes; it is sent with DF then.
    size: Option<usize>,
}

pub(super) fn set_link(running: &Running, asked: &Fault) -> Result<Value> {
    let link = link_called(&running.state().lab, &asked.name)?;
    set(running, Target::Link(link), asked)
}

pub(super) fn set_node(running: &Running, asked: &Fault) -> Result<Value> {
    let node = node_called(&running.state().lab, &asked.name)?;
    set(running, Target::Node(node), asked)
}

fn set(running: &Running, target: Target, asked: &Fault) -> Result<Value> {
    let faults = observe::set_fault(running, target, asked.down)?;
    let kept = observe::kept_down(&running.state().lab, target, &faults);
    Ok(json!({ "name": asked.name, "down": asked.down, "ends_kept_down": if asked.down { 0 } else { kept } }))
}

pub(super) fn impair(running: &Running, asked: &Impaired) -> Result<Value> {
    let mut running = running.again()?;
    let lab = &running.state().lab;
    let link = link_called(lab, &asked.link)?;
    let to = asked.wish()?.of(&lab.link(link).impair, asked.directions(lab, link)?)?;
    let measured = observe::set_impairment(&mut running, link, to)?;
    let directions = measured.map(|m| m.directions.map(|d| d.map(|d| d.to_string()))).unwrap_or_default();
    Ok(json!({ "link": asked.link, "asked": to.map(|i| i.to_string()), "measured": directions }))
}

impl Impaired {
    fn wish(&self) -> Result<Wish> {
        Ok(Wish {
            delay_us: parsed("delay", &self.delay, units::parse_delay_us, units::DELAY)?,
            jitter_us: parsed("jitter", &self.jitter, units::parse_delay_us, units::DELAY)?,
            loss_ppm: parsed("loss", &self.loss, units::parse_share_ppm, units::SHARE)?,
            rate_bps: parsed("rate", &self.rate, units::parse_rate_bps, units::RATE)?,
            clear: self.clear,
        })
    }

    /// Which directions are meant.
    fn directions(&self, lab: &Lab, link: LinkId) -> Result<[bool; 2]> {
        let Some(from) = &self.from else { return Ok([true; 2]) };
        let from_end = lab.link(link).ends.each_ref().map(|end| lab.full_name(end.node) == *from);
        match from_end {
            [false, false] => Err(Error::usage(format!("{from} is no end of {}", self.link))),
            // A link of a node with itself.
            [true, true] => Ok([true, false]),
            one => Ok(one),
        }
    }
}

/// What a field of the page holds; an empty one holds nothing.
fn parsed<T>(
    name: &str,
    text: &Option<String>,
    parse: impl Fn(&str) -> Option<T>,
    must_be: &str,
) -> Result<Option<T>> {
    let Some(text) = text.as_deref().map(str::trim).filter(|t| !t.is_empty()) else { return Ok(None) };
    let value = parse(text);
    let value = value.ok_or_else(|| Error::usage(format!("{name} `{text}` is not {must_be}")))?;
    Ok(Some(value))
}

pub(super) fn trace(running: &Running, asked: &Probe) -> Result<Value> {
    let lab = &running.state().lab;
    let (from, to) = (node_called(lab, &asked.from)?, node_called(lab, &asked.to)?);
    let trace = observe::follow_in(running, from, to, &Followed::Probe(asked.size))?;
    trace.to_json(&lab.name)
}
