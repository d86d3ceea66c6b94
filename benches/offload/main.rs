//! An experiment: what the kernel carries of a running lab's fast path with programs of extended BPF, assembled for that lab. The name
//! of a lab goes in, as root; the programs are attached beside its engine, which gets what they pass, until standard input ends; what
//! they were, which links they leave to the engine, and what they counted comes out as JSON. It changes nothing outside the lab.
//! It takes away what it made, but for the empty hooks of devices, which cannot go without losing packets; a lab that goes down takes
//! all of it away.
//!
//! With `--answers` it needs no lab, and says what the kernel's function answers that makes room for headers.
//!
//! The programs follow the devices and routes that the lab has when they are made, and no later change: docs/ebpf.md says what else
//! they lack.

#![allow(clippy::print_stdout, reason = "what it has done is what it is for")]

mod answers;
mod assembler;
mod lab;
mod program;
mod writer;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use lab::{Crossing, Lab};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use vilab::fastpath::follow;
use vilab::lab::{Namespaces, Running};
use vilab::netlink::monitor::{Monitor, Snapshot};
use vilab::netlink::request::VethEnd;
use vilab::netlink::{Request, Socket};
use vilab::plan::{Hook, Mac};
use vilab::sys::bpf::{self, Instruction, Numbers};

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// Of crossings: no packet is too large, for the partition's devices have let it pass.
const LARGEST: u32 = 65535;

fn main() -> Result<()> {
    let [name] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: offload LAB | --answers")?;
    if name == "--answers" {
        println!("{:#}", answers::answers()?);
        return Ok(());
    }
    let running = Running::open(&name).map_err(|e| e.to_string())?;
    let config = running.engine_config().map_err(|e| e.to_string())?.ok_or("the lab has no fast path")?;
    let mut offload = Offload {
        namespaces: running.namespaces(),
        lab: read(config, &running.namespaces())?,
        attached: Vec::new(),
    };
    let numbers = offload.lab.config.nodes.iter().map(|_| Numbers::new(writer::COUNTED.len()));
    let numbers: Vec<Numbers> = numbers.collect::<io::Result<_>>()?;
    let begun = offload.begin(&numbers);
    if let Ok(report) = &begun {
        println!("{report}");
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
        println!("{}", counters(&offload.lab, &numbers)?);
    }
    offload.end();
    begun.map(drop)
}

/// What the kernels say of the lab.
fn read(config: vilab::fastpath::Config, namespaces: &Namespaces) -> Result<Lab> {
    let mut routes = Vec::new();
    let mut devices = BTreeMap::new();
    for (number, partition) in config.partitions.iter().enumerate() {
        let snapshot = snapshot(namespaces, &partition.netns)?;
        let own = config.interfaces.iter().enumerate().filter(|(_, i)| i.partition == number);
        let names: follow::Devices = own.map(|(i, interface)| (interface.dev.clone(), i)).collect();
        devices.extend(follow::devices(&snapshot, &names));
        routes.push(lab::table(&follow::routes(&snapshot, &names), snapshot.policy_routing));
    }
    Ok(Lab { config, routes, devices: devices.into_values().collect(), crossings: BTreeMap::new() })
}

fn snapshot(namespaces: &Namespaces, netns: &str) -> Result<Snapshot> {
    let taken = namespaces.run(netns, || Monitor::open().and_then(|mut monitor| monitor.snapshot()));
    let taken = taken.and_then(|inner| inner).map_err(|e| e.to_string())?;
    taken.ok_or_else(|| format!("{netns} does not hold still").into())
}

fn counters(lab: &Lab, numbers: &[Numbers]) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for (node, numbers) in lab.config.nodes.iter().zip(numbers) {
        let found = writer::COUNTED.iter().zip(numbers.read()?);
        let found: serde_json::Map<_, _> =
            found.map(|(name, value)| ((*name).to_owned(), json!(value.cast_signed()))).collect();
        all.insert(node.name.clone(), found.into());
    }
    Ok(json!({ "counters": all }))
}

/// The lab and what has been attached to it.
struct Offload {
    namespaces: Namespaces,
    lab: Lab,
    /// Namespace, device and hook.
    attached: Vec<(String, u32, Hook)>,
}

impl Offload {
    /// Makes the crossings, then the programs: those that hand packets over last, when all others are ready for them.
    fn begin(&mut self, numbers: &[Numbers]) -> Result<Value> {
        let mut left = BTreeMap::new();
        for i in 0..self.lab.config.interfaces.len() {
            match self.lab.headers(i) {
                Ok(_) => {
                    let crossing = self.cross(i)?;
                    self.lab.crossings.insert(i, crossing);
                }
                Err(why) => {
                    left.insert(self.name(i), why);
                }
            }
        }
        let mut programs = BTreeMap::new();
        for (i, crossing) in self.lab.crossings.clone() {
            let node = self.lab.node_of(i);
            let (inside, outside) = (self.partition_of(i), self.lab.config.nodes[node].netns.clone());
            let own = numbers[node].fd.as_fd();
            self.attach(&outside, crossing.outside, Hook::Ingress, program::into_base(own))?;
            self.attach(&inside, crossing.inside, Hook::Ingress, program::into_partition(&crossing))?;
        }
        for (node, numbers) in numbers.iter().enumerate() {
            let base = self.lab.config.nodes[node].clone();
            let code = program::from_base(&self.lab, node, numbers.fd.as_fd());
            let links = snapshot(&self.namespaces, &base.netns)?.links;
            for (index, _) in links.iter().filter(|(_, link)| link.name != "lo" && !link.name.contains('~')) {
                let said = self.attach(&base.netns, *index, Hook::Ingress, code.clone())?;
                programs.insert(base.name.clone(), said);
            }
        }
        for (i, crossing) in self.lab.crossings.clone() {
            let code = program::from_partition(&self.lab, i, numbers[self.lab.node_of(i)].fd.as_fd());
            let said = self.attach(&self.partition_of(i), crossing.tun, Hook::Egress, code)?;
            programs.insert(self.name(i), said);
        }
        Ok(json!({ "programs": programs, "left": left }))
    }

    fn partition_of(&self, i: usize) -> String {
        self.lab.config.partitions[self.lab.interface(i).partition].netns.clone()
    }

    fn name(&self, i: usize) -> String {
        let interface = self.lab.interface(i);
        format!("{} {}", self.lab.config.partitions[interface.partition].name, interface.dev)
    }

    /// A veth pair between the partition of interface `i` and its base node. The base node forwards what comes from there, as from
    /// the engine's own device.
    fn cross(&self, i: usize) -> Result<Crossing> {
        let base = &self.lab.config.nodes[self.lab.node_of(i)].netns;
        let partition = self.partition_of(i);
        let (base_ns, partition_ns) =
            (File::open(self.namespaces.path(base))?, File::open(self.namespaces.path(&partition))?);
        let dev = format!("fast~o{i}");
        let mac = |end: u8| {
            let [.., high, low] = i.to_be_bytes();
            Mac([2, 0, 0xbf, end, high, low])
        };
        let outside = self.inside(base, || {
            let ends = [(&base_ns, 1), (&partition_ns, 2)].map(|(netns, end)| VethEnd {
                netns,
                dev: &dev,
                index: 0,
                mac: mac(end),
            });
            Socket::open()?.execute([Request::add_veth(&ends[0], &ends[1], LARGEST)])?;
            for (key, value) in [("forwarding", "1"), ("accept_local", "1"), ("rp_filter", "0")] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{dev}/{key}"), value)?;
            }
            Ok(if_nametoindex(dev.as_str())?)
        })?;
        let (inside, tun) = self.inside(&partition, || {
            // A kernel without IPv6 has nothing to announce.
            let _quiet = fs::write(format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"), "1");
            let inside = if_nametoindex(dev.as_str())?;
            Socket::open()?.execute([Request::up(inside)])?;
            Ok((inside, if_nametoindex(self.lab.interface(i).dev.as_str())?))
        })?;
        Ok(Crossing { tun, inside, outside, mac: mac(1).0 })
    }

    fn inside<T: Send>(&self, netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespaces.run(netns, work).map_err(|e| e.to_string())?
    }

    /// Loads a program and attaches it; gives its length, and how many instructions the verifier followed.
    fn attach(
        &mut self,
        netns: &str,
        index: u32,
        hook: Hook,
        code: Option<Vec<Instruction>>,
    ) -> Result<Value> {
        let code = code.ok_or("a jump that is too far")?;
        let (loaded, log) = bpf::load_and_explain(&code);
        let program: OwnedFd = loaded.map_err(|e| format!("{netns}: {e}\n{log}"))?;
        self.inside(netns, || {
            let add = Request::add_program_at(index, hook, program.as_raw_fd());
            Ok(Socket::open()?.execute([Request::add_clsact(index), add])?)
        })?;
        self.attached.push((netns.to_owned(), index, hook));
        let followed = log.lines().find(|line| line.starts_with("processed")).unwrap_or_default();
        let followed = followed.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        Ok(json!({ "instructions": code.len(), "followed by the verifier": followed }))
    }

    /// Takes away what there is of it; what is gone with the lab is no failure.
    fn end(&self) {
        for (netns, index, hook) in self.attached.iter().rev() {
            let del = || Ok(Socket::open()?.execute([Request::del_program(*index, *hook)])?);
            let _gone = self.inside(netns, del);
        }
        for i in self.lab.crossings.keys() {
            let del = || Ok(Socket::open()?.execute([Request::del_link(&format!("fast~o{i}"))])?);
            let _gone = self.inside(&self.partition_of(*i), del);
        }
    }
}
