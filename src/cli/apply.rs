//! `vilab apply`. A lab file goes in; the running lab of that name is what the file says, and only what differed has been
//! touched. A lab that is not up is brought up. What cannot be changed while the lab is up is refused before anything is
//! touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::capture::CaptureArgs;
use super::params::ParamArgs;
use super::up::{DataplaneArg, Display};
use super::wait::TimeoutArg;
use super::{DONE, output, up};
use crate::apply::Timings;
use crate::error::{Error, Result};
use crate::lab::change::{Changing, Job, Plans, Turn};
use crate::lab::{self, Running, State};
use crate::model::{self, DataplaneChoice, Difference, Lab, Network};
use crate::plan::{self, Change, Plan, View};
use crate::routing::Faults;
use crate::strands;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  vilab apply lab.yaml\n  vilab apply --dry-run lab.yaml\n\n\
    The change goes on when this command is interrupted. One that was cut short all the same, or refused by the kernel \
    half way, is made good by the next.")]
pub(super) struct Args {
    /// The lab file, `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    params: ParamArgs,
    #[command(flatten)]
    dataplane: DataplaneArg,
    /// Print what would be done, as ip, tc, nft and sysctl commands, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    timeout: TimeoutArg,
    /// Print what changed as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let name = lab::load_with(&args.file, &args.params.params, None)?.name;
    if !Running::list()?.iter().any(|lab| lab.name() == name) {
        return bring_up(args, &name);
    }
    let turn = Running::open(&name)?.take_turn()?;
    // What it was changed to meanwhile.
    let running = Running::open(&name)?;
    let work = Work::new(args, &running, &turn)?;
    work.refuse()?;
    if args.dry_run || work.is_nothing() {
        work.report(args, &Timings::new())?;
        return Ok(DONE);
    }
    let mut display = Display::new();
    let changing = Changing::begin(&running, &turn, &work.job)?;
    let timings = changing.follow(&mut |progress| display.show(progress));
    display.finish();
    work.report(args, &timings?)?;
    Ok(DONE)
}

fn bring_up(args: &Args, name: &str) -> Result<u8> {
    let Args { file, params, dataplane, timeout, dry_run, json } = args.clone();
    if dry_run {
        output::note(&format!("lab {name} is not up: this would bring it up"));
        return super::plan::run(&super::plan::Args { file, params, dataplane, json });
    }
    output::note(&format!("lab {name} is not up: it is brought up"));
    up::run(&up::Args { file, params, dataplane, timeout, capture: CaptureArgs::default(), json })
}

/// A change that has been worked out.
struct Work {
    old: State,
    job: Job,
    differences: Vec<Difference>,
    unfinished: bool,
    faults: Vec<String>,
    /// Services that end, and those that start; one that is in both starts anew.
    services: [Vec<String>; 2],
}

impl Work {
    fn new(args: &Args, running: &Running, turn: &Turn) -> Result<Self> {
        let old = running.state().clone();
        let mut lab = lab::load_to_run(&args.file, &args.params.params, Some(&old.lab))?;
        args.dataplane.apply(&mut lab);
        let pinned = pin(&mut lab, &old);
        let mut plan = up::plan(&lab)?;
        if pinned {
            plan.why.clone_from(&old.why);
        }
        let Plans { built, unfinished } = running.plans()?;
        let built = plan::impaired(&built, &old.lab, running.engine_config()?);
        let file = lab::whereabouts(&args.file);
        let state = State {
            file,
            dataplanes: plan.dataplanes.clone(),
            why: plan.why.clone(),
            netem: plan.netem,
            lab,
            ..old.clone()
        };
        let change = plan::diff(&built, unfinished.as_ref(), &plan);
        let again = unfinished.is_some();
        let engine = built.fastpath.is_some() || plan.fastpath.is_some();
        let services = services(&built, unfinished.as_ref(), &plan);
        let job = Job {
            fastpath: again && engine
                || built.fastpath.clone().unwrap_or_default() != plan.fastpath.clone().unwrap_or_default()
                || replaces_devices(&change, &plan),
            isis: built.isis != plan.isis || (again && plan.isis.is_some()),
            routers: built.routers != plan.routers || (again && plan.routers.is_some()),
            strands: built.strands != plan.strands
                || plan.strands.as_ref().is_some_and(|s| again || makes_strands(&change, s)),
            services: again || services.iter().any(|names| !names.is_empty()),
            views: views(&built, unfinished.as_ref(), &plan),
            before: reconfigured(&built, &plan),
            patience: args.timeout.timeout,
            state,
            plan,
            change,
        };
        let differences = model::differences(&old.lab, &job.state.lab);
        let faults = names_of(&running.faults_now(turn)?, &old.lab);
        Ok(Self { old, job, differences, unfinished: again, faults, services })
    }

    /// What cannot be done while the lab is up, all of it.
    fn refuse(&self) -> Result<()> {
        let (old, new) = (&self.old.lab, &self.job.state.lab);
        let mut reasons = Vec::new();
        for network in &new.networks {
            let Some(was) = old.networks.iter().find(|n| n.name == network.name) else { continue };
            if was.owner != network.owner {
                let owner = |of: &Option<String>| of.clone().unwrap_or_else(|| "nobody but root".to_owned());
                reasons.push(format!(
                    "VI {} belongs to {}; to belong to {} all of it would have to be made anew",
                    network.name,
                    owner(&was.owner),
                    owner(&network.owner)
                ));
            }
            let over = |lab: &Lab, net: &Network| -> Vec<String> {
                net.underlays().map(|id| lab.net(id).name.clone()).collect()
            };
            let (before, after) = (over(old, was), over(new, network));
            // Strands come and go beside the one that the nodes are placed by.
            let strands = before.len() > 1 && after.len() > 1 && before.first() == after.first();
            if before != after && !strands {
                let [before, after] = [before, after].map(|names| names.join(", "));
                reasons.push(format!(
                    "VI {} rides on {before}; to ride on {after} all of it would have to be made anew",
                    network.name
                ));
            }
        }
        for (node, dataplane) in new.base().nodes.iter().zip(&self.job.state.dataplanes) {
            let was = old.base().nodes.iter().position(|n| n.name == node.name);
            let was = was.and_then(|i| self.old.dataplanes.get(i));
            if let Some(was) = was.filter(|was| *was != dataplane) {
                let (was, is) = (up::name(*was), up::name(*dataplane));
                reasons.push(format!("base/{} is carried by {was} and cannot change to {is}", node.name));
            }
        }
        if !self.faults.is_empty() && !self.is_nothing() {
            reasons.push(format!("this is down: {}; set it up first", self.faults.join(", ")));
        }
        if reasons.is_empty() {
            return Ok(());
        }
        let error = Error::usage(format!("lab {} cannot be changed so while it is up", new.name));
        let error = reasons.into_iter().fold(error, Error::because);
        Err(error.hint("nothing has been touched; take the lab down and up for what cannot change"))
    }

    /// Nothing is to be done to what runs.
    fn is_nothing(&self) -> bool {
        let job = &self.job;
        let same =
            job.change.is_empty() && !job.fastpath && !job.isis && !job.services && job.views.is_empty();
        let same = same && !job.routers && !job.strands;
        same && !self.unfinished && self.same_words()
    }

    /// The labs are the same but for where they say what carries nodes.
    fn same_words(&self) -> bool {
        let plain = |lab: &Lab| {
            let mut lab = lab.clone();
            lab.dataplane = DataplaneChoice::Auto;
            let nodes = lab.networks.iter_mut().flat_map(|n| &mut n.nodes);
            nodes.for_each(|n| n.dataplane = DataplaneChoice::Auto);
            lab
        };
        plain(&self.old.lab) == plain(&self.job.state.lab)
    }

    fn report(&self, args: &Args, timings: &Timings) -> Result<()> {
        if args.json {
            return output::json(&self.json(args, timings));
        }
        let name = &self.job.state.lab.name;
        if self.is_nothing() {
            output::note(&format!("lab {name} is what the file says: nothing to change"));
            return Ok(());
        }
        if self.unfinished {
            output::note("a change was cut short: what it touched is made anew");
        }
        self.differences.iter().for_each(|d| output::note(&d.to_string()));
        if args.dry_run {
            self.sections().iter().for_each(|(title, lines)| {
                output::line(&format!("# {title}"));
                lines.iter().for_each(|line| output::line(line));
            });
            return Ok(());
        }
        output::note(&format!("\n{}", up::times(timings)));
        output::note(&format!("lab {name} is what the file says"));
        Ok(())
    }

    /// The change as lines for a root shell, and beside the kernel as remarks.
    fn sections(&self) -> Vec<(String, Vec<String>)> {
        let job = &self.job;
        let mut sections = job.change.sections();
        let mut beside = Vec::new();
        let [end, start] = &self.services;
        beside.extend(end.iter().map(|s| format!("# service {s} ends")));
        beside.extend(start.iter().map(|s| format!("# service {s} starts")));
        beside.extend(
            job.before.keys().map(|ns| format!("# routing daemons of {ns} get another configuration")),
        );
        beside.extend(job.views.iter().map(|ns| format!("# files of {ns} are written")));
        beside.extend(job.fastpath.then(|| "# the fast path goes on with another configuration".to_owned()));
        if !beside.is_empty() {
            sections.push(("beside the kernel".to_owned(), beside));
        }
        sections
    }

    fn json(&self, args: &Args, timings: &Timings) -> Value {
        let commands: Vec<String> = self.job.change.sections().into_iter().flat_map(|(_, l)| l).collect();
        let [end, start] = &self.services;
        json!({
            "schema": "vilab.apply/1",
            "lab": self.job.state.lab.name,
            "changed": !self.is_nothing(),
            "dry_run": args.dry_run,
            "after_cut_short": self.unfinished,
            "differences": self.differences,
            "commands": commands,
            "services": { "ended": end, "started": start },
            "files": self.job.views,
            "fastpath": self.job.fastpath,
            "timings": timings,
        })
    }
}

/// What is down, by full names.
fn names_of(faults: &Faults, lab: &Lab) -> Vec<String> {
    let links = faults.links.iter().map(|id| format!("link {}", lab.full_link_name(*id)));
    links.chain(faults.nodes.iter().map(|id| format!("node {}", lab.full_name(*id)))).collect()
}

/// Where the file leaves open what carries a base node, what carries it now does; whether it does so anywhere.
fn pin(lab: &mut Lab, old: &State) -> bool {
    if lab.dataplane != DataplaneChoice::Auto {
        return false;
    }
    let choice = |dataplane: model::Dataplane| match dataplane {
        model::Dataplane::Kernel => DataplaneChoice::Kernel,
        model::Dataplane::Fastpath => DataplaneChoice::Fastpath,
    };
    let names = old.lab.base().nodes.iter().map(|n| n.name.clone());
    let running: BTreeMap<String, model::Dataplane> = names.zip(old.dataplanes.iter().copied()).collect();
    let all: BTreeSet<model::Dataplane> = running.values().copied().collect();
    if let (Some(only), 1) = (all.first(), all.len()) {
        lab.dataplane = choice(*only);
        return true;
    }
    for node in lab.networks[0].nodes.iter_mut().filter(|n| n.dataplane == DataplaneChoice::Auto) {
        if let Some(dataplane) = running.get(&node.name) {
            node.dataplane = choice(*dataplane);
        }
    }
    true
}

/// Namespaces whose view differs, or is not what it seems.
fn views(built: &Plan, unfinished: Option<&Plan>, new: &Plan) -> Vec<String> {
    let all: BTreeSet<&String> = built.views.keys().chain(new.views.keys()).collect();
    let other = |ns: &&&String| {
        let wanted = new.views.get(**ns);
        built.views.get(**ns) != wanted || unfinished.is_some_and(|u| u.views.get(**ns) != wanted)
    };
    let mut found: BTreeSet<String> = all.iter().filter(other).map(|ns| (**ns).clone()).collect();
    let left = unfinished.into_iter().flat_map(|u| u.views.keys());
    found.extend(left.filter(|ns| !new.views.contains_key(*ns)).cloned());
    found.into_iter().collect()
}

/// Views, as they were, of nodes whose routing daemons go on with another configuration.
fn reconfigured(built: &Plan, new: &Plan) -> BTreeMap<String, View> {
    let goes_on = |ns: &String| new.services.iter().any(|s| s.netns == *ns && built.services.contains(s));
    let frr = |view: &View| -> BTreeMap<String, String> {
        let files = view.files.iter().filter(|(path, _)| path.starts_with("/etc/frr/"));
        files.map(|(path, text)| (path.clone(), text.clone())).collect()
    };
    let differs = |(ns, was): &(&String, &View)| new.views.get(*ns).is_some_and(|is| frr(is) != frr(was));
    let nodes = built.views.iter().filter(|(ns, _)| goes_on(ns)).filter(differs);
    nodes.map(|(ns, view)| (ns.clone(), view.clone())).collect()
}

/// Names of the services that end, and of those that start.
fn services(built: &Plan, unfinished: Option<&Plan>, new: &Plan) -> [Vec<String>; 2] {
    let all = |plan: &Plan| plan.services.iter().chain(&plan.apps).cloned().collect::<Vec<_>>();
    let (mut before, after) = (all(built), all(new));
    before.extend(unfinished.into_iter().flat_map(all));
    let names = |list: &[plan::Service], other: &[plan::Service]| {
        list.iter().filter(|s| !other.contains(s)).map(|s| s.name.clone()).collect()
    };
    [names(&before, &after), names(&after, &before)]
}

/// Whether something comes in the namespaces of strands, so that what watches them has to look again.
fn makes_strands(change: &Change, strands: &strands::Config) -> bool {
    let touched = change.touched();
    strands.ends.iter().any(|end| touched.contains(&end.netns))
}

/// Whether a device that the fast path impairs from outside is made anew.
fn replaces_devices(change: &Change, plan: &Plan) -> bool {
    let touched = change.touched();
    let shaped = plan.fastpath.iter().flat_map(|config| &config.devices);
    shaped.into_iter().any(|device| touched.contains(&device.netns))
}
