//! What differs between two labs, in the words of the file. A lab and the one that takes its place go in; names and what
//! became of them come out. It never looks at numbers that only order things.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{App, Lab, Link, Node, Parallel};

/// What became of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Added,
    Removed,
    /// In these respects.
    Changed(Vec<String>),
}

/// A node, link, gateway or app that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `node`, `link`, `gateway` or `app`.
    pub what: &'static str,
    /// Full name.
    pub name: String,
    pub fate: Fate,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, name, fate } = self;
        match fate {
            Fate::Added => write!(f, "+ {what} {name}"),
            Fate::Removed => write!(f, "- {what} {name}"),
            Fate::Changed(how) => write!(f, "~ {what} {name}: {}", how.join(", ")),
        }
    }
}

/// Each thing of one lab and not of the other, or not the same in both, in the order of the new lab, what is gone last.
#[must_use]
pub fn differences(old: &Lab, new: &Lab) -> Vec<Difference> {
    let nodes = |lab: &Lab| lab.nodes().map(|n| (lab.full_name(n.id), node(lab, n))).collect::<Vec<_>>();
    let wires = |lab: &Lab| {
        lab.gateways.iter().map(|g| (g.link.name.clone(), link(lab, &g.link))).collect::<Vec<_>>()
    };
    let links = |lab: &Lab| {
        let all = lab.networks.iter().flat_map(|n| &n.links);
        all.map(|l| (format!("{}/{}", lab.place(l.id), l.name), link(lab, l))).collect::<Vec<_>>()
    };
    let apps = |lab: &Lab| lab.apps.iter().map(|a| (a.name.clone(), app(lab, a))).collect::<Vec<_>>();
    let mut found = compare("node", nodes(old), nodes(new));
    found.extend(compare("link", links(old), links(new)));
    found.extend(compare("gateway", wires(old), wires(new)));
    found.extend(compare("app", apps(old), apps(new)));
    found
}

/// What one thing is, respect by respect.
type Facts = Vec<(&'static str, String)>;

fn node(lab: &Lab, node: &Node) -> Facts {
    let network = lab.net(node.id.net);
    vec![
        ("role", format!("{:?}", node.role).to_lowercase()),
        ("at", node.at.map(|at| lab.full_name(at)).unwrap_or_default()),
        ("address", lab.address(node.id).map(|a| a.to_string()).unwrap_or_default()),
        ("routing", format!("{:?}", network.routing).to_lowercase()),
        ("sysctls", node.sysctls.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")),
    ]
}

fn link(lab: &Lab, link: &Link) -> Facts {
    let ends = link.ends.each_ref();
    let impairment = |side: usize| {
        let to = link.impair[side];
        let rate = to.rate_bps.map(|r| format!(" {r}bit")).unwrap_or_default();
        format!("{}us {}us {}ppm{rate}", to.delay_us, to.jitter_us, to.loss_ppm)
    };
    let addresses = |side: usize| link.link_addrs(side).map(|a| a.to_string()).collect::<Vec<_>>().join(",");
    vec![
        ("ends", ends.map(|e| lab.full_name(e.node)).join(" ")),
        ("addresses", ends.map(|e| e.addr.to_string()).join(" ")),
        ("link addresses", [0, 1].map(addresses).join(" ")),
        ("spread", link.parallel.as_ref().map(|p| spread(lab, p)).unwrap_or_default()),
        ("cost", link.cost.to_string()),
        ("mtu", link.mtu.to_string()),
        ("fragments", link.fragments.map(|f| format!("above {}", f.whole)).unwrap_or_default()),
        ("security", link.security.map(|s| format!("{s:?}")).unwrap_or_else(|| "none".to_owned())),
        ("impairment forward", impairment(0)),
        ("impairment backward", impairment(1)),
    ]
}

/// `packet over in1:1 in2:3`
fn spread(lab: &Lab, parallel: &Parallel) -> String {
    let strands = parallel.strands.iter().map(|s| format!("{}:{}", lab.net(s.below).name, s.weight));
    format!("{} over {}", parallel.spread.as_str(), strands.collect::<Vec<_>>().join(" "))
}

fn app(lab: &Lab, app: &App) -> Facts {
    vec![
        ("at", lab.full_name(app.at)),
        ("run", app.argv.join(" ")),
        ("restart", format!("{:?}", app.restart).to_lowercase()),
        ("ready", format!("{:?}", app.ready)),
    ]
}

fn compare(what: &'static str, old: Vec<(String, Facts)>, new: Vec<(String, Facts)>) -> Vec<Difference> {
    let mut before: BTreeMap<String, Facts> = old.iter().cloned().collect();
    let mut found = Vec::new();
    for (name, facts) in new {
        let fate = match before.remove(&name) {
            None => Fate::Added,
            Some(was) if was == facts => continue,
            Some(was) => {
                let differs = was.iter().zip(&facts).filter(|(was, is)| was != is);
                Fate::Changed(differs.map(|((fact, was), (_, is))| format!("{fact} {was} -> {is}")).collect())
            }
        };
        found.push(Difference { what, name, fate });
    }
    let gone = old.into_iter().filter(|(name, _)| before.contains_key(name));
    found.extend(gone.map(|(name, _)| Difference { what, name, fate: Fate::Removed }));
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::parse_with;

    #[test]
    fn names_tell_what_differs() {
        let lab = |text: &str, running: Option<&Lab>| {
            parse_with(Path::new("t.yaml"), &format!("name: t\nbase:\n  links:\n{text}"), running).unwrap()
        };
        let old = lab("    - W -- X\n    - X -- Y\n", None);
        let new = lab("    - Z -- Y\n    - {link: X -- Y, mtu: 1400}\n", Some(&old));
        let text: Vec<String> = differences(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "+ node base/Z",
                "~ node base/Y: role host -> router",
                "~ node base/X: role router -> host",
                "- node base/W",
                "+ link base/Z--Y",
                "~ link base/X--Y: mtu 1500 -> 1400",
                "- link base/W--X",
            ]
        );
        assert_eq!(differences(&new, &new), []);
    }
}
