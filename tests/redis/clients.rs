//! Clients that programs use: redis-py, ioredis, the crate `redis`; and what `redis-cli` does when a
//! person runs it.
//!
//! `KVS_REDIS_PY` names a Python that has the package `redis` (default: `python3`), `KVS_IOREDIS` a
//! directory below which `node_modules/ioredis` lies. Without them the tests say that they skip.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kvs::Durability;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{Kvs, is_there, run, said};

fn skip(why: &str) {
    assert!(std::env::var_os("KVS_REQUIRE_ALL").is_none(), "{why}");
    println!("SKIPPED: {why}");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/redis")
        .join(name)
}

#[test]
fn redis_py_works() {
    let python = std::env::var_os("KVS_REDIS_PY").unwrap_or_else(|| "python3".into());
    let has_it = Command::new(&python).args(["-c", "import redis"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        return skip("KVS_REDIS_PY: no Python with the package redis");
    }
    for level in [Durability::Os, Durability::Sync] {
        for protocol in ["2", "3"] {
            let kvs = Kvs::start_at(level);
            let output = Command::new(&python)
                .arg(script("client.py"))
                .args([&kvs.addr.port().to_string(), protocol])
                .output()
                .unwrap();
            assert_eq!(said(&output), "done\n", "{level:?}, RESP{protocol}");
        }
    }
}

#[test]
fn ioredis_works() {
    let Some(dir) = std::env::var_os("KVS_IOREDIS") else {
        return skip("KVS_IOREDIS: no directory with node_modules/ioredis");
    };
    for level in [Durability::Os, Durability::Sync] {
        let kvs = Kvs::start_at(level);
        let output = Command::new("node")
            .arg(script("client.js"))
            .arg(kvs.addr.port().to_string())
            .env("NODE_PATH", Path::new(&dir).join("node_modules"))
            .output()
            .unwrap();
        assert_eq!(said(&output), "done\n", "{level:?}");
    }
}

#[test]
fn the_crate_redis_works() -> redis::RedisResult<()> {
    use redis::Commands;
    for protocol in ["2", "3"] {
        let kvs = Kvs::start_at(Durability::Sync);
        let url = format!("redis://{}/?protocol=resp{protocol}", kvs.addr);
        let client = redis::Client::open(url)?;
        let mut connection = client.get_connection()?;
        let () = connection.set("a", 1)?;
        assert_eq!(connection.incr::<_, _, i64>("a", 41)?, 42);
        assert_eq!(connection.get::<_, Option<Vec<u8>>>("none")?, None);
        let binary: Vec<u8> = (0..=255).collect();
        let () = connection.set(&binary, &binary)?;
        assert_eq!(connection.get::<_, Vec<u8>>(&binary)?, binary);
        assert_eq!(connection.del::<_, u64>(&["a", "none"])?, 1);
        let mut pipe = redis::pipe();
        for n in 0..500 {
            pipe.set(n, n).ignore().get(n);
        }
        let replies: Vec<i64> = pipe.query(&mut connection)?;
        assert_eq!(replies, (0..500).collect::<Vec<_>>());
        let (one, two): (i64, i64) = redis::pipe()
            .atomic()
            .incr("t", 1)
            .incr("t", 1)
            .query(&mut connection)?;
        assert_eq!((one, two), (1, 2));
        let refused = connection.incr::<_, _, i64>(&binary, 1).unwrap_err();
        assert!(refused.to_string().contains("not an integer"), "{refused}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let client = client.clone();
                scope.spawn(move || {
                    let mut own = client.get_connection().unwrap();
                    for _ in 0..50 {
                        let step = |own: &mut redis::Connection, pipe: &mut redis::Pipeline| {
                            let old: Option<i64> = own.get("watched")?;
                            let pipe = pipe.set("watched", old.unwrap_or(0) + 1).ignore();
                            pipe.get("watched").query(own)
                        };
                        let _: (i64,) = redis::transaction(&mut own, &["watched"], step).unwrap();
                    }
                });
            }
        });
        assert_eq!(connection.get::<_, i64>("watched")?, 200);
    }
    Ok(())
}

/// Types `lines` into `redis-cli` at a terminal and returns what it showed.
fn typed(kvs: &Kvs, lines: &str) -> Option<String> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = match openpt(flags) {
        Ok(ours) => ours,
        Err(error) => {
            skip(&format!("no pseudo-terminal: {error}"));
            return None;
        }
    };
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let name = name.to_str().unwrap();
    let other = File::options().read(true).write(true).open(name).unwrap();
    let mut child = Command::new("redis-cli")
        .args(["-p", &kvs.addr.port().to_string()])
        .env("TERM", "dumb")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::from(other.try_clone().unwrap()))
        .stdout(Stdio::from(other.try_clone().unwrap()))
        .stderr(Stdio::from(other))
        .spawn()
        .unwrap();
    let mut ours = File::from(ours);
    std::io::Write::write_all(&mut ours, lines.as_bytes()).unwrap();
    let mut shown = Vec::new();
    // EIO is how a terminal says that it has ended.
    let _ = ours.read_to_end(&mut shown);
    child.wait().unwrap();
    Some(String::from_utf8_lossy(&shown).replace('\r', ""))
}

#[test]
fn redis_cli_works_at_a_terminal() {
    if !is_there("redis-cli") {
        return;
    }
    let kvs = Kvs::start();
    let lines = "set greeting \"hello\\nworld\"\nget greeting\nincr n\nmget n none\nnosuch\nquit\n";
    let Some(shown) = typed(&kvs, lines) else {
        return;
    };
    for wanted in [
        "OK\n",
        "\"hello\\nworld\"\n",
        "(integer) 1\n",
        "1) \"1\"\n2) (nil)\n",
        "(error) ERR unknown command",
    ] {
        assert!(shown.contains(wanted), "{wanted:?} is not in {shown:?}");
    }
}

#[test]
fn redis_cli_walks_all_keys_and_measures() {
    if !is_there("redis-cli") {
        return;
    }
    let kvs = Kvs::start();
    let cli = |args: &[&str]| said(&run("redis-cli", kvs.addr, args, b""));
    for n in 0..300 {
        let name = format!("walk:{n}");
        assert_eq!(cli_set(&kvs, &name, &"v".repeat(n + 1)), "OK\n");
    }
    // Ends by itself when it does not write to a terminal.
    let latency = cli(&["--latency"]);
    let numbers: Vec<f64> = latency.split_whitespace().flat_map(str::parse).collect();
    assert_eq!(numbers.len(), 4, "least, most, mean, count: {latency}");
    assert!(numbers[3] > 10.0, "{latency}");

    let scan = cli(&["SCAN", "0"]);
    if scan.contains("not supported by engine") {
        // Said, not made up.
        assert!(cli(&["--scan"]).contains("not supported by engine"));
        return;
    }
    let mut keys: Vec<String> = cli(&["--scan", "--pattern", "walk:*"])
        .lines()
        .map(str::to_owned)
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 300);
    let biggest = cli(&["--bigkeys"]);
    assert!(biggest.contains("\"walk:299\"' has 300 bytes"), "{biggest}");
}

fn cli_set(kvs: &Kvs, key: &str, value: &str) -> String {
    said(&run("redis-cli", kvs.addr, &["SET", key, value], b""))
}
