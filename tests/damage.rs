//! Damage to files that were durable. Goal: whatever happens to a byte, a file or its length, the
//! store answers with the exact value or with an error that names the file: never a panic, never a
//! wrong value, never a key that is silently missing; and an open that is refused changes nothing.
//!
//! Method: a small store with every kind of record, compacted and sealed segments, hints, and an
//! active segment, once closed and once killed in mid-flight. Every byte of every file is flipped (one
//! bit of each; all eight of the manifest's) and zeroed, every file cut at every length, deleted, and
//! swapped with that of another segment or another store. Each time the store is opened for writing
//! and for reading only, every key is read in every way, and every record verified.
//!
//! Of the closed store nothing may be lost. Of the killed one the newest commits may be, as long as no
//! mark in the log says that they were durable: damage there looks like a write that was torn.
//!
//! The zeros between a segment's header and its first record, and behind its last one, are tried at
//! every 61st byte; `KVS_DAMAGE_ALL=1` tries each.

use std::ops::Range;
use std::sync::Arc;

use kvs::Error;
use kvs::testing::sim::{Content, Image, SimFs};
use kvs::testing::{Engine, open};
use kvs::{Durability, Options};
use kvs_format::scan::{Scanner, Step};
use kvs_format::segment::SegmentHeader;
use kvs_model::{Fill, KEYS, Op, Oracle, Pairs, Runner, Setup, ValueSpec, key, pairs};

/// Where records begin.
const PAGE: usize = 4096;

/// A store and what may be found in it.
struct Store {
    image: Image,
    oracle: Oracle,
    options: Options,
    /// That many commits must be there.
    least: usize,
}

/// What became of the damage.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    cases: u64,
    refused: u64,
    located: u64,
    exact: u64,
    /// Of the killed store: exact, but the newest commits are gone.
    shorter: u64,
}

fn store(seed: u64, closed: bool) -> Store {
    store_of(seed, closed, Fill::Unique)
}

/// The same store, byte by byte, but for its salts and what its values are made of.
fn store_of(seed: u64, closed: bool, fill: Fill) -> Store {
    let value = |len| ValueSpec { len, fill };
    let set = |key, len| Op::Set {
        key,
        value: value(len),
    };
    let expiring = |key, past| Op::SetExpiring {
        key,
        value: value(12),
        past,
    };
    let setup = Setup {
        durability: Durability::Os,
        write_path: false,
        seed,
    };
    let mut runner = Runner::new(setup).unwrap();
    let mut go = |ops: &[Op]| {
        for op in ops {
            runner.apply(op).unwrap();
        }
        runner.oracle().commits()
    };
    go(&[
        set(1, 20),
        set(2, 20),
        set(3, 9),
        expiring(4, false),
        Op::Rotate,
        Op::Remove { key: 1 },
        set(2, 30),
        expiring(5, true),
        Op::Compact,
        // Keeps an old value where the next compaction does not go.
        set(6, 8),
        set(7, 8),
        Op::Rotate,
        Op::Batch(vec![(8, Some(value(5))), (3, None), (0, Some(value(0)))]),
        Op::Remove { key: 7 },
        Op::Reopen,
        Op::Rotate,
        set(9, 40),
    ]);
    let least = go(&[Op::Flush]);
    go(&[set(10, 8), Op::Flush]);
    go(&[
        Op::Batch(vec![(11, Some(value(7))), (2, None)]),
        Op::Remove { key: 6 },
        set(12, 16),
    ]);
    if closed {
        runner.engine().close().unwrap();
    }
    let all = runner.oracle().commits();
    Store {
        image: runner.fs().snapshot(),
        oracle: runner.oracle().clone(),
        options: runner.options(),
        least: if closed { all } else { least },
    }
}

/// True if the error says which file is damaged.
fn is_located(error: &Error) -> bool {
    match error {
        Error::Corrupt { path, .. } | Error::Missing { path } => path.file_name().is_some(),
        _ => false,
    }
}

/// What each key says.
type Answers = Vec<(Vec<u8>, Result<Option<Vec<u8>>, ()>)>;

fn ask(engine: &Arc<Engine<SimFs>>) -> Result<Answers, String> {
    let mut answers = Answers::new();
    let mut copy = Vec::new();
    for id in 0..KEYS {
        let key = key(id);
        let got = engine.get(&key).map(|value| value.map(|v| v.to_vec()));
        let read = engine.get_into(&key, &mut copy);
        let read = read.map(|there| there.then(|| copy.clone()));
        for error in [got.as_ref().err(), read.as_ref().err()]
            .into_iter()
            .flatten()
        {
            if !is_located(error) {
                return Err(format!("key {id}: {error:?}"));
            }
        }
        // Whoever can be read says when it expires, and nobody else.
        match engine.expires_at(&key) {
            Err(error) if !is_located(&error) => return Err(format!("key {id}: {error:?}")),
            expiry => {
                let there = expiry.as_ref().ok().map(Option::is_some);
                if there != got.as_ref().ok().map(Option::is_some) {
                    return Err(format!("key {id}: get says {got:?}, expires_at {expiry:?}"));
                }
            }
        }
        if got.as_ref().ok() != read.as_ref().ok() {
            return Err(format!("key {id}: get says {got:?}, get_into {read:?}"));
        }
        answers.push((key, got.map_err(|_| ())));
    }
    Ok(answers)
}

enum Outcome {
    Refused,
    Located,
    Exact,
    Shorter,
}

impl Store {
    fn commits(&self) -> usize {
        self.oracle.commits()
    }

    /// Opens what is in `fs` and asks for everything.
    fn judge(&self, fs: &SimFs, states: &[Pairs], read_only: bool) -> Result<Outcome, String> {
        let options = self.options.clone().read_only(read_only);
        let before = fs.log_len();
        let engine = match open(fs.clone(), &options, 1 << 50) {
            Ok(engine) => engine,
            Err(error) if !is_located(&error) => return Err(format!("open: {error:?}")),
            Err(_) if fs.log_len() > before => {
                return Err(format!("it refused, but wrote {:?}", fs.log_lines()));
            }
            Err(_) => return Ok(Outcome::Refused),
        };
        let answers = ask(&engine)?;
        let told = engine.recovery();
        let verified = engine.verify().map_err(|e| format!("verify: {e:?}"))?;
        let damage = told.damage.iter().chain(&verified.damage);
        let located = damage.clone().all(|d| d.file.file_name().is_some());
        let found = damage.count() > 0;
        if !located {
            return Err("damage without a place".to_owned());
        }
        if read_only && fs.log_len() > before {
            return Err(format!("read-only, it wrote {:?}", fs.log_lines()));
        }
        if told.incomplete {
            if !read_only || !found {
                return Err("it opened an incomplete store".to_owned());
            }
            // What it shows may be old, and it says so; it must not be made up.
            for (key, answer) in &answers {
                if let Ok(Some(value)) = answer
                    && !self.oracle.was_written(key, value)
                {
                    return Err(format!("a value that was never written to {key:?}"));
                }
            }
            return Ok(Outcome::Located);
        }
        let fits = |state: &&Pairs| {
            answers.iter().all(|(key, answer)| match answer {
                Ok(value) => value.as_ref() == state.get(key).map(|version| &version.value),
                Err(()) => found,
            })
        };
        let Some(n) = (self.least..=self.commits())
            .rev()
            .find(|n| fits(&&states[*n]))
        else {
            let shown = pairs(&engine);
            return Err(format!(
                "wrong or missing values: {shown:?}, damage {found}"
            ));
        };
        if answers.iter().any(|(_, answer)| answer.is_err()) {
            return Ok(Outcome::Located);
        }
        if pairs(&engine)? != states[n] {
            return Err("the iterator says something else".to_owned());
        }
        Ok(match (found, n == self.commits()) {
            (true, _) => Outcome::Located,
            (false, true) => Outcome::Exact,
            (false, false) => Outcome::Shorter,
        })
    }
}

/// A disk on which one file after the other is damaged and put right again.
struct Bench<'a> {
    store: &'a Store,
    states: Vec<Pairs>,
    fs: SimFs,
    counts: Counts,
}

impl<'a> Bench<'a> {
    fn new(store: &'a Store) -> Self {
        let commits = 0..=store.commits();
        Self {
            store,
            states: commits.map(|n| store.oracle.state(n)).collect(),
            fs: SimFs::from_image(&store.image),
            counts: Counts::default(),
        }
    }

    /// The file `name` has these bytes, or is not there.
    #[track_caller]
    fn damaged(&mut self, name: &str, what: &str, bytes: Option<&[u8]>) {
        for read_only in [true, false] {
            match bytes {
                Some(bytes) if self.store.image.get(name).is_some() => {
                    self.fs.edit(name, |old| bytes.clone_into(old));
                }
                Some(bytes) => self.fs.put(name, bytes),
                None => {
                    self.fs.remove(name);
                }
            }
            self.counts.cases += 1;
            match self.store.judge(&self.fs, &self.states, read_only) {
                Ok(Outcome::Refused) => self.counts.refused += 1,
                Ok(Outcome::Located) => self.counts.located += 1,
                Ok(Outcome::Exact) => self.counts.exact += 1,
                Ok(Outcome::Shorter) => self.counts.shorter += 1,
                Err(wrong) => panic!("{name}, {what}, read-only {read_only}: {wrong}"),
            }
            if self.fs.log_len() > 0 || bytes.is_none() || self.store.image.get(name).is_none() {
                self.fs = SimFs::from_image(&self.store.image);
            }
        }
        if let Some(content) = self.store.image.get(name) {
            let good = content.to_vec();
            self.fs.edit(name, |old| *old = good);
        }
    }
}

/// Offsets of the file that are worth trying, and whether they are between or behind all records.
fn places(name: &str, content: &Content) -> Vec<usize> {
    let all = std::env::var_os("KVS_DAMAGE_ALL").is_some();
    let used = content.bytes().len();
    (0..content.len() as usize)
        .filter(|at| {
            let header = !name.ends_with(".seg") || *at < 64 || *at >= PAGE;
            (header && *at < used + 16) || *at % 61 == 0 || all
        })
        .collect()
}

#[expect(clippy::print_stdout, reason = "the numbers are a result of the test")]
fn sweep(title: &str, closed: bool) {
    let store = store(3, closed);
    let mut bench = Bench::new(&store);
    for (name, content) in store.image.iter() {
        let good = content.to_vec();
        for at in places(name, content) {
            let mut bits = vec![1u8 << (at % 8)];
            if name == "MANIFEST" {
                bits = (0..8).map(|bit| 1 << bit).collect();
            }
            for bit in bits {
                let mut bad = good.clone();
                bad[at] ^= bit;
                bench.damaged(name, &format!("byte {at} xor {bit:#x}"), Some(&bad));
            }
            if good[at] != 0 {
                let mut bad = good.clone();
                bad[at] = 0;
                bench.damaged(name, &format!("byte {at} zeroed"), Some(&bad));
            }
            bench.damaged(name, &format!("cut at {at}"), Some(&good[..at]));
        }
    }
    println!("{title}: {:?}", bench.counts);
}

#[test]
fn no_damaged_byte_of_a_closed_store_goes_unnoticed() {
    sweep("closed", true);
}

#[test]
fn no_damaged_byte_of_a_killed_store_costs_what_was_durable() {
    sweep("killed", false);
}

#[test]
fn a_torn_last_record_costs_only_that_record() {
    let store = store(4, false);
    let states: Vec<Pairs> = (0..=store.commits())
        .map(|n| store.oracle.state(n))
        .collect();
    let segments = store.image.names();
    let active = segments
        .iter()
        .rfind(|name| name.ends_with(".seg"))
        .unwrap();
    let good = store.image.read(active).unwrap();
    // The last record: 24 bytes of header, a key of 6, a value of 16, padded.
    let end = store.image.get(active).unwrap().bytes().len();
    let start = end.next_multiple_of(8) - 48;
    for cut in start..end {
        let mut image = store.image.clone();
        image.edit(active, |bytes| bytes[cut..].fill(0));
        let engine = open(SimFs::from_image(&image), &store.options, 1).unwrap();
        let found = pairs(&engine).unwrap();
        assert_eq!(found, states[store.commits() - 1], "cut at byte {cut}");
    }
    let mut image = store.image.clone();
    image.edit(active, |bytes| *bytes = good);
    let engine = open(SimFs::from_image(&image), &store.options, 1).unwrap();
    assert_eq!(pairs(&engine).unwrap(), states[store.commits()]);
}

#[test]
fn a_file_that_is_gone_or_another_ones_is_noticed() {
    for closed in [true, false] {
        let (store, other) = (store(5, closed), store(6, closed));
        let mut bench = Bench::new(&store);
        let names = store.image.names();
        for name in &names {
            bench.damaged(name, "deleted", None);
            bench.damaged(name, "emptied", Some(&[]));
            for donor in &names {
                for (whose, image) in [("its own", &store.image), ("another's", &other.image)] {
                    let bytes = image.read(donor).unwrap_or_default();
                    if store.image.read(name).as_ref() != Some(&bytes) {
                        let what = format!("replaced by {donor} of {whose} store");
                        bench.damaged(name, &what, Some(&bytes));
                    }
                }
            }
        }
    }
}

/// The records of a segment that say something, by offset and size.
fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let header = SegmentHeader::decode(bytes).unwrap();
    let mut scanner = Scanner::new(&header, bytes.len() as u64, 0);
    let mut records = Vec::new();
    while let Step::Record(record) = scanner.step(&bytes[scanner.offset() as usize..]) {
        let start = record.offset as usize;
        records.push(start..start + record.header.size() as usize);
    }
    records
}

/// Every record, whole and with good checksums, is written over every other one of its size in the
/// same segment, and over the one at its own place in the same segment of another store.
#[test]
fn a_record_that_belongs_elsewhere_is_noticed() {
    for closed in [true, false] {
        let store = store(9, closed);
        let other = store_of(10, closed, Fill::Zero);
        let mut bench = Bench::new(&store);
        let segments = store.image.names().into_iter();
        for name in segments.filter(|name| name.ends_with(".seg")) {
            let good = store.image.read(&name).unwrap();
            let theirs = other.image.read(&name).unwrap();
            let places = records(&good);
            assert_eq!(
                places,
                records(&theirs),
                "the other store has the same shape"
            );
            for to in &places {
                let mut bad = good.clone();
                bad[to.clone()].copy_from_slice(&theirs[to.clone()]);
                bench.damaged(
                    &name,
                    &format!("another store's record at {to:?}"),
                    Some(&bad),
                );
                for from in places.iter().filter(|from| from.len() == to.len()) {
                    let mut bad = good.clone();
                    bad.copy_within(from.clone(), to.start);
                    bench.damaged(&name, &format!("record {from:?} at {to:?}"), Some(&bad));
                }
            }
        }
    }
}

#[test]
fn hints_are_never_needed() {
    let store = store(7, true);
    let mut image = store.image.clone();
    for name in store
        .image
        .names()
        .iter()
        .filter(|name| name.ends_with(".hint"))
    {
        image.remove(name);
        let engine = open(SimFs::from_image(&image), &store.options, 1).unwrap();
        assert_eq!(
            pairs(&engine).unwrap(),
            *store.oracle.current(),
            "without {name}"
        );
    }
}

/// A compaction reads what it copies: damage is not given fresh checksums.
#[test]
fn compaction_does_not_launder_damage() {
    let store = store(8, true);
    for (name, content) in store
        .image
        .iter()
        .filter(|(name, _)| name.ends_with(".seg"))
    {
        for at in (PAGE..content.bytes().len()).step_by(5) {
            let mut image = store.image.clone();
            image.edit(name, |bytes| bytes[at] ^= 4);
            let fs = SimFs::from_image(&image);
            let Ok(engine) = open(fs.clone(), &store.options, 1) else {
                continue;
            };
            let compacted = engine.compact();
            let answers = ask(&engine).unwrap();
            for (key, answer) in answers {
                match answer {
                    Ok(value) => assert_eq!(
                        value.as_ref(),
                        store
                            .oracle
                            .current()
                            .get(&key)
                            .map(|version| &version.value),
                        "{name}, byte {at}, compaction said {compacted:?}"
                    ),
                    Err(()) => assert!(
                        !engine.verify().unwrap().damage.is_empty(),
                        "{name}, byte {at}: the damage is gone, and so is the value"
                    ),
                }
            }
        }
    }
}
