//! Every door by which bytes get into a store or out of it through the command line: arguments,
//! standard input, files, hexadecimal and base64 keys, JSON, pipes between commands; and waiting for
//! the lock, which pipes between commands need.
#![cfg(feature = "cli")]

mod cli_common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use cli_common::*;
use data_encoding::{BASE64, HEXLOWER};
use kvs::Store;
use proptest::prelude::*;
use serde_json::{Value, json};

mod values {
    use super::*;

    #[test]
    fn a_dash_reads_standard_input() {
        let dir = empty_dir();
        let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        fed(dir.path(), ["set", "k", "-"], &bytes).good().prints("");
        assert_eq!(run(dir.path(), ["get", "--raw", "k"]).good().stdout, bytes);
        fed(dir.path(), ["set", "k", "--value-file", "-"], b"other").good();
        run(dir.path(), ["get", "k"]).good().prints("other\n");
        fed(dir.path(), ["set", "empty", "-"], b"").good();
        run(dir.path(), ["get", "--raw", "empty"]).good().prints("");
        run(dir.path(), ["exists", "empty"]).good();
    }

    #[test]
    fn a_literal_dash_and_anything_else_is_said_with_an_equals_sign() {
        let dir = empty_dir();
        for value in ["-", "--", "-x", "--raw", "-5", "", "a=b"] {
            run(dir.path(), ["set", "k", &format!("--value={value}")]).good();
            run(dir.path(), ["get", "--raw", "k"]).good().prints(value);
        }
    }

    #[test]
    fn negative_numbers_need_no_dashes_before_them() {
        let dir = empty_dir();
        run(dir.path(), ["set", "temp", "-5"]).good();
        run(dir.path(), ["get", "temp"]).good().prints("-5\n");
        run(dir.path(), ["set", "-1", "-0.5"]).good();
        run(dir.path(), ["get", "-1"]).good().prints("-0.5\n");
        run(dir.path(), ["exists", "-1"]).good();
        run(dir.path(), ["rm", "-1"]).good();
    }

    #[test]
    fn a_file_is_a_value() {
        let dir = empty_dir();
        let bytes: Vec<u8> = (0..=255).rev().collect();
        fs::write(dir.path().join("in"), &bytes).unwrap();
        run(dir.path(), ["-d", "s", "set", "k", "--value-file", "in"]).good();
        let store = dir.path().join("s");
        assert_eq!(content(&store), pairs([("k", &bytes)]));
        run(dir.path(), ["-d", "s", "set", "k", "--value-file", "none"])
            .code(REFUSED)
            .says(&["cannot read: none: No such file", "check the name"]);
        run(dir.path(), ["-d", "s", "set", "k", "--value-file", "."])
            .code(REFUSED)
            .says(&["cannot read: .: Is a directory"]);
        assert_eq!(content(&store), pairs([("k", &bytes)]));
    }

    #[test]
    fn a_value_goes_to_a_file_and_a_missing_one_leaves_it_alone() {
        let dir = store_with(&pairs([("k", b"\x00\xff\n")]));
        let out = dir.path().join("out");
        run(dir.path(), ["get", "k", "-o", "out"]).good().prints("");
        assert_eq!(fs::read(&out).unwrap(), b"\x00\xff\n");
        run(dir.path(), ["get", "none", "--output", "out"])
            .code(NOT_FOUND)
            .prints("");
        assert_eq!(fs::read(&out).unwrap(), b"\x00\xff\n");
        run(dir.path(), ["get", "none", "-o", "new"]).code(NOT_FOUND);
        assert!(!dir.path().join("new").exists());
        assert_eq!(
            run(dir.path(), ["get", "k", "-o", "-"]).good().stdout,
            b"\x00\xff\n"
        );
        run(dir.path(), ["get", "k", "-o", "none/out"])
            .code(REFUSED)
            .says(&["cannot write: none/out: No such file"]);
    }

    #[test]
    fn no_file_of_the_store_is_written_over() {
        let dir = store_with(&pairs([("k", "v")]));
        let above = dir.path().parent().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        for file in [
            "MANIFEST",
            "./0000000000000001.seg",
            "0000000000000009.hint",
        ] {
            for verb in [&["get", "k", "-o", file][..], &["export", "kvx", file]] {
                run(dir.path(), verb)
                    .code(USAGE)
                    .says(&[&format!("{file} is a file of the store itself")]);
            }
            let path = format!("{name}/{file}");
            run(above, ["-d", name, "get", "k", "-o", &path]).code(USAGE);
        }
        assert_eq!(content(dir.path()), pairs([("k", "v")]));
        // The same name elsewhere is anybody's.
        fs::create_dir(dir.path().join("other")).unwrap();
        run(dir.path(), ["get", "k", "-o", "other/MANIFEST"]).good();
    }

    #[test]
    fn one_value_at_a_time() {
        let dir = empty_dir();
        for arguments in [
            &["set", "k"][..],
            &["set", "k", "v", "--value=v"],
            &["set", "k", "v", "--value-file", "f"],
            &["set", "k", "--value=v", "--value-file", "f"],
            &["get", "k", "--raw", "-o", "f"],
            &["get", "k", "--json", "-o", "f"],
            &["get", "k", "--json", "--raw"],
        ] {
            run(dir.path(), arguments).code(USAGE);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

mod keys {
    use super::*;

    #[test]
    fn hexadecimal_and_base64_keys_go_through_every_verb() {
        let key = b"\x00\xff\n\ttail";
        for (flag, text) in [
            ("--key-hex", HEXLOWER.encode(key)),
            ("--key-b64", BASE64.encode(key)),
        ] {
            let dir = empty_dir();
            let run = |verb: &str, more: &[&str]| {
                run(dir.path(), [&[verb, flag, &text][..], more].concat())
            };
            run("exists", &[]).code(NOT_FOUND);
            run("set", &["value"]).good();
            assert_eq!(content(dir.path()), pairs([(key, "value")]));
            run("get", &[]).good().prints("value\n");
            run("exists", &[]).good();
            run("count", &[]).good().prints("1\n");
            run("keys", &[]).good().prints(&format!("{text}\n"));
            run("scan", &[]).good().prints(&format!("{text}\tvalue\n"));
            run("rm", &[]).good();
            run("count", &[]).good().prints("0\n");
        }
    }

    #[test]
    fn what_is_neither_is_wrong_usage_and_is_named() {
        let dir = store_with(&pairs([("k", "v")]));
        for (flag, text, name) in [
            ("--key-hex", "0g", "hexadecimal"),
            ("--key-hex", "000", "hexadecimal"),
            ("--key-b64", "AP8", "base64"),
        ] {
            for verb in ["get", "rm", "exists", "keys", "scan", "count"] {
                run(dir.path(), [verb, flag, text])
                    .code(USAGE)
                    .says(&[&format!("the key `{text}` is not {name}: ")]);
            }
        }
        run(dir.path(), ["get", "--key-hex", "--key-b64", "00"]).code(USAGE);
    }

    #[test]
    fn keys_are_listed_by_prefix_and_number_and_end_as_asked() {
        let dir = store_with(&pairs([("a1", "x"), ("a2", "y"), ("b\n1", "z")]));
        let list = |arguments: &[&str]| run(dir.path(), arguments).good();
        assert_eq!(list(&["keys"]).sorted(), ["1", "a1", "a2", "b"]);
        assert_eq!(list(&["keys", "a"]).sorted(), ["a1", "a2"]);
        list(&["keys", "b", "-0"]).prints("b\n1\0");
        list(&["keys", "b", "--null"]).prints("b\n1\0");
        list(&["scan", "b", "-0"]).prints("b\n1\tz\0");
        assert_eq!(list(&["keys", "--limit", "2", "--json"]).sorted().len(), 2);
        list(&["keys", "c"]).prints("");
        list(&["keys", "b", "--json"]).prints("{\"key\":\"b\\n1\"}\n");
        run(dir.path(), ["keys", "--json", "-0"]).code(USAGE);
        run(dir.path(), ["keys", "a", "b"]).code(USAGE);
    }
}

mod as_json {
    use super::*;

    fn objects(ran: &Ran) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        ran.text().lines().map(parse).collect()
    }

    #[track_caller]
    fn object(ran: Ran) -> Value {
        let mut all = objects(&ran);
        assert_eq!(all.len(), 1, "one object: {all:?}");
        all.remove(0)
    }

    #[test]
    fn every_verb_answers_with_one_object_a_line() {
        let dir = empty_dir();
        let run = |arguments: &[&str]| run(dir.path(), [&["--json"], arguments].concat());
        let stored = object(run(&["set", "k", "v"]).good());
        assert_eq!(stored, json!({"key": "k", "stored": true}));
        fed(dir.path(), ["set", "b", "-"], b"\xff").good();
        let got = |key| object(run(&["get", key]).good());
        assert_eq!(got("k"), json!({"key": "k", "value": "v"}));
        assert_eq!(got("b"), json!({"key": "b", "value_b64": "/w=="}));
        let missing = object(run(&["get", "none"]).code(NOT_FOUND));
        assert_eq!(missing, json!({"key": "none", "value": null}));
        let exists = |key, code| object(run(&["exists", key]).code(code));
        assert_eq!(exists("k", 0), json!({"key": "k", "exists": true}));
        assert_eq!(
            exists("none", NOT_FOUND),
            json!({"key": "none", "exists": false})
        );
        let ttl = |key, code| object(run(&["ttl", key]).code(code));
        let never = json!({"key": "k", "exists": true, "expires_at": null, "ttl_ms": null});
        assert_eq!(ttl("k", 0), never);
        assert_eq!(ttl("none", NOT_FOUND)["exists"], json!(false));
        let expired = object(run(&["expire", "k", "--ms", "4000000000123"]).good());
        assert_eq!(expired, json!({"key": "k", "exists": true}));
        assert_eq!(ttl("k", 0)["expires_at"], json!(4_000_000_000_123_u64));
        assert!(ttl("k", 0)["ttl_ms"].is_number());
        let none = object(run(&["expire", "none", "1"]).code(NOT_FOUND));
        assert_eq!(none, json!({"key": "none", "exists": false}));
        let persist = |key, code| object(run(&["persist", key]).code(code));
        let is =
            |key, exists, persisted| json!({"key": key, "exists": exists, "persisted": persisted});
        assert_eq!(persist("k", 0), is("k", true, true));
        assert_eq!(persist("k", NOT_FOUND), is("k", true, false));
        assert_eq!(persist("none", NOT_FOUND), is("none", false, false));
        assert_eq!(object(run(&["count"]).good()), json!({"count": 2}));
        assert_eq!(object(run(&["count", "b"]).good()), json!({"count": 1}));
        assert_eq!(
            objects(&run(&["scan", "k"]).good()),
            [json!({"key": "k", "value": "v"})]
        );
        assert_eq!(objects(&run(&["keys"]).good()).len(), 2);
        assert_eq!(
            objects(&run(&["scan", "k", "--keys"]).good()),
            [json!({"key": "k"})]
        );

        let stats = object(run(&["stats"]).good());
        assert_eq!((&stats["keys"], &stats["clean"]), (&json!(2), &json!(true)));
        let segment = &stats["segments"][0];
        assert_eq!(segment["id"], json!("0000000000000001"));
        assert_eq!(segment["live_bytes"], stats["live_bytes"]);
        for field in [
            "dead_bytes",
            "expired_bytes",
            "pinned_bytes",
            "index_bytes",
            "disk_bytes",
            "open_seconds",
        ] {
            assert!(stats[field].is_number(), "{field}");
        }
        let verified = object(run(&["verify"]).good());
        assert_eq!(
            (&verified["damaged"], &verified["segments"]),
            (&json!(0), &json!(1))
        );
        let compacted = object(run(&["compact"]).good());
        assert!(compacted["bytes_after"].is_number(), "{compacted}");

        let exported = object(run(&["export", "kvx", "out.kvx"]).good());
        assert_eq!(
            (&exported["pairs"], &exported["left_out"]),
            (&json!(2), &json!(0))
        );
        assert_eq!(exported["bytes"], json!(4));
        let imported = object(run(&["import", "kvx", "out.kvx"]).good());
        assert_eq!(
            (&imported["pairs"], &imported["bytes"]),
            (&json!(2), &json!(4))
        );
        // To standard output the pairs are the objects.
        assert_eq!(
            objects(&run(&["export", "ndjson", "--prefix", "k"]).good()).len(),
            1
        );

        let removed = |key, code| object(run(&["rm", key]).code(code));
        assert_eq!(removed("k", 0), json!({"key": "k", "removed": true}));
        assert_eq!(
            removed("k", NOT_FOUND),
            json!({"key": "k", "removed": false})
        );
        run(&["man"]).code(USAGE);
        run(&["completions", "bash"]).code(USAGE);
    }

    #[test]
    fn errors_are_objects_too() {
        let dir = empty_dir();
        let ran = run(dir.path(), ["--json", "-d", "none\n", "get", "k"]).code(REFUSED);
        assert_eq!(ran.stdout, b"");
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["exit_code"], json!(REFUSED));
        let text = error["error"].as_str().unwrap();
        assert!(text.contains("none\n: no such directory"), "{text}");
    }

    #[test]
    fn damage_is_listed_as_objects() {
        let dir = store_with(&pairs([("one", "value 1"), ("two", "value 2")]));
        let segment = dir.path().join("0000000000000001.seg");
        let mut bytes = fs::read(&segment).unwrap();
        let at = bytes.windows(7).position(|w| w == b"value 2").unwrap();
        bytes[at] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let ran = run(dir.path(), ["--json", "verify"]).code(DAMAGED);
        let lines = objects(&ran);
        assert_eq!(lines.len(), 2);
        assert!(lines[0]["file"].as_str().unwrap().ends_with(".seg"));
        assert!(lines[0]["offset"].as_u64().unwrap() >= 4096);
        assert_eq!(lines[1]["damaged"], json!(1));
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["exit_code"], json!(DAMAGED));
    }
}

mod pipes {
    use super::*;

    #[test]
    fn commands_in_a_pipe_share_a_store() {
        let dir = store_with(&pairs([("a", "1"), ("b", "2"), ("c", "3")]));
        shell(dir.path(), "kvs get a | kvs set d -").good();
        run(dir.path(), ["get", "--raw", "d"]).good().prints("1\n");
        shell(dir.path(), "kvs get --raw a | kvs set d -").good();
        run(dir.path(), ["get", "--raw", "d"]).good().prints("1");
        let each = "kvs keys | while read k; do kvs get \"$k\"; done";
        assert_eq!(
            shell(dir.path(), each).good().sorted(),
            ["1", "1", "2", "3"]
        );
        shell(
            dir.path(),
            "kvs keys | while read k; do kvs set \"$k\" new || exit 1; done",
        )
        .good();
        assert_eq!(shell(dir.path(), each).good().sorted(), ["new"; 4]);
        shell(
            dir.path(),
            "kvs export ndjson | kvs import ndjson && kvs export kvx | kvs import kvx -q",
        )
        .good();
        shell(
            dir.path(),
            "kvs keys | while read k; do kvs rm \"$k\" || exit 1; done",
        )
        .good();
        run(dir.path(), ["count"]).good().prints("0\n");
    }

    #[test]
    fn a_value_larger_than_a_pipe_is_copied_onto_its_own_key() {
        let big: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        let dir = store_with(&pairs([("big", &big)]));
        shell(dir.path(), "kvs get --raw big | kvs set big - --wait 0").good();
        assert_eq!(content(dir.path()), pairs([("big", &big)]));
    }

    /// What a killed process leaves: a copy of the files of an open store.
    fn unclean(all: &Pairs) -> tempfile::TempDir {
        let (dir, copy) = (empty_dir(), empty_dir());
        let store = Store::open(dir.path()).unwrap();
        for (key, value) in all {
            store.set(key, value).unwrap();
        }
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        store.close().unwrap();
        copy
    }

    #[test]
    fn a_listing_outlives_the_recovery_of_what_it_lists() {
        let many = pairs((0..20_000).map(|i| (format!("key {i:0>20}"), "before")));
        let dir = unclean(&many);
        let mut child = kvs(dir.path()).arg("scan").spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        // Recovers, goes on in a new segment, drops and removes the one that is being listed.
        let lines: String = many
            .keys()
            .map(|k| format!("{}\tafter\n", k.escape_ascii()))
            .collect();
        fed(
            dir.path(),
            ["--wait", "0", "import", "tsv"],
            lines.as_bytes(),
        )
        .good();
        run(dir.path(), ["--wait", "0", "compact"]).good();
        assert!(!dir.path().join("0000000000000001.seg").exists());
        stdout.read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let listed = text.lines().map(|line| line.split_once('\t').unwrap());
        assert_eq!(pairs(listed), many);
    }

    #[test]
    fn a_listing_that_nobody_reads_holds_no_lock_and_keeps_its_snapshot() {
        let many = pairs((0..20_000).map(|i| (format!("key {i:0>20}"), "before")));
        for verb in [&["keys"][..], &["scan", "--keys"], &["export", "tsv"]] {
            let dir = store_with(&many);
            let mut child = kvs(dir.path()).args(verb).spawn().unwrap();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut first = String::new();
            stdout.read_line(&mut first).unwrap();
            // It is at work and cannot be done: a pipe does not hold so much.
            assert_eq!(child.try_wait().unwrap(), None);
            run(dir.path(), ["--wait", "0", "set", "key 1", "after"]).good();
            shell(dir.path(), "kvs scan 'key 000' --keys --limit 5000 | sed 's/\\(.*\\)/\\1\\tnew/' | kvs import tsv -q").good();
            run(dir.path(), ["--wait", "0", "compact"]).good();
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).unwrap();
            let lines: std::collections::BTreeSet<&str> =
                rest.lines().chain([first.trim_end()]).collect();
            assert_eq!(lines.len(), many.len(), "{verb:?}");
            assert!(!rest.contains("new") && !rest.contains("after"));
            assert!(child.wait().unwrap().success());
        }
    }
}

mod waiting {
    use super::*;

    #[test]
    fn a_store_that_is_taken_is_waited_for_and_no_longer_than_asked() {
        let dir = store_with(&pairs([("k", "v")]));
        let timed = |arguments: &[&str]| {
            let begin = Instant::now();
            let ran = run(dir.path(), arguments);
            (begin.elapsed(), ran)
        };
        let store = Store::open(dir.path()).unwrap();
        for verb in [
            &["set", "k", "w"][..],
            &["get", "k"],
            &["rm", "k"],
            &["export", "tsv"],
        ] {
            let (took, ran) = timed(&[&["--wait", "0"], verb].concat());
            ran.code(LOCKED)
                .says(&["in use by another process; try again when", "--wait"]);
            assert!(took < Duration::from_millis(900), "{took:?}");
        }
        let (took, ran) = timed(&["--wait", "0.4", "set", "k", "w"]);
        ran.code(LOCKED);
        assert!(took >= Duration::from_millis(400), "{took:?}");
        let (took, ran) = timed(&["set", "k", "w"]);
        ran.code(LOCKED);
        assert!(took >= Duration::from_secs(2), "{took:?}");
        run(dir.path(), ["--wait", "-1", "get", "k"]).code(USAGE);
        run(dir.path(), ["--wait", "soon", "get", "k"]).code(USAGE);

        let path = dir.path().to_owned();
        let waiting = std::thread::spawn(move || run(&path, ["--wait", "20", "set", "k", "w"]));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        store.close().unwrap();
        waiting.join().unwrap().good();
        run(dir.path(), ["get", "k"]).good().prints("w\n");
    }
}

/// A key that is the name of a file below a directory.
fn file_name(key: &[u8]) -> Vec<u8> {
    let harmless = |byte: &u8| match byte {
        0 => 1,
        b'/' => b'_',
        byte => *byte,
    };
    let mut name: Vec<u8> = key.iter().take(200).map(harmless).collect();
    name.push(b'.');
    name.insert(0, b'f');
    name
}

/// Puts a pair in by the door of this number.
fn put(dir: &Path, door: usize, key: &[u8], value: &[u8]) {
    let no_zero = !key.contains(&0) && !value.contains(&0);
    let mut arguments: Vec<OsString> = vec!["set".into()];
    match door % 4 {
        0 if no_zero => {
            let mut text = b"--value=".to_vec();
            text.extend_from_slice(value);
            arguments.extend([OsString::from_vec(text), "--".into()]);
            arguments.push(OsStr::from_bytes(key).into());
            run(dir, arguments).good();
        }
        1 => {
            let file = dir.join("value file");
            fs::write(&file, value).unwrap();
            let key = BASE64.encode(key);
            arguments.extend(["--value-file".into(), file.into()]);
            arguments.extend(["--key-b64".into(), "--".into(), key.into()]);
            run(dir, arguments).good();
        }
        2 => {
            let line = json!({"key_b64": BASE64.encode(key), "value_b64": BASE64.encode(value)});
            fed(dir, ["import", "ndjson"], line.to_string().as_bytes()).good();
        }
        _ => {
            arguments.extend(["--key-hex".into(), "--".into()]);
            arguments.extend([HEXLOWER.encode(key).into(), "-".into()]);
            fed(dir, arguments, value).good();
        }
    }
}

fn member(object: &Value, name: &str) -> Vec<u8> {
    match object[name].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let text = object[format!("{name}_b64")].as_str().unwrap();
            BASE64.decode(text.as_bytes()).unwrap()
        }
    }
}

/// Takes everything out by every door.
fn take_by_every_door(dir: &Path, all: &Pairs) {
    for (key, value) in all {
        let hex = HEXLOWER.encode(key);
        let get = |more: &[&str]| {
            run(dir, [&["get", "--key-hex", &hex], more].concat())
                .good()
                .stdout
        };
        assert_eq!(get(&["--raw"]), *value);
        assert_eq!(get(&[]), [value, &b"\n"[..]].concat());
        get(&["-o", "taken out"]);
        assert_eq!(fs::read(dir.join("taken out")).unwrap(), *value);
        let object: Value = serde_json::from_slice(&get(&["--json"])).unwrap();
        assert_eq!(
            (member(&object, "key"), member(&object, "value")),
            (key.clone(), value.clone())
        );
    }
    for verb in [&["scan", "--json"][..], &["export", "ndjson"]] {
        let text = run(dir, verb).good().text();
        let objects = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = pairs(objects.map(|o| (member(&o, "key"), member(&o, "value"))));
        assert_eq!(found, *all);
    }
    let listed = run(dir, ["keys", "--key-b64"]).good().text();
    let listed = listed
        .lines()
        .map(|line| BASE64.decode(line.as_bytes()).unwrap());
    assert!(listed.eq(listed_order(dir)));
    for format in ["ndjson", "tsv", "kvx"] {
        let copy = empty_dir();
        let bytes = run(dir, ["export", format]).good().stdout;
        fed(copy.path(), ["import", format], &bytes).good();
        assert_eq!(content(copy.path()), *all, "{format}");
    }
}

fn listed_order(dir: &Path) -> impl Iterator<Item = Vec<u8>> {
    let store = Store::open_read_only(dir).unwrap();
    store.keys().unwrap().map(|key| key.unwrap().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_through_any_door_come_out_through_any_other(
        input in prop::collection::btree_map(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[\\\\\t\r\n\"{}a-]{0,9}".prop_map(String::into_bytes),
            ],
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                "\\PC{0,40}".prop_map(String::into_bytes),
            ],
            1..5,
        ),
        first_door in 0usize..4,
    ) {
        let dir = empty_dir();
        for (index, (key, value)) in input.iter().enumerate() {
            put(dir.path(), first_door + index, key, value);
        }
        prop_assert_eq!(content(dir.path()), input.clone());
        take_by_every_door(dir.path(), &input);

        // Files: the same values under keys that are file names.
        let tree = empty_dir();
        let named = pairs(input.iter().map(|(key, value)| (file_name(key), value)));
        for (name, value) in &named {
            fs::write(tree.path().join(OsStr::from_bytes(name)), value).unwrap();
        }
        let store = empty_dir();
        run(store.path(), [OsStr::new("import"), "files".as_ref(), tree.path().as_os_str()]).good();
        prop_assert_eq!(content(store.path()), named.clone());
        run(store.path(), ["export", "files", "copy"]).good();
        for (name, value) in &named {
            let path = store.path().join("copy").join(OsStr::from_bytes(name));
            prop_assert_eq!(&fs::read(path).unwrap(), value);
        }
        prop_assert_eq!(fs::read_dir(store.path().join("copy")).unwrap().count(), named.len());
    }
}
