//! The `kvs` command as scripts and people meet it: every verb, flag, exit code and error text.

#![cfg(feature = "cli")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::assert::Assert;
use kvs::Store;
use predicates::prelude::*;
use predicates::str::{contains, diff, is_empty};
use tempfile::TempDir;

const NOT_FOUND: i32 = 1;
const USAGE: i32 = 2;
const LOCKED: i32 = 3;
const DAMAGED: i32 = 4;
const REFUSED: i32 = 5;

fn empty_dir() -> TempDir {
    TempDir::new().unwrap()
}

fn command(dir: &Path) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_kvs"));
    command.current_dir(dir).env_remove("KVS_DIR");
    command
}

/// Runs `kvs` with `dir` as current directory.
fn kvs<A: AsRef<OsStr>>(dir: impl AsRef<Path>, arguments: impl IntoIterator<Item = A>) -> Assert {
    command(dir.as_ref()).args(arguments).assert()
}

fn dir_with(pairs: &[(&[u8], &[u8])]) -> TempDir {
    let dir = empty_dir();
    let store = Store::open(dir.path()).unwrap();
    for (key, value) in pairs {
        store.set(key, value).unwrap();
    }
    store.close().unwrap();
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Every file and its bytes.
fn image(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    files(dir).into_iter().map(read).collect()
}

/// One line, for people, that says who speaks and what to do next.
fn one_line() -> impl Predicate<str> {
    predicate::function(|text: &str| {
        text.starts_with("kvs: ") && text.ends_with('\n') && text.lines().count() == 1
    })
}

mod course_verbs {
    use super::*;

    #[test]
    fn set_get_and_rm_do_what_they_say() {
        let dir = empty_dir();
        kvs(&dir, ["set", "key", "one"])
            .success()
            .stdout(is_empty())
            .stderr(is_empty());
        kvs(&dir, ["get", "key"]).success().stdout("one\n");
        kvs(&dir, ["set", "key", "two"]).success();
        kvs(&dir, ["get", "key"]).success().stdout("two\n");
        kvs(&dir, ["rm", "key"])
            .success()
            .stdout(is_empty())
            .stderr(is_empty());
        kvs(&dir, ["get", "key"])
            .code(0)
            .stdout("Key not found\n")
            .stderr(is_empty());
        kvs(&dir, ["rm", "key"])
            .code(NOT_FOUND)
            .stdout("Key not found\n")
            .stderr(is_empty());
    }

    #[test]
    fn set_creates_the_directory_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = empty_dir();
        kvs(&dir, ["-d", "new", "set", "key", "value"]).success();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("new")), 0o700);
        for file in files(&dir.path().join("new")) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }

    #[test]
    fn empty_keys_and_values_are_keys_and_values() {
        let dir = empty_dir();
        kvs(&dir, ["set", "", "of the empty key"]).success();
        kvs(&dir, ["set", "empty", ""]).success();
        kvs(&dir, ["get", ""])
            .success()
            .stdout("of the empty key\n");
        kvs(&dir, ["get", "empty"]).success().stdout("\n");
        kvs(&dir, ["count"]).success().stdout("2\n");
    }

    #[test]
    fn bytes_that_are_no_utf8_go_in_and_come_out() {
        let dir = empty_dir();
        let key = OsString::from_vec(b"k\xff\xfe".to_vec());
        let value = OsString::from_vec(b"\x01v\x80\n\x1b[31m".to_vec());
        kvs(&dir, [OsStr::new("set"), &key, &value]).success();
        let mut line = value.as_bytes().to_vec();
        line.push(b'\n');
        // No terminal here: nothing is escaped.
        kvs(&dir, [OsStr::new("get"), &key]).success().stdout(line);
        kvs(&dir, [OsStr::new("exists"), &key]).success();
        kvs(&dir, ["scan"])
            .success()
            .stdout(&b"k\xff\xfe\t\x01v\x80\n\x1b[31m\n"[..]);
        kvs(&dir, [OsStr::new("rm"), &key]).success();
        kvs(&dir, ["count"]).success().stdout("0\n");
    }

    #[test]
    fn a_value_may_be_a_negative_number_or_anything_behind_two_dashes() {
        let dir = empty_dir();
        kvs(&dir, ["set", "key", "-5"]).success();
        kvs(&dir, ["get", "key"]).success().stdout("-5\n");
        kvs(&dir, ["set", "--", "-key", "--value"]).success();
        kvs(&dir, ["get", "--", "-key"])
            .success()
            .stdout("--value\n");
        kvs(&dir, ["set", "key", "--value"]).code(USAGE);
    }

    #[test]
    fn a_key_that_is_too_long_is_wrong_usage() {
        let dir = empty_dir();
        let longest = "k".repeat(65_535);
        kvs(&dir, ["set", &longest, "value"]).success();
        kvs(&dir, ["get", &longest]).success().stdout("value\n");
        kvs(&dir, ["set", &"k".repeat(65_536), "value"])
            .code(USAGE)
            .stderr(one_line().and(contains("65536").and(contains("65535"))));
        kvs(&dir, ["count"]).success().stdout("1\n");
    }
}

mod reading_verbs {
    use super::*;

    #[test]
    fn raw_get_adds_nothing_and_says_nothing_of_a_missing_key() {
        let dir = dir_with(&[(b"key", b"value"), (b"sentence", b"Key not found")]);
        kvs(&dir, ["get", "--raw", "key"]).success().stdout("value");
        kvs(&dir, ["get", "sentence", "--raw"])
            .success()
            .stdout("Key not found");
        kvs(&dir, ["get", "--raw", "missing"])
            .code(NOT_FOUND)
            .stdout(is_empty())
            .stderr(is_empty());
    }

    #[test]
    fn exists_answers_by_its_exit_code() {
        let dir = dir_with(&[(b"key", b"value")]);
        kvs(&dir, ["exists", "key"]).code(0).stdout(is_empty());
        kvs(&dir, ["exists", "other"])
            .code(NOT_FOUND)
            .stdout(is_empty())
            .stderr(is_empty());
    }

    fn sorted_lines(assert: &Assert) -> Vec<String> {
        let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn scan_prints_pairs_keys_prefixes_and_no_more_than_the_limit() {
        let dir = dir_with(&[(b"a1", b"x"), (b"a2", b"y"), (b"b1", b"z")]);
        let scan = |arguments: &[&str]| {
            sorted_lines(&kvs(&dir, [&["scan"], arguments].concat()).success())
        };
        assert_eq!(scan(&[]), ["a1\tx", "a2\ty", "b1\tz"]);
        assert_eq!(scan(&["a"]), ["a1\tx", "a2\ty"]);
        assert_eq!(scan(&["--keys"]), ["a1", "a2", "b1"]);
        assert_eq!(scan(&["a", "--keys"]), ["a1", "a2"]);
        assert_eq!(scan(&["c"]), [""; 0]);
        assert_eq!(scan(&["--limit", "2"]).len(), 2);
        assert_eq!(scan(&["--limit", "0", "--keys"]).len(), 0);
        assert_eq!(scan(&["a", "--limit", "1"]).len(), 1);
        kvs(&dir, ["scan", "--limit", "many"]).code(USAGE);
    }

    #[test]
    fn count_counts_all_keys_or_those_with_a_prefix() {
        let dir = dir_with(&[(b"a1", b"x"), (b"a2", b"y"), (b"b1", b"z")]);
        kvs(&dir, ["count"]).success().stdout("3\n");
        kvs(&dir, ["count", "a"]).success().stdout("2\n");
        kvs(&dir, ["count", "c"]).success().stdout("0\n");
    }

    #[test]
    fn stats_say_what_is_stored_and_where() {
        let dir = dir_with(&[(b"a", b"1"), (b"a", b"2"), (b"b", b"3")]);
        let line = |name: &str, value: &str| {
            predicate::str::is_match(format!("(?m)^{name} +{value}$")).unwrap()
        };
        kvs(&dir, ["stats"])
            .success()
            .stdout(line("keys", "2"))
            .stdout(line("live bytes", "[1-9][0-9]*"))
            .stdout(line("dead bytes", "[1-9][0-9]*"))
            .stdout(line("index bytes", "[1-9][0-9]*"))
            .stdout(line("disk bytes", "[1-9][0-9]*"))
            .stdout(line("recovery", "clean: 2 keys .*"))
            .stdout(line(
                "0000000000000001",
                "log +active +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+",
            ))
            .stdout(line("reserve bytes", "0"))
            .stderr(is_empty());
    }

    #[test]
    fn verify_is_content_with_a_good_store() {
        let dir = dir_with(&[(b"a", b"1"), (b"b", b"2")]);
        kvs(&dir, ["verify"])
            .success()
            .stdout(contains("segments  1\n").and(contains("damaged   0\n")))
            .stderr(is_empty());
    }

    #[test]
    fn they_create_and_change_nothing() {
        let verbs: [&[&str]; 15] = [
            &["get", "key"],
            &["get", "--raw", "key"],
            &["get", "--json", "key"],
            &["exists", "key"],
            &["scan"],
            &["scan", "--keys", "k"],
            &["keys"],
            &["count"],
            &["stats"],
            &["verify"],
            &["top", "--once"],
            &["top", "--once", "--json"],
            &["export", "ndjson"],
            &["export", "tsv"],
            &["export", "kvx"],
        ];
        let empty = empty_dir();
        for verb in verbs {
            kvs(&empty, verb).stderr(is_empty());
            assert_eq!(files(empty.path()), [""; 0].map(PathBuf::from), "{verb:?}");
        }
        kvs(&empty, ["count"]).success().stdout("0\n");
        kvs(&empty, ["scan"]).success().stdout(is_empty());
        kvs(&empty, ["exists", "key"]).code(NOT_FOUND);

        // Unclean: what a killed process leaves, tail of preallocated zeros included.
        let dir = dir_with(&[(b"key", b"value")]);
        let unclean = empty_dir();
        let store = Store::open(dir.path()).unwrap();
        store.set("other", "value").unwrap();
        for file in files(dir.path()) {
            fs::copy(&file, unclean.path().join(file.file_name().unwrap())).unwrap();
        }
        store.close().unwrap();
        for dir in [&dir, &unclean] {
            let before = image(dir.path());
            for verb in verbs {
                kvs(dir, verb).success();
                assert!(image(dir.path()) == before, "{verb:?} changed the store");
            }
        }
        kvs(&unclean, ["get", "other"]).success().stdout("value\n");
    }

    #[test]
    fn so_do_verbs_with_nothing_to_write() {
        let dir = empty_dir();
        kvs(&dir, ["rm", "key"])
            .code(NOT_FOUND)
            .stdout("Key not found\n");
        kvs(&dir, ["compact"])
            .success()
            .stdout("segments  0 -> 0\nbytes     0 -> 0\n");
        assert_eq!(files(dir.path()), [""; 0].map(PathBuf::from));
    }
}

mod compact {
    use super::*;

    #[test]
    fn it_gives_back_space_and_keeps_every_pair() {
        let dir = empty_dir();
        let store = Store::open(dir.path()).unwrap();
        for round in 0..10u8 {
            for key in 0..100u8 {
                store.set([key], [round; 1000]).unwrap();
            }
        }
        store.close().unwrap();
        let bytes = || {
            image(dir.path())
                .iter()
                .map(|(_, b)| b.len())
                .sum::<usize>()
        };
        let before = bytes();
        kvs(&dir, ["compact"])
            .success()
            .stdout(contains("segments  1 -> 1\n"))
            .stderr(is_empty());
        assert!(bytes() < before / 5, "{before} -> {}", bytes());
        let store = Store::open_read_only(dir.path()).unwrap();
        assert_eq!(store.len(), 100);
        for key in 0..100u8 {
            assert_eq!(store.get([key]).unwrap().as_deref(), Some(&[9; 1000][..]));
        }
    }
}

mod directory {
    use super::*;

    #[test]
    fn the_flag_beats_the_variable_and_that_beats_the_current_directory() {
        let here = dir_with(&[(b"where", b"current directory")]);
        let variable = dir_with(&[(b"where", b"variable")]);
        let flag = dir_with(&[(b"where", b"flag")]);
        let get = || {
            let mut command = command(here.path());
            command.args(["get", "where"]);
            command
        };
        get().assert().stdout("current directory\n");
        get()
            .env("KVS_DIR", "")
            .assert()
            .stdout("current directory\n");
        get()
            .env("KVS_DIR", variable.path())
            .assert()
            .stdout("variable\n");
        for name in ["-d", "--dir"] {
            get()
                .env("KVS_DIR", variable.path())
                .arg(name)
                .arg(flag.path())
                .assert()
                .stdout("flag\n");
        }
        kvs(
            &here,
            ["-d".as_ref(), flag.path().as_os_str(), "count".as_ref()],
        )
        .success()
        .stdout("1\n");
    }

    #[test]
    fn one_that_does_not_exist_is_named_and_not_created() {
        let dir = empty_dir();
        let missing = dir.path().join("missing");
        let verbs: [&[&str]; 10] = [
            &["get", "key"],
            &["exists", "key"],
            &["rm", "key"],
            &["keys"],
            &["export", "tsv"],
            &["scan"],
            &["count"],
            &["stats"],
            &["verify"],
            &["compact"],
        ];
        for verb in verbs {
            kvs(&dir, [&["-d", "missing"], verb].concat())
                .code(REFUSED)
                .stdout(is_empty())
                .stderr(one_line().and(contains(missing.to_str().unwrap())))
                .stderr(contains("no such directory; check --dir and KVS_DIR"));
            assert!(!missing.exists(), "{verb:?}");
        }
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let dir = empty_dir();
        fs::write(dir.path().join("file"), "").unwrap();
        for verb in [&["get", "key"][..], &["set", "key", "value"]] {
            kvs(&dir, [&["-d", "file"], verb].concat())
                .code(REFUSED)
                .stderr(one_line().and(contains("not a directory")));
        }
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"");
    }

    #[test]
    fn one_that_everybody_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = empty_dir();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        kvs(&dir, ["set", "key", "value"])
            .code(REFUSED)
            .stderr(one_line().and(contains(dir.path().to_str().unwrap())))
            .stderr(contains("mend that or choose another --dir"));
        assert_eq!(files(dir.path()), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn a_line_break_in_its_name_does_not_break_the_line() {
        let dir = empty_dir();
        kvs(&dir, ["-d", "two\nlines\x1b[2J", "count"])
            .code(REFUSED)
            .stderr(one_line().and(contains("two\\nlines\\x1b[2J: no such")));
    }
}

mod usage {
    use super::*;

    #[test]
    fn wrong_usage_exits_with_2_and_touches_nothing() {
        let dir = empty_dir();
        for arguments in [
            &[][..],
            &["frobnicate"],
            &["get"],
            &["get", "a", "b"],
            &["set"],
            &["set", "a"],
            &["set", "a", "b", "c"],
            &["rm"],
            &["rm", "a", "b"],
            &["exists"],
            &["count", "a", "b"],
            &["scan", "a", "b"],
            &["stats", "a"],
            &["verify", "a"],
            &["compact", "a"],
            &["backup"],
            &["backup", "a", "b"],
            &["restore"],
            &["restore", "a"],
            &["repair"],
            &["repair", "a", "--dry-run"],
            &["demo", "a"],
            &["keys", "a", "b"],
            &["import"],
            &["import", "tsv", "a", "b"],
            &["import", "unknown"],
            &["export"],
            &["export", "tsv", "a", "b"],
            &["export", "unknown"],
            &["completions"],
            &["completions", "unknown"],
            &["man", "a", "b"],
            &["get", "--wait", "a"],
            &["get", "--color", "sometimes", "a"],
            &["get", "--unknown", "a"],
            &["set", "--raw", "a", "b"],
            &["-d"],
            &["-d", "", "count"],
        ] {
            kvs(&dir, arguments)
                .code(USAGE)
                .stdout(is_empty())
                .stderr(is_empty().not());
        }
        assert_eq!(files(dir.path()), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn the_version_is_the_crates() {
        let version = concat!("kvs ", env!("CARGO_PKG_VERSION"), "\n");
        for flag in ["-V", "--version"] {
            kvs(empty_dir(), [flag]).success().stdout(diff(version));
        }
    }

    #[test]
    fn help_names_every_verb_exit_code_and_the_variable() {
        let assert = kvs(empty_dir(), ["--help"]).success();
        let help = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        for verb in [
            "get",
            "set",
            "rm",
            "exists",
            "scan",
            "keys",
            "count",
            "stats",
            "verify",
            "compact",
            "backup",
            "restore",
            "repair",
            "import",
            "export",
            "completions",
            "man",
            "demo",
        ] {
            assert!(help.contains(&format!("\n  {verb} ")), "{verb}");
            kvs(empty_dir(), [verb, "--help"]).success();
        }
        for code in [0, 1, 2, 3, 4, 5, 130] {
            assert!(help.contains(&format!("\n  {code:<3}  ")), "{code}");
        }
        assert!(help.contains("KVS_DIR"));
        assert!(!help.contains("demo-"), "hidden verbs");
    }
}

mod locked {
    use super::*;

    #[test]
    fn a_store_open_for_writing_elsewhere_exits_with_3_for_every_verb() {
        let dir = empty_dir();
        let store = Store::open(dir.path()).unwrap();
        store.set("key", "value").unwrap();
        let path = dir.path().to_str().unwrap();
        for verb in [
            &["get", "key"][..],
            &["get", "--raw", "key"],
            &["set", "key", "other"],
            &["rm", "key"],
            &["exists", "key"],
            &["scan"],
            &["keys"],
            &["count"],
            &["stats"],
            &["verify"],
            &["compact"],
            &["export", "kvx"],
        ] {
            kvs(&dir, [&["--wait", "0"], verb].concat())
                .code(LOCKED)
                .stdout(is_empty())
                .stderr(one_line().and(contains(path)))
                .stderr(contains("in use by another process; try again when"));
        }
        store.close().unwrap();
        kvs(&dir, ["get", "key"]).success().stdout("value\n");
    }

    #[test]
    fn readers_share_a_store_and_keep_writers_out() {
        let dir = dir_with(&[(b"key", b"value")]);
        let reader = Store::open_read_only(dir.path()).unwrap();
        kvs(&dir, ["get", "key"]).success().stdout("value\n");
        kvs(&dir, ["set", "key", "other", "--wait", "0"]).code(LOCKED);
        drop(reader);
        kvs(&dir, ["set", "key", "other"]).success();
    }
}

mod damaged {
    use super::*;

    /// A closed store of three keys with one bit of the second value flipped.
    fn damaged_dir() -> TempDir {
        let dir = dir_with(&[
            (b"one", b"value 1"),
            (b"two", b"value 2"),
            (b"six", b"value 6"),
        ]);
        let mut flipped = 0;
        for (path, mut bytes) in image(dir.path()) {
            if let Some(at) = bytes.windows(7).position(|window| window == b"value 2") {
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
                flipped += 1;
            }
        }
        assert_eq!(flipped, 1);
        dir
    }

    #[test]
    fn every_verb_exits_with_4_names_the_place_and_changes_no_byte() {
        let dir = damaged_dir();
        let before = image(dir.path());
        let place = predicate::str::is_match(r"/[0-9a-f]{16}\.seg.* offset [1-9][0-9]*: ").unwrap();
        for verb in [
            &["get", "one"][..],
            &["get", "two"],
            &["get", "--raw", "two"],
            &["get", "never stored"],
            &["set", "key", "value"],
            &["rm", "one"],
            &["exists", "one"],
            &["exists", "two"],
            &["scan"],
            &["keys"],
            &["export", "ndjson"],
            &["count"],
            &["stats"],
            &["verify"],
            &["compact"],
        ] {
            kvs(&dir, verb)
                .code(DAMAGED)
                .stderr(one_line().and(place.clone()))
                .stderr(contains(dir.path().to_str().unwrap()).count(1));
            assert!(image(dir.path()) == before, "{verb:?} changed the store");
        }
    }

    #[test]
    fn what_is_intact_is_printed_and_what_is_not_is_never_called_missing() {
        let dir = damaged_dir();
        kvs(&dir, ["get", "one"]).code(DAMAGED).stdout("value 1\n");
        kvs(&dir, ["scan"])
            .code(DAMAGED)
            .stdout(contains("one\tvalue 1\n").and(contains("two").not()));
        for key in ["two", "never stored"] {
            kvs(&dir, ["get", key]).code(DAMAGED).stdout(is_empty());
        }
    }

    #[test]
    fn verify_lists_the_place() {
        let place = predicate::str::is_match(r"(?m)^/.*\.seg.* offset [1-9][0-9]*: .").unwrap();
        kvs(damaged_dir(), ["verify"])
            .code(DAMAGED)
            .stdout(contains("damaged   1\n").and(place));
    }

    #[test]
    fn a_lost_or_damaged_manifest_is_named() {
        let dir = dir_with(&[(b"one", b"value 1")]);
        let manifest = dir.path().join("MANIFEST");
        let mut bytes = fs::read(&manifest).unwrap();
        bytes[100] ^= 1;
        let verbs = [&["get", "one"][..], &["set", "key", "value"], &["verify"]];
        fs::write(&manifest, bytes).unwrap();
        for verb in verbs {
            kvs(&dir, verb)
                .code(DAMAGED)
                .stdout(is_empty())
                .stderr(one_line().and(contains("/MANIFEST at offset ")))
                .stderr(contains("restore the directory from a copy"));
        }
        fs::remove_file(&manifest).unwrap();
        for verb in verbs {
            kvs(&dir, verb)
                .code(DAMAGED)
                .stdout(is_empty())
                .stderr(one_line().and(contains("/MANIFEST is missing; nothing was changed")));
        }
        assert!(!manifest.exists());
    }
}

mod output {
    use super::*;

    /// More than a pipe and our own buffer hold.
    fn large_dir() -> TempDir {
        dir_with(&[(b"one", &[b'x'; 300_000]), (b"two", &[b'y'; 300_000])])
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        let dir = large_dir();
        for verb in [&["scan"][..], &["get", "one"], &["get", "--raw", "two"]] {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kvs"))
                .args(verb)
                .current_dir(&dir)
                .env_remove("KVS_DIR")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{verb:?}");
            assert_eq!(output.stderr, b"", "{verb:?}");
        }
    }

    #[test]
    fn output_that_cannot_be_written_is_an_error() {
        let dir = large_dir();
        for verb in [&["scan"][..], &["count"], &["get", "missing"], &["stats"]] {
            let full = fs::OpenOptions::new().write(true).open("/dev/full");
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_kvs"))
                .args(verb)
                .current_dir(&dir)
                .env_remove("KVS_DIR")
                .stdout(full.unwrap())
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(REFUSED), "{verb:?}");
            assert!(one_line().eval(&stderr), "{stderr}");
            assert!(
                stderr.contains("standard output: No space left"),
                "{stderr}"
            );
        }
    }
}

mod demo {
    use super::*;

    /// Runs the demo in `dir`, with `temp` for its temporary files.
    fn demo(dir: &Path, temp: &Path) -> Assert {
        let mut command = command(dir);
        let command = command.env("TMPDIR", temp).arg("demo");
        command.timeout(Duration::from_secs(30)).assert()
    }

    #[test]
    fn it_runs_anywhere_and_again_and_leaves_nothing() {
        let (here, temp) = (empty_dir(), empty_dir());
        for _ in 0..2 {
            demo(here.path(), temp.path())
                .success()
                .stdout(contains("20000 generated pairs\n"))
                .stdout(contains("\nput ").and(contains("\nget, compared ")))
                .stdout(contains("\nput, synced ").and(contains("\nget, after kill ")))
                .stdout(contains("\nkill -9   in mid-flight, "))
                .stdout(contains("\nrecovery  recovered: "))
                .stdout(contains("0 missing, 0 wrong\n"))
                .stdout(contains("\ndisk      ").and(contains("\ntime      ")))
                .stderr(is_empty());
            assert_eq!(files(here.path()), [""; 0].map(PathBuf::from));
            assert_eq!(files(temp.path()), [""; 0].map(PathBuf::from));
        }
    }

    #[test]
    fn it_answers_in_json_too() {
        let (here, temp) = (empty_dir(), empty_dir());
        let mut command = command(here.path());
        let command = command.env("TMPDIR", temp.path()).args(["demo", "--json"]);
        let assert = command.timeout(Duration::from_secs(30)).assert().success();
        let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lines: Vec<_> = text.lines().map(line).collect();
        let steps: Vec<_> = lines.iter().filter_map(|l| l["step"].as_str()).collect();
        assert_eq!(
            steps,
            ["put", "get, compared", "put, synced", "get, after kill"]
        );
        assert!(lines[0]["p99_ns"].as_u64().unwrap() > 0);
        let last = &lines[4];
        assert!(last["acknowledged"].as_u64().unwrap() >= 1, "{last}");
        assert_eq!(
            (&last["missing"], &last["clean"]),
            (&0.into(), &false.into())
        );
    }

    #[test]
    fn it_imports_the_files_of_the_directory_and_no_others() {
        let (here, temp) = (empty_dir(), empty_dir());
        let write = |path: &str| {
            let path = here.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        };
        let imported = ["a", "below/b", "below/deeper/c\n"];
        let left_out = [".git/d", ".secret", "target/e", "below/target/f"];
        imported.into_iter().chain(left_out).for_each(write);
        fs::write(here.path().join("empty"), "").unwrap();
        std::os::unix::fs::symlink("a", here.path().join("link")).unwrap();
        std::os::unix::fs::symlink("..", here.path().join("below/up")).unwrap();
        let large = fs::File::create(here.path().join("large")).unwrap();
        large.set_len((64 << 20) + 1).unwrap();
        let pipe = here.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(pipe).status();
        assert!(made.unwrap().success());

        let before = walk(here.path());
        demo(here.path(), temp.path()).success().stdout(contains(
            "3 files of this directory, 19997 generated pairs\n",
        ));
        assert_eq!(walk(here.path()), before);
        assert_eq!(files(temp.path()), [""; 0].map(PathBuf::from));
    }

    /// Everything below `dir` that stays long enough to be looked at.
    fn walk(dir: &Path) -> Vec<PathBuf> {
        let entries = walkdir::WalkDir::new(dir).sort_by_file_name();
        let paths = entries.into_iter().flatten().map(|entry| entry.into_path());
        paths.collect()
    }

    #[test]
    fn killed_in_the_middle_it_still_leaves_nothing() {
        let (here, temp) = (empty_dir(), empty_dir());
        let mut demo = std::process::Command::new(env!("CARGO_BIN_EXE_kvs"))
            .arg("demo")
            .current_dir(&here)
            .env("TMPDIR", temp.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let store_is_there = || {
            walk(temp.path())
                .iter()
                .any(|path| path.ends_with("MANIFEST"))
        };
        wait_until("the demo has a store", store_is_there);
        demo.kill().unwrap();
        demo.wait().unwrap();
        wait_until("its directory is gone", || files(temp.path()).is_empty());
        assert_eq!(files(here.path()), [""; 0].map(PathBuf::from));
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}: never");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn without_a_temporary_directory_it_says_so() {
        let here = empty_dir();
        let missing = here.path().join("missing");
        demo(here.path(), &missing)
            .code(REFUSED)
            .stdout(is_empty())
            .stderr(one_line().and(contains(missing.to_str().unwrap())));
    }

    #[test]
    fn it_takes_no_directory_but_bears_the_variable() {
        let (here, temp) = (empty_dir(), empty_dir());
        kvs(&here, ["demo", "-d", "store"])
            .code(USAGE)
            .stderr(contains("takes no --dir"));
        let mut command = command(here.path());
        let command = command.env("TMPDIR", temp.path()).env("KVS_DIR", "nowhere");
        command.arg("demo").assert().success();
        assert_eq!(files(here.path()), [""; 0].map(PathBuf::from));
    }
}
