//! What is done to a store while the disk takes note, and what may be left of it.
//!
//! Threads write keys of their own; what thread `t` does as its `i`-th operation follows from the
//! seed. Around each call stands a line in the journal: how far the disk had come before and after. So
//! for every cut it is known what must be there (acknowledged at `Sync`, or under something that was,
//! before the cut) and what cannot be (begun after the cut).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use kvs::{Batch, Durability, Options, SEGMENT_BYTES_MIN, Store};
use kvs_disk::control::Control;
use kvs_disk::log::Random;

pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

const KEYS: u64 = 16;

#[derive(Clone, Debug)]
pub enum Operation {
    /// New values of keys, or their ends; applied whole.
    Write(Vec<(Vec<u8>, Option<Vec<u8>>)>, Durability),
    Flush,
    Compact,
}

/// A key begins with its thread's number.
fn key(thread: u8, random: &mut Random) -> Vec<u8> {
    let mut key = vec![thread];
    key.extend(format!("key {}", random.below(KEYS)).bytes());
    key
}

/// Some are empty, some longer than a segment; all of them say who wrote them.
fn value(thread: u8, i: u64, random: &mut Random) -> Vec<u8> {
    let len = match random.below(100) {
        0..4 => 0,
        4 => SEGMENT_BYTES_MIN + random.below(9000),
        5..60 => random.below(300),
        _ => random.below(9000),
    };
    let text = format!("{thread}.{i} ");
    text.bytes().cycle().take(len as usize).collect()
}

pub fn operation(seed: u64, thread: u8, i: u64) -> Operation {
    let mixed = seed ^ i.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ (u64::from(thread) << 56);
    let mut random = Random(mixed);
    let level = match random.below(5) {
        0 | 1 => Durability::Os,
        _ => Durability::Sync,
    };
    let one = |random: &mut Random| {
        let key = key(thread, random);
        let gone = random.below(5) == 0;
        (key, (!gone).then(|| value(thread, i, random)))
    };
    match random.below(100) {
        0..2 => Operation::Compact,
        2..4 => Operation::Flush,
        4..20 => Operation::Write((0..3).map(|_| one(&mut random)).collect(), level),
        _ => Operation::Write(vec![one(&mut random)], level),
    }
}

pub fn options() -> Options {
    Options::new()
        .durability(Durability::Sync)
        .segment_bytes(SEGMENT_BYTES_MIN)
}

fn act(store: &Store, operation: &Operation) -> kvs::Result<()> {
    match operation {
        Operation::Flush => store.flush(),
        Operation::Compact => store.compact().map(drop),
        Operation::Write(changes, level) => {
            let store = store.with_durability(*level);
            match &changes[..] {
                [(key, Some(value))] => store.set(key, value),
                [(key, None)] => store.remove(key).map(drop),
                changes => {
                    let mut batch = Batch::new();
                    for (key, value) in changes {
                        match value {
                            Some(value) => batch.set(key, value),
                            None => batch.remove(key),
                        };
                    }
                    store.write(&batch)
                }
            }
        }
    }
}

pub fn apply(operation: &Operation, pairs: &mut Pairs) {
    if let Operation::Write(changes, _) = operation {
        for (key, value) in changes {
            match value {
                Some(value) => drop(pairs.insert(key.clone(), value.clone())),
                None => drop(pairs.remove(key)),
            }
        }
    }
}

/// Whether everything before it is durable too when it has returned.
fn makes_durable(operation: &Operation) -> bool {
    match operation {
        // A removal of what is not there writes nothing, and syncs nothing.
        Operation::Write(changes, Durability::Sync) => changes.iter().any(|(_, v)| v.is_some()),
        Operation::Write(..) | Operation::Compact => false,
        Operation::Flush => true,
    }
}

/// Does it all: `operations` in each of `threads` threads, and closes.
pub fn run(dir: &Path, socket: &Path, journal: &Path, seed: u64, threads: u8, operations: u64) {
    let store = options().open(dir).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = store.clone();
            scope.spawn(move || {
                let mut disk = Control::connect(socket).unwrap();
                let mut journal = OpenOptions::new().append(true).open(journal).unwrap();
                for i in 0..operations {
                    let operation = operation(seed, thread, i);
                    let before = disk.position().unwrap();
                    // One write call each, behind whatever others have written.
                    let line = format!("begun {thread} {before}\n");
                    journal.write_all(line.as_bytes()).unwrap();
                    act(&store, &operation).unwrap();
                    let after = disk.position().unwrap();
                    let line = format!("done {thread} {after}\n");
                    journal.write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
    store.close().unwrap();
}

/// Where an operation's call began and where it returned.
type Call = (usize, Option<usize>);

/// The journal of a run.
pub struct Journal {
    seed: u64,
    threads: Vec<Vec<Call>>,
}

impl Journal {
    pub fn read(path: &Path, seed: u64, threads: u8) -> Self {
        let mut calls: Vec<Vec<Call>> = vec![Vec::new(); usize::from(threads)];
        for line in fs::read_to_string(path).unwrap().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, thread, position] = words[..] else {
                panic!("'{line}'");
            };
            let thread = &mut calls[thread.parse::<usize>().unwrap()];
            let position = position.parse().unwrap();
            match what {
                "begun" => thread.push((position, None)),
                _ => thread.last_mut().unwrap().1 = Some(position),
            }
        }
        Self {
            seed,
            threads: calls,
        }
    }

    /// Where calls returned that promise to be durable.
    pub fn promises(&self) -> Vec<usize> {
        let mut all = Vec::new();
        for (thread, calls) in self.threads.iter().enumerate() {
            let promised = (0..).zip(calls).filter_map(|(i, (_, done))| {
                makes_durable(&operation(self.seed, thread as u8, i)).then_some(*done)?
            });
            all.extend(promised);
        }
        all.sort_unstable();
        all
    }

    /// Looks for a beginning of each thread's operations that `found` shows, `at_least` what was
    /// promised before `cut`, and nothing that had not begun. Returns how many promised operations
    /// are missing: none if `at_least`.
    pub fn check(&self, cut: usize, found: &Pairs, at_least: bool) -> u64 {
        let mut missing = 0;
        for (thread, calls) in self.threads.iter().enumerate() {
            let thread = thread as u8;
            let begun = calls.iter().take_while(|call| call.0 < cut).count() as u64;
            let promised = (0..begun).rev().find(|i| {
                let returned = calls[*i as usize].1.is_some_and(|done| done <= cut);
                returned && makes_durable(&operation(self.seed, thread, *i))
            });
            let promised = promised.map_or(0, |i| i + 1);
            let least = if at_least { promised } else { 0 };
            let mine: Pairs = found
                .range(vec![thread]..vec![thread + 1])
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let mut model = Pairs::new();
            // The longest beginning that explains it.
            let mut fits = None;
            let mut states = String::new();
            for i in 0..=begun {
                if i >= least {
                    if model == mine {
                        fits = Some(i);
                    } else {
                        states += &format!("\n{i}: {}", difference(&model, &mine));
                    }
                }
                if i < begun {
                    apply(&operation(self.seed, thread, i), &mut model);
                }
            }
            let Some(fits) = fits else {
                panic!(
                    "cut {cut}, thread {thread}: {begun} begun, {promised} promised; after none of \
                     {least}..={begun} is it what was found{states}"
                );
            };
            missing += promised.saturating_sub(fits);
        }
        let known = found
            .keys()
            .filter(|key| usize::from(key.first().copied().unwrap_or(255)) < self.threads.len());
        assert_eq!(known.count(), found.len(), "keys that nobody wrote");
        missing
    }

    /// Of a damaged store: every pair was written at some time before `cut`.
    pub fn check_values(&self, cut: usize, found: &Pairs) {
        let mut written: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for (thread, calls) in self.threads.iter().enumerate() {
            let begun = calls.iter().take_while(|call| call.0 < cut).count() as u64;
            for i in 0..begun {
                if let Operation::Write(changes, _) = operation(self.seed, thread as u8, i) {
                    for (key, value) in changes {
                        written.entry(key).or_default().extend(value);
                    }
                }
            }
        }
        for (key, value) in found {
            let known = written.get(key).is_some_and(|all| all.contains(value));
            assert!(known, "cut {cut}: {} is invented", key.escape_ascii());
        }
    }
}

fn short(value: Option<&Vec<u8>>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) => {
            let start = value[..value.len().min(8)].escape_ascii();
            format!("{} bytes of {start}", value.len())
        }
    }
}

/// The first few differences.
fn difference(wanted: &Pairs, found: &Pairs) -> String {
    let keys = wanted.keys().chain(found.keys());
    let differ = keys.filter(|key| wanted.get(*key) != found.get(*key));
    let texts = differ.take(3).map(|key| {
        let (wanted, found) = (short(wanted.get(key)), short(found.get(key)));
        format!("{}: {found} instead of {wanted}", key.escape_ascii())
    });
    texts.collect::<Vec<_>>().join("; ")
}

pub fn pairs(store: &Store) -> Pairs {
    let pairs = store.iter().unwrap().map(Result::unwrap);
    pairs.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}
