//! Golden stores: directories that a release left behind, of every version of the format there ever was.
//! Goal: they open for ever, and show what they showed. Method: a copy of each is dumped by the engine's
//! decoders and by the reader that was written from the specification, opened for reading and for
//! writing, written to, closed, opened again; every answer is compared with what was stored beside it.
//!
//! No test writes into `tests/golden`: `tests/golden/README.md` says what is there and how a new version
//! of the format gets its own.

#[path = "golden/make.rs"]
mod make;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvs::testing::{self, Access, RealFs};
use kvs::{Expiry, Store};
use make::{Contents, lines, options, sums};

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of the stores in a directory of golden ones.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let dirs = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> = dirs
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The versions that have golden stores.
fn versions() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let all: Vec<PathBuf> = names(&root).iter().map(|name| root.join(name)).collect();
    assert!(!all.is_empty());
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Compares line by line: a whole dump is too long to be shown.
fn assert_lines(found: &str, expected: &str, what: &str) {
    for (n, (a, b)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(a, b, "{what}, line {}", n + 1);
    }
    let (found, expected) = (found.lines().count(), expected.lines().count());
    assert_eq!(found, expected, "{what}, number of lines");
}

fn dumped(dir: &Path) -> String {
    let mut ours = Vec::new();
    testing::dump(&RealFs::open(dir, Access::Read).unwrap(), &mut ours).unwrap();
    String::from_utf8(ours).unwrap()
}

/// What a store shows, by its iterator and key by key.
fn shown(store: &Store) -> String {
    let mut contents = Contents::new();
    for pair in store.iter().unwrap() {
        let (key, value) = pair.unwrap();
        assert_eq!(store.get(&key).unwrap().as_ref(), Some(&value));
        let expires_at = match store.expires_at(&key).unwrap() {
            Some(Expiry::At(ms)) => Some(ms),
            Some(Expiry::Never) => None,
            None => panic!("{key:?} is there and has no expiry"),
        };
        let pair = (value.to_vec(), expires_at);
        assert!(contents.insert(key.to_vec(), pair).is_none());
    }
    assert!(store.verify().unwrap().damage.is_empty());
    lines(&contents)
}

/// A golden store opens and shows what it showed.
fn check(store: &Path, shows: &str, dump: &str) {
    let name = store.display();
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    copy(store, &dir);
    assert_lines(&dumped(&dir), dump, &format!("dump of {name}"));
    let before = sums(&dir);

    let read_only = options().read_only(true).open(&dir);
    let read_only = read_only.unwrap_or_else(|error| panic!("{name}, read-only: {error}"));
    assert!(!read_only.recovery().incomplete, "{name}");
    assert_lines(&shown(&read_only), shows, &format!("{name}, read-only"));
    drop(read_only);
    assert_eq!(sums(&dir), before, "reading {name} changed a byte");

    let writable = options().open(&dir);
    let writable = writable.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_lines(&shown(&writable), shows, &format!("{name}, for writing"));
    writable.set("new", "value").unwrap();
    writable.compact().unwrap();
    assert!(writable.remove("new").unwrap());
    assert_lines(&shown(&writable), shows, &format!("{name}, compacted"));
    writable.close().unwrap();
    let again = options().open(&dir).unwrap();
    assert!(again.recovery().clean, "{name}");
    assert_lines(&shown(&again), shows, &format!("{name}, closed"));
}

fn check_all(dir: &Path) {
    for name in names(dir) {
        let of = |what: &str| text(dir.join(format!("{name}.{what}.ndjson")));
        check(&dir.join(&name), &of("shows"), &of("dump"));
    }
}

#[test]
fn stores_of_every_version_open_and_show_what_they_showed() {
    for dir in versions() {
        check_all(&dir);
    }
}

#[test]
fn golden_files_are_as_they_were_made() {
    for dir in versions() {
        assert_lines(&sums(&dir), &text(dir.join("SUMS")), "SUMS");
    }
}

#[test]
fn the_reader_written_from_the_specification_dumps_them_alike() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/format/reader.py");
    for dir in versions() {
        for name in names(&dir) {
            let run = |args: &[&str]| Command::new("python3").arg(script).args(args).output();
            let path = dir.join(&name);
            let path = path.to_str().unwrap();
            let output = match run(&[path]) {
                Ok(output) => output,
                Err(error) => return skip(&format!("python3 cannot be started: {error}")),
            };
            assert!(
                output.stderr.is_empty(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let theirs = String::from_utf8(output.stdout).unwrap();
            let dump = text(dir.join(format!("{name}.dump.ndjson")));
            assert_lines(&theirs, &dump, &format!("reader.py of {name}"));
            let verified = run(&["--verify", path]).unwrap();
            let problems = String::from_utf8_lossy(&verified.stdout);
            assert!(verified.status.success(), "{name}: {problems}");
        }
    }
}

#[expect(clippy::print_stdout, reason = "a test that does nothing says so")]
fn skip(why: &str) {
    assert!(std::env::var_os("KVS_REQUIRE_ALL").is_none(), "{why}");
    println!("SKIPPED: {why}");
}

/// Whatever the format has is in the golden stores of each version.
#[test]
fn every_kind_of_record_edit_and_file_is_among_them() {
    for dir in versions() {
        let dumps: String = names(&dir)
            .iter()
            .map(|name| text(dir.join(format!("{name}.dump.ndjson"))))
            .collect();
        let values = |field: &str| -> BTreeSet<&str> {
            let start = format!("\"{field}\":\"");
            dumps
                .lines()
                .filter_map(|line| line.split_once(&start))
                .filter_map(|(_, rest)| rest.split('"').next())
                .collect()
        };
        let kinds = values("kind");
        for kind in [
            // Records.
            "set",
            "set_expiring",
            "tombstone",
            "batch_head",
            "mark",
            "link",
            "footer",
            // Edits.
            "store",
            "add",
            "seal",
            "compact",
            "forget",
            "opened",
            "clean",
            "cut",
            "poison",
            // Segments.
            "log",
            "merged",
        ] {
            assert!(kinds.contains(kind), "{}: no {kind}", dir.display());
        }
        for state in ["sealed", "cut", "merged", "clean", "unsealed"] {
            assert!(values("state").contains(state), "no segment is {state}");
        }
        for framing in ["alone", "in_batch", "batch_end"] {
            assert!(values("framing").contains(framing), "no record {framing}");
        }
        assert!(values("type").contains("hint_entry"));
        assert!(
            dumps.contains("\"inputs\":[],\"kind\":\"compact\""),
            "no load"
        );
    }
}

/// What makes them still does, and two runs of it make the same bytes.
#[test]
fn golden_stores_can_be_made() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
    make::make(&one);
    check_all(&one);
    make::make(&two);
    assert_lines(&sums(&two), &sums(&one), "made twice");
}

/// Not a test: makes the golden stores of a new version of the format. See `tests/golden/README.md`.
#[test]
#[ignore = "writes into KVS_GOLDEN_NEW"]
fn make_golden_stores() {
    let dir = std::env::var_os("KVS_GOLDEN_NEW").expect("KVS_GOLDEN_NEW names a new directory");
    make::make(Path::new(&dir));
}
