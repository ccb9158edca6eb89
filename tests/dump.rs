//! Two readers of the same files: this engine's decoders, and a Python script written from the
//! specification alone. On a store that has every kind of record, edit and file they must agree to
//! the byte, at every stage of its life.
#![allow(clippy::print_stdout)]

use std::process::Command;
use std::time::{Duration, SystemTime};

use kvs::testing::{self, Access, RealFs};
use kvs::{Batch, Compaction, Durability, Options};

fn reader(dir: &std::path::Path, args: &[&str]) -> Option<(bool, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/format/reader.py");
    let output = match Command::new("python3")
        .arg(script)
        .args(args)
        .arg(dir)
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            assert!(
                std::env::var_os("KVS_REQUIRE_ALL").is_none(),
                "python3: {error}"
            );
            println!("SKIPPED: python3 cannot be started: {error}");
            return None;
        }
    };
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    Some((output.status.success(), text))
}

fn assert_readers_agree(dir: &std::path::Path) -> Option<String> {
    let mut ours = Vec::new();
    testing::dump(&RealFs::open(dir, Access::Read).unwrap(), &mut ours).unwrap();
    let ours = String::from_utf8(ours).unwrap();
    let (_, theirs) = reader(dir, &[])?;
    for (n, (a, b)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(a, b, "line {}", n + 1);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    let (sound, problems) = reader(dir, &["--verify"])?;
    assert!(sound, "{problems}");
    Some(ours)
}

#[test]
fn the_engine_and_the_reader_written_from_the_specification_agree() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new()
        .segment_bytes(64 << 10)
        .shard_bits(3)
        .compaction(Compaction::Manual)
        .durability(Durability::Sync);
    let open = |seed| {
        let fs = RealFs::open(dir.path(), Access::ReadWrite).unwrap();
        testing::open(fs, &options, seed).unwrap()
    };
    let later = SystemTime::now() + Duration::from_secs(3600);
    let later = later
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let mut dumps = String::new();
    for life in 1..4u64 {
        let store = open(life * 100);
        for i in 0..120u32 {
            let key = (i % 50).to_be_bytes();
            store
                .set(&key, &vec![i as u8; (i * 13 % 700) as usize])
                .unwrap();
            if i % 7 == 0 {
                store.remove(&((i + 3) % 50).to_be_bytes()).unwrap();
            }
            if i % 31 == 0 {
                store
                    .set_expiring(&[9, i as u8], b"passing", later)
                    .unwrap();
                store.set_expiring(&[10, i as u8], b"past", 1000).unwrap();
                let mut batch = Batch::new();
                batch
                    .set([1, i as u8], "one")
                    .remove([2])
                    .set([2], "two")
                    .remove([1, 0]);
                store.write(&batch).unwrap();
            }
        }
        store.set(b"", b"").unwrap();
        store.rotate_now().unwrap();
        store
            .set(b"behind the rotation", &[life as u8; 100])
            .unwrap();
        dumps += &assert_readers_agree(dir.path()).unwrap_or_default();
        // Some keys come twice, in one segment and in two.
        let pairs = (0..70u32).map(|i| Ok((((i * 7) % 60).to_be_bytes(), vec![i as u8; 1500])));
        let report = store.load::<_, _, _, kvs::Error>(pairs).unwrap();
        assert!(report.segments > 1 && report.superseded == 10, "{report:?}");
        dumps += &assert_readers_agree(dir.path()).unwrap_or_default();
        if life == 2 {
            store.compact().unwrap();
            store.remove(b"behind the rotation").unwrap();
        }
        if life < 3 {
            store.close().unwrap();
        }
        // The third life is not closed: the next open recovers and cuts.
        drop(store);
        dumps += &assert_readers_agree(dir.path()).unwrap_or_default();
    }
    let store = open(1000);
    assert!(!store.recovery().clean);
    store.close().unwrap();
    dumps += &assert_readers_agree(dir.path()).unwrap_or_default();
    if dumps.is_empty() {
        return;
    }
    let seen = |field: &str, value: &str| dumps.contains(&format!("\"{field}\":\"{value}\""));
    for kind in [
        "set",
        "set_expiring",
        "tombstone",
        "batch_head",
        "mark",
        "link",
        "footer",
    ] {
        assert!(seen("kind", kind), "no record of kind {kind}");
    }
    for kind in [
        "store", "add", "seal", "compact", "forget", "opened", "clean", "cut",
    ] {
        assert!(seen("kind", kind), "no edit of kind {kind}");
    }
    for state in ["sealed", "cut", "merged", "clean", "unsealed"] {
        assert!(seen("state", state), "no segment in state {state}");
    }
    assert!(
        dumps.contains("\"inputs\":[],\"kind\":\"compact\""),
        "no load"
    );
    assert!(seen("type", "hint_entry") && seen("framing", "batch_end"));
}
