//! The real kernel on a disk whose power goes, that fails, that is slow and that lies. Goal: on ext4, xfs
//! and btrfs themselves, what was acknowledged at `Sync` outlives every cut, a failed sync is final
//! although the page cache shows what was lost, a read error is an error, and a disk that forgets
//! what it was told to keep costs a tail or an error, never a wrong value. It is the witness for the
//! simulated file system of `tests/crash.rs`: no model of a file system is in between.
//!
//! Method: a FUSE daemon serves the disk, a loop device carries the file system (`src/lab.rs`). What is
//! done to a store is done by children of this test, which have a time limit; what is left after a
//! cut is mounted, hence replayed by the file system's own recovery, and opened.
//!
//! Mounting needs root and changes the machine, so nothing happens unless `KVS_TEST_MOUNT=1`. What was
//! mounted is unmounted, also after a panic, and what a killed run left is taken down by the next.
//!
//! `KVS_DISK_CUTS=n` cuts each disk n times instead of 8; `KVS_DISK_SEED` repeats what is written, not
//! the moments.

#[path = "kernel/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command as Program, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvs::{Durability, Error, Options, Store};
use kvs_disk::control::{Command, Control};
use kvs_disk::lab::{self, Kind, Lab};
use kvs_disk::log::{Random, Survive};
use load::{Journal, Pairs, options, pairs};

const CHILD: &str = "KVS_DISK_CHILD";
const CHILD_TEST: &str = "the_child_does_what_it_is_told";
/// No child has anything to do for longer, not even on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const SIGBUS: i32 = 7;

/// What a child ends with, beside 0 for "as promised".
const LOST_A_TAIL: i32 = 10;
const REFUSED: i32 = 11;

/// In every block that it touches.
const MARKER: &[u8] = b"this is what the disk will fail.";

fn marked() -> Vec<u8> {
    MARKER.repeat(300)
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// A disk with a file system, or `None` where there can be none.
#[expect(clippy::print_stdout, reason = "who skips says so")]
fn disk(kind: Kind) -> Option<Lab> {
    static CLEANED: OnceLock<Result<(), String>> = OnceLock::new();
    let is = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
    let program = Path::new(env!("CARGO_BIN_EXE_kvs-disk"));
    let why = match is("KVS_TEST_MOUNT") {
        false => "KVS_TEST_MOUNT=1 is not set".to_owned(),
        true => match CLEANED.get_or_init(lab::clean_leftovers).clone() {
            Ok(()) => match Lab::new(kind, program) {
                Ok(lab) => return Some(lab),
                Err(why) => why,
            },
            Err(why) => why,
        },
    };
    assert!(!is("KVS_REQUIRE_ALL"), "{}: {why}", kind.name());
    println!("SKIPPED: {}: {why}", kind.name());
    None
}

/// What a child is told: a word and what it needs, one line each.
fn child(lab: &Lab, orders: &[&str]) -> (ExitStatus, String) {
    let said = lab.dir().join("said");
    let output = || fs::File::options().append(true).create(true).open(&said);
    let _ = fs::remove_file(&said);
    let mut child = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD_TEST, "--nocapture"])
        .env(CHILD, orders.join("\n"))
        .stdin(Stdio::null())
        .stdout(output().unwrap())
        .stderr(output().unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            let said = fs::read_to_string(&said).unwrap();
            panic!("{orders:?} takes longer than {LIMIT:?}: {said}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    (status, fs::read_to_string(&said).unwrap())
}

/// As [`child`], which must end well.
fn good_child(lab: &Lab, orders: &[&str]) {
    let (status, said) = child(lab, orders);
    assert!(
        status.success(),
        "{}: {orders:?}: {status}: {said}",
        lab.kind().name()
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

/// Not a test by itself: what the others start. Does nothing without its orders.
#[test]
fn the_child_does_what_it_is_told() {
    let Ok(orders) = std::env::var(CHILD) else {
        return;
    };
    let orders: Vec<&str> = orders.lines().collect();
    let number = |at: usize| orders[at].parse::<u64>().unwrap();
    let path = |at: usize| Path::new(orders[at]);
    match orders[0] {
        "load" => load::run(
            path(1),
            path(2),
            path(3),
            number(4),
            number(5) as u8,
            number(6),
        ),
        "check" => {
            let journal = Journal::read(path(2), number(3), number(4) as u8);
            let code = check(path(1), &journal, number(5) as usize, orders[6] == "honest");
            std::process::exit(code);
        }
        "fail a sync" => fail_a_sync(path(1), path(2), path(3), orders[4] == "sync"),
        "compare" => assert_eq!(pairs(&open(path(1))), read_pairs(path(2)), "what was shown"),
        "fill" => fill(path(1), orders[2] == "closed"),
        "read errors" => read_errors(path(1), path(2)),
        "read the map" => read_the_map(path(1), path(2)),
        "open with errors" => open_with_errors(path(1), path(2)),
        other => panic!("{other}?"),
    }
}

// Power cuts, slow flushes, forgotten flushes.

/// Opens what a cut has left and looks at all of it, twice, and writes to it.
fn check(dir: &Path, journal: &Journal, cut: usize, honest: bool) -> i32 {
    let store = match options().open(dir) {
        Ok(store) => store,
        Err(error) if honest => panic!("cut {cut}: {error}"),
        Err(error) => {
            let place = match &error {
                Error::Corrupt { path, .. } | Error::Missing { path } => path,
                Error::Io { path, .. } => path,
                other => panic!("cut {cut}: {other}"),
            };
            assert!(place.starts_with(dir), "cut {cut}: {error} names no place");
            // What can still be read of it was written.
            if let Ok(store) = options().read_only(true).open(dir) {
                let found = store.iter().unwrap().filter_map(Result::ok);
                let found = found.map(|(k, v)| (k.to_vec(), v.to_vec()));
                journal.check_values(cut, &found.collect());
            }
            return REFUSED;
        }
    };
    let found = pairs(&store);
    let missing = journal.check(cut, &found, honest);
    for (key, value) in &found {
        let got = store.get(key).unwrap();
        assert_eq!(got.as_deref(), Some(&value[..]), "cut {cut}");
    }
    assert_eq!(store.verify().unwrap().damage, [], "cut {cut}");
    drop(store);
    let store = open(dir);
    assert!(pairs(&store) == found, "cut {cut}: opened twice");
    store.set("second life", "goes on").unwrap();
    store.close().unwrap();
    let store = open(dir);
    assert_eq!(*store.get("second life").unwrap().unwrap(), b"goes on"[..]);
    assert_eq!(store.len(), found.len() as u64 + 1);
    if missing > 0 { LOST_A_TAIL } else { 0 }
}

fn open(dir: &Path) -> Store {
    options().open(dir).unwrap()
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// As it should.
    Honest,
    /// Flushes take long; what is written meanwhile is not covered.
    Slow,
    /// From some moment on flushes are answered and forgotten.
    Lying,
}

/// Keeps what is needed to look into a failure.
struct Evidence<'a> {
    lab: &'a Path,
    seed: u64,
    what: String,
}

impl Drop for Evidence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let to = std::env::temp_dir().join(format!("kvs-disk-failed-{}", std::process::id()));
            let _ = fs::create_dir_all(&to);
            for name in ["image", "journal", "said"] {
                let _ = fs::copy(self.lab.join(name), to.join(name));
            }
            let (seed, what, to) = (self.seed, &self.what, to.display());
            let line = format!("KVS_DISK_SEED={seed}: {what}; image and journal in {to}\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

fn cut_everywhere(kind: Kind, behaviour: Disk, threads: u8, operations: u64) {
    let Some(mut lab) = disk(kind) else {
        return;
    };
    let seed = from_environment("KVS_DISK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    let cuts = from_environment("KVS_DISK_CUTS").unwrap_or(8);
    let dir = lab.dir().to_owned();
    let mut evidence = Evidence {
        lab: &dir,
        seed,
        what: format!("{} {behaviour:?}", kind.name()),
    };
    let (journal, socket, store) = (dir.join("journal"), lab.socket(), lab.path().join("store"));
    fs::write(&journal, "").unwrap();
    let (seed_text, threads_text) = (seed.to_string(), threads.to_string());
    if behaviour == Disk::Slow {
        let slow = Command::Delay(Duration::from_millis(15));
        lab.control.say(&slow).unwrap();
    }
    let first = lab.control.position().unwrap();
    let lie = std::thread::scope(|scope| {
        let lie = (behaviour == Disk::Lying).then(|| {
            let mut control = Control::connect(&socket).unwrap();
            let journal = &journal;
            scope.spawn(move || {
                // In the middle of it.
                let wanted = u64::from(threads) * operations;
                while (fs::read_to_string(journal).unwrap().lines().count() as u64) < wanted {
                    std::thread::sleep(Duration::from_millis(1));
                }
                control.say(&Command::Drop(true)).unwrap();
                control.position().unwrap()
            })
        });
        good_child(
            &lab,
            &[
                "load",
                text(&store),
                text(&socket),
                text(&journal),
                &seed_text,
                &threads_text,
                &operations.to_string(),
            ],
        );
        lie.map(|lie| lie.join().unwrap())
    });
    let last = lab.control.position().unwrap();
    let promises = Journal::read(&journal, seed, threads).promises();
    assert!(promises.len() as u64 > u64::from(threads) * operations / 4);
    assert!(last - first > 100, "{first} to {last}");
    // Two file systems of one name confuse the kernel.
    lab.unmount().unwrap();

    let mut random = Random(seed);
    let (mut lost, mut refused, mut gone) = (0, 0, 0);
    for round in 0..cuts {
        let first = lie.unwrap_or(first);
        let cut = match round % 4 {
            // Anywhere, or where a call has just returned.
            0 | 2 => first + random.below((last - first) as u64 + 1) as usize,
            1 => promises[random.below(promises.len() as u64) as usize].max(first),
            _ => last,
        };
        let survive = match round % 8 {
            // When nothing is sure, what is left must still be a file system: the first part of it all.
            _ if lie.is_some() && (kind != Kind::Ext4 || round % 2 == 0) => Survive::Nothing,
            0 | 7 => Survive::Nothing,
            1 => Survive::Everything,
            _ => Survive::Some,
        };
        let dice = random.draw();
        evidence.what = format!(
            "{} {behaviour:?}, cut {cut} of {first} to {last}, {survive:?}, dice {dice}",
            kind.name()
        );
        let left = match lab.mount_cut(cut, survive, dice) {
            Ok(left) => left,
            // Of a lying disk.
            Err(_) if lie.is_some() => {
                gone += 1;
                continue;
            }
            Err(why) => panic!("{why}"),
        };
        let (status, said) = child(
            &lab,
            &[
                "check",
                text(&dir.join("left/store")),
                text(&journal),
                &seed_text,
                &threads_text,
                &cut.to_string(),
                if lie.is_some() { "lying" } else { "honest" },
            ],
        );
        match status.code() {
            Some(0) => {}
            Some(LOST_A_TAIL) if lie.is_some() => lost += 1,
            Some(REFUSED) if lie.is_some() => refused += 1,
            _ => panic!("{status}: {said}"),
        }
        left.end().unwrap();
    }
    if lie.is_some() {
        assert!(
            lost + refused + gone > 0,
            "it has told no lie that mattered"
        );
        assert!(gone < cuts, "no file system was left to look at");
    }
}

/// Each kind of file system by itself, so that one that cannot be made does not hide the others.
fn on_each(test: impl Fn(Kind)) {
    Kind::ALL.into_iter().for_each(test);
}

#[test]
fn what_was_acknowledged_outlives_a_cut_at_any_block() {
    on_each(|kind| cut_everywhere(kind, Disk::Honest, 1, 250));
}

#[test]
fn what_was_acknowledged_together_outlives_a_cut_while_flushes_take_long() {
    on_each(|kind| cut_everywhere(kind, Disk::Slow, 4, 40));
}

#[test]
fn a_disk_that_forgets_costs_a_tail_or_an_error_never_a_wrong_value() {
    on_each(|kind| cut_everywhere(kind, Disk::Lying, 2, 120));
}

// A sync that fails once.

fn write_pairs(path: &Path, pairs: &Pairs) {
    let mut bytes = Vec::new();
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    fs::write(path, bytes).unwrap();
}

fn read_pairs(path: &Path) -> Pairs {
    let bytes = fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut parts = Vec::new();
    while let Some((len, more)) = rest.split_first_chunk() {
        let (part, more) = more.split_at(u64::from_le_bytes(*len) as usize);
        parts.push(part.to_vec());
        rest = more;
    }
    let pairs = parts.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

fn ask(disk: &mut Control, command: Command) -> u64 {
    disk.say(&command).unwrap()[0]
}

fn on_disk(disk: &mut Control) -> bool {
    let pattern = MARKER.to_vec();
    ask(disk, Command::Contains { pattern }) == 1
}

/// Whether any file in `dir` shows the bytes, as the page cache has them.
fn in_cache(dir: &Path) -> bool {
    let files = fs::read_dir(dir).unwrap().flatten();
    let mut files = files.map(|entry| fs::read(entry.path()).unwrap());
    files.any(|bytes| kvs_disk::log::has(&bytes, MARKER))
}

fn fail_a_sync(dir: &Path, socket: &Path, out: &Path, at_sync: bool) {
    let mut disk = Control::connect(socket).unwrap();
    let store = open(dir);
    let mut wanted = Pairs::new();
    for i in 0..50u32 {
        let (key, value) = (format!("key {i}"), vec![i as u8; 500]);
        store.set(&key, &value).unwrap();
        wanted.insert(key.into_bytes(), value);
    }
    // Sealed segments are synced by a thread: it shall not meet the error.
    store.flush().unwrap();
    let pattern = MARKER.to_vec();
    // All of its blocks, which may come in one request or in several.
    let times = u64::MAX;
    ask_nothing(&mut disk, Command::FailWrites { pattern, times });
    let told = match at_sync {
        true => store.set("key 7", marked()),
        false => {
            let os = store.with_durability(Durability::Os);
            os.set("key 7", marked()).unwrap();
            assert_eq!(*store.get("key 7").unwrap().unwrap(), marked()[..]);
            store.flush()
        }
    };
    assert!(matches!(told, Err(Error::Io { .. })), "{told:?}");
    assert!(ask(&mut disk, Command::Failed) > 0);
    ask_nothing(&mut disk, Command::Heal);
    assert!(!on_disk(&mut disk));

    // The trap: the kernel reports it once and shows the bytes for good.
    for entry in fs::read_dir(dir).unwrap().flatten() {
        fs::File::open(entry.path()).unwrap().sync_data().unwrap();
    }
    let trap = in_cache(dir);
    let cow = dir.ancestors().nth(2).unwrap().join("btrfs").exists();
    assert!(
        trap || cow,
        "the page cache does not show what is not on the disk"
    );
    assert!(!on_disk(&mut disk), "the second sync has not repaired it");

    // Rule 16: nothing more is accepted, and nothing is told of what may not be there.
    for level in [Durability::Os, Durability::Sync] {
        let refused = store.with_durability(level).set("more", "of it");
        assert!(matches!(refused, Err(Error::Poisoned)), "{refused:?}");
    }
    let read = store.get("key 7");
    assert!(matches!(read, Err(Error::Poisoned)), "{read:?}");
    assert!(store.flush().is_err());
    let read = store.get("key 8").unwrap();
    assert_eq!(read.as_deref(), Some(&wanted[&b"key 8"[..]][..]));
    assert!(store.close().is_err(), "it was not closed cleanly");

    // Rule 7: the cache is not trusted. What is shown from here on is on the disk.
    let store = open(dir);
    let mut shown = pairs(&store);
    write_pairs(out, &shown);
    if shown[&b"key 7"[..]] == marked() {
        assert!(on_disk(&mut disk), "it is shown and not on the disk");
        shown.insert(b"key 7".to_vec(), wanted[&b"key 7"[..]].clone());
    }
    assert_eq!(shown, wanted);
    // Never closed: the power goes now.
    std::process::exit(0);
}

fn ask_nothing(disk: &mut Control, command: Command) {
    disk.say(&command).unwrap();
}

#[test]
fn a_failed_sync_is_final_although_the_cache_shows_what_was_lost() {
    on_each(|kind| {
        for level in ["sync", "os"] {
            let Some(mut lab) = disk(kind) else {
                return;
            };
            let (socket, shown) = (lab.socket(), lab.dir().join("shown"));
            if kind == Kind::Btrfs {
                fs::write(lab.dir().join("btrfs"), "").unwrap();
            }
            let store = lab.path().join("store");
            good_child(
                &lab,
                &[
                    "fail a sync",
                    text(&store),
                    text(&socket),
                    text(&shown),
                    level,
                ],
            );
            let cut = lab.control.position().unwrap();
            lab.unmount().unwrap();
            let left = lab.mount_cut(cut, Survive::Nothing, 0).unwrap();
            let store = lab.dir().join("left/store");
            good_child(&lab, &["compare", text(&store), text(&shown)]);
            left.end().unwrap();
        }
    });
}

// Reads that fail.

fn filling() -> BTreeMap<String, Vec<u8>> {
    let pairs = (0..200u32).map(|i| (format!("key {i:03}"), i.to_le_bytes().repeat(700)));
    let mut pairs: BTreeMap<_, _> = pairs.collect();
    pairs.insert("key 020".to_owned(), marked());
    pairs
}

fn by_hand() -> Options {
    options().compaction(kvs::Compaction::Manual)
}

/// The marked value early, hence in a sealed segment with garbage, or late, hence in the active one.
fn fill(dir: &Path, closed: bool) {
    let store = by_hand().open(dir).unwrap();
    for (key, value) in filling() {
        store.set(key, value).unwrap();
    }
    for (key, value) in filling().into_iter().filter(|(key, _)| moved(key)) {
        store.set(key, value).unwrap();
    }
    if closed {
        store.close().unwrap();
    } else {
        store.set("key 020", marked()).unwrap();
        std::process::exit(0);
    }
}

/// Written again, far from the marked value, beside which it stood.
fn moved(key: &str) -> bool {
    ("key 021".."key 035").contains(&key)
}

/// Not in the same large page of the cache, which the kernel reads whole or not at all.
fn distant(key: &str) -> bool {
    moved(key) || key > "key 045"
}

fn break_reads(disk: &mut Control) {
    let pattern = MARKER.to_vec();
    ask_nothing(disk, Command::FailReads { pattern });
}

fn assert_whole(store: &Store) {
    let mut copy = Vec::new();
    for (key, value) in filling() {
        assert!(store.get_into(&key, &mut copy).unwrap(), "{key}");
        assert_eq!(copy, value, "{key}");
        assert_eq!(store.get(&key).unwrap().as_deref(), Some(&value[..]));
    }
}

fn assert_io(error: &Error, dir: &Path) {
    match error {
        Error::Io { path, .. } => assert!(path.starts_with(dir), "{error}"),
        other => panic!("{other}"),
    }
}

/// M-1: `get_into`, `verify` and `compact` answer with the error; nothing else is touched by it, and
/// nothing is lost when the disk heals.
fn read_errors(dir: &Path, socket: &Path) {
    let mut disk = Control::connect(socket).unwrap();
    break_reads(&mut disk);
    let store = by_hand().open(dir).unwrap();
    assert!(store.recovery().clean);
    let mut copy = Vec::new();
    for _ in 0..2 {
        let told = store.get_into("key 020", &mut copy).unwrap_err();
        assert_io(&told, dir);
    }
    assert!(ask(&mut disk, Command::Failed) > 0);
    for (key, value) in filling().into_iter().filter(|(key, _)| distant(key)) {
        assert!(store.get_into(&key, &mut copy).unwrap(), "{key}");
        assert_eq!(copy, value, "{key}");
    }
    assert_io(&store.verify().unwrap_err(), dir);
    // A reading error says nothing about what is written.
    for i in 0..200 {
        let key = format!("key {i:03}");
        if distant(&key) && i % 4 == 0 {
            store.set(&key, &filling()[&key]).unwrap();
        }
    }
    assert_io(&store.compact().unwrap_err(), dir);
    let told = store.get_into("key 020", &mut copy).unwrap_err();
    assert_io(&told, dir);
    ask_nothing(&mut disk, Command::Heal);
    assert_whole(&store);
    store.compact().unwrap();
    assert_whole(&store);
    assert_eq!(store.verify().unwrap().damage, []);
    store.close().unwrap();
    assert_whole(&open(dir));
}

/// M-1: through the map there is no error to return. The process ends, or says so, and never shows a
/// value.
fn read_the_map(dir: &Path, socket: &Path) {
    let mut disk = Control::connect(socket).unwrap();
    break_reads(&mut disk);
    let store = open(dir);
    let value = store.get("key 020");
    assert!(value.is_err(), "a value out of nothing");
}

/// I-5: an error is not the end of the log, and a refused open changes nothing.
fn open_with_errors(dir: &Path, socket: &Path) {
    let mut disk = Control::connect(socket).unwrap();
    break_reads(&mut disk);
    for read_only in [false, true, false] {
        let refused = options().read_only(read_only).open(dir);
        assert_io(&refused.unwrap_err(), dir);
    }
    assert!(ask(&mut disk, Command::Failed) > 0);
    ask_nothing(&mut disk, Command::Heal);
    assert_whole(&open(dir));
}

#[test]
fn a_read_error_is_an_error_and_costs_nothing() {
    on_each(|kind| {
        for (filled, then) in [
            ("closed", "read errors"),
            ("closed", "read the map"),
            ("killed", "open with errors"),
        ] {
            let Some(mut lab) = disk(kind) else {
                return;
            };
            let (store, socket) = (lab.path().join("store"), lab.socket());
            good_child(&lab, &["fill", text(&store), filled]);
            // Nothing of it stays in memory.
            lab.unmount().unwrap();
            lab.mount().unwrap();
            let (status, said) = child(&lab, &[then, text(&store), text(&socket)]);
            let ended = then == "read the map" && status.signal() == Some(SIGBUS);
            assert!(
                status.success() || ended,
                "{} {then}: {status}: {said}",
                kind.name()
            );
        }
    });
}
