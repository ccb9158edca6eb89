//! Whether a history is linearisable: whether every call can be given one moment between its start and
//! its end so that a store that does one call at a time would have answered the same.
//!
//! Wing & Gong, "Testing and Verifying Concurrent Objects", 1993, with the memory of Lowe, "Testing for
//! Linearizability", 2017: the same calls done with the same outcome are not tried twice. Every call in
//! a history has ended.

use std::collections::HashSet;

use super::history::{Call, State};

/// Configurations after which a history counts as undecided: far more than any of the tests needs.
const CONFIGURATIONS_MAX: usize = 3_000_000;

/// Why a history is not linearisable, as far as that can be said.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// The longest order that was found, as numbers of calls.
    pub order: Vec<usize>,
    /// No answer within the bound.
    pub undecided: bool,
}

/// Starts and ends of calls in the order of time, as a list from which calls can be lifted.
struct Events {
    /// Number of the call, and whether this is its start.
    events: Vec<(usize, bool)>,
    start_of: Vec<usize>,
    end_of: Vec<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

/// Stands before the first event and behind the last.
const RIM: usize = 0;

impl Events {
    fn new(calls: &[Call]) -> Self {
        let mut order: Vec<(u64, usize, bool)> = Vec::with_capacity(calls.len() * 2);
        for (i, call) in calls.iter().enumerate() {
            assert!(call.start < call.end, "a call ends after it began");
            order.extend([(call.start, i, true), (call.end, i, false)]);
        }
        order.sort_unstable();
        let len = order.len() + 1;
        let mut list = Self {
            events: vec![(usize::MAX, false)],
            start_of: vec![0; calls.len()],
            end_of: vec![0; calls.len()],
            next: (1..len).chain([RIM]).collect(),
            previous: [len - 1].into_iter().chain(0..len - 1).collect(),
        };
        for (i, (_, call, is_start)) in order.into_iter().enumerate() {
            list.events.push((call, is_start));
            match is_start {
                true => list.start_of[call] = i + 1,
                false => list.end_of[call] = i + 1,
            }
        }
        list
    }

    fn lift(&mut self, call: usize) {
        for at in [self.start_of[call], self.end_of[call]] {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Puts back the call that was lifted last.
    fn put_back(&mut self, call: usize) {
        for at in [self.end_of[call], self.start_of[call]] {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = at;
            self.previous[next] = at;
        }
    }
}

/// Looks for an order.
///
/// # Errors
/// If there is none, or none was found within the bound.
pub fn linearise(initial: &State, calls: &[Call]) -> Result<(), Stuck> {
    let mut events = Events::new(calls);
    let mut state = initial.clone();
    let mut done = vec![0u64; calls.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, State)> = HashSet::new();
    let mut path: Vec<(usize, State)> = Vec::new();
    let mut longest: Vec<usize> = Vec::new();
    let mut at = events.next[RIM];
    while events.next[RIM] != RIM {
        let (call, is_start) = events.events[at];
        if is_start {
            let mut after = state.clone();
            if calls[call].op.apply(&mut after) {
                done[call / 64] |= 1 << (call % 64);
                if tried.insert((done.clone(), after.clone())) {
                    path.push((call, std::mem::replace(&mut state, after)));
                    events.lift(call);
                    at = events.next[RIM];
                    if path.len() > longest.len() {
                        longest = path.iter().map(|(call, _)| *call).collect();
                    }
                    if tried.len() > CONFIGURATIONS_MAX {
                        return Err(Stuck {
                            order: longest,
                            undecided: true,
                        });
                    }
                    continue;
                }
                done[call / 64] &= !(1 << (call % 64));
            }
            at = events.next[at];
        } else {
            // It ended before anything that is left began: it should have been done by now.
            let Some((call, before)) = path.pop() else {
                return Err(Stuck {
                    order: longest,
                    undecided: false,
                });
            };
            state = before;
            done[call / 64] &= !(1 << (call % 64));
            events.put_back(call);
            at = events.next[events.start_of[call]];
        }
    }
    Ok(())
}
