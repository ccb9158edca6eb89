//! The suites of PingCAP's "Practical Networked Applications in Rust", projects 1 and 2, in our own
//! words: what a solution to the course must do, this crate does.
//!
//! The course finds compaction by a directory that stops growing. Files allocated ahead stop
//! growing too, so here the same load also has to show that bytes were reclaimed.
//!
//! `KVS_COURSE_RUNS=200` repeats the compaction tests so often, at full length, each time in a new
//! directory.

use std::path::Path;

use kvs::{Compaction, KvStore, KvsError, Options, Result, Store};
use tempfile::TempDir;
use walkdir::WalkDir;

fn text(s: &str) -> String {
    s.to_owned()
}

fn assert_value(store: &KvStore, key: &str, value: Option<&str>) {
    let found = store.get(text(key)).unwrap();
    assert_eq!(found.as_deref(), value, "{key}");
}

/// Project 1: the map itself, in memory.
mod project_1 {
    use super::*;

    fn in_memory() -> KvStore {
        KvStore::from_store(Options::new().open_in_memory().unwrap())
    }

    #[test]
    fn get_stored_value() {
        let store = in_memory();
        store.set(text("key1"), text("value1")).unwrap();
        store.set(text("key2"), text("value2")).unwrap();
        assert_value(&store, "key1", Some("value1"));
        assert_value(&store, "key2", Some("value2"));
    }

    #[test]
    fn overwrite_value() {
        let store = in_memory();
        store.set(text("key1"), text("value1")).unwrap();
        assert_value(&store, "key1", Some("value1"));
        store.set(text("key1"), text("value2")).unwrap();
        assert_value(&store, "key1", Some("value2"));
    }

    #[test]
    fn get_non_existent_value() {
        let store = in_memory();
        store.set(text("key1"), text("value1")).unwrap();
        assert_value(&store, "key2", None);
    }

    #[test]
    fn remove_key() {
        let store = in_memory();
        store.set(text("key1"), text("value1")).unwrap();
        store.remove(text("key1")).unwrap();
        assert_value(&store, "key1", None);
    }
}

/// Project 2: the map on disk. Every step is looked at again after a reopen.
mod project_2 {
    use super::*;

    fn reopen(store: KvStore, dir: &TempDir) -> KvStore {
        drop(store);
        KvStore::open(dir.path()).unwrap()
    }

    #[test]
    fn get_stored_value() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        store.set(text("key2"), text("value2")).unwrap();
        assert_value(&store, "key1", Some("value1"));
        assert_value(&store, "key2", Some("value2"));

        let store = reopen(store, &dir);
        assert_value(&store, "key1", Some("value1"));
        assert_value(&store, "key2", Some("value2"));
    }

    #[test]
    fn overwrite_value() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        assert_value(&store, "key1", Some("value1"));
        store.set(text("key1"), text("value2")).unwrap();
        assert_value(&store, "key1", Some("value2"));

        let store = reopen(store, &dir);
        assert_value(&store, "key1", Some("value2"));
        store.set(text("key1"), text("value3")).unwrap();
        assert_value(&store, "key1", Some("value3"));
    }

    #[test]
    fn get_non_existent_value() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        assert_value(&store, "key2", None);

        let store = reopen(store, &dir);
        assert_value(&store, "key2", None);
    }

    #[test]
    fn remove_non_existent_key() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        let error = store.remove(text("key1")).unwrap_err();
        assert!(matches!(error, KvsError::KeyNotFound), "{error:?}");
        assert_eq!(error.to_string(), "Key not found");
    }

    #[test]
    fn remove_key() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        store.remove(text("key1")).unwrap();
        assert_value(&store, "key1", None);

        let store = reopen(store, &dir);
        assert_value(&store, "key1", None);
        assert!(store.remove(text("key1")).is_err());
    }

    #[test]
    fn bytes_that_are_no_text_are_a_typed_error() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.store().set("key1", b"\xff\xfe").unwrap();
        match store.get(text("key1")) {
            Err(KvsError::NotUtf8(error)) => assert_eq!(error.as_bytes(), b"\xff\xfe"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_clone_is_the_same_store() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        let clone = store.clone();
        std::thread::spawn(move || clone.set(text("key1"), text("value1")))
            .join()
            .unwrap()
            .unwrap();
        assert_value(&store, "key1", Some("value1"));
    }
}

/// The course's load: 1000 keys, stored over and over, at most 1000 times.
mod compaction {
    use super::*;

    const ROUNDS: u32 = 1000;
    const KEYS: u32 = 1000;

    /// How often to run; asked for more than one, the reclaiming tests run the full length.
    fn runs() -> u32 {
        match std::env::var("KVS_COURSE_RUNS") {
            Ok(runs) => runs.parse().expect("KVS_COURSE_RUNS is a number"),
            Err(_) => 1,
        }
    }

    fn open_default(dir: &Path) -> Result<KvStore> {
        KvStore::open(dir)
    }

    fn open_smallest_segments(dir: &Path) -> Result<KvStore> {
        let options = Options::new().compaction(Compaction::Foreground);
        let store = options.segment_bytes(64 << 10).open(dir)?;
        Ok(KvStore::from_store(store))
    }

    fn key(id: u32) -> String {
        format!("key{id}")
    }

    fn set_all(store: &KvStore, round: u32) {
        for id in 0..KEYS {
            store.set(key(id), round.to_string()).unwrap();
        }
    }

    fn assert_all(store: &KvStore, round: u32) {
        for id in 0..KEYS {
            assert_value(store, &key(id), Some(&round.to_string()));
        }
    }

    /// Sum of all file lengths. Panics if a file vanishes under the walk: between two calls of the
    /// store, none may.
    fn directory_bytes(dir: &Path) -> u64 {
        WalkDir::new(dir)
            .into_iter()
            .map(|entry| entry.and_then(|entry| entry.metadata()))
            .map(|metadata| metadata.expect("a file that stays").len())
            .sum()
    }

    /// The course's test: some round must leave the directory no larger than it was, and a reopen
    /// must then find that round's values.
    fn stops_growing(open: fn(&Path) -> Result<KvStore>) {
        let dir = TempDir::new().unwrap();
        let store = open(dir.path()).unwrap();
        let mut bytes = directory_bytes(dir.path());
        for round in 0..ROUNDS {
            set_all(&store, round);
            let bytes_now = directory_bytes(dir.path());
            if bytes_now > bytes {
                bytes = bytes_now;
                continue;
            }
            drop(store);
            assert_all(&open(dir.path()).unwrap(), round);
            return;
        }
        panic!("no compaction in {ROUNDS} rounds, {bytes} bytes");
    }

    fn record_bytes(store: &Store) -> u64 {
        let stats = store.stats();
        stats.live_bytes + stats.dead_bytes
    }

    /// What the course cannot see: live and dead bytes, which only grow unless dead ones are
    /// dropped, must fall; and what was compacted must leave the directory, hints included.
    fn reclaims(open: fn(&Path) -> Result<KvStore>) {
        let rounds = if runs() > 1 { ROUNDS } else { 200 };
        let dir = TempDir::new().unwrap();
        let store = open(dir.path()).unwrap();
        let mut falls = 0;
        let mut before = 0;
        for round in 0..rounds {
            set_all(&store, round);
            let now = record_bytes(store.store());
            falls += u32::from(now < before);
            before = now;
            directory_bytes(dir.path());
        }
        assert!(falls > 0, "nothing was reclaimed in {rounds} rounds");

        let segments = store.store().stats().segments.len();
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        // A segment and its hint; MANIFEST, a prepared segment, a hint being written.
        assert!(
            files <= 2 * segments + 3,
            "{files} files for {segments} segments after {falls} compactions"
        );

        assert_all(&store, rounds - 1);
        drop(store);
        let store = open(dir.path()).unwrap();
        assert_all(&store, rounds - 1);
        assert_eq!(store.store().len(), u64::from(KEYS));
        assert_eq!(store.store().verify().unwrap().damage, []);
    }

    #[test]
    fn the_directory_stops_growing() {
        for _ in 0..runs() {
            stops_growing(open_default);
        }
    }

    #[test]
    fn the_directory_stops_growing_with_the_smallest_segments() {
        for _ in 0..runs() {
            stops_growing(open_smallest_segments);
        }
    }

    #[test]
    fn space_is_reclaimed() {
        for _ in 0..runs() {
            reclaims(open_default);
        }
    }

    #[test]
    fn space_is_reclaimed_with_the_smallest_segments() {
        for _ in 0..runs() {
            reclaims(open_smallest_segments);
        }
    }
}

/// Projects 1 and 2 on the command line.
#[cfg(feature = "cli")]
mod command_line {
    use predicates::str::{contains, is_empty, starts_with};

    use super::*;

    fn kvs(dir: &TempDir, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_kvs"));
        let command = command.current_dir(dir).env_remove("KVS_DIR");
        command.args(arguments).assert()
    }

    #[test]
    fn no_arguments_fail() {
        kvs(&TempDir::new().unwrap(), &[]).failure();
    }

    #[test]
    fn the_version_is_the_crates() {
        kvs(&TempDir::new().unwrap(), &["-V"])
            .success()
            .stdout(contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn get_of_a_missing_key_says_so_and_succeeds() {
        kvs(&TempDir::new().unwrap(), &["get", "key1"])
            .success()
            .stdout("Key not found\n");
    }

    #[test]
    fn rm_of_a_missing_key_says_so_and_fails() {
        kvs(&TempDir::new().unwrap(), &["rm", "key1"])
            .failure()
            .stdout("Key not found\n");
    }

    #[test]
    fn set_is_silent() {
        kvs(&TempDir::new().unwrap(), &["set", "key1", "value1"])
            .success()
            .stdout(is_empty())
            .stderr(is_empty());
    }

    #[test]
    fn get_prints_what_the_library_stored() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        store.set(text("key2"), text("value2")).unwrap();
        drop(store);
        kvs(&dir, &["get", "key1"]).success().stdout("value1\n");
        kvs(&dir, &["get", "key2"]).success().stdout("value2\n");
    }

    #[test]
    fn rm_is_silent_and_removes() {
        let dir = TempDir::new().unwrap();
        let store = KvStore::open(dir.path()).unwrap();
        store.set(text("key1"), text("value1")).unwrap();
        drop(store);
        kvs(&dir, &["rm", "key1"]).success().stdout(is_empty());
        kvs(&dir, &["get", "key1"])
            .success()
            .stdout(starts_with("Key not found"));
    }

    #[test]
    fn missing_and_extra_arguments_fail() {
        let dir = TempDir::new().unwrap();
        for arguments in [
            &["get"][..],
            &["get", "extra", "field"],
            &["set"],
            &["set", "missing_field"],
            &["set", "extra", "extra", "field"],
            &["rm"],
            &["rm", "extra", "field"],
            &["unknown", "subcommand"],
        ] {
            kvs(&dir, arguments).failure();
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}
