//! `kvs batch`: all operations or none, in pieces if asked; what is wrong is named by file and line.
#![cfg(feature = "cli")]

mod cli_common;

use std::fs;
use std::process::Stdio;

use cli_common::*;

const INPUT: &str = r#"{"set":"a","value":"1"}
{"set_b64":"/w==","value_b64":"AP8="}

{"remove":"old"}
{"set":"twice","value":"first"}
{"set":"twice","value":"second"}
{"set":"gone","value":"x"}
{"remove":"gone"}
"#;

fn old() -> tempfile::TempDir {
    store_with(&pairs([("old", "0"), ("other", "0")]))
}

fn applied() -> Pairs {
    pairs([
        (&b"a"[..], &b"1"[..]),
        (b"\xff", b"\x00\xff"),
        (b"twice", b"second"),
        (b"other", b"0"),
    ])
}

fn json(ran: Ran) -> serde_json::Value {
    serde_json::from_slice(&ran.good().stdout).unwrap()
}

#[test]
fn a_batch_is_applied_from_standard_input_or_a_file() {
    let dir = old();
    fed(dir.path(), ["batch"], INPUT.as_bytes())
        .good()
        .prints("");
    assert_eq!(content(dir.path()), applied());

    let dir = old();
    fs::write(dir.path().join("in"), INPUT).unwrap();
    run(dir.path(), ["batch", "in"]).good().prints("");
    assert_eq!(content(dir.path()), applied());

    let dir = old();
    fed(dir.path(), ["batch", "-"], INPUT.trim_end().as_bytes()).good();
    assert_eq!(content(dir.path()), applied());
}

#[test]
fn the_summary_counts_what_was_applied() {
    let dir = old();
    let told = json(fed(dir.path(), ["batch", "--json"], INPUT.as_bytes()));
    assert_eq!(told["operations"], 7);
    assert_eq!(told["sets"], 5);
    assert_eq!(told["removes"], 2);
    assert_eq!(told["batches"], 1);
    assert_eq!(told["bytes"], 2 + 3 + 3 + 10 + 11 + 5 + 4);
    assert!(told["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(told.as_object().unwrap().len(), 6);
    let told = json(fed(
        dir.path(),
        ["batch", "--every", "2", "--json"],
        INPUT.as_bytes(),
    ));
    assert_eq!(
        (&told["operations"], &told["batches"]),
        (&7.into(), &4.into())
    );
    assert_eq!(content(dir.path()), applied());
}

#[test]
fn of_a_batch_with_a_bad_line_nothing_is_applied() {
    let dir = old();
    let before = content(dir.path());
    let bad = format!("{INPUT}{{\"set\":\"k\"}}\n{{\"set\":\"z\",\"value\":\"z\"}}\n");
    fs::write(dir.path().join("in"), &bad).unwrap();
    run(dir.path(), ["batch", "in"])
        .code(DAMAGED)
        .prints("")
        .says(&["kvs: in:9: neither `value` nor `value_b64`; nothing was applied"]);
    assert_eq!(content(dir.path()), before);
    fed(dir.path(), ["batch"], bad.as_bytes())
        .code(DAMAGED)
        .says(&["standard input:9: ", "nothing was applied"]);
    assert_eq!(content(dir.path()), before);

    // In pieces: those before it are.
    run(dir.path(), ["batch", "--every", "3", "in"])
        .code(DAMAGED)
        .says(&["in:9: ", "the batches before it are applied, 6 operations"]);
    let mut wanted = applied();
    wanted.insert(b"gone".to_vec(), b"x".to_vec());
    assert_eq!(content(dir.path()), wanted);
    let told = run(dir.path(), ["batch", "in", "--json"]).code(DAMAGED);
    let told: serde_json::Value = serde_json::from_str(&told.stderr).unwrap();
    assert_eq!(told["exit_code"], DAMAGED);
    assert!(told["error"].as_str().unwrap().starts_with("in:9: "));
}

#[test]
fn nothing_to_apply_creates_nothing() {
    let dir = empty_dir();
    for input in ["", "\n \n"] {
        let told = json(fed(dir.path(), ["batch", "--json"], input.as_bytes()));
        assert_eq!(
            (&told["operations"], &told["batches"]),
            (&0.into(), &0.into())
        );
    }
    fed(dir.path(), ["batch"], b"nonsense\n").code(DAMAGED);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn wrong_usage_and_what_cannot_be_read_are_told() {
    let dir = empty_dir();
    for every in ["0", "-1", "x", "18446744073709551616"] {
        run(dir.path(), ["batch", "--every", every]).code(USAGE);
    }
    run(dir.path(), ["batch", "none"])
        .code(REFUSED)
        .says(&["cannot read: none: ", "check the name"]);
    run(dir.path(), ["batch", "."])
        .code(REFUSED)
        .says(&["cannot read: .: "]);
    let long = format!("{{\"remove\":\"{}\"}}\n", "x".repeat(65_536));
    fed(dir.path(), ["batch"], long.as_bytes())
        .code(DAMAGED)
        .says(&["standard input:1: key of 65536 bytes, at most 65535 are allowed"]);
}

#[test]
fn a_set_of_a_batch_may_expire() {
    let dir = store_with(&pairs([("over", "0"), ("past", "0"), ("plain", "0")]));
    let input = r#"{"set":"ttl","value":"1","ttl":"2h"}
{"set":"seconds","value":"1","ttl":7200}
{"set":"at","value":"1","expires_at":4000000000123}
{"set":"plain","value":"1"}
{"set":"over","value":"1","ttl":0}
{"set":"past","value":"1","expires_at":1}
"#;
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let before = u64::try_from(clock.unwrap().as_millis()).unwrap();
    let told = json(fed(dir.path(), ["batch", "--json"], input.as_bytes()));
    assert_eq!((&told["sets"], &told["removes"]), (&6.into(), &0.into()));
    let left = pairs([("ttl", "1"), ("seconds", "1"), ("at", "1"), ("plain", "1")]);
    assert_eq!(content(dir.path()), left);
    let store = kvs::Store::open_read_only(dir.path()).unwrap();
    let expiry = |key: &str| store.expires_at(key).unwrap();
    assert_eq!(expiry("at"), Some(kvs::Expiry::At(4_000_000_000_123)));
    assert_eq!(expiry("plain"), Some(kvs::Expiry::Never));
    for key in ["ttl", "seconds"] {
        let Some(kvs::Expiry::At(at)) = expiry(key) else {
            panic!("{key} expires");
        };
        let lives = at - before;
        assert!((7_200_000..7_230_000).contains(&lives), "{key}: {lives}");
    }
    let bad = "{\"remove\":\"plain\",\"ttl\":1}\n";
    fed(dir.path(), ["batch"], bad.as_bytes())
        .code(DAMAGED)
        .says(&["standard input:1: a remove does not expire; nothing was applied"]);
}

/// The store is not held while the input is waited for.
#[test]
fn a_batch_may_come_from_a_command_on_the_same_store() {
    let dir = store_with(&pairs((0..500u32).map(|i| (format!("k{i}"), "1"))));
    shell(
        dir.path(),
        "kvs keys k1 --json | sed 's/\"key\"/\"remove\"/' | kvs batch && kvs count",
    )
    .good()
    .prints("389\n");
    let mut waiting = kvs(dir.path())
        .args(["batch", "--every", "1"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = waiting.stdin.take().unwrap();
    use std::io::Write;
    stdin
        .write_all(b"{\"set\":\"new\",\"value\":\"1\"}\n")
        .unwrap();
    wait_until("the first batch", || {
        run(dir.path(), ["exists", "new"]).code == Some(0)
    });
    run(dir.path(), ["set", "meanwhile", "1"]).good();
    stdin.write_all(b"{\"remove\":\"meanwhile\"}\n").unwrap();
    drop(stdin);
    assert!(waiting.wait().unwrap().success());
    run(dir.path(), ["exists", "meanwhile"]).code(NOT_FOUND);
}

#[test]
fn a_signal_leaves_whole_batches() {
    let dir = empty_dir();
    let mut child = kvs(dir.path())
        .args(["batch", "--every", "2"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    use std::io::Write;
    let line = |i: u32| format!("{{\"set\":\"k{i}\",\"value\":\"1\"}}\n");
    stdin
        .write_all((0..3).map(line).collect::<String>().as_bytes())
        .unwrap();
    wait_until("the first batch", || {
        run(dir.path(), ["count"]).text() == "2\n"
    });
    let id = i32::try_from(child.id()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    drop(stdin);
    ran.code(130)
        .says(&["interrupted; 2 operations are applied"]);
    assert_eq!(content(dir.path()).len(), 2);
}
