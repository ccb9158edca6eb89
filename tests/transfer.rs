//! Import and export as people and scripts meet them: whole trees there and back, what a bad line or a
//! damaged export is told and what it costs, interruption, and the memory it takes.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout)]

mod cli_common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli_common::*;
use kvs_format::kvx::Encoder;
use rustix::process::{Pid, Signal, kill_process};

/// splitmix64 (Steele, Lea, Flood, 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn random_bytes(state: &mut u64, len: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| random(state)).take(len.div_ceil(8));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// At least 5,000 files of at least 100 MB: empty ones, large ones, names of any bytes.
fn tree(root: &Path) -> (u64, u64) {
    use std::os::unix::ffi::OsStrExt;
    let mut state = 1;
    let (mut files, mut total) = (0, 0);
    for index in 0..5_200u64 {
        let dir = root.join(format!("d{}/e {}", index % 40, index % 7));
        fs::create_dir_all(&dir).unwrap();
        let len = match index {
            0 => 0,
            1 => 9 << 20,
            _ => random(&mut state) % 40_000,
        };
        let mut name = format!("file {index}").into_bytes();
        if index % 9 == 0 {
            name.extend_from_slice(b"\xff\n\\t");
        }
        let bytes = random_bytes(&mut state, len as usize);
        fs::write(dir.join(std::ffi::OsStr::from_bytes(&name)), bytes).unwrap();
        files += 1;
        total += len;
    }
    (files, total)
}

/// `diff -r`, or an answer from our own walk where there is none.
fn assert_equal_trees(one: &Path, other: &Path) {
    match Command::new("diff").arg("-r").args([one, other]).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.is_empty(), "{text}");
        }
        Err(error) => {
            assert!(
                std::env::var_os("KVS_REQUIRE_ALL").is_none(),
                "diff: {error}"
            );
            println!("SKIPPED: diff cannot be started: {error}");
        }
    }
    let list = |root: &Path| {
        let entries = walkdir::WalkDir::new(root).sort_by_file_name().min_depth(1);
        let entry = |entry: walkdir::DirEntry| {
            let below = entry.path().strip_prefix(root).unwrap().to_owned();
            (below, entry.file_type().is_file())
        };
        entries
            .into_iter()
            .map(|e| entry(e.unwrap()))
            .collect::<Vec<_>>()
    };
    let listed = list(one);
    assert_eq!(listed, list(other));
    for (below, is_file) in listed {
        let same = || fs::read(one.join(&below)).unwrap() == fs::read(other.join(&below)).unwrap();
        assert!(!is_file || same(), "{}", below.display());
    }
}

/// Limits the memory that a process may have for itself; maps of files do not count.
fn limited(dir: &Path, megabytes: u64, command: &str) -> Ran {
    shell(
        dir,
        &format!("ulimit -d {}; exec {command}", megabytes << 10),
    )
}

#[test]
fn a_large_tree_goes_in_and_out_by_every_format_in_little_memory() {
    let dir = empty_dir();
    let (files, bytes) = tree(&dir.path().join("tree"));
    assert!(files >= 5_000 && bytes >= 100_000_000);
    let run = |command: &str| limited(dir.path(), 72, command).good();
    run("kvs -d store import files tree");
    run("kvs -d store count").prints(&format!("{files}\n"));
    run("kvs -d store export files out");
    assert_equal_trees(&dir.path().join("tree"), &dir.path().join("out"));
    let mut store = "store".to_owned();
    for format in ["ndjson", "tsv", "kvx"] {
        run(&format!("kvs -d {store} export {format} out.{format}"));
        store = format!("from {format}");
        run(&format!("kvs -d '{store}' import {format} out.{format}"));
        fs::remove_file(dir.path().join(format!("out.{format}"))).unwrap();
        store = format!("'{store}'");
    }
    run(&format!("kvs -d {store} verify"));
    run(&format!("kvs -d {store} export files again"));
    assert_equal_trees(&dir.path().join("tree"), &dir.path().join("again"));
}

#[test]
fn memory_is_limited_in_these_tests_indeed() {
    let dir = empty_dir();
    let value = vec![b'x'; 64 << 20];
    fs::write(dir.path().join("value"), value).unwrap();
    let ran = limited(dir.path(), 20, "kvs set k --value-file value");
    assert_ne!(ran.code, Some(0), "{ran:?}");
}

mod lines {
    use super::*;

    const GOOD: &str = "{\"key\":\"a\",\"value\":\"1\"}\n";

    #[test]
    fn a_malformed_line_is_named_with_file_number_and_reason() {
        for (format, good, bad, reason) in [
            (
                "ndjson",
                GOOD,
                "{\"key\":\"b\"}\n",
                "neither `value` nor `value_b64`",
            ),
            (
                "ndjson",
                GOOD,
                "{\"key\":\"b\",\n",
                "column 11: EOF while parsing",
            ),
            (
                "ndjson",
                GOOD,
                "{\"key\":\"b\",\"value\":\"\\x\"}\n",
                "column 22: invalid escape",
            ),
            ("ndjson", GOOD, "[]\n", "column 1: an object is expected"),
            ("tsv", "a\t1\n", "b\n", "no tab between key and value"),
            ("tsv", "a\t1\n", "b\t1\t2\n", "more than one tab"),
            ("tsv", "a\t1\n", "b\t\\q\n", "`\\q` is no escape"),
        ] {
            let dir = empty_dir();
            let text = format!("{good}{bad}{}", good.replacen('a', "c", 1));
            fs::write(dir.path().join("in"), &text).unwrap();
            run(dir.path(), ["-d", "s", "import", format, "in"])
                .code(DAMAGED)
                .says(&[
                    "kvs: in:2: ",
                    reason,
                    "1 pairs before it are stored",
                    "--keep-going",
                ])
                .prints("");
            assert_eq!(content(&dir.path().join("s")), pairs([("a", "1")]));

            let ran = run(
                dir.path(),
                ["-d", "t", "import", format, "in", "--keep-going"],
            );
            let ran = ran.code(NOT_FOUND).prints("");
            let said: Vec<&str> = ran.stderr.lines().collect();
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(said[0].starts_with("kvs: in:2: ") && said[0].ends_with("; left out"));
            assert!(said[1].starts_with("kvs: imported 2 pairs, "), "{said:?}");
            assert!(said[1].ends_with(", left out 1"), "{said:?}");
            assert_eq!(
                content(&dir.path().join("t")),
                pairs([("a", "1"), ("c", "1")])
            );

            fed(dir.path(), ["-d", "u", "import", format], text.as_bytes())
                .code(DAMAGED)
                .says(&["kvs: standard input:2: ", reason]);
        }
    }

    #[test]
    fn of_many_bad_lines_some_are_told_and_all_are_counted() {
        let dir = empty_dir();
        let text = "bad\n".repeat(1000) + "a\t1\n";
        let ran = fed(
            dir.path(),
            ["import", "tsv", "-", "--keep-going"],
            text.as_bytes(),
        );
        let ran = ran.code(NOT_FOUND);
        assert_eq!(ran.stderr.lines().count(), 21);
        assert!(ran.stderr.ends_with("left out 1,000\n"), "{}", ran.stderr);
        assert_eq!(content(dir.path()), pairs([("a", "1")]));
        let arguments = ["import", "tsv", "-", "--keep-going", "--json"];
        let ran = fed(dir.path(), arguments, text.as_bytes()).code(NOT_FOUND);
        let told: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(told["left_out"], 1000);
    }

    #[test]
    fn what_is_too_long_for_a_store_is_a_bad_line() {
        let dir = empty_dir();
        let key = "k".repeat(65_536);
        let text = format!("{}\t1\n{key}\t2\n", &key[1..]);
        fed(dir.path(), ["import", "tsv"], text.as_bytes())
            .code(DAMAGED)
            .says(&["standard input:2: key of 65536 bytes, at most 65535 are allowed"]);
        assert_eq!(content(dir.path()), pairs([(&key[1..], "1")]));
    }

    #[test]
    fn the_last_line_of_a_key_counts_and_blank_lines_do_not() {
        let dir = empty_dir();
        let text = "\n{\"key\":\"a\",\"value\":\"1\"}\r\n\n{\"value\":\"2\",\"key\":\"a\"}";
        fed(dir.path(), ["import", "ndjson"], text.as_bytes()).good();
        assert_eq!(content(dir.path()), pairs([("a", "2")]));
        fed(dir.path(), ["import", "tsv"], b"a\t3\na\t4").good();
        assert_eq!(content(dir.path()), pairs([("a", "4")]));
    }

    #[test]
    fn order_holds_between_batches_and_large_values() {
        let dir = empty_dir();
        let large = "x".repeat(600_000);
        let text = format!("a\tsmall\na\t{large}\nb\t{large}\nb\tsmall\n");
        fed(dir.path(), ["import", "tsv"], text.as_bytes()).good();
        assert_eq!(
            content(dir.path()),
            pairs([("a", &large[..]), ("b", "small")])
        );
    }

    #[test]
    fn in_bulk_everything_is_stored_or_nothing() {
        let dir = store_with(&pairs([("a", "old"), ("kept", "1")]));
        let large = "x".repeat(600_000);
        let text = format!("a\t1\nb\t{large}\na\t2\n\tempty\n");
        fed(dir.path(), ["import", "tsv", "--bulk"], text.as_bytes()).good();
        let all = pairs([("a", "2"), ("b", &large[..]), ("", "empty"), ("kept", "1")]);
        assert_eq!(content(dir.path()), all);

        let bad = "c\t1\nno tab\nd\t2\n";
        fed(dir.path(), ["import", "tsv", "--bulk"], bad.as_bytes())
            .code(DAMAGED)
            .says(&["standard input:2: ", "; 0 pairs before it are stored"]);
        assert_eq!(content(dir.path()), all);
        let arguments = ["import", "tsv", "--bulk", "--keep-going", "--json"];
        let ran = fed(dir.path(), arguments, bad.as_bytes()).code(NOT_FOUND);
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(
            text.starts_with("{\"pairs\":2,\"bytes\":4,\"left_out\":1,"),
            "{text}"
        );
        assert_eq!(content(dir.path()).len(), 6);

        let export = run(dir.path(), ["export", "kvx"]).good();
        let copy = empty_dir();
        fed(copy.path(), ["import", "kvx", "--bulk"], b"").code(DAMAGED);
        assert!(std::fs::read_dir(copy.path()).unwrap().next().is_none());
        let cut = &export.stdout[..export.stdout.len() - 1];
        fed(copy.path(), ["import", "kvx", "--bulk"], cut).code(DAMAGED);
        assert_eq!(content(copy.path()), pairs::<&str, &str>([]));
        fed(copy.path(), ["import", "kvx", "--bulk"], &export.stdout).good();
        assert_eq!(content(copy.path()), content(dir.path()));
    }

    #[test]
    fn nothing_to_import_creates_nothing() {
        let dir = empty_dir();
        for format in ["ndjson", "tsv"] {
            run(dir.path(), ["import", format]).good();
            run(dir.path(), ["import", format, "--bulk"]).good();
        }
        run(dir.path(), ["import", "tsv", "none"])
            .code(REFUSED)
            .says(&["cannot read: none: No such file"]);
        run(dir.path(), ["import", "tsv", "."])
            .code(REFUSED)
            .says(&["cannot read: .: is a directory"]);
        run(dir.path(), ["import"]).code(USAGE);
        run(dir.path(), ["import", "csv"]).code(USAGE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

mod exports {
    use super::*;

    #[test]
    fn they_are_what_they_are_said_to_be() {
        let dir = store_with(&pairs([("k\t1", "v\\\r\n"), ("k2", "\u{1}\"")]));
        assert_eq!(
            run(dir.path(), ["export", "tsv"]).good().sorted(),
            ["k2\t\u{1}\"", "k\\t1\tv\\\\\\r\\n"]
        );
        assert_eq!(
            run(dir.path(), ["export", "ndjson"]).good().sorted(),
            [
                "{\"key\":\"k2\",\"value\":\"\\u0001\\\"\"}",
                "{\"key\":\"k\\t1\",\"value\":\"v\\\\\\r\\n\"}"
            ]
        );
        let mut encoder = Encoder::new();
        let mut bytes = Encoder::header().to_vec();
        bytes.extend_from_slice(&encoder.pair(b"k2", b"\x01\"", None).unwrap());
        bytes.extend_from_slice(b"k2\x01\"");
        bytes.extend_from_slice(&encoder.end());
        let ran = run(dir.path(), ["export", "kvx", "--prefix", "k2"]).good();
        assert_eq!(ran.stdout, bytes);
        for to in [&["out"][..], &["-o", "out"], &["--output", "out"]] {
            let arguments = [&["export", "kvx", "--prefix=6b32", "--key-hex"], to].concat();
            run(dir.path(), arguments).good().prints("");
            assert_eq!(fs::read(dir.path().join("out")).unwrap(), bytes);
            fs::remove_file(dir.path().join("out")).unwrap();
        }
        run(dir.path(), ["export", "kvx", "a", "-o", "b"]).code(USAGE);
        run(dir.path(), ["export", "tsv", "none/out"])
            .code(REFUSED)
            .says(&["cannot write: none/out: No such file"]);
    }

    #[test]
    fn of_nothing_they_are_empty_and_create_no_store() {
        let dir = empty_dir();
        run(dir.path(), ["export", "tsv"]).good().prints("");
        let ran = run(dir.path(), ["export", "kvx"]).good();
        assert_eq!(ran.stdout.len(), 16 + 48);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fed(dir.path(), ["import", "kvx"], &ran.stdout).good();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        let dir = store_with(&pairs((0..3000).map(|i| (format!("{i}"), [b'v'; 200]))));
        for format in ["ndjson", "tsv", "kvx"] {
            let mut child = kvs(dir.path()).args(["export", format]).spawn().unwrap();
            let mut some = [0; 100];
            child.stdout.take().unwrap().read_exact(&mut some).unwrap();
            let ran = Ran::from(child.wait_with_output().unwrap());
            ran.good();
        }
    }

    #[test]
    fn a_damaged_store_gives_what_is_intact_and_says_so() {
        let dir = store_with(&pairs([("one", "value 1"), ("two", "value 2")]));
        let segment = dir.path().join("0000000000000001.seg");
        let mut bytes = fs::read(&segment).unwrap();
        let at = bytes.windows(7).position(|w| w == b"value 2").unwrap();
        bytes[at] ^= 1;
        fs::write(&segment, bytes).unwrap();
        run(dir.path(), ["export", "tsv"])
            .code(DAMAGED)
            .prints("one\tvalue 1\n")
            .says(&[".seg: damaged at offset "]);
        // Nor can the part be taken for the whole later.
        let part = run(dir.path(), ["export", "kvx"]).code(DAMAGED).stdout;
        let copy = empty_dir();
        fed(copy.path(), ["import", "kvx"], &part)
            .code(DAMAGED)
            .says(&["needs 24 bytes, has 0; 1 pairs before it are stored"]);
        assert_eq!(content(copy.path()), pairs([("one", "value 1")]));
    }
}

mod kvx {
    use super::*;

    fn exported(all: &Pairs) -> Vec<u8> {
        let dir = store_with(all);
        run(dir.path(), ["export", "kvx"]).good().stdout
    }

    #[test]
    fn no_damaged_byte_gets_in_and_what_came_before_it_stays() {
        let all = pairs([("a", "1"), ("b", "2"), ("c", "3")]);
        let good = exported(&all);
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let dir = empty_dir();
            for more in [&[][..], &["--keep-going"]] {
                fed(dir.path(), [&["import", "kvx"], more].concat(), &bad)
                    .code(DAMAGED)
                    .says(&[
                        "kvs: standard input at offset ",
                        "pairs before it are stored",
                    ]);
            }
            let got = content(dir.path());
            assert!(
                got.iter().all(|(key, value)| all.get(key) == Some(value)),
                "{got:?}"
            );
            let frame = 26;
            assert_eq!(
                got.len(),
                at.saturating_sub(16).min(3 * frame) / frame,
                "byte {at}"
            );
        }
        for cut in [0, 10, 16, 40, good.len() - 1] {
            let dir = empty_dir();
            fed(dir.path(), ["import", "kvx"], &good[..cut])
                .code(DAMAGED)
                .says(&["needs ", " bytes, has "]);
        }
        let dir = empty_dir();
        fed(
            dir.path(),
            ["import", "kvx"],
            b"{\"key\":\"a\",\"value\":\"1\"}",
        )
        .code(DAMAGED)
        .says(&["at offset 0: not a file of this kind"]);
    }

    fn expiring(at: u64) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut bytes = Encoder::header().to_vec();
        for (key, value, expires_at) in [("a", "1", None), ("b", "2", Some(at)), ("c", "3", None)] {
            let head = encoder.pair(key.as_bytes(), value.as_bytes(), expires_at);
            bytes.extend_from_slice(&head.unwrap());
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(&encoder.end());
        bytes
    }

    #[test]
    fn what_has_expired_stays_away_and_what_will_expire_does() {
        let dir = empty_dir();
        fed(dir.path(), ["import", "kvx"], &expiring(1)).good();
        assert_eq!(content(dir.path()), pairs([("a", "1"), ("c", "3")]));
        let dir = empty_dir();
        let at = 4_000_000_000_123;
        fed(dir.path(), ["import", "kvx"], &expiring(at)).good();
        let expiries = |dir: &Path| -> Vec<kvs::Expiry> {
            let store = kvs::Options::new().open(dir).unwrap();
            let of = |key| store.expires_at(key).unwrap().unwrap();
            ["a", "b", "c"].map(of).to_vec()
        };
        let expected = [kvs::Expiry::Never, kvs::Expiry::At(at), kvs::Expiry::Never];
        assert_eq!(expiries(dir.path()), expected);
        // And on to another store, in both formats that can say so.
        for format in ["kvx", "ndjson"] {
            let exported = run(dir.path(), ["export", format]).good().stdout;
            let copy = empty_dir();
            fed(copy.path(), ["import", format], &exported).good();
            assert_eq!(expiries(copy.path()), expected, "{format}");
            let copy = empty_dir();
            fed(copy.path(), ["import", format, "--bulk"], &exported).good();
            assert_eq!(expiries(copy.path()), expected, "{format} in bulk");
        }
        let line = run(dir.path(), ["export", "ndjson", "--prefix", "b"]).good();
        assert_eq!(
            line.text(),
            "{\"key\":\"b\",\"value\":\"2\",\"expires_at\":4000000000123}\n"
        );
    }

    /// Also one that is larger than a batch, and one that is over by now.
    #[test]
    fn in_bulk_an_older_value_does_not_outlive_a_pair_that_is_over() {
        let dir = store_with(&pairs([("b", "old"), ("large", "old"), ("kept", "1")]));
        fed(dir.path(), ["import", "kvx", "--bulk"], &expiring(1)).good();
        let left = [("a", "1"), ("c", "3"), ("kept", "1"), ("large", "old")];
        assert_eq!(content(dir.path()), pairs(left));
        let large = "x".repeat(600_000);
        let line =
            |at: u64| format!("{{\"key\":\"large\",\"value\":\"{large}\",\"expires_at\":{at}}}\n");
        let at = 4_000_000_000_123;
        fed(
            dir.path(),
            ["import", "ndjson", "--bulk"],
            line(at).as_bytes(),
        )
        .good();
        let store = kvs::Store::open_read_only(dir.path()).unwrap();
        assert_eq!(
            store.expires_at("large").unwrap(),
            Some(kvs::Expiry::At(at))
        );
        assert_eq!(store.get("large").unwrap().unwrap().len(), large.len());
        drop(store);
        fed(
            dir.path(),
            ["import", "ndjson", "--bulk"],
            line(1).as_bytes(),
        )
        .good();
        assert_eq!(content(dir.path()), pairs(left[..3].iter().copied()));
        run(dir.path(), ["compact"]).good();
        assert_eq!(content(dir.path()), pairs(left[..3].iter().copied()));
    }

    /// A clock that is set back shows what was imported, and nothing else.
    #[test]
    fn in_bulk_a_pair_that_is_over_keeps_its_value_and_its_time() {
        let large = "x".repeat(600_000);
        let lines = format!(
            "{{\"key\":\"b\",\"value\":\"2\",\"expires_at\":1}}\n\
             {{\"key\":\"large\",\"value\":\"{large}\",\"expires_at\":2}}\n"
        );
        for bulk in [true, false] {
            let dir = store_with(&pairs([("b", "old"), ("large", "old"), ("kept", "1")]));
            let bulk_too = bulk.then_some("--bulk");
            let arguments = ["import", "ndjson"].into_iter().chain(bulk_too);
            fed(dir.path(), arguments, lines.as_bytes()).good();
            assert_eq!(content(dir.path()), pairs([("kept", "1")]));
            for (now, there) in [(0, [true, true]), (1, [false, true]), (2, [false; 2])] {
                let clock = std::time::UNIX_EPOCH + Duration::from_millis(now);
                let options = kvs::Options::new().clock(move || clock);
                let store = options.open(dir.path()).unwrap();
                for (key, value, at, there) in [
                    ("b", &b"2"[..], 1, there[0]),
                    ("large", large.as_bytes(), 2, there[1]),
                ] {
                    // One by one they are removals.
                    let wanted = (there && bulk).then_some((value, kvs::Expiry::At(at)));
                    let (found, expiry) = (store.get(key), store.expires_at(key).unwrap());
                    let found = found.unwrap();
                    let found = found.as_deref().zip(expiry);
                    assert!(found == wanted, "{key} at {now}, bulk {bulk}: {expiry:?}");
                }
            }
        }
    }

    #[test]
    fn the_reader_written_from_the_specification_reads_it() {
        let every: Vec<u8> = (0..=255).collect();
        let all = pairs([(&b"a"[..], &every[..]), (&every, b""), (b"", b"x")]);
        let dir = empty_dir();
        let file = dir.path().join("export.kvx");
        fs::write(&file, exported(&all)).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/format/reader.py");
        let reader = || {
            Command::new("python3")
                .args([script, "--kvx"])
                .arg(&file)
                .output()
        };
        let output = match reader() {
            Ok(output) => output,
            Err(error) => {
                assert!(
                    std::env::var_os("KVS_REQUIRE_ALL").is_none(),
                    "python3: {error}"
                );
                println!("SKIPPED: python3 cannot be started: {error}");
                return;
            }
        };
        assert!(output.status.success());
        let hex = |value: &serde_json::Value| {
            data_encoding::HEXLOWER
                .decode(value.as_str().unwrap().as_bytes())
                .unwrap()
        };
        let mut found = Pairs::new();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["type"].as_str().unwrap() {
                "kvx_pair" => drop(found.insert(hex(&line["key"]), hex(&line["value"]))),
                "kvx_stop" => assert_eq!(line["whole"], true),
                _ => {}
            }
        }
        assert_eq!(found, all);
        let mut bytes = fs::read(&file).unwrap();
        bytes.pop();
        fs::write(&file, bytes).unwrap();
        assert_eq!(reader().unwrap().status.code(), Some(1));
    }
}

mod files {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_store_does_not_import_itself() {
        let dir = store_with(&pairs([("old", "pair")]));
        fs::write(dir.path().join("file"), "content").unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/MANIFEST"), "somebody else's").unwrap();
        run(dir.path(), ["import", "files", "."]).good();
        let wanted = [
            ("old", "pair"),
            ("file", "content"),
            ("below/MANIFEST", "somebody else's"),
        ];
        assert_eq!(content(dir.path()), pairs(wanted));
    }

    #[test]
    fn what_is_no_file_is_not_silently_forgotten() {
        let dir = empty_dir();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("below")).unwrap();
        fs::write(tree.join("below/file"), "content").unwrap();
        symlink("/etc/passwd", tree.join("link")).unwrap();
        run(dir.path(), ["-d", "s", "import", "files", "tree"])
            .code(DAMAGED)
            .says(&["kvs: tree/link: is a symbolic link"]);
        let arguments = ["-d", "t", "import", "files", "tree", "--keep-going"];
        let ran = run(dir.path(), arguments).code(NOT_FOUND);
        assert!(
            ran.stderr
                .contains("tree/link: is a symbolic link; left out")
        );
        assert!(ran.stderr.ends_with("left out 1\n"), "{}", ran.stderr);
        assert_eq!(
            content(&dir.path().join("t")),
            pairs([("below/file", "content")])
        );
        run(dir.path(), ["import", "files", "none"])
            .code(REFUSED)
            .says(&["cannot read: none: No such file"]);
        run(dir.path(), ["import", "files"]).code(USAGE);
        run(dir.path(), ["export", "files"]).code(USAGE);
    }

    #[test]
    fn keys_that_lead_elsewhere_are_never_written() {
        for key in [
            "../out",
            "/tmp/x",
            "a/../../out",
            "",
            "a//b",
            "a/",
            ".",
            "a\0b",
            &"n".repeat(256),
        ] {
            let dir = empty_dir();
            fs::create_dir(dir.path().join("in")).unwrap();
            let store = store_with(&pairs([(key, "bad"), ("good", "content")]));
            let path = store.path().to_str().unwrap();
            run(dir.path(), ["-d", path, "export", "files", "in/new"])
                .code(USAGE)
                .says(&["the key `", "` cannot be a file: ", "--keep-going"]);
            let arguments = ["-d", path, "export", "files", "in/other", "--keep-going"];
            let ran = run(dir.path(), arguments).code(NOT_FOUND);
            assert!(ran.stderr.ends_with("left out 1\n"), "{}", ran.stderr);
            assert_eq!(
                fs::read(dir.path().join("in/other/good")).unwrap(),
                b"content"
            );
            assert_eq!(
                fs::read_dir(dir.path().join("in/other")).unwrap().count(),
                1
            );
            let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(outside.len(), 1, "{outside:?}");
        }
    }

    #[test]
    fn two_keys_that_need_the_same_name_are_told_apart() {
        let dir = store_with(&pairs([("a", "file"), ("a/b", "below it")]));
        run(dir.path(), ["export", "files", "out"])
            .code(USAGE)
            .says(&["another key is a file where this one needs a directory"]);
        run(dir.path(), ["export", "files", "new", "--keep-going"]).code(NOT_FOUND);
    }

    #[test]
    fn an_existing_tree_is_left_alone() {
        let dir = store_with(&pairs([("a", "new")]));
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        run(dir.path(), ["export", "files", "out"]).good();
        fs::write(out.join("a"), "old").unwrap();
        run(dir.path(), ["export", "files", "out"])
            .code(REFUSED)
            .says(&["cannot write: out: a tree is written into a new or empty directory"]);
        assert_eq!(fs::read(out.join("a")).unwrap(), b"old");
        fs::write(dir.path().join("file"), "").unwrap();
        run(dir.path(), ["export", "files", "file"])
            .code(REFUSED)
            .says(&["file: "]);
        run(dir.path(), ["export", "files", "none/out"])
            .code(REFUSED)
            .says(&["none/out: "]);
    }
}

mod interrupted {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    fn signal(child: &std::process::Child, signal: Signal) {
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn line(index: u64) -> String {
        format!("key {index:08}\tvalue {index:08} {}\n", "x".repeat(80))
    }

    #[test]
    fn an_import_ends_with_whole_pairs_in_order() {
        for (which, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let dir = empty_dir();
            let mut child = kvs(dir.path())
                .args(["import", "tsv"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let fed = Arc::new(AtomicU64::new(0));
            let feeding = {
                let fed = Arc::clone(&fed);
                // Until nobody listens any more.
                std::thread::spawn(move || {
                    while stdin.write_all(line(fed.load(Relaxed)).as_bytes()).is_ok() {
                        fed.fetch_add(1, Relaxed);
                    }
                })
            };
            // More than all buffers and batches on the way hold: some are stored.
            wait_until("pairs are stored", || fed.load(Relaxed) > 60_000);
            signal(&child, which);
            let begin = Instant::now();
            let ran = Ran::from(child.wait_with_output().unwrap()).code(code);
            assert!(begin.elapsed() < Duration::from_secs(10));
            feeding.join().unwrap();
            let stored = content(dir.path());
            ran.says(&[&format!("interrupted; {} pairs are stored", stored.len())]);
            assert!(!stored.is_empty());
            let expected = (0..stored.len() as u64).map(|index| {
                let line = line(index);
                let (key, value) = line.trim_end().split_once('\t').unwrap();
                (key.to_owned(), value.to_owned())
            });
            assert!(stored == pairs(expected), "not the first pairs");
            // Closed, not merely killed.
            let store = kvs::Store::open_read_only(dir.path()).unwrap();
            assert!(store.recovery().clean);
        }
    }

    #[test]
    fn a_bulk_import_ends_with_nothing() {
        for (which, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let dir = store_with(&pairs([("before", "1")]));
            let mut child = kvs(dir.path())
                .args(["import", "tsv", "--bulk"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // More than all buffers and batches on the way hold: the load is under way.
            for index in 0..60_000 {
                stdin.write_all(line(index).as_bytes()).unwrap();
            }
            signal(&child, which);
            let ran = Ran::from(child.wait_with_output().unwrap()).code(code);
            drop(stdin);
            ran.says(&["interrupted; 0 pairs are stored"]);
            assert_eq!(content(dir.path()), pairs([("before", "1")]));
            let store = kvs::Store::open_read_only(dir.path()).unwrap();
            assert!(store.recovery().clean);
        }
    }

    #[test]
    fn an_export_ends_with_a_whole_record() {
        let all = pairs((0..3000).map(|i| (format!("key {i}"), "v".repeat(900 + i % 200))));
        let dir = store_with(&all);
        for format in ["tsv", "ndjson", "kvx"] {
            let mut child = kvs(dir.path()).args(["export", format]).spawn().unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let mut bytes = vec![0; 1000];
            stdout.read_exact(&mut bytes).unwrap();
            signal(&child, Signal::INT);
            std::thread::sleep(Duration::from_millis(50));
            stdout.read_to_end(&mut bytes).unwrap();
            let ran = Ran::from(child.wait_with_output().unwrap()).code(130);
            let copy = empty_dir();
            let import = fed(copy.path(), ["import", format], &bytes);
            if format == "kvx" {
                // Whole records, and no word that this was all.
                import.code(DAMAGED).says(&["needs 24 bytes, has 0"]);
            } else {
                import.good();
            }
            let got = content(copy.path());
            ran.says(&[&format!("interrupted; {} pairs are written", got.len())]);
            assert!(!got.is_empty() && got.len() < all.len(), "{}", got.len());
            assert!(got.iter().all(|(key, value)| all.get(key) == Some(value)));
        }
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        let all = pairs((0..3000).map(|i| (format!("key {i}"), "v".repeat(1000))));
        let dir = store_with(&all);
        let mut child = kvs(dir.path()).args(["export", "tsv"]).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // Blocked: the pipe is full and stays so.
        stdout.read_exact(&mut [0; 100]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        signal(&child, Signal::INT);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(child.try_wait().unwrap(), None);
        signal(&child, Signal::INT);
        wait_until("the second signal", || child.try_wait().unwrap().is_some());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(2));
    }
}

mod the_lock {
    use super::*;

    #[test]
    fn an_import_that_waits_for_its_input_lets_others_write() {
        let dir = empty_dir();
        let mut child = kvs(dir.path())
            .args(["import", "tsv"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // More than a batch, so that something is written at once.
        let first = "first\t1\n".to_owned() + &"x\ty\n".repeat(5000);
        stdin.write_all(first.as_bytes()).unwrap();
        wait_until("the first batch is stored", || {
            run(dir.path(), ["--wait", "0", "exists", "first"]).code == Some(0)
        });
        run(dir.path(), ["--wait", "0", "set", "between", "2"]).good();
        stdin.write_all(b"last\t3\n").unwrap();
        drop(stdin);
        Ran::from(child.wait_with_output().unwrap()).good();
        let got = content(dir.path());
        let wanted = [("first", "1"), ("x", "y"), ("between", "2"), ("last", "3")];
        assert_eq!(got, pairs(wanted));
    }

    #[test]
    fn an_import_that_is_busy_lets_others_in_between_batches() {
        let dir = empty_dir();
        let mut child = kvs(dir.path())
            .args(["import", "tsv"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            let begin = Instant::now();
            let lines = "key\tvalue\n".repeat(2000);
            while begin.elapsed() < Duration::from_secs(5) {
                stdin.write_all(lines.as_bytes()).unwrap();
            }
        });
        wait_until("it has begun", || dir.path().join("MANIFEST").exists());
        // Far longer than the default: the machine may be busy too.
        run(dir.path(), ["--wait", "30", "set", "between", "others"]).good();
        assert!(!feeding.is_finished(), "let in only at the end");
        feeding.join().unwrap();
        Ran::from(child.wait_with_output().unwrap()).good();
        let wanted = [("between", "others"), ("key", "value")];
        assert_eq!(content(dir.path()), pairs(wanted));
    }

    #[test]
    fn an_import_into_a_store_that_stays_taken_gives_up() {
        let dir = store_with(&pairs([("k", "v")]));
        let store = kvs::Store::open(dir.path()).unwrap();
        fed(dir.path(), ["--wait", "0.1", "import", "tsv"], b"a\tb\n")
            .code(LOCKED)
            .says(&["in use by another process"]);
        store.close().unwrap();
        assert_eq!(content(dir.path()), pairs([("k", "v")]));
    }
}
