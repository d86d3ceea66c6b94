//! What a packet looks like on each wire of the base: one probe between two hosts of a lab, with every header of every layer
//! as captured, and whether it is as computed.
//!
//! ```text
//! cargo run --example headers -- labs/recursion.yaml nodeA nodeB
//! ```

#![allow(clippy::print_stdout, reason = "it shows what is there")]

use std::error::Error;

use vilab::testing::Lab;

fn main() -> Result<(), Box<dyn Error>> {
    // This program is also the processes that its lab is made of.
    vilab::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, from, to] = arguments.as_slice() else {
        return Err("a lab file and two nodes are needed: labs/recursion.yaml nodeA nodeB".into());
    };
    let lab = Lab::up(file)?;
    let trace = lab.trace(from, to)?;
    for hop in &trace.hops {
        let Some(packet) = &hop.captured else { continue };
        println!("{}  {} -> {}", hop.hop, packet.from, packet.to);
        for header in &packet.headers {
            println!("   {:<24} {} -> {}  ttl {}", header.words, header.src, header.dst, header.ttl);
        }
    }
    if !trace.arrived || !trace.is_as_computed() {
        return Err(format!("not as computed from hop {:?}", trace.difference).into());
    }
    println!("arrived as computed, TTL {}", trace.ttl[1].map_or("unknown".into(), |ttl| ttl.to_string()));
    Ok(())
}
