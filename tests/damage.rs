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
//! every 61st byte.
//!
//! The whole report, with every byte of the small store, a grid of a larger one, swapped sectors, and all
//! of it counted in a table:
//!
//! ```sh
//! KVS_DAMAGE_ALL=1 cargo test --test damage report -- --nocapture
//! ```
//!
//! A wrong value is what the store shows although it was never right; a hang is a case that takes more
//! than twenty seconds, twice.

#[path = "damage/report.rs"]
mod report;

use std::ops::Range;

use kvs::testing::open;
use kvs::testing::sim::{Content, Image, SimFs};
use kvs::{Durability, Options};
use kvs_format::scan::{Scanner, Step};
use kvs_format::segment::SegmentHeader;
use kvs_model::{Fill, Op, Oracle, Pairs, Runner, Setup, ValueSpec, ask, pairs};
use report::{Bench, all};

/// Where records begin.
const PAGE: usize = 4096;

/// A store and what may be found in it.
struct Store {
    image: Image,
    oracle: Oracle,
    options: Options,
    /// That many commits must be there.
    least: usize,
    /// That many of them the manifest vouches for; the others only MARKs do.
    sealed: usize,
}

impl Store {
    fn commits(&self) -> usize {
        self.oracle.commits()
    }
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
    ]);
    let sealed = go(&[Op::Rotate]);
    let least = go(&[set(9, 40), Op::Flush]);
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
        sealed: if closed { all } else { sealed },
    }
}

/// Offsets of the file that are worth trying, and whether they are between or behind all records.
fn places(name: &str, content: &Content) -> Vec<usize> {
    let used = content.bytes().len();
    (0..content.len() as usize)
        .filter(|at| is_used(name, used, *at) || *at % 61 == 0 || all())
        .collect()
}

/// True for a byte that says something, if `used` bytes of the file are not zeros behind everything.
fn is_used(name: &str, used: usize, at: usize) -> bool {
    let header = !name.ends_with(".seg") || !(64..PAGE).contains(&at);
    header && at < used + 16
}

/// Every byte of a store: flipped, zeroed, the last one of its file.
fn sweep(bench: &mut Bench<'_>) {
    let image = &bench.store.image;
    for (name, content) in image.iter() {
        let good = content.to_vec();
        let used = content.bytes().len();
        for at in places(name, content) {
            let mut bits = vec![1u8 << (at % 8)];
            if name == "MANIFEST" || all() && is_used(name, used, at) {
                bits = (0..8).map(|bit| 1 << bit).collect();
            }
            for bit in bits {
                let mut bad = good.clone();
                bad[at] ^= bit;
                let what = format!("byte {at} xor {bit:#x}");
                bench.damaged("bit flipped", name, &what, Some(bad));
            }
            if good[at] != 0 {
                let mut bad = good.clone();
                bad[at] = 0;
                bench.damaged("byte zeroed", name, &format!("byte {at} zeroed"), Some(bad));
            }
            if is_used(name, used, at) || at % 61 == 0 {
                let what = format!("cut at {at}");
                bench.damaged("file truncated", name, &what, Some(good[..at].to_vec()));
            }
        }
    }
}

#[test]
fn no_damaged_byte_of_a_closed_store_goes_unnoticed() {
    let store = store(3, true);
    let mut bench = Bench::new(&store);
    sweep(&mut bench);
    bench.finish("closed");
}

#[test]
fn no_damaged_byte_of_a_killed_store_costs_what_was_durable() {
    let store = store(3, false);
    let mut bench = Bench::new(&store);
    sweep(&mut bench);
    bench.finish("killed");
}

/// Found by damage as an operation of `model.rs`: the COMPACT of a load was the last edit for long, and damage to
/// the last edit looks like one that was never finished. The load was gone, and nothing said so.
#[test]
fn a_flipped_bit_of_the_manifest_does_not_cost_a_load() {
    let setup = Setup {
        durability: Durability::Sync,
        write_path: false,
        seed: 11,
    };
    let mut runner = Runner::new(setup).unwrap();
    let fill = Fill::Unique;
    let value = ValueSpec { len: 20, fill };
    let set = |key| Op::Set { key, value };
    for op in [set(1), Op::Load(vec![(2, value), (3, value)]), set(4)] {
        runner.apply(&op).unwrap();
    }
    let store = Store {
        image: runner.fs().snapshot(),
        oracle: runner.oracle().clone(),
        options: runner.options(),
        least: runner.oracle().commits(),
        sealed: runner.oracle().commits(),
    };
    let mut bench = Bench::new(&store);
    let good = store.image.read("MANIFEST").unwrap();
    let used = store.image.get("MANIFEST").unwrap().bytes().len();
    for bit in 0..used * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        bench.damaged("bit flipped", "MANIFEST", &format!("bit {bit}"), Some(bad));
    }
    bench.finish("manifest of a load");
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

/// A limit of the format, found by the whole report: what was durable is gone without a word if the damage
/// takes the MARKs, too. That of one sector does when the segment is young. Nothing is left that could tell
/// it from a write that was torn; what the manifest vouches for is there.
#[test]
fn damage_that_takes_the_marks_along_looks_like_a_torn_write() {
    let store = store(3, false);
    let names = store.image.names();
    let active = names.iter().rfind(|name| name.ends_with(".seg")).unwrap();
    let used = store.image.get(active).unwrap().bytes().len();
    assert!(used <= PAGE + 512, "its records are in one sector");
    assert!(store.sealed < store.least);
    for lost in [PAGE..PAGE + 512, PAGE + 64..PAGE + 512] {
        let mut image = store.image.clone();
        image.edit(active, |bytes| bytes[lost.clone()].fill(0));
        let engine = open(SimFs::from_image(&image), &store.options, 1).unwrap();
        let found = pairs(&engine).unwrap();
        assert_eq!(found, store.oracle.state(store.sealed), "{lost:?}");
    }
    // One MARK behind the damage is enough.
    let mark = report::newest_mark(&store.image).unwrap().1;
    let mut image = store.image.clone();
    image.edit(active, |bytes| bytes[PAGE..mark.start].fill(0));
    let refused = open(SimFs::from_image(&image), &store.options, 1);
    assert!(matches!(refused, Err(kvs::Error::Corrupt { .. })));
}

/// Calls `check` with each of the first `len` bytes of the record behind the LINK, a bit of it flipped.
fn with_each_bit_flipped(fs: &SimFs, len: usize, mut check: impl FnMut(usize)) {
    for at in 0..len {
        for bit in 0..8 {
            let flip = || {
                fs.edit("0000000000000001.seg", |bytes| {
                    bytes[4144 + at] ^= 1 << bit;
                });
            };
            flip();
            check(at);
            flip();
        }
    }
}

#[test]
fn every_way_of_reading_refuses_every_flipped_bit_of_a_record() {
    for (key_len, value_len) in [
        (0, 0),
        (1, 7),
        (7, 9),
        (8, 16),
        (12, 3),
        (16, 33),
        (17, 1),
        (40, 5),
    ] {
        let fs = SimFs::new();
        let store = open(fs.clone(), &Options::new(), 1).unwrap();
        let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
        store.set(&key, &value).unwrap();
        let (reader, snapshot) = (store.reader(), store.snapshot().unwrap());
        let mut copy = Vec::new();
        assert_eq!(store.get(&key).unwrap().unwrap(), value[..]);
        assert_eq!(reader.get(&key).unwrap().unwrap(), value);
        with_each_bit_flipped(&fs, 24 + key_len + value_len, |at| {
            let refused = |result: Result<bool, kvs::Error>| {
                assert!(
                    matches!(result, Err(kvs::Error::Corrupt { offset: 4144, .. })),
                    "key of {key_len}, byte {at}: {result:?}"
                );
            };
            refused(store.get(&key).map(|value| value.is_some()));
            refused(reader.get(&key).map(|value| value.is_some()));
            refused(store.get_many(&[&key]).map(|values| values.is_empty()));
            refused(store.contains_key(&key));
            refused(store.get_into(&key, &mut copy));
            refused(snapshot.get(&key).map(|value| value.is_some()));
        });
        assert_eq!(store.get(&key).unwrap().unwrap(), value[..]);
    }
}

#[test]
fn a_read_without_checks_still_refuses_a_key_that_is_not_the_one_asked_for() {
    for key_len in [1, 8, 12, 16, 17] {
        let fs = SimFs::new();
        let options = Options::new().verify_reads(false);
        let store = open(fs.clone(), &options, 1).unwrap();
        let key = vec![b'k'; key_len];
        store.set(&key, b"value").unwrap();
        let reader = store.reader();
        with_each_bit_flipped(&fs, 24 + key_len, |at| {
            // Kind, key length and key.
            if matches!(at, 17..=19 | 24..) {
                for found in [
                    store.get(&key).map(|value| value.is_some()),
                    reader.get(&key).map(|value| value.is_some()),
                ] {
                    assert!(
                        matches!(found, Err(kvs::Error::Corrupt { offset: 4144, .. })),
                        "key of {key_len}, byte {at}: {found:?}"
                    );
                }
            }
        });
        assert_eq!(store.get(&key).unwrap().unwrap(), b"value");
    }
}

/// Every file: deleted, emptied, in the place of every other one of its store and of another store, and
/// under a name that nothing knows.
fn files(bench: &mut Bench<'_>, other: &Store) {
    let image = &bench.store.image;
    let names = image.names();
    for name in &names {
        bench.damaged("file deleted", name, "deleted", None);
        bench.damaged("file truncated", name, "emptied", Some(Vec::new()));
        for donor in &names {
            for (kind, whose, from) in [
                ("file duplicated", "its own", image),
                ("file of another store", "another's", &other.image),
            ] {
                let bytes = from.read(donor).unwrap_or_default();
                if image.read(name).as_ref() != Some(&bytes) {
                    let what = format!("replaced by {donor} of {whose} store");
                    bench.damaged(kind, name, &what, Some(bytes));
                }
            }
        }
        for new in ["00000000000000ff.seg", "00000000000000ff.hint", "stranger"] {
            let bytes = image.read(name);
            bench.damaged("file duplicated", new, &format!("copy of {name}"), bytes);
        }
    }
}

#[test]
fn a_file_that_is_gone_or_another_ones_is_noticed() {
    for closed in [true, false] {
        let (store, other) = (store(5, closed), store(6, closed));
        let mut bench = Bench::new(&store);
        files(&mut bench, &other);
        bench.finish("files");
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
fn moved(bench: &mut Bench<'_>, other: &Store) {
    let image = &bench.store.image;
    let segments = image.names().into_iter();
    for name in segments.filter(|name| name.ends_with(".seg")) {
        let good = image.read(&name).unwrap();
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
            let what = format!("another store's record at {to:?}");
            bench.damaged("record moved", &name, &what, Some(bad));
            for from in places.iter().filter(|from| from.len() == to.len()) {
                let mut bad = good.clone();
                bad.copy_within(from.clone(), to.start);
                let what = format!("record {from:?} at {to:?}");
                bench.damaged("record moved", &name, &what, Some(bad));
            }
        }
    }
}

#[test]
fn a_record_that_belongs_elsewhere_is_noticed() {
    for closed in [true, false] {
        let store = store(9, closed);
        let other = store_of(10, closed, Fill::Zero);
        let mut bench = Bench::new(&store);
        moved(&mut bench, &other);
        bench.finish("records");
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
