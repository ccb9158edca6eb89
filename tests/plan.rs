//! Forecasts against real stores: memory and disk within 15 %. Method: a store of each shape is filled,
//! closed and opened by a process of its own, and looked at from outside. Times are no matter of tests:
//! `cargo bench --bench open` prints them beside the forecast.
#![allow(clippy::print_stdout)]

#[cfg(feature = "cli")]
mod cli_common;

use std::path::Path;
use std::process::Command;

use kvs::{Batch, Compaction, Forecast, Options, Plan, Store};

/// Where the child finds its store.
const CHILD: &str = "KVS_PLAN_STORE";

/// Keys, bytes of a key, bytes of a value: small and large records, few and many.
const SHAPES: [(u64, u64, u64); 4] = [
    (200_000, 16, 100),
    (50_000, 64, 1024),
    (1_000_000, 8, 8),
    (2_000, 200, 20_000),
];

fn key(i: u64, len: u64) -> Vec<u8> {
    let mut key = vec![0; len as usize];
    key[..8].copy_from_slice(&i.to_be_bytes());
    key
}

fn fill(store: &Store, (keys, key_len, value_len): (u64, u64, u64)) {
    let value = vec![7; value_len as usize];
    let mut batch = Batch::new();
    for i in 0..keys {
        if value_len < 1000 {
            batch.set(key(i, key_len), &value);
        } else {
            store.set(key(i, key_len), &value).unwrap();
        }
        if batch.len() == 100 || i + 1 == keys {
            store.write(&std::mem::take(&mut batch)).unwrap();
        }
    }
}

/// Bytes of disk of every file in `dir`.
fn disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(dir).unwrap();
    // Compaction may remove one meanwhile.
    let blocks = |file: std::io::Result<std::fs::DirEntry>| match file.unwrap().metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        metadata => metadata.unwrap().blocks(),
    };
    files.map(blocks).sum::<u64>() * 512
}

#[track_caller]
fn assert_near(what: &str, forecast: u64, real: u64) {
    let off = forecast as f64 / real as f64 - 1.0;
    println!(
        "{what}: forecast {forecast}, real {real}, {:+.1} %",
        off * 100.0
    );
    assert!(off.abs() < 0.15, "{what}: {forecast} for {real}");
}

/// Private memory of this process, in bytes.
fn private() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// What opening takes: the child's part.
#[test]
fn child_opens_a_store_and_says_what_memory_it_took() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let before = private();
    let store = Store::open(&dir).unwrap();
    assert!(!store.is_empty());
    println!("private {}", private() - before);
    store.close().unwrap();
}

fn private_of(dir: &Path) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "child_opens_a_store_and_says_what_memory_it_took",
        ])
        .env(CHILD, dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told = text.lines().find_map(|line| line.split("private ").nth(1));
    told.expect(&text).trim().parse().unwrap()
}

#[test]
fn memory_and_disk_are_within_15_percent_of_the_forecast() {
    for shape in SHAPES {
        let (keys, key_len, value_len) = shape;
        let forecast: Forecast = Plan::new(keys, key_len, value_len).forecast().unwrap();
        println!("{keys} x {key_len}/{value_len}: {forecast:?}");
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fill(&store, shape);
        let stats = store.stats();
        assert_eq!(stats.keys, keys);
        assert_near("index", forecast.index_bytes, stats.index_bytes);
        let written: u64 = stats.segments.iter().map(|segment| segment.bytes).sum();
        assert_near("data", forecast.data_bytes, written);
        // The next segment is prepared by a thread, and a sealed one is trimmed by it.
        std::thread::sleep(std::time::Duration::from_millis(300));
        // How much larger those two are than forecast depends on how fast it was filled.
        let (open, part) = (disk(dir.path()), forecast.open_disk_bytes / 100);
        println!("disk, open: forecast {}, real {open}", 100 * part);
        let possible = part * 85..=part * 115 + (32 << 20);
        assert!(possible.contains(&open), "{open}");
        store.close().unwrap();
        assert_near("disk, closed", forecast.closed_disk_bytes, disk(dir.path()));
        let store = Store::open_read_only(dir.path()).unwrap();
        assert_near(
            "index, opened",
            forecast.index_bytes,
            store.stats().index_bytes,
        );
        assert_eq!(store.recovery().records_scanned, 0, "all from hints");
        store.close().unwrap();
        let private = private_of(dir.path());
        println!("private {private}");
        if keys >= 200_000 {
            assert_near("private", forecast.private_bytes, private);
        }
    }
}

#[cfg(feature = "cli")]
mod cli {
    use super::cli_common::*;

    const PLAN: [&str; 7] = [
        "plan",
        "--keys",
        "200000",
        "--key-len",
        "16",
        "--value-len",
        "100",
    ];

    #[test]
    fn a_plan_opens_nothing_and_says_what_the_library_says() {
        let dir = empty_dir();
        let forecast = kvs::Plan::new(200_000, 16, 100).forecast().unwrap();
        let text = run(dir.path(), PLAN).good().text();
        let of = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap().split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(text.lines().count(), 12, "{text}");
        assert_eq!(of("index bytes"), forecast.index_bytes.to_string());
        assert_eq!(of("private bytes"), forecast.private_bytes.to_string());
        assert_eq!(of("segments"), forecast.segments.to_string());
        assert_eq!(of("reserve bytes"), forecast.reserve_bytes.to_string());
        assert_eq!(of("peak disk bytes"), forecast.peak_disk_bytes.to_string());
        assert_eq!(of("open seconds"), "0.005250");
        let json = run(dir.path(), PLAN.iter().chain(&["--json"]))
            .good()
            .text();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 12);
        assert_eq!(json["data_bytes"], forecast.data_bytes);
        assert_eq!(json["hint_bytes"], forecast.hint_bytes);
        assert_eq!(json["closed_disk_bytes"], forecast.closed_disk_bytes);
        assert_eq!(json["open_disk_bytes"], forecast.open_disk_bytes);
        assert_eq!(json["opening_bytes"], forecast.opening_bytes);
        let seconds = forecast.open_killed.as_secs_f64();
        assert_eq!(json["open_killed_seconds"], seconds);
        let ttl = run(dir.path(), PLAN.iter().chain(&["--ttl", "--json"])).good();
        let ttl: serde_json::Value = serde_json::from_slice(&ttl.stdout).unwrap();
        let expiring = kvs::Plan::new(200_000, 16, 100).expiring(true);
        assert_eq!(ttl["data_bytes"], expiring.forecast().unwrap().data_bytes);
        assert!(ttl["data_bytes"].as_u64() > json["data_bytes"].as_u64());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn numbers_that_no_store_could_have_are_wrong_usage() {
        let dir = empty_dir();
        let plan = |keys: &str, key: &str, value: &str| {
            let arguments = [
                "plan",
                "--keys",
                keys,
                "--key-len",
                key,
                "--value-len",
                value,
            ];
            run(dir.path(), arguments)
        };
        plan("1", "65535", "4294836224").good();
        for (keys, key, value) in [
            ("-1", "16", "100"),
            ("many", "16", "100"),
            ("18446744073709551616", "16", "100"),
            ("1", "65536", "100"),
            ("1", "16", "4294836225"),
            ("1", "", "100"),
        ] {
            plan(keys, key, value).code(USAGE);
        }
        plan("18446744073709551615", "16", "100")
            .code(REFUSED)
            .says(&["16 TiB"]);
        run(dir.path(), &PLAN[..5]).code(USAGE);
        run(dir.path(), ["-d", "x"].iter().chain(&PLAN)).code(USAGE);
    }
}

#[test]
fn overwriting_takes_no_more_disk_than_was_forecast() {
    let (keys, key_len, value_len) = (200_000, 16, 100);
    let forecast = Plan::new(keys, key_len, value_len).forecast().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().compaction(Compaction::Background);
    let store = options.open(dir.path()).unwrap();
    let mut most = 0;
    let mut random = 1u64;
    for i in 0..5 * keys {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let at = if i < keys { i } else { (random >> 33) % keys };
        store
            .set(key(at, key_len), vec![i as u8; value_len as usize])
            .unwrap();
        if i % 1000 == 0 {
            most = most.max(disk(dir.path()));
        }
    }
    println!("peak: forecast {}, real {most}", forecast.peak_disk_bytes);
    assert!(most > forecast.open_disk_bytes, "garbage was there");
    assert!(most < forecast.peak_disk_bytes / 100 * 115, "{most}");
    store.close().unwrap();
}
