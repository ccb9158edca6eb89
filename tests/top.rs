//! `kvs top` in a pipe and as JSON: of a store that nobody writes to, and of one that another process
//! has open; what is not known is said not to be.
#![cfg(feature = "cli")]

mod cli_common;

use std::io::{BufRead, BufReader};
use std::path::Path;

use cli_common::*;
use kvs::{Compaction, Options, Store};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn look(dir: &Path) -> Value {
    let ran = run(dir, ["top", "--once", "--json"]).good();
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn options() -> Options {
    Options::new()
        .segment_bytes(64 << 10)
        .compaction(Compaction::Manual)
}

fn fill(store: &Store) {
    for round in 0..2u8 {
        for key in 0..300u32 {
            store.set(key.to_be_bytes(), [round; 500]).unwrap();
        }
    }
}

#[test]
fn of_a_store_that_nobody_writes_to_everything_is_known() {
    let dir = empty_dir();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    store.close().unwrap();
    let stats = run(dir.path(), ["stats", "--json"]).good();
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    let seen = look(dir.path());
    assert_eq!(seen["taken"], false);
    assert_eq!(seen["process"], Value::Null);
    for name in [
        "keys",
        "live_bytes",
        "dead_bytes",
        "disk_bytes",
        "reserve_bytes",
    ] {
        assert_eq!(seen[name], stats[name], "{name}");
    }
    assert_eq!(
        seen["disk_bytes_per_second"],
        Value::Null,
        "one look has no rate"
    );
    assert_eq!(seen["compaction_outputs"], 0);
    assert!(seen["sealed_seconds_ago"].as_f64().unwrap() < 600.0);
    let segments = seen["segments"].as_array().unwrap();
    let known = stats["segments"].as_array().unwrap();
    assert_eq!(segments.len(), known.len());
    for (segment, known) in segments.iter().zip(known) {
        for name in ["id", "kind", "live_bytes", "dead_bytes", "allocated_bytes"] {
            assert_eq!(segment[name], known[name], "{name}");
        }
    }
    assert!(segments.iter().any(|segment| segment["hinted"] == true));
}

#[test]
fn of_a_store_that_somebody_writes_to_files_are_known_and_who_it_is() {
    let dir = empty_dir();
    let store = options().open(dir.path()).unwrap();
    fill(&store);
    let seen = look(dir.path());
    assert_eq!(seen["taken"], true);
    assert_eq!(seen["process"], std::process::id());
    let command = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(seen["command"], command.trim());
    for name in ["keys", "live_bytes", "dead_bytes"] {
        assert_eq!(seen[name], Value::Null, "{name}");
    }
    let segments = seen["segments"].as_array().unwrap();
    assert!(segments.len() >= 4);
    let disk: u64 = segments
        .iter()
        .map(|segment| segment["allocated_bytes"].as_u64().unwrap())
        .sum();
    assert!(disk > 300_000 && seen["disk_bytes"].as_u64().unwrap() > disk);
    assert!(segments.iter().all(|segment| segment["kind"] == "log"));
    assert!(
        segments
            .iter()
            .all(|segment| segment["live_bytes"] == Value::Null)
    );
    let text = run(dir.path(), ["top", "--once"]).good().text();
    assert!(text.contains(&format!("writer      process {} ", std::process::id())));
    assert_eq!(
        text.matches("not known while somebody writes").count(),
        4,
        "{text}"
    );

    // What compaction has written has a hint: nothing is going on.
    store.compact().unwrap();
    let seen = look(dir.path());
    let kinds = seen["segments"].as_array().unwrap();
    assert!(kinds.iter().any(|segment| segment["kind"] == "merged"));
    assert_eq!(seen["compaction_outputs"], 0);
    let merged = kinds.iter().find(|segment| segment["kind"] == "merged");
    let hint = format!("{}.hint", merged.unwrap()["id"].as_str().unwrap());
    std::fs::remove_file(dir.path().join(hint)).unwrap();
    assert_eq!(
        look(dir.path())["compaction_outputs"],
        1,
        "before it has one"
    );
    store.close().unwrap();
    assert_eq!(look(dir.path())["taken"], false);
}

/// Looks at intervals see what happens between them, and leave the store to who wants to write.
#[test]
fn one_look_follows_the_other_until_a_signal() {
    let dir = empty_dir();
    let mut child = kvs(dir.path())
        .args(["top", "--interval", "0.1", "--json"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(
        (&first["keys"], &first["disk_bytes"]),
        (&0.into(), &0.into())
    );
    run(dir.path(), ["set", "k", "v"]).good();
    let mut grown = false;
    let seen = loop {
        let seen = next();
        grown |= seen["disk_bytes_per_second"].as_f64().unwrap() > 0.0;
        if seen["keys"] == 1 {
            break seen;
        }
    };
    assert!(grown && seen["disk_bytes"].as_u64().unwrap() > 0);
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn wrong_usage_and_what_is_not_there_are_told() {
    let dir = empty_dir();
    for interval in ["0", "0.05", "-1", "3601", "x", "1e300", "NaN"] {
        run(dir.path(), ["top", "--once", "--interval", interval]).code(USAGE);
    }
    run(dir.path(), ["top", "--once", "--interval", "0.1"]).good();
    run(dir.path(), ["-d", "none", "top", "--once"])
        .code(REFUSED)
        .says(&["no such directory"]);
    let text = run(dir.path(), ["top", "--once"]).good().text();
    assert!(text.contains("keys        0\n"), "{text}");
    // A reader that has seen enough.
    shell(dir.path(), "kvs top --interval 0.1 | head -1").good();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}
