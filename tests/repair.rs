//! Repair. Goal: whatever happened to a store, what is whole of it is salvaged: no panic, no value
//! that was never written, the newest version of every key outside the damage; what may be missing is
//! said, range by range; and the source keeps every byte.
//!
//! Method: a small store with every kind of record, in merged, sealed and active segments. Each word of
//! 8 bytes of each file is flipped, zeroed and cut off behind; files are removed, swapped and replaced
//! by those of another store. Which records a range holds is read from the undamaged files, so the test
//! knows what may be gone. On the real disk: names, bytes and times of the source before and after, and
//! the directories that are no store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kvs::testing::sim::{Call, Content, Errno, Fault, Image, SimFs, Survive};
use kvs::testing::{open, repair_by};
use kvs::{Durability, Error, Options, RecoveryReport, RepairOptions, Store, repair};
use kvs_format::record::Kind;
use kvs_format::scan::{Scanner, Step};
use kvs_format::segment::SegmentHeader;
use kvs_model::{Fill, Op, Oracle, Pairs, Runner, Setup, ValueSpec, pairs};

const PAGE: usize = 4096;

/// One version of a key, and where it stands.
#[derive(Clone, Debug)]
struct Version {
    lsn: u64,
    key: Vec<u8>,
    /// `None` if it was removed or has expired.
    value: Option<kvs_model::Version>,
    file: String,
    from: usize,
    to: usize,
}

struct Damaged {
    image: Image,
    oracle: Oracle,
    versions: Vec<Version>,
}

fn set(key: u8, len: u32) -> Op {
    let fill = Fill::Unique;
    let value = ValueSpec { len, fill };
    Op::Set { key, value }
}

/// A store with every kind of record; closed, or stopped with everything on disk.
fn store(seed: u64, closed: bool) -> Damaged {
    let setup = Setup {
        durability: Durability::Os,
        write_path: false,
        seed,
    };
    let fill = Fill::Unique;
    let value = |len| ValueSpec { len, fill };
    let expiring = |key, past| Op::SetExpiring {
        key,
        value: value(12),
        past,
    };
    let mut runner = Runner::new(setup).unwrap();
    let ops = [
        set(1, 20),
        set(2, 300),
        expiring(3, false),
        set(4, 10),
        Op::Rotate,
        Op::Remove { key: 1 },
        set(2, 30),
        Op::Batch(vec![(5, Some(value(40))), (6, Some(value(9))), (4, None)]),
        expiring(7, true),
        Op::Compact,
        set(8, 64),
        set(3, 8),
        Op::Rotate,
        set(1, 50),
        Op::Batch(vec![(8, Some(value(24))), (9, Some(value(33)))]),
        Op::Remove { key: 6 },
        Op::Flush,
        set(2, 17),
        Op::Flush,
    ];
    for op in ops {
        runner.apply(&op).unwrap();
    }
    let oracle = runner.oracle().clone();
    if closed {
        runner.engine().close().unwrap();
    }
    let fs = runner.fs();
    let image = fs.image(fs.log_len(), Survive::Everything);
    let versions = versions(&image);
    assert!(versions.len() > 9, "{}", versions.len());
    Damaged {
        image,
        oracle,
        versions,
    }
}

fn segments(image: &Image) -> Vec<String> {
    let names = image.names().into_iter();
    names.filter(|name| name.ends_with(".seg")).collect()
}

fn versions(image: &Image) -> Vec<Version> {
    let mut all = Vec::new();
    for file in segments(image) {
        let bytes = image.read(&file).unwrap();
        let header = SegmentHeader::decode(&bytes).unwrap();
        let mut scanner = Scanner::new(&header, bytes.len() as u64, 0);
        while let Step::Record(record) = scanner.step(&bytes[scanner.offset() as usize..]) {
            let kind = record.header.kind;
            if !kind.is_data() {
                continue;
            }
            // The model's times are in 1970 or far ahead.
            let gone = kind == Kind::Tombstone || record.expires_at.is_some_and(|at| at < 1 << 40);
            let from = record.offset as usize;
            all.push(Version {
                lsn: record.header.lsn,
                key: record.key.to_vec(),
                value: (!gone).then(|| kvs_model::Version {
                    value: record.value.to_vec(),
                    expires_at: record.expires_at,
                }),
                file: file.clone(),
                from,
                to: from + record.header.unpadded() as usize,
            });
        }
    }
    all
}

impl Damaged {
    /// What survives if exactly the records go that `hit` names.
    fn without(&self, hit: impl Fn(&Version) -> bool) -> Pairs {
        let mut newest: BTreeMap<&[u8], &Version> = BTreeMap::new();
        for version in self.versions.iter().filter(|version| !hit(version)) {
            let known = newest.entry(&version.key).or_insert(version);
            if version.lsn > known.lsn {
                *known = version;
            }
        }
        let living = newest.into_values();
        let pair = |v: &Version| Some((v.key.clone(), v.value.clone()?));
        living.filter_map(pair).collect()
    }

    fn repaired(&self, image: &Image, what: &str) -> (RecoveryReport, Pairs) {
        let fs = SimFs::from_image(image);
        let to = SimFs::new();
        let report = repair_by(&fs, Some(to.clone()));
        let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(fs.snapshot(), *image, "{what}: the source was changed");
        assert_eq!(report.incomplete, !report.lost.is_empty(), "{what}");
        let engine = open(to, &Options::new().segment_bytes(64 << 10), 2).unwrap();
        assert!(engine.recovery().clean, "{what}");
        let found = pairs(&engine).unwrap();
        assert_eq!(found.len() as u64, report.keys, "{what}");
        for (key, version) in &found {
            assert!(
                self.oracle.was_written(key, &version.value),
                "{what}: {key:?}"
            );
        }
        (report, found)
    }
}

/// Whether the report says that something is lost of this range.
fn reported(report: &RecoveryReport, file: &str, from: usize, to: usize) -> bool {
    report.lost.iter().any(|lost| {
        let end = lost.offset + lost.bytes;
        lost.file.ends_with(file) && lost.offset < to as u64 && end > from as u64
    })
}

#[test]
fn of_a_whole_store_nothing_is_lost() {
    for closed in [true, false] {
        let store = store(1, closed);
        let (report, found) = store.repaired(&store.image, "whole");
        assert_eq!(report.lost, [], "closed: {closed}");
        assert_eq!(report.damage, [], "closed: {closed}");
        assert_eq!((report.broken_batches, report.torn_tail), (0, None));
        assert_eq!(found, *store.oracle.current());
    }
}

#[test]
fn damage_to_a_word_costs_the_records_it_is_in_and_is_reported() {
    let (mut cases, mut lossy) = (0, 0);
    for closed in [true, false] {
        let store = store(1, closed);
        for file in segments(&store.image) {
            let bytes = store.image.read(&file).unwrap();
            let last = store.versions.iter().filter(|v| v.file == file);
            let end = last.map(|v| v.to).max().unwrap() + 64;
            let header = (0..72).step_by(8);
            let words = header.chain((PAGE..end.min(bytes.len())).step_by(8));
            for at in words {
                for zero in [false, true] {
                    let mut image = store.image.clone();
                    image.edit(&file, |bytes| {
                        let word = at + 8;
                        let word = &mut bytes[at..word.min(end.max(at + 8))];
                        match zero {
                            true => word.fill(0),
                            false => word[at / 8 % 8] ^= 1 << (at / 64 % 8),
                        }
                    });
                    if image == store.image {
                        continue;
                    }
                    let what = format!("closed {closed}, {file} at {at}, zero {zero}");
                    let (report, found) = store.repaired(&image, &what);
                    cases += 1;
                    // Padding is not covered by any check.
                    let hit = |v: &Version| v.file == file && v.from < at + 8 && at < v.to;
                    let touched: Vec<_> = store.versions.iter().filter(|v| hit(v)).collect();
                    let padding = touched.iter().all(|v| {
                        let bytes = image.read(&file).unwrap();
                        bytes[v.from..v.to] == store.image.read(&file).unwrap()[v.from..v.to]
                    });
                    if padding {
                        assert_eq!(found, *store.oracle.current(), "{what}");
                        continue;
                    }
                    assert_eq!(found, store.without(hit), "{what}");
                    let newest = store.versions.iter().map(|v| v.lsn).max();
                    let (from, to) = (touched[0].from, touched[0].to);
                    let torn = !closed
                        && report
                            .torn_tail
                            .is_some_and(|torn| torn.offset == from as u64)
                        && touched.iter().any(|v| Some(v.lsn) == newest);
                    assert!(
                        torn || reported(&report, &file, from, to),
                        "{what}: {report:?}"
                    );
                    lossy += 1;
                }
            }
        }
    }
    assert!(
        cases > 500 && lossy > 250,
        "{cases} cases, {lossy} with a loss"
    );
}

#[test]
fn a_file_cut_off_costs_what_stood_behind() {
    let store = store(1, true);
    for file in segments(&store.image) {
        let len = store.image.read(&file).unwrap().len();
        for cut in (0..PAGE).step_by(512).chain((PAGE..len).step_by(8)) {
            let mut image = store.image.clone();
            image.edit(&file, |bytes| bytes.truncate(cut));
            let what = format!("{file} cut to {cut} of {len}");
            let (report, found) = store.repaired(&image, &what);
            let hit = |v: &Version| v.file == file && v.to > cut;
            assert_eq!(found, store.without(hit), "{what}");
            assert!(
                reported(&report, &file, cut.saturating_sub(1), len),
                "{what}: {report:?}"
            );
        }
    }
}

#[test]
fn a_gap_in_the_log_is_counted_record_by_record() {
    let store = store(1, true);
    let file = segments(&store.image).pop().unwrap();
    let mine: Vec<_> = store.versions.iter().filter(|v| v.file == file).collect();
    let (first, last) = (mine[0], mine[2]);
    let mut image = store.image.clone();
    image.edit(&file, |bytes| bytes[first.from..last.to].fill(0xEE));
    let (report, _) = store.repaired(&image, "three in a row");
    let [lost] = &report.lost[..] else {
        panic!("{:?}", report.lost);
    };
    assert_eq!(lost.offset, first.from as u64);
    // From a record to the next: the head of a batch may stand between.
    let (from, to) = lost.lsns.unwrap();
    assert_eq!((from, to), (first.lsn, last.lsn));
    assert_eq!(lost.records, Some(to - from + 1));
}

#[test]
fn the_manifest_may_be_damaged_anywhere_or_gone() {
    for closed in [true, false] {
        let store = store(1, closed);
        let mut image = store.image.clone();
        let len = image.read("MANIFEST").unwrap().len();
        for at in (0..len).step_by(8) {
            let mut image = store.image.clone();
            image.edit("MANIFEST", |bytes| bytes[at] ^= 0x10);
            let what = format!("closed {closed}, manifest at {at}");
            let (_, found) = store.repaired(&image, &what);
            assert_eq!(found, *store.oracle.current(), "{what}");
        }
        image.remove("MANIFEST").unwrap();
        let (report, found) = store.repaired(&image, "no manifest");
        assert!(report.incomplete);
        assert_eq!(found, *store.oracle.current());
    }
}

#[test]
fn a_segment_that_is_missing_is_named_and_the_others_are_salvaged() {
    let store = store(1, true);
    for file in segments(&store.image) {
        let mut image = store.image.clone();
        image.remove(&file).unwrap();
        let (report, found) = store.repaired(&image, &file);
        assert_eq!(found, store.without(|v| v.file == file));
        let [lost] = &report.lost[..] else {
            panic!("{:?}", report.lost);
        };
        assert!(lost.file.ends_with(&file) && lost.bytes > 0, "{lost:?}");
        assert!(lost.reason.contains("missing"), "{lost:?}");
    }
}

#[test]
fn segments_that_were_swapped_are_known_by_their_headers() {
    let store = store(1, true);
    let files = segments(&store.image);
    for (i, one) in files.iter().enumerate() {
        for other in &files[i + 1..] {
            let mut image = store.image.clone();
            let content = |name: &str| Content::new(store.image.read(name).unwrap());
            image.put(one, content(other));
            image.put(other, content(one));
            let (report, found) = store.repaired(&image, &format!("{one} and {other}"));
            assert_eq!(found, *store.oracle.current());
            assert_eq!(report.lost, []);
            assert_eq!(report.damage.len(), 2, "{:?}", report.damage);
        }
    }
}

#[test]
fn a_file_of_another_store_is_not_believed() {
    let (store, other) = (store(1, true), store(2, true));
    assert_eq!(segments(&store.image), segments(&other.image));
    for file in segments(&store.image) {
        let mut image = store.image.clone();
        image.put(&file, Content::new(other.image.read(&file).unwrap()));
        let (report, found) = store.repaired(&image, &file);
        assert_eq!(found, store.without(|v| v.file == file));
        assert!(report.incomplete);
        let named = report
            .damage
            .iter()
            .any(|damage| damage.file.ends_with(&file));
        assert!(named, "{:?}", report.damage);
    }
}

#[test]
fn what_compaction_had_removed_stays_removed() {
    // The files of its inputs are back, as after a power cut that undid their unlinking.
    let setup = Setup {
        durability: Durability::Os,
        write_path: false,
        seed: 3,
    };
    let mut runner = Runner::new(setup).unwrap();
    for op in [
        set(1, 20),
        set(2, 20),
        Op::Rotate,
        Op::Remove { key: 1 },
        Op::Flush,
    ] {
        runner.apply(&op).unwrap();
    }
    let before = runner.fs().snapshot();
    for op in [Op::Compact, set(3, 30), Op::Flush] {
        runner.apply(&op).unwrap();
    }
    let mut image = runner.fs().snapshot();
    let gone: BTreeSet<String> = segments(&before).into_iter().collect();
    let gone: Vec<_> = gone
        .iter()
        .filter(|name| image.get(name).is_none())
        .collect();
    assert!(!gone.is_empty());
    for name in gone {
        image.put(name, before.get(name).unwrap().clone());
    }
    let to = SimFs::new();
    let report = repair_by(&SimFs::from_image(&image), Some(to.clone())).unwrap();
    assert_eq!(report.lost, []);
    let engine = open(to, &Options::new().segment_bytes(64 << 10), 2).unwrap();
    assert_eq!(pairs(&engine).unwrap(), *runner.oracle().current());
}

#[test]
fn what_cannot_be_read_is_lost_and_the_rest_is_not() {
    let store = store(1, true);
    let count = {
        let fs = SimFs::from_image(&store.image);
        repair_by(&fs, None).unwrap();
        fs.calls()
    };
    for call in [Call::ReadAt, Call::Open, Call::Len] {
        for k in 0..count {
            let fs = SimFs::from_image(&store.image);
            fs.fail_call(call, k, Fault::once(Errno::IO));
            let to = SimFs::new();
            let report = repair_by(&fs, Some(to.clone())).unwrap();
            if fs.fired() == 0 {
                break;
            }
            let engine = open(to, &Options::new().segment_bytes(64 << 10), 2).unwrap();
            let found = pairs(&engine).unwrap();
            for (key, version) in &found {
                assert!(
                    store.oracle.was_written(key, &version.value),
                    "{call:?} {k}"
                );
            }
            // A read that failed once and then did not cost nothing.
            assert!(
                report.incomplete || found == *store.oracle.current(),
                "{call:?} {k}"
            );
        }
    }
    // From some read on all of them fail: what is behind may look like the clean end of a log.
    for closed in [true, false] {
        let store = self::store(1, closed);
        let whole = repair_by(&SimFs::from_image(&store.image), None).unwrap();
        for k in 0..count {
            let fs = SimFs::from_image(&store.image);
            fs.fail_call(Call::ReadAt, k, Fault::forever(Errno::IO));
            let report = repair_by(&fs, None).unwrap();
            let all = report.records_scanned == whole.records_scanned;
            assert!(report.incomplete || all, "closed {closed}, {k}: {report:?}");
        }
    }
    let fs = SimFs::from_image(&store.image);
    fs.fail_call(Call::ReadAt, 0, Fault::forever(Errno::IO));
    let report = repair_by(&fs, None).unwrap();
    assert!(report.incomplete && report.keys == 0, "{report:?}");
}

// On the real disk.

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kvs-repair-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything about a file that reading it must not change.
type Facts = (Vec<u8>, u64, (i64, i64), (i64, i64), u32);

/// Names, bytes, inodes, times and modes.
fn facts(dir: &Path) -> BTreeMap<String, Facts> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let m = path.metadata().unwrap();
        let times = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        all.insert(name, (bytes, m.ino(), times.0, times.1, m.mode()));
    }
    all
}

fn fill(dir: &Path) {
    let store = Options::new().segment_bytes(64 << 10).open(dir).unwrap();
    for n in 0..3000u32 {
        store
            .set((n % 700).to_string(), vec![n as u8; 100])
            .unwrap();
    }
    store.close().unwrap();
}

#[test]
fn the_source_keeps_every_byte_name_and_time() {
    let dir = Scratch::new("source");
    let source = dir.join("store");
    fill(&source);
    let expected = Store::open_read_only(&source).unwrap().len();
    let segment = facts(&source)
        .into_keys()
        .find(|name| name.ends_with(".seg"))
        .unwrap();
    let mut bytes = fs::read(source.join(&segment)).unwrap();
    bytes[6000] ^= 1;
    fs::write(source.join(&segment), bytes).unwrap();
    let before = facts(&source);
    let dry = RepairOptions::new().dry_run(true);
    let mut said = repair(&source, dir.join("dry"), &dry).unwrap();
    assert!(!dir.join("dry").exists());
    assert_eq!(facts(&source), before);
    let mut report = repair(&source, dir.join("mended"), &RepairOptions::new()).unwrap();
    assert_eq!(facts(&source), before);
    assert!(report.incomplete);
    (said.duration, report.duration) = Default::default();
    assert_eq!(said, report);
    let mended = Store::open(dir.join("mended")).unwrap();
    assert_eq!(mended.len(), report.keys);
    assert!(expected - report.keys <= 1, "{expected} {}", report.keys);
    assert!(mended.verify().unwrap().damage.is_empty());
    let names: BTreeSet<_> = facts_names(&dir.0);
    assert_eq!(
        names,
        BTreeSet::from(["mended".to_owned(), "store".to_owned()])
    );
}

fn facts_names(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(dir).unwrap().map(name);
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn what_is_no_store_or_in_use_or_in_the_way_is_an_error() {
    let dir = Scratch::new("errors");
    let options = RepairOptions::new();
    let attempt = |source: &str, dest: &str| repair(dir.join(source), dir.join(dest), &options);
    let error = attempt("nowhere", "dest").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    fs::create_dir(dir.join("empty")).unwrap();
    let error = attempt("empty", "dest").unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    fs::write(dir.join("empty/notes.txt"), "no store").unwrap();
    let error = attempt("empty", "dest").unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    fs::write(dir.join("file"), "no store").unwrap();
    let error = attempt("file", "dest").unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
    let store = Store::open(dir.join("store")).unwrap();
    store.set("a", "1").unwrap();
    let error = attempt("store", "dest").unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    store.close().unwrap();
    let error = attempt("store", "empty").unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let error = attempt("store", "store/inside").unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
    let expected = ["empty", "file", "store"].map(str::to_owned);
    assert_eq!(facts_names(&dir.0), BTreeSet::from(expected));
    attempt("store", "dest").unwrap();
    assert_eq!(Store::open(dir.join("dest")).unwrap().len(), 1);
}

/// All pairs of a load have one LSN: of a key that comes twice the later pair counts, in one segment and
/// in several.
#[test]
fn of_a_key_that_a_load_has_twice_the_later_value_is_salvaged() {
    let dir = Scratch::new("loaded");
    let source = dir.join("store");
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(&source).unwrap();
    let key = |n: u32| (n % 1_000).to_string();
    let pairs = (0..4_000u32).map(|n| (key(n), format!("{n:0100}")));
    // Twice in a row as well.
    let pairs = pairs.flat_map(|(key, value)| [(key.clone(), "old".to_owned()), (key, value)]);
    store.load(pairs).unwrap();
    assert!(store.stats().segments.len() > 5);
    store.close().unwrap();
    let report = repair(&source, dir.join("mended"), &RepairOptions::new()).unwrap();
    assert!(!report.incomplete && report.keys == 1_000, "{report:?}");
    let mended = Store::open(dir.join("mended")).unwrap();
    for n in 3_000..4_000 {
        let value = mended.get(key(n)).unwrap();
        assert_eq!(value.as_deref(), Some(format!("{n:0100}").as_bytes()));
    }
}

/// A manifest whose end is gone looks whole: what is used and not in it says that it is not.
#[test]
fn a_manifest_that_has_lost_its_last_edits_is_not_taken_for_a_whole_one() {
    let dir = Scratch::new("older");
    let source = dir.join("store");
    fill(&source);
    let manifest = source.join("MANIFEST");
    let older = fs::read(&manifest).unwrap();
    let store = Options::new()
        .segment_bytes(64 << 10)
        .open(&source)
        .unwrap();
    for n in 0..1_400u32 {
        store
            .set((n % 700).to_string(), format!("{n:0100}"))
            .unwrap();
    }
    for n in 0..100 {
        assert!(store.remove(n.to_string()).unwrap());
    }
    store.compact().unwrap();
    for n in 100..110 {
        store.set(n.to_string(), "newest").unwrap();
    }
    store.close().unwrap();
    fs::write(&manifest, older).unwrap();
    assert!(Store::open(&source).is_err());
    let report = repair(&source, dir.join("mended"), &RepairOptions::new()).unwrap();
    assert!(report.incomplete, "{report:?}");
    let named = |lost: &kvs::Lost| lost.file == manifest;
    assert!(report.lost.iter().any(named), "{report:?}");
    let mended = Store::open(dir.join("mended")).unwrap();
    for n in 100..700u32 {
        let value = mended.get(n.to_string()).unwrap();
        let wanted = match n < 110 {
            true => "newest".to_owned(),
            false => format!("{:0100}", 700 + n),
        };
        assert_eq!(value.as_deref(), Some(wanted.as_bytes()), "{n}");
    }
}
