//! Makes golden stores: one small life each, on the simulated file system, so that the same code gives
//! the same bytes. Each ends as its name says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kvs::testing::sim::{Errno, Fault, Image, SimFs, Survive};
use kvs::testing::{Engine, dump, open};
use kvs::{Batch, Compaction, Durability, Error, Expiry, Options, SetOptions};
use kvs_format::crc::crc32;

/// What the clock says, whenever a golden store is made or opened, in Unix milliseconds.
pub const NOW: u64 = 1_700_000_000_000;
const PAST: u64 = 1_600_000_000_000;
const LATER: u64 = 1_800_000_000_000;

type Store = Arc<Engine<SimFs>>;

/// Options of every golden store.
pub fn options() -> Options {
    Options::new()
        .clock(|| UNIX_EPOCH + Duration::from_millis(NOW))
        .compaction(Compaction::Manual)
        .durability(Durability::Os)
        .segment_bytes(64 << 10)
        .shard_bits(2)
}

/// What is in a store: key, value, when it expires.
pub type Contents = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// What a store holds, a line for each key.
pub fn lines(contents: &Contents) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let line = |(key, (value, expires_at)): (&Vec<u8>, &(Vec<u8>, Option<u64>))| {
        let expires_at = expires_at.map_or("null".to_owned(), |at| at.to_string());
        let (key, value) = (hex(key), hex(value));
        format!("{{\"expires_at\":{expires_at},\"key\":\"{key}\",\"value\":\"{value}\"}}\n")
    };
    contents.iter().map(line).collect()
}

/// A store while it is made.
struct Life {
    fs: SimFs,
    store: Store,
    seed: u64,
    contents: Contents,
}

impl Life {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new();
        let store = open(fs.clone(), &options(), seed).unwrap();
        Self {
            fs,
            store,
            seed,
            contents: Contents::new(),
        }
    }

    fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.store.set(key, value).unwrap();
        self.contents.insert(key.to_vec(), (value.to_vec(), None));
    }

    fn expiring(&mut self, key: &str, value: &str, at: u64) {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        self.store.set_expiring(key, value, at).unwrap();
        self.contents.remove(key);
        if at > NOW {
            let pair = (value.to_vec(), Some(at));
            self.contents.insert(key.to_vec(), pair);
        }
    }

    fn remove(&mut self, key: &str) {
        assert!(self.store.remove(key.as_bytes()).unwrap());
        self.contents.remove(key.as_bytes());
    }

    /// Sets two keys, one of which expires, and removes a third, at once.
    fn batch(&mut self, [one, passing, gone]: [&str; 3]) {
        let mut batch = Batch::new();
        let with = Expiry::At(LATER);
        batch.set(one, "in a batch");
        batch.set_with_expiry(passing, "passing", with).remove(gone);
        self.store.write(&batch).unwrap();
        let contents = &mut self.contents;
        contents.insert(one.into(), (b"in a batch".to_vec(), None));
        contents.insert(passing.into(), (b"passing".to_vec(), Some(LATER)));
        contents.remove(gone.as_bytes());
    }

    /// Every kind of data record, in two segments; the first is sealed and has a hint.
    fn everything(&mut self) {
        self.set("apple", "red");
        self.set("", "");
        self.set([0, 255, 10], [0, 1, 254, 255]);
        self.set("long".repeat(200), "x".repeat(900));
        self.expiring("melon", "green", LATER);
        self.expiring("plum", "gone", PAST);
        self.set("pear", "yellow");
        self.store.flush().unwrap();
        self.remove("pear");
        self.batch(["fig", "lemon", "apple"]);
        self.store.rotate_now().unwrap();
        self.set("apple", "green");
        self.set("zeros", [0; 100]);
        self.remove("zeros");
        self.store.flush().unwrap();
    }

    fn reopen(&mut self) {
        self.seed += 1000;
        self.store = open(self.fs.clone(), &options(), self.seed).unwrap();
    }

    fn close_and_reopen(&mut self) {
        self.store.close().unwrap();
        self.reopen();
    }

    /// As it stands: killed.
    fn killed(self) -> Golden {
        Golden {
            image: self.fs.snapshot(),
            contents: self.contents,
        }
    }

    fn closed(self) -> Golden {
        self.store.close().unwrap();
        self.killed()
    }
}

/// A store as it was left, and what it shows when it is opened.
pub struct Golden {
    /// Its files.
    pub image: Image,
    /// What it shows.
    pub contents: Contents,
}

/// The last segment of a store.
fn last_segment(image: &Image) -> String {
    let names = image.names();
    let last = names.iter().rfind(|name| name.ends_with(".seg"));
    last.unwrap().clone()
}

/// The store that was `golden`, with the last eight bytes of its log lost.
fn torn(mut golden: Golden, lost: &str) -> Golden {
    let name = last_segment(&golden.image);
    let end = golden.image.get(&name).unwrap().bytes().len();
    golden.image.edit(&name, |bytes| bytes[end - 8..].fill(0));
    golden.contents.remove(lost.as_bytes()).unwrap();
    golden
}

fn with_everything(seed: u64) -> Life {
    let mut life = Life::new(seed);
    life.everything();
    life
}

/// Two segments that are not sealed: a stop between a rotation and the seal behind it.
fn two_unsealed() -> Golden {
    let life = with_everything(7);
    let from = life.fs.log_len();
    life.store.rotate_now().unwrap();
    let to = life.fs.log_len();
    let unsealed = |image: &Image| {
        let mut text = Vec::new();
        dump(&SimFs::from_image(image), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let links = text.matches("\"kind\":\"link\"").count();
        (text.matches("\"state\":\"unsealed\"").count(), links)
    };
    let cuts = (from..to).map(|cut| life.fs.image(cut, Survive::Everything));
    let image = cuts.into_iter().find(|image| unsealed(image) == (2, 3));
    Golden {
        image: image.expect("a rotation comes before its seal"),
        contents: life.contents,
    }
}

/// A sync failed, a write was refused, and both were written down.
fn poisoned() -> Golden {
    for k in 0..40 {
        let mut life = with_everything(8);
        let set = life.store.set(b"unsynced", b"value");
        set.unwrap();
        life.fs.fail_at(k, Fault::once(Errno::IO));
        let flushed = life.store.flush();
        life.fs.clear_faults();
        let refused = life.store.set(b"refused", b"value");
        let mut text = Vec::new();
        dump(&life.fs, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        if text.contains("\"kind\":\"poison\"") {
            assert!(flushed.is_err() && matches!(refused, Err(Error::Poisoned | Error::Io { .. })));
            // It was written, and nothing but the sync of it failed.
            let pair = (b"value".to_vec(), None);
            life.contents.insert(b"unsynced".to_vec(), pair);
            return life.killed();
        }
    }
    panic!("no failed call leads to a POISON edit");
}

/// All golden stores by name.
pub fn stores() -> BTreeMap<&'static str, Golden> {
    let mut stores = BTreeMap::new();
    stores.insert("empty", Life::new(1).closed());
    stores.insert("closed", {
        let mut life = with_everything(2);
        life.close_and_reopen();
        life.set("apple", "of a second life");
        life.closed()
    });
    stores.insert("killed", {
        let mut life = with_everything(3);
        life.set("unmarked", "behind the last mark");
        life.killed()
    });
    stores.insert("killed-in-its-second-life", {
        let mut life = with_everything(4);
        life.close_and_reopen();
        life.set("apple", "of a second life");
        life.batch(["quince", "lime", "fig"]);
        life.killed()
    });
    stores.insert("torn", {
        let mut life = with_everything(5);
        life.set("whole", "is there");
        life.set("torn", "its end never came");
        torn(life.killed(), "torn")
    });
    stores.insert("recovered", {
        let mut life = with_everything(6);
        life.set("torn", "its end never came");
        let golden = torn(life.killed(), "torn");
        let fs = SimFs::from_image(&golden.image);
        let mut life = Life {
            store: open(fs.clone(), &options(), 6600).unwrap(),
            fs,
            seed: 6600,
            contents: golden.contents,
        };
        assert!(!life.store.recovery().clean);
        life.set("after", "recovery");
        life.closed()
    });
    stores.insert("two-unsealed-segments", two_unsealed());
    stores.insert("poisoned", poisoned());
    stores.insert("compacted", {
        let mut life = with_everything(9);
        life.store.rotate_now().unwrap();
        assert!(life.store.compact().unwrap().records_moved > 3);
        // A tombstone that has to stay: what it buries is in a segment that is not compacted.
        life.set("buried", "here");
        life.store.rotate_now().unwrap();
        life.remove("buried");
        life.set("fig", "after compaction");
        life.store.rotate_now().unwrap();
        life.store.compact_subset(0b100).unwrap();
        life.closed()
    });
    stores.insert("loaded", {
        let mut life = with_everything(10);
        let pairs = (0..120u32).map(|i| ((i % 100).to_be_bytes(), vec![i as u8; 20]));
        let pairs: Vec<_> = pairs.collect();
        let loaded = life.store.load(pairs.iter().cloned().map(Ok::<_, Error>));
        assert_eq!(loaded.unwrap().superseded, 20);
        for (key, value) in pairs {
            life.contents.insert(key.to_vec(), (value, None));
        }
        life.set("after", "the load");
        life.killed()
    });
    stores.insert("expiring", {
        let mut life = Life::new(11);
        for i in 0..40u64 {
            let at = if i % 3 == 0 { PAST + i } else { LATER + i * i };
            life.expiring(&format!("key-{i}"), "passing", at);
        }
        life.set("fig", "for ever");
        life.store.rotate_now().unwrap();
        let level = Durability::Os;
        assert!(life.store.expire_at(level, b"key-1", PAST).unwrap());
        life.contents.remove(&b"key-1"[..]);
        assert!(life.store.persist(level, b"key-2").unwrap());
        life.contents.get_mut(&b"key-2"[..]).unwrap().1 = None;
        assert!(life.store.expire_at(level, b"fig", LATER).unwrap());
        life.contents.get_mut(&b"fig"[..]).unwrap().1 = Some(LATER);
        let kept = SetOptions::new().keep_ttl();
        let set = life.store.set_with(level, b"key-4", b"as long", &kept);
        assert!(set.unwrap());
        life.contents.get_mut(&b"key-4"[..]).unwrap().0 = b"as long".to_vec();
        life.closed()
    });
    stores.insert("larger-than-a-segment", {
        let mut life = Life::new(12);
        life.set("small", "before");
        life.set(vec![b'k'; 65_535], "under the longest key");
        life.set("small", "after");
        life.closed()
    });
    stores.insert("without-hints", {
        let mut golden = with_everything(13).closed();
        let names = golden.image.names().into_iter();
        let hints: Vec<String> = names.filter(|name| name.ends_with(".hint")).collect();
        assert!(!hints.is_empty());
        for name in hints {
            golden.image.remove(&name);
        }
        golden
    });
    stores
}

/// Checks of all files in `dir`, a line each.
pub fn sums(dir: &Path) -> String {
    let mut lines: Vec<String> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file() && entry.file_name() != "SUMS")
        .map(|entry| {
            let name = entry.path().strip_prefix(dir).unwrap().to_owned();
            let crc = crc32(&std::fs::read(entry.path()).unwrap());
            format!("{crc:08x} {}\n", name.display())
        })
        .collect();
    lines.sort_by(|a, b| a[9..].cmp(&b[9..]));
    lines.concat()
}

/// Makes all golden stores in a directory that does not exist yet.
pub fn make(dir: &Path) {
    std::fs::create_dir(dir).expect("golden stores are made in a new directory");
    for (name, golden) in stores() {
        let store = dir.join(name);
        std::fs::create_dir(&store).unwrap();
        for (name, content) in golden.image.iter() {
            std::fs::write(store.join(name), content.to_vec()).unwrap();
        }
        let mut text = Vec::new();
        dump(&SimFs::from_image(&golden.image), &mut text).unwrap();
        std::fs::write(dir.join(format!("{name}.dump.ndjson")), text).unwrap();
        let shows = dir.join(format!("{name}.shows.ndjson"));
        std::fs::write(shows, lines(&golden.contents)).unwrap();
    }
    std::fs::write(dir.join("SUMS"), sums(dir)).unwrap();
}
