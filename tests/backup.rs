//! `kvs backup`, `restore` and `repair` as a person or a script meets them: what they print, how they
//! exit, and what is there afterwards.

mod cli_common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cli_common::*;
use kvs::{Options, Store};
use serde_json::Value;

/// A store of several segments, in `dir/store`.
fn several(dir: &Path) -> Pairs {
    let options = Options::new().segment_bytes(64 << 10);
    let store = options.open(dir.join("store")).unwrap();
    for n in 0..2000u32 {
        store
            .set(format!("key {}", n % 900), vec![n as u8; 150])
            .unwrap();
    }
    store.close().unwrap();
    content(&dir.join("store"))
}

fn inodes(dir: &Path) -> BTreeSet<u64> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let segments = entries.filter(|e| e.path().extension().is_some_and(|e| e == "seg"));
    segments
        .map(|entry| entry.metadata().unwrap().ino())
        .collect()
}

fn objects(ran: &Ran) -> Vec<Value> {
    let lines = ran.text();
    let lines = lines.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(dir).unwrap().map(name);
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn what_is_backed_up_is_restored() {
    let dir = empty_dir();
    let dir = dir.path();
    let pairs = several(dir);
    let ran = run(dir, ["-d", "store", "backup", "there/copy"]).good();
    assert!(
        ran.text().starts_with("keys      900\nsegments  "),
        "{}",
        ran.text()
    );
    assert_eq!(content(&dir.join("there/copy")), pairs);
    assert!(!inodes(&dir.join("store")).is_disjoint(&inodes(&dir.join("there/copy"))));
    // The store goes on, and is lost.
    run(dir, ["-d", "store", "rm", "key 1"]).good();
    fs::remove_dir_all(dir.join("store")).unwrap();
    let ran = run(dir, ["--json", "-d", "store", "restore", "there/copy"]).good();
    let [said] = &objects(&ran)[..] else {
        panic!("{}", ran.text());
    };
    assert_eq!((&said["keys"], &said["linked"]), (&900.into(), &0.into()));
    assert_eq!(said["bytes"], said["bytes_copied"]);
    assert_eq!(content(&dir.join("store")), pairs);
    assert!(inodes(&dir.join("store")).is_disjoint(&inodes(&dir.join("there/copy"))));
    run(dir, ["-d", "store", "verify"]).good();
    run(dir, ["-d", "store", "set", "key 1", "again"]).good();
    assert_eq!(content(&dir.join("there/copy")), pairs);
}

#[test]
fn backups_share_what_has_not_changed_with_the_one_before() {
    let dir = empty_dir();
    let dir = dir.path();
    several(dir);
    run(dir, ["-d", "store", "backup", "--copy", "monday"]).good();
    assert!(inodes(&dir.join("store")).is_disjoint(&inodes(&dir.join("monday"))));
    run(dir, ["-d", "store", "set", "new", "one"]).good();
    let arguments = [
        "--json", "-d", "store", "backup", "--copy", "--since", "monday", "tuesday",
    ];
    let said = objects(&run(dir, arguments).good()).remove(0);
    assert!(said["shared"].as_u64().unwrap() > 2, "{said}");
    assert_eq!(said["linked"], 0);
    let [monday, tuesday] = ["monday", "tuesday"].map(|name| inodes(&dir.join(name)));
    let both = monday.intersection(&tuesday).count() as u64;
    assert_eq!(said["shared"], both);
    fs::remove_dir_all(dir.join("monday")).unwrap();
    assert_eq!(content(&dir.join("tuesday")), content(&dir.join("store")));
    run(dir, ["-d", "tuesday", "verify"]).good();
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = empty_dir();
    let dir = dir.path();
    several(dir);
    fs::create_dir(dir.join("full")).unwrap();
    fs::write(dir.join("full/file"), "mine").unwrap();
    let before = names(dir);
    let backup = |dest: &str| run(dir, ["-d", "store", "backup", dest]);
    backup("full")
        .code(REFUSED)
        .says(&["full exists and is not an empty directory"]);
    backup("store").code(REFUSED).says(&["inside the store"]);
    backup("store/copy")
        .code(REFUSED)
        .says(&["inside the store"]);
    run(dir, ["-d", "nowhere", "backup", "copy"])
        .code(REFUSED)
        .says(&["no such directory"]);
    run(dir, ["-d", "full", "backup", "copy"])
        .code(DAMAGED)
        .says(&["MANIFEST is missing"]);
    let since = ["-d", "store", "backup", "--since", "full", "copy"];
    run(dir, since)
        .code(DAMAGED)
        .says(&["full/MANIFEST is missing"]);
    run(dir, ["-d", "full", "restore", "store"])
        .code(REFUSED)
        .says(&["not an empty directory"]);
    run(dir, ["-d", "new", "restore", "nowhere"])
        .code(REFUSED)
        .says(&["no such directory"]);
    let ran = run(dir, ["restore", "store"]).code(USAGE);
    assert!(ran.stderr.contains("--dir"), "{}", ran.stderr);
    let ran = run(dir, ["repair"]).code(USAGE);
    assert!(ran.stderr.contains("DEST"), "{}", ran.stderr);
    run(dir, ["repair", "--dry-run", "dest"]).code(USAGE);
    assert_eq!(names(dir), before);
    // Somebody writes: advice that fits.
    let store = Store::open(dir.join("store")).unwrap();
    let taken = ["--wait", "0", "-d", "store"];
    run(dir, taken.iter().chain(&["backup", "copy"]))
        .code(LOCKED)
        .says(&["in use by another process", "KVS.CHECKPOINT"]);
    run(dir, taken.iter().chain(&["repair", "copy"]))
        .code(LOCKED)
        .says(&["in use"]);
    store.close().unwrap();
    assert_eq!(names(dir), before);
}

/// Flips a byte in the middle of a value of the first segment.
fn damage(dir: &Path) -> String {
    let name = names(dir)
        .into_iter()
        .find(|name| name.ends_with(".seg"))
        .unwrap();
    let mut bytes = fs::read(dir.join(&name)).unwrap();
    bytes[4096 + 1000] ^= 1;
    fs::write(dir.join(&name), bytes).unwrap();
    // Without it the segment is read when the store is opened.
    let _ = fs::remove_file(dir.join(name.replace(".seg", ".hint")));
    name
}

#[test]
fn a_damaged_store_is_repaired_and_the_report_says_what_is_lost() {
    let dir = empty_dir();
    let dir = dir.path();
    let pairs = several(dir);
    run(dir, ["--json", "-d", "store", "repair", "--dry-run"]).good();
    let name = damage(&dir.join("store"));
    run(dir, ["-d", "store", "set", "a", "b"])
        .code(DAMAGED)
        .says(&["kvs repair"]);
    run(dir, ["-d", "store", "backup", "copy"])
        .code(DAMAGED)
        .says(&["kvs repair"]);
    run(dir, ["-d", "copy", "restore", "store"])
        .code(DAMAGED)
        .says(&["kvs repair"]);
    let before: Vec<_> = names(&dir.join("store"))
        .iter()
        .map(|name| fs::read(dir.join("store").join(name)).unwrap())
        .collect();
    let dry = run(dir, ["--json", "-d", "store", "repair", "--dry-run"]).code(DAMAGED);
    let said = objects(&dry);
    let [range, summary] = &said[..] else {
        panic!("{said:?}");
    };
    assert!(range["file"].as_str().unwrap().ends_with(&name), "{range}");
    assert_eq!(range["records"], 1);
    assert_eq!(range["first_lsn"], range["last_lsn"]);
    assert_eq!(
        (&summary["dry_run"], &summary["lost"]),
        (&true.into(), &1.into())
    );
    assert_eq!(names(dir), BTreeSet::from(["store".to_owned()]));

    let done = run(dir, ["--json", "-d", "store", "repair", "mended"]).code(DAMAGED);
    let [_, again] = &objects(&done)[..] else {
        panic!("{}", done.text());
    };
    assert_eq!(again["keys"], summary["keys"]);
    let mended = content(&dir.join("mended"));
    assert!(pairs.len() - mended.len() <= 1);
    let same = mended
        .iter()
        .filter(|(key, value)| pairs.get(*key) == Some(value));
    assert!(pairs.len() - same.count() <= 1);
    run(dir, ["-d", "mended", "verify"]).good();
    let after: Vec<_> = names(&dir.join("store"))
        .iter()
        .map(|name| fs::read(dir.join("store").join(name)).unwrap())
        .collect();
    assert!(before == after, "the source was changed");
    let lines = run(dir, ["-d", "store", "repair", "--dry-run"]).code(DAMAGED);
    assert!(
        lines.text().contains(&format!("{name}: lost: ")),
        "{}",
        lines.text()
    );
    assert!(lines.stderr.contains("1 range is lost"), "{}", lines.stderr);
}

#[test]
fn a_whole_store_is_repaired_into_the_same() {
    let dir = empty_dir();
    let dir = dir.path();
    let pairs = several(dir);
    let ran = run(dir, ["-d", "store", "repair", "mended"]).good();
    assert!(ran.text().contains("ranges lost  0\n"), "{}", ran.text());
    assert_eq!(content(&dir.join("mended")), pairs);
}
