//! A full disk, for real: small file systems of their own, filled to the last block. Goal: a set that
//! finds no room says so and changes nothing; removing, reading, opening and compacting go on; writing
//! resumes when there is room again, without opening anew.
//!
//! Mounting needs root and changes the machine, so nothing is mounted unless `KVS_TEST_MOUNT=1`. What
//! was mounted is unmounted, also after a panic.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kvs::testing::{self, Access, RealFs};
use kvs::{Compaction, Error, Options, Store};
use tempfile::TempDir;

/// A mounted file system.
struct Mount {
    dir: TempDir,
    _image: TempDir,
}

impl Mount {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.as_ref().is_ok_and(|status| status.success()) {
            // Something in it is still open: it goes with its last user.
            unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        }
        let gone = unmounted.is_ok_and(|status| status.success());
        assert!(gone || std::thread::panicking(), "it can be unmounted");
    }
}

fn did(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// A new file system of `mib` MiB.
fn mount(kind: &str, mib: u64) -> Result<Mount, String> {
    let new = || TempDir::new().map_err(|e| e.to_string());
    let (dir, image_dir) = (new()?, new()?);
    let path = dir.path().to_owned();
    if kind == "tmpfs" {
        did(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "kvs-test"])
            .arg(&path))?;
    } else {
        let image = image_dir.path().join("image");
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(mib << 20).map_err(|e| e.to_string())?;
        did(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))?;
        did(Command::new("mount")
            .args(["-t", kind, "-o", "loop"])
            .arg(&image)
            .arg(&path))?;
    }
    Ok(Mount {
        dir,
        _image: image_dir,
    })
}

/// The file system, or `None` where there can be none.
#[expect(clippy::print_stdout, reason = "who skips says so")]
fn small(kind: &str, mib: u64) -> Option<Mount> {
    let is = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
    let why = match is("KVS_TEST_MOUNT") {
        false => "KVS_TEST_MOUNT=1 is not set".to_owned(),
        true => match mount(kind, mib) {
            Ok(mount) => return Some(mount),
            Err(why) => why,
        },
    };
    assert!(!is("KVS_REQUIRE_ALL"), "{kind}: {why}");
    println!("SKIPPED: {kind}: {why}");
    None
}

const KINDS: [&str; 2] = ["ext4", "tmpfs"];

fn options() -> Options {
    Options::new().compaction(Compaction::Manual)
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(i: u32) -> Vec<u8> {
    format!("key-{i:08}").into_bytes()
}

fn value(i: u32, len: usize) -> Vec<u8> {
    i.to_le_bytes().repeat(len / 4)
}

/// Sets until the disk is full; at most `most` pairs.
fn fill(
    mut set: impl FnMut(&[u8], &[u8]) -> kvs::Result<()>,
    pairs: &mut Pairs,
    most: u32,
) -> bool {
    let first = pairs.len() as u32;
    for i in first..first.saturating_add(most) {
        let (key, value) = (key(i), value(i, 1000));
        match set(&key, &value) {
            Ok(()) => pairs.insert(key, value),
            Err(Error::DiskFull { .. }) => return true,
            Err(error) => panic!("pair {i}: {error}"),
        };
    }
    false
}

fn assert_holds(store: &Store, pairs: &Pairs) {
    assert_eq!(store.len(), pairs.len() as u64);
    for (key, value) in pairs {
        let found = store.get(key).unwrap();
        assert_eq!(found.as_deref(), Some(&value[..]));
    }
}

#[test]
fn a_full_store_opens_reads_removes_compacts_and_then_writes_again() {
    for kind in KINDS {
        let Some(mount) = small(kind, 64) else {
            continue;
        };
        let dir = mount.path().join("store");
        let store = options().open(&dir).unwrap();
        let mut pairs = Pairs::new();
        assert!(fill(|k, v| store.set(k, v), &mut pairs, u32::MAX), "{kind}");
        assert!(pairs.len() > 20_000, "{kind}: most of it was used");
        assert!(store.stats().reserve_bytes >= 1 << 20, "{kind}");
        // A refused set changes nothing, however often.
        let last = store.stats().last_lsn;
        for i in 0..3 {
            let refused = store.set("refused", value(i, 100_000));
            assert!(
                matches!(refused, Err(Error::DiskFull { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(store.stats().last_lsn, last);
        assert_holds(&store, &pairs);

        // Full, closed and opened again.
        store.close().unwrap();
        let store = options().open(&dir).unwrap();
        assert!(store.recovery().clean);
        assert_holds(&store, &pairs);

        for i in (0..pairs.len() as u32).filter(|i| i % 3 != 0) {
            assert!(store.remove(key(i)).unwrap(), "{kind}: {i}");
            pairs.remove(&key(i));
        }
        assert_holds(&store, &pairs);
        store.close().unwrap();

        let store = options().open(&dir).unwrap();
        assert_holds(&store, &pairs);
        let report = store.compact().unwrap();
        assert!(
            report.bytes_after < report.bytes_before,
            "{kind}: {report:?}"
        );
        while store.compact().unwrap().bytes_before > 0 {}
        assert_holds(&store, &pairs);
        let stats = store.stats();
        assert_eq!(stats.dead_bytes, 0, "{kind}: {stats:?}");
        // Without opening anew.
        for i in 0..10_000u32 {
            store.set(format!("again {i}"), value(i, 1000)).unwrap();
        }
        assert!(store.stats().reserve_bytes >= 1 << 20, "{kind}");
        assert_eq!(store.verify().unwrap().damage, []);
        store.close().unwrap();
    }
}

#[test]
fn a_store_that_was_killed_on_a_full_disk_opens_and_makes_room() {
    for kind in KINDS {
        let Some(mount) = small(kind, 48) else {
            continue;
        };
        let dir = mount.path().join("store");
        let mut pairs = Pairs::new();
        {
            // Never closed: what it leaves is what a killed process leaves.
            let fs = RealFs::open(&dir, Access::ReadWrite).unwrap();
            let killed = testing::open(fs, &options(), 1).unwrap();
            assert!(fill(|k, v| killed.set(k, v), &mut pairs, u32::MAX));
        }
        // And somebody else takes what is left.
        take_the_rest(mount.path());
        let store = options().open(&dir).unwrap();
        assert_holds(&store, &pairs);
        let mut compactions = 0;
        for i in 0..pairs.len() as u32 * 3 / 4 {
            let removed = match store.remove(key(i)) {
                // Tombstones have used up their part of what was set aside.
                Err(Error::DiskFull { .. }) => {
                    compactions += 1;
                    let report = store.compact().unwrap();
                    assert!(report.bytes_after < report.bytes_before, "{report:?}");
                    store.remove(key(i))
                }
                removed => removed,
            };
            assert!(removed.unwrap(), "{kind}: {i}");
            pairs.remove(&key(i));
        }
        assert!(compactions < 10, "{kind}: {compactions}");
        store.compact().unwrap();
        assert_holds(&store, &pairs);
        let first = 1_000_000;
        for i in first..first + 1000 {
            store.set(key(i), value(i, 1000)).unwrap();
            pairs.insert(key(i), value(i, 1000));
        }
        assert_holds(&store, &pairs);
        store.close().unwrap();
    }
}

/// Allocates every block of the file system that is still free.
fn take_the_rest(dir: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(dir.join("rest")).unwrap();
    for block in [1 << 20, 4096] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    let _ = file.sync_all();
}

#[test]
fn writing_resumes_when_somebody_else_gives_room_back() {
    for kind in KINDS {
        let Some(mount) = small(kind, 48) else {
            continue;
        };
        let store = options().open(mount.path().join("store")).unwrap();
        let mut pairs = Pairs::new();
        assert!(!fill(|k, v| store.set(k, v), &mut pairs, 8000));
        take_the_rest(mount.path());
        assert!(fill(|k, v| store.set(k, v), &mut pairs, u32::MAX), "{kind}");
        assert!(store.remove(key(0)).unwrap(), "{kind}");
        pairs.remove(&key(0));
        std::fs::remove_file(mount.path().join("rest")).unwrap();
        for i in 5_000_000..5_005_000 {
            store.set(key(i), value(i, 1000)).unwrap();
            pairs.insert(key(i), value(i, 1000));
        }
        assert_holds(&store, &pairs);
        store.close().unwrap();
    }
}

/// The same keys over and over, many times what the disk holds: with compaction in the background a
/// writer may be told to wait, never that something broke.
#[test]
fn overwriting_goes_on_in_a_small_place() {
    for kind in KINDS {
        let Some(mount) = small(kind, 96) else {
            continue;
        };
        let dir = mount.path().join("store");
        let store = Store::open(&dir).unwrap();
        let mut full = 0;
        for i in 0..300_000u32 {
            loop {
                match store.set(key(i % 8000), value(i, 1000)) {
                    Ok(()) => break,
                    Err(Error::DiskFull { .. }) => {
                        full += 1;
                        assert!(full < 10_000, "{kind}: it never gets on");
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    Err(error) => panic!("{kind}: {error}"),
                }
            }
        }
        assert_eq!(store.len(), 8000);
        for i in 292_000..300_000 {
            assert_eq!(
                *store.get(key(i % 8000)).unwrap().unwrap(),
                value(i, 1000)[..]
            );
        }
        store.close().unwrap();
    }
}
