//! The decisions of the fast path alone: what one packet costs on its way through a stack, put into all its headers at one end
//! and taken out of them at the other. Nothing goes in; times come out, or with `carry DEPTH COUNT` nothing but the work, for
//! scripts/bench-forward to count its instructions. It never does I/O on packets.

mod stack;

use divan::Bencher;
use divan::counter::ItemsCount;
use stack::Stack;

/// As scripts/bench-packets sends.
const DATA: [u8; 36] = [0x5a; 36];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["carry", depth, count] => {
            let number = |word: &str| word.parse::<usize>().expect("a number");
            let mut stack = Stack::new(number(depth), &DATA);
            (0..number(count)).for_each(|_| {
                divan::black_box(stack.carry());
            });
        }
        _ => divan::main(),
    }
}

#[divan::bench(args = [1, 2, 8, 16])]
fn stack_of(bencher: Bencher<'_, '_>, depth: usize) {
    let mut stack = Stack::new(depth, &DATA);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| stack.carry());
}
