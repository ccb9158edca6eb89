//! What the command line writes to files keeps what stood there, until there is something as good.
#![cfg(feature = "cli")]

mod cli_common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use cli_common::*;

fn two() -> tempfile::TempDir {
    store_with(&pairs([("one", "value 1"), ("two", "value 2")]))
}

fn damage(dir: &Path) {
    let segment = dir.join("0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(7).position(|w| w == b"value 2").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
}

/// Names in `dir` that no store has.
fn others(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| name(e).unwrap())
        .collect();
    names.retain(|name| kvs_format::name::parse(name).is_none());
    names.sort();
    names
}

#[test]
fn an_export_that_is_not_whole_leaves_the_last_good_one() {
    let dir = two();
    run(dir.path(), ["export", "kvx", "backup"]).good();
    let good = fs::read(dir.path().join("backup")).unwrap();
    damage(dir.path());
    run(dir.path(), ["export", "kvx", "backup"]).code(DAMAGED);
    assert_eq!(fs::read(dir.path().join("backup")).unwrap(), good);
    assert_eq!(others(dir.path()), ["backup", "backup.partial"]);
    let copy = empty_dir();
    let partial = dir.path().join("backup.partial");
    let import = ["import".as_ref(), "kvx".as_ref(), partial.as_os_str()];
    run(copy.path(), import).code(DAMAGED);
    assert_eq!(content(copy.path()), pairs([("one", "value 1")]));
}

#[test]
fn an_export_replaces_a_file_whole_and_leaves_nothing_else() {
    let dir = two();
    fs::write(
        dir.path().join("out"),
        "something longer than what comes, to be seen",
    )
    .unwrap();
    run(dir.path(), ["export", "tsv", "out", "--prefix", "one"]).good();
    assert_eq!(
        fs::read_to_string(dir.path().join("out")).unwrap(),
        "one\tvalue 1\n"
    );
    run(dir.path(), ["get", "two", "-o", "out"]).good();
    assert_eq!(
        fs::read_to_string(dir.path().join("out")).unwrap(),
        "value 2"
    );
    assert_eq!(others(dir.path()), ["out"]);
}

#[test]
fn no_link_leads_into_the_store() {
    let dir = two();
    let segment = dir.path().join("0000000000000001.seg");
    let elsewhere = empty_dir();
    symlink(&segment, elsewhere.path().join("soft")).unwrap();
    fs::hard_link(&segment, elsewhere.path().join("hard")).unwrap();
    let store = dir.path().to_str().unwrap();
    for verb in [["get", "one", "-o"], ["export", "tsv", "-o"]] {
        let soft = ["-d", store].into_iter().chain(verb).chain(["soft"]);
        run(elsewhere.path(), soft)
            .code(USAGE)
            .says(&["is a file of the store itself"]);
        // Only the name is replaced.
        let hard = ["-d", store].into_iter().chain(verb).chain(["hard"]);
        run(elsewhere.path(), hard).good();
    }
    assert_eq!(
        content(dir.path()),
        pairs([("one", "value 1"), ("two", "value 2")])
    );
}

#[test]
fn what_is_no_file_is_written_directly() {
    let dir = two();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for verb in [["get", "one", "-o"], ["export", "tsv", "-o"]] {
        let (read, end) = (pipe.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || end.0.send(fs::read(read)));
        run(dir.path(), verb.into_iter().chain(["pipe"])).good();
        let patience = std::time::Duration::from_secs(20);
        let got = end.1.recv_timeout(patience).expect("it reached the pipe");
        assert!(got.unwrap().windows(7).any(|w| w == b"value 1"));
    }
    run(dir.path(), ["get", "one", "-o", "/dev/stdout"])
        .good()
        .prints("value 1");
}

/// The directory the store comes to be in is walked last, when batches have long been written.
#[test]
fn a_store_that_comes_to_be_in_the_tree_it_imports_is_no_part_of_it() {
    let dir = empty_dir();
    fs::create_dir(dir.path().join("later")).unwrap();
    let mut wanted = Pairs::new();
    for i in 0..800 {
        let key = format!("{i}");
        fs::write(dir.path().join(&key), vec![b'x'; 20_000]).unwrap();
        wanted.insert(key.into_bytes(), vec![b'x'; 20_000]);
    }
    run(dir.path(), ["-d", "later/store", "import", "files", "."]).good();
    assert_eq!(content(&dir.path().join("later/store")), wanted);
}

#[test]
fn a_signal_ends_the_waiting_for_a_taken_store() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = two();
    let taken = kvs::Store::open(dir.path()).unwrap();
    for verb in ["import", "export"] {
        let child = kvs(dir.path())
            .args(["--wait", "600", verb, "tsv"])
            .stdin(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"k\tv\n").unwrap();
        drop(stdin);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "{verb} waits");
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{verb}");
    }
    drop(taken);
}

#[test]
fn advice_can_be_followed_letter_by_letter() {
    let dir = empty_dir();
    fed(dir.path(), ["import", "tsv"], b"a\tb\tc\n")
        .code(DAMAGED)
        .says(&[r"is written `\t`"]);
    fed(dir.path(), ["import", "ndjson"], br#"["k",null,"v",null]"#)
        .code(DAMAGED)
        .says(&["an object is expected"]);
    run(dir.path(), ["count", "-5"]).good().prints("0\n");
}

#[test]
fn wrong_usage_sends_no_escape_sequence_to_a_terminal() {
    let dir = empty_dir();
    for arguments in [
        ["get", "--\x1b]0;PWN\x07"],
        ["\u{9b}31m", "x"],
        ["--wait", "\x1b[2J"],
    ] {
        let ran = run(dir.path(), arguments);
        assert_eq!(ran.code, Some(USAGE));
        let harmless = |c: char| !c.is_control() || c == '\n';
        assert!(ran.stderr.chars().all(harmless), "{:?}", ran.stderr);
        assert!(ran.stderr.contains("Usage") || ran.stderr.contains("--help"));
    }
    let ran = run(dir.path(), ["--json", "get"]).code(USAGE);
    let said: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(said["exit_code"], USAGE);
    assert!(said["error"].as_str().unwrap().contains("<KEY>"));
}

#[test]
fn a_reader_that_is_gone_changes_no_verdict() {
    let dir = two();
    damage(dir.path());
    for (arguments, code) in [(&["verify"][..], DAMAGED), (&["rm", "nothing"], DAMAGED)] {
        let mut child = kvs(dir.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?}");
    }
    let dir = two();
    let mut child = kvs(dir.path()).args(["rm", "nothing"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(NOT_FOUND));
}
