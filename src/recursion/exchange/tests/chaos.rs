//! A thousand runs through foul weather, and what holds after each.

use super::network::{Dice, Network, Weather};
use super::*;

const FOUL: Duration = Duration::from_secs(4);
/// Hold time, the longest pause of a sender, the linger time, and what the weather left under way.
const SETTLED: Duration = Duration::from_millis(1_000 + 800 + 250 + 450);

fn drawn(dice: &mut Dice, port: u16) -> Records {
    let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32", "172.16.0.0/12"];
    let mut reach: Vec<(&str, u32)> = Vec::new();
    for prefix in prefixes {
        if dice.hits(50) {
            reach.push((prefix, 1 + u32::try_from(dice.below(2)).unwrap()));
        }
    }
    let mtu = 1300 + 20 * u16::try_from(dice.below(5)).unwrap();
    let all = records(port, mtu, &reach);
    if dice.hits(10) { Records { bind: None, ..all } } else { all }
}

/// One thing that happens to somebody.
fn happen(network: &mut Network) {
    let at = network.dice.index(network.edges.len());
    let other = network.dice.index(network.edges.len());
    match network.dice.below(10) {
        0..=5 => {
            let port = network.edges[at].config.port.0;
            let records = drawn(&mut network.dice, port);
            network.set(at, records);
        }
        6 => network.stop(at),
        7 => network.start(at),
        8 => {
            network.cut.insert((at, other));
        }
        _ => {
            network.cut.pop_first();
        }
    }
}

fn run(ports: u16, seed: u64) {
    let mut network = Network::new(ports, seed, Weather::FOUL);
    network.start_all();
    while network.now < FOUL {
        happen(&mut network);
        let pause = Duration::from_millis(network.dice.below(200));
        network.run_for(pause);
    }
    network.weather = Weather::FAIR;
    network.cut.clear();
    network.run_for(SETTLED);
    network.check().unwrap_or_else(|wrong| panic!("{ports} ports, seed {seed}: {wrong}"));

    let (updates, generations) = (network.updates, generations(&network));
    network.run_for(Duration::from_secs(1));
    network.check().unwrap_or_else(|wrong| panic!("{ports} ports, seed {seed}, later: {wrong}"));
    assert_eq!(
        network.updates, updates,
        "{ports} ports, seed {seed}: nothing changes, and yet there are UPDATEs"
    );
    assert_eq!(generations, self::generations(&network), "{ports} ports, seed {seed}");
}

fn generations(network: &Network) -> Vec<Option<u64>> {
    network.edges.iter().map(|edge| edge.speaker.as_ref().map(Speaker::generation)).collect()
}

#[test]
fn after_foul_weather_every_table_of_a_small_router_is_right() {
    (2..=5).for_each(|ports| (0..200).for_each(|seed| run(ports, seed)));
}

#[test]
fn after_foul_weather_every_table_of_a_large_router_is_right() {
    (6..=8).for_each(|ports| (0..67).for_each(|seed| run(ports, seed)));
}
