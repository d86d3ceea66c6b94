//! `vilab impair`. A link of a lab that is up and what it shall do to packets go in; what was asked and what is measured
//! come out. What is not named stays as it is.

use serde_json::json;

use super::table::table;
use super::{DONE, link, output};
use crate::error::{Error, Result};
use crate::lab::Running;
use crate::model::{EndId, Impairment, Lab, LinkId, LinkMeasured};
use crate::observe;
use crate::routing::{Journeys, Rib};
use crate::spec::units;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab impair X--Y --delay 10ms --loss 0.1%\n  vilab impair blue/a--b --rate 10mbit \
                        --forward\n  vilab impair X--Y --clear"
)]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// The link: its name, or its ends as in the file; VI/link where several are called so
    link: String,
    /// One-way delay, such as 10ms
    #[arg(long, value_parser = delay, value_name = "TIME")]
    delay: Option<u64>,
    /// Delay more or less by up to this
    #[arg(long, value_parser = delay, value_name = "TIME")]
    jitter: Option<u64>,
    /// Share of packets lost, such as 0.1%
    #[arg(long, value_parser = loss, value_name = "SHARE")]
    loss: Option<u32>,
    /// Rate, such as 100mbit
    #[arg(long, value_parser = rate, value_name = "RATE")]
    rate: Option<u64>,
    /// Only from the first end, as written here, to the second
    #[arg(long, conflicts_with = "backward")]
    forward: bool,
    /// Only from the second end to the first
    #[arg(long)]
    backward: bool,
    /// Ends what was asked before
    #[arg(long)]
    clear: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn delay(text: &str) -> std::result::Result<u64, String> {
    units::parse_delay_us(text).ok_or_else(|| format!("not {}", units::DELAY))
}

fn loss(text: &str) -> std::result::Result<u32, String> {
    units::parse_share_ppm(text).ok_or_else(|| format!("not {}", units::SHARE))
}

fn rate(text: &str) -> std::result::Result<u64, String> {
    units::parse_rate_bps(text).ok_or_else(|| format!("not {}", units::RATE))
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut lab = Running::open_or_only(args.lab.as_deref())?;
    let link = link::find(&lab.state().lab, &args.link)?;
    let before = lab.state().lab.link(link).impair;
    let turned = lab.state().lab.is_turned(link, &args.link);
    let to = args.apply(&before, turned)?;
    let this = observe::impair_running(&mut lab, link, &to)?;
    let rows = rows(&lab.state().lab, this.as_slice());
    if args.json {
        output::json(&json!({
            "schema": "vilab.impair/1",
            "link": lab.state().lab.link(link).name,
            "directions": rows.iter().map(Row::json).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&rows);
    }
    Ok(DONE)
}

impl Args {
    /// What both directions do then.
    fn apply(&self, before: &[Impairment; 2], turned: bool) -> Result<[Impairment; 2]> {
        let mut to = *before;
        let mut chosen = [!self.backward, !self.forward];
        if turned {
            chosen.reverse();
        }
        for (to, _) in to.iter_mut().zip(chosen).filter(|(_, chosen)| *chosen) {
            let from = if self.clear { Impairment::default() } else { *to };
            *to = Impairment {
                delay_us: self.delay.unwrap_or(from.delay_us),
                jitter_us: self.jitter.unwrap_or(from.jitter_us),
                loss_ppm: self.loss.unwrap_or(from.loss_ppm),
                rate_bps: self.rate.or(from.rate_bps),
            };
        }
        if to.iter().any(|i| i.jitter_us > i.delay_us) {
            let error =
                Error::usage("jitter cannot be greater than delay: no packet arrives before it is sent");
            return Err(error.hint("give both, or --clear"));
        }
        Ok(to)
    }
}

/// One direction of an impaired link.
pub(super) struct Row {
    network: String,
    link: String,
    pub(super) id: LinkId,
    from: String,
    to: String,
    asked: Impairment,
    below: Impairment,
    measured: Option<crate::model::Measured>,
}

/// Both directions of each of these links, with what was measured of them.
pub(super) fn rows(lab: &Lab, measured: &[LinkMeasured]) -> Vec<Row> {
    let rib = Rib::compute(lab);
    let journeys = Journeys::new(lab, &rib);
    let row = |of: &LinkMeasured, side: usize| {
        let (link, end) = (lab.link(of.link), EndId { link: of.link, side });
        let below = journeys.below(end);
        Row {
            network: lab.net(of.link.net).name.clone(),
            link: link.name.clone(),
            id: of.link,
            from: lab.node(link.ends[side].node).name.clone(),
            to: lab.node(link.ends[1 - side].node).name.clone(),
            asked: link.impair[side],
            below: below.into(),
            measured: of.directions[side],
        }
    };
    measured.iter().flat_map(|m| [row(m, 0), row(m, 1)]).collect()
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let measured =
            self.measured.map_or_else(|| "not measured: it takes too long".to_owned(), |m| m.to_string());
        vec![
            self.network.clone(),
            self.link.clone(),
            format!("{} -> {}", self.from, self.to),
            self.asked.to_string(),
            self.below.to_string(),
            measured,
        ]
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "from": self.from,
            "to": self.to,
            "asked": self.asked,
            "below": self.below,
            "measured": self.measured,
        })
    }
}

pub(super) const TITLES: [&str; 6] = ["network", "link", "direction", "asked", "asked below", "measured"];

pub(super) fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    rows.iter().map(Row::cells).collect()
}

fn print(rows: &[Row]) {
    table(&TITLES, &cells(rows)).iter().for_each(|row| output::line(row));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(text: &str) -> Args {
        Cli::try_parse_from(std::iter::once("impair").chain(text.split(' '))).unwrap().args
    }

    fn slow() -> Impairment {
        Impairment { delay_us: 10_000, jitter_us: 1_000, loss_ppm: 0, rate_bps: Some(1_000_000) }
    }

    #[test]
    fn what_is_not_named_stays() {
        let to = args("l --loss 5%").apply(&[slow(), Impairment::default()], false).unwrap();
        assert_eq!(to[0], Impairment { loss_ppm: 50_000, ..slow() });
        assert_eq!(to[1], Impairment { loss_ppm: 50_000, ..Impairment::default() });
    }

    #[test]
    fn one_direction_only() {
        let back = args("l --backward --delay 2ms --jitter 0ms").apply(&[slow(); 2], false).unwrap();
        assert_eq!((back[0], back[1].delay_us), (slow(), 2_000));
        let forward = args("l --forward --clear").apply(&[slow(); 2], false).unwrap();
        assert_eq!(forward, [Impairment::default(), slow()]);
        let turned = args("l --forward --clear").apply(&[slow(); 2], true).unwrap();
        assert_eq!(turned, [slow(), Impairment::default()]);
    }

    #[test]
    fn clear_and_set_at_once() {
        let to = args("l --clear --rate 5mbit").apply(&[slow(); 2], false).unwrap();
        assert_eq!(to, [Impairment { rate_bps: Some(5_000_000), ..Impairment::default() }; 2]);
    }

    #[test]
    fn impossible_values_are_refused() {
        assert!(args("l --delay 0.5ms").apply(&[slow(); 2], false).is_err());
        for wrong in ["l --loss 101%", "l --delay 61s", "l --rate 5", "l --forward --backward"] {
            assert!(
                Cli::try_parse_from(std::iter::once("impair").chain(wrong.split(' '))).is_err(),
                "{wrong}"
            );
        }
    }
}
