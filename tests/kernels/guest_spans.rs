//! The guest's memory region for tensors of runs: allocations do not overlap, each gets the lowest
//! free address, and freed memory is merged again.

#[path = "../../guest-models/onnx-runner/src/spans.rs"]
mod spans;

use proptest::prelude::*;
use spans::{GRAIN, Spans};

const LEN: usize = 1 << 20;

/// The lowest address with this much free space between the taken parts.
fn first_room(taken: &[(usize, usize)], len: usize) -> Option<usize> {
    let mut sorted = taken.to_vec();
    sorted.sort();
    let mut start = 0;
    for (at, taken) in sorted {
        if at - start >= len {
            return Some(start);
        }
        start = at + taken;
    }
    (LEN - start >= len).then_some(start)
}

proptest! {
    #[test]
    fn allocations_get_the_lowest_free_address(
        steps in prop::collection::vec((any::<bool>(), 1usize..200_000, any::<prop::sample::Index>()), 1..400)
    ) {
        let mut spans = Spans::new(LEN + GRAIN - 1);
        // The start of each part, and its requested length.
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for (take, len, which) in steps {
            if take {
                let whole: Vec<_> =
                    taken.iter().map(|(at, len)| (*at, len.next_multiple_of(GRAIN))).collect();
                let expected = first_room(&whole, len.next_multiple_of(GRAIN));
                prop_assert_eq!(spans.take(len), expected);
                taken.extend(expected.map(|at| (at, len)));
            } else if !taken.is_empty() {
                let (at, len) = taken.swap_remove(which.index(taken.len()));
                spans.give(at, len);
            }
        }
        for (at, len) in taken {
            spans.give(at, len);
        }
        prop_assert_eq!(spans.take(LEN), Some(0), "the region is whole again");
        prop_assert_eq!(spans.take(1), None);
    }
}

#[test]
fn too_many_allocations_and_invalid_lengths_are_refused() {
    let mut spans = Spans::new(LEN);
    for len in [LEN + 1, usize::MAX, usize::MAX - GRAIN] {
        assert_eq!(spans.take(len), None);
    }
    let parts: Vec<usize> = (0..).map_while(|_| spans.take(GRAIN)).collect();
    assert!(parts.len() > 200 && parts.len() < LEN / GRAIN, "{}", parts.len());
    // Every second one first, for the maximum number of free parts.
    let (even, odd): (Vec<_>, Vec<_>) =
        parts.iter().partition(|at| (*at / GRAIN).is_multiple_of(2));
    even.into_iter().chain(odd).for_each(|at| spans.give(at, GRAIN));
    assert_eq!(spans.take(LEN), Some(0));
    let mut empty = Spans::EMPTY;
    assert_eq!(empty.take(1), None);
}
