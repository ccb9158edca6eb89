//! Checkpoints. Goal: a copy of an open store is a store of its own, holds exactly a prefix of the
//! commits with everything in it that was acknowledged before, and neither store ever changes a file
//! that both have; a power cut leaves no copy or a whole one, and the source as it was.
//!
//! Method: on the simulated disk, a cut behind every operation that the checkpoint and the life after
//! it did, with everything that may survive it; and every call failed. On the real one, two writers
//! and a compaction under way; the copy and its source are then written, compacted and closed on their
//! own, and the files that they share compared byte by byte.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvs::testing::sim::{Crash, Errno, Fault, Image, SimFs, Survive};
use kvs::testing::{Engine, open};
use kvs::{Batch, CheckpointOptions, Durability, Error, Options, Store};
use kvs_model::{Fill, Op, Pairs, Runner, Setup, ValueSpec, pairs, strays};

// On the simulated disk.

fn set(key: u8, len: u32) -> Op {
    let fill = Fill::Unique;
    let value = ValueSpec { len, fill };
    Op::Set { key, value }
}

fn setup() -> Setup {
    Setup {
        durability: Durability::Os,
        write_path: false,
        seed: 9,
    }
}

/// Sealed, merged and unsealed segments; removals, a batch.
fn history() -> Vec<Op> {
    let fill = Fill::Unique;
    let pair = |key, len| (key, Some(ValueSpec { len, fill }));
    vec![
        set(1, 600),
        set(2, 600),
        set(3, 10),
        Op::Rotate,
        Op::Remove { key: 1 },
        set(2, 20),
        Op::Compact,
        set(4, 700),
        Op::Rotate,
        set(5, 10),
        Op::Batch(vec![pair(6, 900), pair(7, 3), (3, None)]),
    ]
}

const PARTIAL: &str = ".copy.partial";

/// The store's own files.
fn source(image: &Image) -> Image {
    let mut own = Image::new();
    for (name, content) in image.iter().filter(|(name, _)| !name.contains('/')) {
        own.put(name, content.clone());
    }
    own
}

fn recovered(image: &Image, options: &Options) -> Result<Pairs, String> {
    let fs = SimFs::from_image(image);
    let engine = open(fs.clone(), options, 42).map_err(|e| format!("it does not open: {e}"))?;
    let damage = engine.verify().map_err(|e| e.to_string())?.damage;
    if !damage.is_empty() {
        return Err(format!("damaged: {damage:?}"));
    }
    let left = strays(&fs)?;
    match left.is_empty() {
        true => pairs(&engine),
        false => Err(format!("left over: {left:?}")),
    }
}

fn copy(fs: &SimFs, engine: &Engine<SimFs>) -> kvs::Result<kvs::CheckpointReport> {
    engine.checkpoint_by(&fs.subdirectory(PARTIAL), "/sim/copy")
}

#[test]
fn a_cut_anywhere_leaves_no_copy_or_a_whole_one_and_the_source_as_it_was() {
    let mut runner = Runner::new(setup()).unwrap();
    for op in history() {
        runner.apply(&op).unwrap();
    }
    let fs = runner.fs().clone();
    let begun = fs.log_len();
    let expected = pairs(runner.engine()).unwrap();
    let report = copy(&fs, runner.engine()).unwrap();
    assert!(report.linked > 0 && report.copied > 0, "{report:?}");
    let made = fs.log_len();
    // What the source does afterwards is no business of the copy.
    for op in [Op::Flush, set(2, 800), Op::Compact, set(8, 30), Op::Rotate] {
        runner.apply(&op).unwrap();
    }
    let options = setup().options();
    let (mut none, mut whole) = (0, 0);
    let mut seen = [HashSet::new(), HashSet::new()];
    let mut replay = fs.replay();
    replay.advance_to(begun);
    loop {
        let cut = replay.cut();
        let first = cut as u64 * 1009;
        let mut survivals = replay.survivals(first..first + 12);
        survivals.extend(replay.harsh_survivals(first..first + 9));
        for survive in survivals {
            let crash = Crash { cut, survive };
            let image = replay.image(survive);
            let (own, copied) = (source(&image), image.subdirectory("copy"));
            if copied.is_empty() {
                assert!(cut < made, "the copy was made, and is gone: {crash}");
                none += 1;
            } else if seen[0].insert(copied.digest()) {
                let found = recovered(&copied, &options);
                assert_eq!(found.as_ref(), Ok(&expected), "the copy at {crash}");
                whole += 1;
            }
            if seen[1].insert(own.digest()) {
                let found = recovered(&own, &options);
                let found = found.unwrap_or_else(|what| panic!("the source at {crash}: {what}"));
                if let Err(what) = runner.oracle().survived(cut, &found) {
                    panic!("the source at {crash}: {what}");
                }
            }
        }
        if !replay.advance() {
            break;
        }
    }
    assert!(
        none > 100 && whole > 0,
        "{none} without a copy, {whole} with one"
    );
}

#[test]
fn a_call_that_fails_leaves_no_copy_and_a_store_that_goes_on() {
    let begin = || {
        let mut runner = Runner::new(setup()).unwrap();
        for op in history() {
            runner.apply(&op).unwrap();
        }
        runner.engine().flush().unwrap();
        runner
    };
    let runner = begin();
    let fs = runner.fs();
    fs.clear_faults();
    copy(fs, runner.engine()).unwrap();
    let calls = fs.calls();
    assert!(calls > 30, "{calls}");
    let (mut failed, mut linked) = (0, 0);
    for k in 0..calls {
        let runner = begin();
        let fs = runner.fs();
        let expected = pairs(runner.engine()).unwrap();
        fs.fail_at(k, Fault::once(Errno::IO));
        let done = copy(fs, runner.engine());
        assert_eq!(fs.fired(), 1, "call {k}");
        fs.clear_faults();
        let copied = fs.snapshot().subdirectory("copy");
        match done {
            // A hint, or a link that became a copy.
            Ok(_) => {
                linked += 1;
                let found = recovered(&copied, &setup().options());
                assert_eq!(found, Ok(expected.clone()), "call {k}");
            }
            Err(error) => {
                failed += 1;
                // The last call of all is the sync of a name that is there.
                assert!(copied.is_empty() || k + 1 == calls, "call {k}: {error}");
            }
        }
        runner.engine().set(b"after", b"it").unwrap();
        runner.engine().flush().unwrap();
        let mut after = expected;
        after.insert(b"after".to_vec(), b"it".to_vec().into());
        assert_eq!(pairs(runner.engine()).unwrap(), after, "call {k}");
    }
    assert!(
        failed > 10 && linked > 3,
        "{failed} failed, {linked} did not"
    );
}

#[test]
fn a_store_opened_for_reading_after_a_stop_is_copied_as_it_was_recovered() {
    let mut runner = Runner::new(setup()).unwrap();
    for op in history() {
        runner.apply(&op).unwrap();
    }
    let image = runner
        .fs()
        .image(runner.fs().log_len(), Survive::Everything);
    let fs = SimFs::from_image(&image);
    let options = setup().options().read_only(true);
    let engine = open(fs.clone(), &options, 1).unwrap();
    assert!(!engine.recovery().clean);
    let expected = pairs(&engine).unwrap();
    let report = copy(&fs, &engine).unwrap();
    assert!(report.copied > 0, "{report:?}");
    let copied = fs.snapshot().subdirectory("copy");
    assert_eq!(recovered(&copied, &setup().options()), Ok(expected));
    assert_eq!(
        source(&fs.snapshot()),
        image,
        "nothing of the source changed"
    );
    // Opened for writing, the source settles its tail: not in a file that the copy has.
    let before = copied.digest();
    let engine = open(fs.clone(), &setup().options(), 2).unwrap();
    engine.set(b"k", b"v").unwrap();
    engine.compact().unwrap();
    assert_eq!(fs.snapshot().subdirectory("copy").digest(), before);
}

#[test]
fn of_a_damaged_store_there_is_no_copy() {
    let mut runner = Runner::new(setup()).unwrap();
    for op in history() {
        runner.apply(&op).unwrap();
    }
    let mut image = runner.fs().snapshot();
    let merged = runner.engine().stats().segments[0].id;
    let name = kvs_format::name::segment(merged).to_string();
    image.remove(&name).unwrap();
    let fs = SimFs::from_image(&image);
    let engine = open(fs.clone(), &setup().options().read_only(true), 1).unwrap();
    let error = copy(&fs, &engine).unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    assert!(fs.snapshot().subdirectory("copy").is_empty());
}

// On the real disk.

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }

    fn below(parent: &Path, name: &str) -> Self {
        let dir = parent.join(format!("kvs-checkpoint-{name}-{}", std::process::id()));
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

fn small() -> Options {
    Options::new().segment_bytes(64 << 10)
}

fn all(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pair = |pair: kvs::Result<(kvs::Key, kvs::Value)>| {
        let (key, value) = pair.unwrap();
        (key.to_vec(), value.to_vec())
    };
    store.iter().unwrap().map(pair).collect()
}

/// Device and inode of every segment, by name.
fn inodes(dir: &Path) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".seg") {
            let metadata = entry.metadata().unwrap();
            found.insert(name, (metadata.dev(), metadata.ino()));
        }
    }
    found
}

fn whole(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.damage.is_empty(), "{:?}", report.damage);
}

/// Keys of one writer.
const WIDTH: u64 = 50;

/// What a writer has written after its first `n` rounds: in each it sets one key to the round's
/// number, and two more in one batch.
fn after(writer: u64, n: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    for round in n.saturating_sub(2 * WIDTH)..n {
        let value = value(round);
        for key in keys(writer, round) {
            state.insert(key, value.clone());
        }
    }
    state
}

fn value(round: u64) -> Vec<u8> {
    let mut value = round.to_le_bytes().to_vec();
    value.resize(100 + (round % 400) as usize, round as u8);
    value
}

fn keys(writer: u64, round: u64) -> [Vec<u8>; 3] {
    let key = |what| format!("{writer}-{what}-{}", round % WIDTH).into_bytes();
    [key("one"), key("left"), key("right")]
}

fn round(store: &Store, writer: u64, round: u64) {
    let [one, left, right] = keys(writer, round);
    let value = value(round);
    store.set(&one, &value).unwrap();
    let mut batch = Batch::new();
    batch.set(&left, &value).set(&right, &value);
    store.write(&batch).unwrap();
}

#[test]
fn made_while_writing_and_compacting_it_holds_a_prefix_with_all_that_was_acknowledged() {
    let dir = Scratch::new("busy");
    let store = small().open(dir.join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let done = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (store, stop, done) = (&store, &stop, &done);
            scope.spawn(move || {
                let level = match writer {
                    0 => Durability::Os,
                    _ => Durability::Sync,
                };
                let store = store.with_durability(level);
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    round(&store, writer, n);
                    done[writer as usize].store(n + 1, Ordering::Release);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.compact().unwrap();
            }
        });
        let mut linked = 0;
        for n in 0..12 {
            while done[0].load(Ordering::Acquire) < 300 * (n + 1) {
                std::thread::yield_now();
            }
            let copy = dir.join(&format!("copy-{n}"));
            let before = [0, 1].map(|w: usize| done[w].load(Ordering::Acquire));
            linked += store.checkpoint(&copy).unwrap().linked;
            // A round that was under way may be in it.
            let since = [0, 1].map(|w: usize| done[w].load(Ordering::Acquire) + 1);
            let copy = small().open(&copy).unwrap();
            assert!(copy.recovery().clean);
            whole(&copy);
            let found = all(&copy);
            for writer in 0..2u64 {
                let prefix = format!("{writer}-");
                let mine: BTreeMap<_, _> = found
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix.as_bytes()))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let number = |value: &Vec<u8>| u64::from_le_bytes(value[..8].try_into().unwrap());
                let ones = mine
                    .iter()
                    .filter(|(key, _)| key.starts_with(format!("{prefix}one").as_bytes()));
                let last = ones
                    .map(|(_, value)| number(value))
                    .max()
                    .map_or(0, |n| n + 1);
                let w = writer as usize;
                assert!(
                    (before[w]..=since[w]).contains(&last),
                    "{last}: {before:?} {since:?}"
                );
                // The set of the last round may be in without its batch.
                let mut half = after(writer, last - 1);
                let [one, ..] = keys(writer, last - 1);
                half.insert(one, value(last - 1));
                assert!(
                    mine == after(writer, last) || mine == half,
                    "writer {writer}, {last}"
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(linked > 0);
    });
    whole(&store);
}

#[test]
fn the_copy_and_its_source_go_their_own_ways() {
    let dir = Scratch::new("apart");
    let (home, other) = (dir.join("store"), dir.join("copy"));
    let store = small().open(&home).unwrap();
    for n in 0..600 {
        round(&store, 0, n);
    }
    store.compact().unwrap();
    for n in 600..900 {
        round(&store, 0, n);
    }
    let expected = all(&store);
    let report = store.checkpoint(&other).unwrap();
    assert_eq!(report.segments, report.linked + report.copied);
    assert!(report.linked > 3 && report.copied == 1, "{report:?}");
    let shared: Vec<(PathBuf, Vec<u8>)> = inodes(&home)
        .into_iter()
        .filter(|(name, inode)| inodes(&other).get(name) == Some(inode))
        .map(|(name, _)| (other.join(&name), fs::read(home.join(&name)).unwrap()))
        .collect();
    assert_eq!(shared.len() as u64, report.linked);
    // An open file keeps its bytes when its names are gone.
    let held: Vec<fs::File> = shared
        .iter()
        .map(|(path, _)| fs::File::open(path).unwrap())
        .collect();
    let unchanged = || {
        use std::os::unix::fs::FileExt;
        for (file, (path, bytes)) in held.iter().zip(&shared) {
            let mut now = vec![0; bytes.len() + 1];
            let n = file.read_at(&mut now, 0).unwrap();
            assert!(now[..n] == bytes[..], "{}", path.display());
        }
    };

    // The copy is written, compacted and closed: the source does not notice.
    let copy = small().open(&other).unwrap();
    assert_eq!(all(&copy), expected);
    for n in 0..300 {
        round(&copy, 1, n);
    }
    copy.compact().unwrap();
    copy.close().unwrap();
    unchanged();
    assert_eq!(all(&store), expected);
    whole(&store);

    // And the other way round.
    let second = dir.join("second");
    store.checkpoint(&second).unwrap();
    for n in 0..300 {
        round(&store, 2, n);
    }
    store.compact().unwrap();
    store.close().unwrap();
    let store = small().open(&home).unwrap();
    store.set("more", "of it").unwrap();
    store.close().unwrap();
    unchanged();
    let second = small().open(&second).unwrap();
    assert_eq!(all(&second), expected);
    whole(&second);
    second.close().unwrap();
    let copy = small().open(&other).unwrap();
    whole(&copy);
    assert_eq!(copy.len(), expected.len() as u64 + 3 * WIDTH);
}

#[test]
fn a_copy_of_a_copy_and_of_a_store_closed_and_reopened() {
    let dir = Scratch::new("again");
    let store = small().open(dir.join("0")).unwrap();
    // Nothing in it yet.
    store.checkpoint(dir.join("empty")).unwrap();
    assert!(small().open(dir.join("empty")).unwrap().is_empty());
    for n in 0..200 {
        round(&store, 0, n);
    }
    store.close().unwrap();
    for n in 0..3u32 {
        // The segment of the last close goes on only with the first write.
        let store = small().open(dir.join(&n.to_string())).unwrap();
        let expected = all(&store);
        store.checkpoint(dir.join(&(n + 1).to_string())).unwrap();
        store.close().unwrap();
        let copy = small().open(dir.join(&(n + 1).to_string())).unwrap();
        assert_eq!(all(&copy), expected);
        whole(&copy);
        copy.set("n", n.to_string()).unwrap();
        copy.close().unwrap();
    }
}

#[test]
fn on_another_device_it_is_copied_and_what_an_older_copy_has_is_shared() {
    let dir = Scratch::new("device");
    let memory = Path::new("/dev/shm");
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    if device(memory).is_none() || device(memory) == device(&dir.0) {
        let why = "/dev/shm is not another device";
        assert!(std::env::var_os("KVS_REQUIRE_ALL").is_none(), "{why}");
        skipped(why);
        return;
    }
    let far = Scratch::below(memory, "device");
    let store = small().open(dir.join("store")).unwrap();
    for n in 0..400 {
        round(&store, 0, n);
    }
    let report = store.checkpoint(far.join("monday")).unwrap();
    assert_eq!(
        (report.linked, report.copied),
        (0, report.segments),
        "{report:?}"
    );
    for n in 400..500 {
        round(&store, 0, n);
    }
    let options = CheckpointOptions::new().since(far.join("monday"));
    let go_on = |_: &kvs::CheckpointProgress| std::ops::ControlFlow::Continue(());
    let report = store
        .checkpoint_with(far.join("tuesday"), &options, go_on)
        .unwrap();
    assert!(
        report.shared > 3 && report.copied > 0 && report.linked == 0,
        "{report:?}"
    );
    let (monday, tuesday) = (inodes(&far.join("monday")), inodes(&far.join("tuesday")));
    let same = tuesday
        .iter()
        .filter(|(name, inode)| monday.get(*name) == Some(inode));
    assert_eq!(same.count() as u64, report.shared);
    // Each is whole by itself.
    fs::remove_dir_all(far.join("monday")).unwrap();
    let tuesday = small().open(far.join("tuesday")).unwrap();
    assert_eq!(all(&tuesday), all(&store));
    whole(&tuesday);
}

#[expect(clippy::print_stdout, reason = "says why a test did nothing")]
fn skipped(why: &str) {
    println!("SKIPPED: {why}");
}

#[test]
fn without_links_nothing_is_shared() {
    let dir = Scratch::new("unlinked");
    let store = small().open(dir.join("store")).unwrap();
    for n in 0..400 {
        round(&store, 0, n);
    }
    let options = CheckpointOptions::new().links(false);
    let mut seen = Vec::new();
    let control = |progress: &kvs::CheckpointProgress| {
        seen.push(*progress);
        std::ops::ControlFlow::Continue(())
    };
    let report = store
        .checkpoint_with(dir.join("copy"), &options, control)
        .unwrap();
    assert_eq!(report.copied, report.segments);
    assert_eq!(report.bytes, report.bytes_copied);
    let (ours, theirs): (HashSet<_>, HashSet<_>) = (
        inodes(&dir.join("store")).into_values().collect(),
        inodes(&dir.join("copy")).into_values().collect(),
    );
    assert!(ours.is_disjoint(&theirs));
    let last = seen.last().unwrap();
    assert_eq!(
        (last.bytes_done, last.bytes_total),
        (report.bytes, report.bytes)
    );
    // Every record was read: damage is not copied.
    let (name, _) = inodes(&dir.join("store")).into_iter().next().unwrap();
    let path = dir.join("store").join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let go_on = |_: &kvs::CheckpointProgress| std::ops::ControlFlow::Continue(());
    let refused = store.checkpoint_with(dir.join("second"), &options, go_on);
    let Err(Error::Corrupt {
        path: named,
        offset,
        ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(named, path);
    assert!(offset <= 5000, "{offset}");
    assert_eq!(names(&dir.0), ["copy", "store"]);
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(dir).unwrap().map(name);
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn ended_before_it_is_whole_it_leaves_nothing() {
    let dir = Scratch::new("ended");
    let store = small().open(dir.join("store")).unwrap();
    for n in 0..400 {
        round(&store, 0, n);
    }
    for after in 0..5 {
        let mut left = after;
        let control = |_: &kvs::CheckpointProgress| match left {
            0 => std::ops::ControlFlow::Break(()),
            _ => {
                left -= 1;
                std::ops::ControlFlow::Continue(())
            }
        };
        let options = CheckpointOptions::new();
        let report = store
            .checkpoint_with(dir.join("copy"), &options, control)
            .unwrap();
        assert!(report.cancelled);
        assert_eq!(names(&dir.0), ["store"]);
    }
}

#[test]
fn what_is_in_the_way_stays_and_what_an_earlier_try_left_does_not() {
    let dir = Scratch::new("way");
    let store = small().open(dir.join("store")).unwrap();
    store.set("a", "1").unwrap();
    let exists = |path: &Path| {
        let error = store.checkpoint(path).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    };
    fs::write(dir.join("file"), "mine").unwrap();
    exists(&dir.join("file"));
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/file"), "mine").unwrap();
    exists(&dir.join("full"));
    std::os::unix::fs::symlink(dir.join("nowhere"), dir.join("link")).unwrap();
    exists(&dir.join("link"));
    exists(Path::new("/"));
    for inside in ["store", "store/copy", "store/not/there/yet"] {
        let error = store.checkpoint(dir.join(inside)).unwrap_err();
        assert!(matches!(error, Error::Unsafe { .. }), "{error}");
    }
    assert_eq!(names(&dir.0), ["file", "full", "link", "store"]);

    // An empty directory is not in the way.
    fs::create_dir(dir.join("empty")).unwrap();
    store.checkpoint(dir.join("empty")).unwrap();
    assert_eq!(small().open(dir.join("empty")).unwrap().len(), 1);
    // Left by a crash.
    fs::create_dir(dir.join(".copy.partial")).unwrap();
    fs::write(dir.join(".copy.partial/0000000000000001.seg"), "half").unwrap();
    store.checkpoint(dir.join("copy")).unwrap();
    assert!(!dir.join(".copy.partial").exists());
    assert_eq!(small().open(dir.join("copy")).unwrap().len(), 1);
    // Not left by one.
    fs::create_dir(dir.join(".other.partial")).unwrap();
    fs::write(dir.join(".other.partial/thesis.txt"), "mine").unwrap();
    let error = store.checkpoint(dir.join("other")).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert!(dir.join(".other.partial/thesis.txt").exists());
}

#[test]
fn two_at_once_make_two_or_one_is_refused() {
    let dir = Scratch::new("twice");
    let store = small().open(dir.join("store")).unwrap();
    for n in 0..400 {
        round(&store, 0, n);
    }
    let expected = all(&store);
    for n in 0..20 {
        let same = dir.join(&format!("same-{n}"));
        let results: Vec<_> = std::thread::scope(|scope| {
            let make = || scope.spawn(|| store.checkpoint(&same));
            [make(), make(), make()].map(|t| t.join().unwrap()).into()
        });
        assert_eq!(
            results.iter().filter(|r| r.is_ok()).count(),
            1,
            "{results:?}"
        );
        for error in results.into_iter().filter_map(Result::err) {
            let known = matches!(error, Error::Locked { .. } | Error::Exists { .. });
            assert!(known, "{error}");
        }
        let copy = small().open(&same).unwrap();
        assert_eq!(all(&copy), expected);
    }
}

#[test]
fn a_store_in_memory_is_copied_to_disk() {
    let dir = Scratch::new("memory");
    let store = small().open_in_memory().unwrap();
    for n in 0..400 {
        round(&store, 0, n);
    }
    let report = store.checkpoint(dir.join("copy")).unwrap();
    assert_eq!(report.copied, report.segments);
    let copy = Store::open_read_only(dir.join("copy")).unwrap();
    assert_eq!(all(&copy), all(&store));
    whole(&copy);
}

#[test]
fn a_copy_numbers_its_writes_behind_those_it_was_made_with() {
    let dir = Scratch::new("numbers");
    let store = small().open(dir.join("store")).unwrap();
    for n in 0..100 {
        round(&store, 0, n);
    }
    // No log segment that has ended is left.
    store.compact().unwrap();
    store.set("k", "in both").unwrap();
    let last = store.stats().last_lsn;
    store.checkpoint(dir.join("copy")).unwrap();
    let copy = small().open(dir.join("copy")).unwrap();
    assert!(copy.stats().last_lsn >= last, "{last}");
    copy.set("k", "newer").unwrap();
    copy.close().unwrap();
    for _ in 0..2 {
        let copy = small().open(dir.join("copy")).unwrap();
        assert_eq!(copy.get("k").unwrap().as_deref(), Some(&b"newer"[..]));
        whole(&copy);
        copy.compact().unwrap();
    }
}

/// Whoever may create names beside the copy must not lead it into another store.
#[test]
fn a_link_in_the_place_of_an_earlier_try_is_not_followed() {
    let dir = Scratch::new("link");
    let victim = dir.join("victim");
    let older = small().open(&victim).unwrap();
    older.set("kept", "value").unwrap();
    older.close().unwrap();
    let there = names(&victim);
    std::os::unix::fs::symlink(&victim, dir.join(".monday.partial")).unwrap();
    let store = small().open(dir.join("store")).unwrap();
    store.set("a", "1").unwrap();
    let refused = store.checkpoint(dir.join("monday"));
    assert!(matches!(refused, Err(Error::Unsafe { .. })), "{refused:?}");
    assert_eq!(names(&victim), there);
    let kept = Store::open(&victim).unwrap();
    assert_eq!(kept.get("kept").unwrap().as_deref(), Some(&b"value"[..]));
}
