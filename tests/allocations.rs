#![expect(unsafe_code, reason = "an allocator that counts")]
//! No packet costs memory: decisions of the fast path, joining and cutting allocate nothing, whatever the depth.

#[path = "../benches/stack/mod.rs"]
mod stack;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use stack::Stack;
use vilab::fastpath::frame::Frame;
use vilab::packet::join::HEADERS;
use vilab::packet::{Datagram, Ipv4Repr, Train, UdpRepr, ipv4};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no count any more.
    let _ended = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` asks for memory.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

#[test]
fn counting_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))), 1);
}

#[test]
fn a_packet_costs_no_memory_at_any_depth() {
    for depth in [1, 2, 8, 16] {
        let mut stack = Stack::new(depth, b"data");
        assert_eq!(stack.carry(), 20 * (depth + 1) + HEADERS + 4);
        let asked = allocations(|| {
            for _ in 0..1000 {
                stack.carry();
            }
        });
        assert_eq!(asked, 0, "at depth {depth}");
    }
}

#[test]
fn joining_and_cutting_cost_no_memory() {
    let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let message = UdpRepr { src_port: 1, dst_port: 2, data: b"data" }.emit(a, b);
    let nth = |id| Ipv4Repr { id, ..Ipv4Repr::new(a, b, ipv4::UDP, 0) }.with_payload(&message);
    let packets = [nth(0), nth(1)];
    let (mut first, mut next, mut piece) = (Frame::new(), Frame::new(), Frame::new());
    let mut joined = 0;
    let asked = allocations(|| {
        first.copy_from(&packets[0]);
        next.copy_from(&packets[1]);
        let Some(mut train) = Datagram::of(first.packet()).map(|first| Train::new(&first)) else { return };
        let Some(datagram) = Datagram::of(next.packet()) else { return };
        assert!(train.add(&datagram));
        let len = datagram.data().len();
        first.append_end_of(&next, len);
        let segments = train.finish(first.packet_mut());
        first.set_segments(segments);
        joined = first.packets();
        (0..2).for_each(|number| assert!(piece.cut_from(&first, number).is_ok()));
    });
    assert_eq!((asked, joined), (0, 2));
    assert_eq!(piece.packet(), packets[1]);
}
