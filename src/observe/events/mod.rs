//! What happens in a running lab, as events. Two states of a lab go in; what differs comes out, an event for each
//! difference, with names instead of numbers. It reads no clock: [`Live`] says when something happened.

mod live;

use std::collections::BTreeSet;

use serde::Serialize;

pub use live::{Live, Woken};

use crate::lab::control::Status;
use crate::model::{Impairment, Lab};
use crate::routing::Faults;

/// The version of what [`Event`] is as JSON.
pub const SCHEMA: &str = "vilab.events/1";

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub schema: &'static str,
    /// UTC, RFC 3339, nanoseconds: when it was noticed.
    pub time: String,
    pub lab: String,
    #[serde(flatten)]
    pub what: What,
}

/// What has happened. Nodes are `base/X` or `blue/a`, links `base/X--Y`, devices `X:e-Y@base`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum What {
    /// Events are heard from here on.
    Start {
        nodes: usize,
        links: usize,
    },
    /// `vilab link` and `vilab node`.
    LinkDown {
        link: String,
    },
    LinkUp {
        link: String,
    },
    NodeDown {
        node: String,
    },
    NodeUp {
        node: String,
    },
    /// A device passes packets, or does not: it or its other end was set down or up, by whomever.
    DeviceUp {
        device: String,
        node: String,
        link: Option<String>,
    },
    DeviceDown {
        device: String,
        node: String,
        link: Option<String>,
    },
    DeviceAdded {
        device: String,
        node: String,
    },
    DeviceRemoved {
        device: String,
        node: String,
    },
    /// What a direction of a link does from now on.
    Impairment {
        link: String,
        from: String,
        to: String,
        asked: Impairment,
    },
    ApplyStarted,
    /// The lab is another one.
    Applied(Applied),
    /// A service is in another state; a routing daemon that was killed is `pausing`, and so on.
    Service(Service),
    ServiceRemoved {
        service: String,
    },
    /// The routes of a partition are no longer the computed ones, with the first that is not; or are so again.
    Diverged {
        node: String,
        prefix: String,
        expected: String,
        found: String,
    },
    Converged {
        node: String,
    },
    /// Those of a whole network: one partition is enough to lose it.
    NetworkDiverged {
        network: String,
    },
    NetworkConverged {
        network: String,
    },
    /// The kernel had more to tell than was heard: devices may have changed without an event.
    Lost {
        node: String,
    },
    /// The lab has gone down; the last event.
    LabDown,
}

/// What an `apply` brought and took away, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Applied {
    pub nodes_added: BTreeSet<String>,
    pub nodes_removed: BTreeSet<String>,
    pub links_added: BTreeSet<String>,
    pub links_removed: BTreeSet<String>,
}

/// A service as it is after a change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    pub service: String,
    pub node: Option<String>,
    pub state: crate::lab::course::State,
    pub pid: Option<i32>,
    pub restarts: u32,
    /// How it ended last, in words.
    pub last: Option<String>,
}

impl From<&Status> for Service {
    fn from(status: &Status) -> Self {
        Self {
            service: status.name.clone(),
            node: status.node.clone(),
            state: status.state,
            pid: status.pid,
            restarts: status.restarts,
            last: status.last.map(|exit| exit.to_string()),
        }
    }
}

/// What was set down and up between two moments.
fn faults(lab: &Lab, before: &Faults, after: &Faults) -> Vec<What> {
    let links = |list: &BTreeSet<_>, other: &BTreeSet<_>| -> Vec<String> {
        list.difference(other).map(|id| lab.full_link_name(*id)).collect()
    };
    let nodes = |list: &BTreeSet<_>, other: &BTreeSet<_>| -> Vec<String> {
        list.difference(other).map(|id| lab.full_name(*id)).collect()
    };
    let down = links(&after.links, &before.links).into_iter().map(|link| What::LinkDown { link });
    let up = links(&before.links, &after.links).into_iter().map(|link| What::LinkUp { link });
    let fell = nodes(&after.nodes, &before.nodes).into_iter().map(|node| What::NodeDown { node });
    let rose = nodes(&before.nodes, &after.nodes).into_iter().map(|node| What::NodeUp { node });
    down.chain(up).chain(fell).chain(rose).collect()
}

/// What of a lab that was changed as it runs is another.
fn changes(before: &Lab, after: &Lab) -> Vec<What> {
    let mut changes = Vec::new();
    if unimpaired(before) != unimpaired(after) {
        changes.push(What::Applied(applied(before, after)));
    }
    let known = |name: &str| before.links().find(|l| before.full_link_name(l.id) == name);
    for link in after.links() {
        let name = after.full_link_name(link.id);
        let old = known(&name).map_or([Impairment::default(); 2], |l| l.impair);
        for side in [0, 1].into_iter().filter(|side| old[*side] != link.impair[*side]) {
            let end = |side: usize| after.full_name(link.ends[side].node);
            let (from, to, asked) = (end(side), end(1 - side), link.impair[side]);
            changes.push(What::Impairment { link: name.clone(), from, to, asked });
        }
    }
    changes
}

fn unimpaired(lab: &Lab) -> Lab {
    let mut lab = lab.clone();
    let links = lab.networks.iter_mut().flat_map(|n| &mut n.links);
    links.for_each(|link| link.impair = [Impairment::default(); 2]);
    lab
}

fn applied(before: &Lab, after: &Lab) -> Applied {
    let nodes = |lab: &Lab| lab.nodes().map(|n| lab.full_name(n.id)).collect::<BTreeSet<String>>();
    let links = |lab: &Lab| lab.links().map(|l| lab.full_link_name(l.id)).collect::<BTreeSet<String>>();
    let without = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    let (old, new) = (nodes(before), nodes(after));
    let (old_links, new_links) = (links(before), links(after));
    Applied {
        nodes_added: without(&new, &old),
        nodes_removed: without(&old, &new),
        links_added: without(&new_links, &old_links),
        links_removed: without(&old_links, &new_links),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{self, Target};

    fn lab(base: &str) -> Lab {
        let text = format!(
            "name: t\nbase: {{links: [{base}]}}\nvis:\n  vi: {{nodes: {{a: X, b: Y}}, links: [a -- b]}}\n"
        );
        model::parse(Path::new("t.yaml"), &text).unwrap()
    }

    fn json(what: What) -> String {
        let event = Event { schema: SCHEMA, time: "T".into(), lab: "t".into(), what };
        serde_json::to_string(&event).unwrap()
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let device = What::DeviceDown {
            device: "X:e-Y@base".into(),
            node: "base/X".into(),
            link: Some("base/X--Y".into()),
        };
        assert_eq!(
            json(device),
            r#"{"schema":"vilab.events/1","time":"T","lab":"t","type":"device-down","device":"X:e-Y@base","node":"base/X","link":"base/X--Y"}"#
        );
        assert_eq!(
            json(What::LabDown),
            r#"{"schema":"vilab.events/1","time":"T","lab":"t","type":"lab-down"}"#
        );
        let applied = Applied { nodes_added: ["base/Z".to_owned()].into(), ..Applied::default() };
        assert_eq!(
            json(What::Applied(applied)),
            r#"{"schema":"vilab.events/1","time":"T","lab":"t","type":"applied","nodes_added":["base/Z"],"nodes_removed":[],"links_added":[],"links_removed":[]}"#
        );
    }

    #[test]
    fn what_is_set_down_and_up_is_named() {
        let lab = lab("X -- Y");
        let link = Faults::of(Target::Link(lab.base().links[0].id));
        let node = Faults::of(Target::Node(lab.networks[1].nodes[0].id));
        assert_eq!(faults(&lab, &Faults::default(), &link), [What::LinkDown { link: "base/X--Y".into() }]);
        assert_eq!(
            faults(&lab, &link, &node),
            [What::LinkUp { link: "base/X--Y".into() }, What::NodeDown { node: "vi/a".into() }]
        );
        assert_eq!(faults(&lab, &node, &node), []);
    }

    #[test]
    fn a_change_of_impairments_is_no_other_lab() {
        let before = lab("X -- Y");
        let mut after = before.clone();
        let asked = Impairment { delay_us: 7, ..Impairment::default() };
        after.networks[0].links[0].impair[1] = asked;
        let (link, from, to) = ("base/X--Y".into(), "base/Y".into(), "base/X".into());
        assert_eq!(changes(&before, &after), [What::Impairment { link, from, to, asked }]);
        assert_eq!(changes(&before, &before), []);
    }

    #[test]
    fn another_lab_tells_what_came_and_went() {
        let [What::Applied(applied)] = &changes(&lab("X -- Y -- Z"), &lab("X -- Y, Y -- W"))[..] else {
            panic!("applied")
        };
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        assert_eq!(
            *applied,
            Applied {
                nodes_added: set("base/W"),
                nodes_removed: set("base/Z"),
                links_added: set("base/Y--W"),
                links_removed: set("base/Y--Z"),
            }
        );
    }
}
