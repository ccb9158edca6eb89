//! Good stores to start from: one history that has everything in it, cut after every operation on
//! the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use kvs::testing::sim::{Image, SimFs, Survive};
use kvs::testing::{Engine, open};
use kvs::{Batch, Compaction, Durability, Expiry, Options, SetOptions};

use crate::edit::Files;

/// Key -> value.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a history went through.
#[derive(Default)]
pub struct Oracle {
    /// The contents after each change, and at the beginning.
    pub states: BTreeSet<Contents>,
    /// Every value a key ever had.
    pub values: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
}

/// Stores that a history left behind, and what may be in them.
pub struct Bases {
    /// What a stop left behind, in the order of the history.
    pub images: Vec<Files>,
    /// What may be in them.
    pub oracle: Oracle,
}

/// When keys expire that expire in the history, and what the clock says in it and ever after, in Unix
/// milliseconds.
const PAST: u64 = 1_000;
const NOW: u64 = 1 << 40;
const LATER: u64 = 1 << 41;

/// Options of every store here: small segments, no compaction that nobody asked for, and a clock that
/// stands still: what is there does not depend on when a target runs.
pub fn options() -> Options {
    Options::new()
        .clock(|| UNIX_EPOCH + Duration::from_millis(NOW))
        .segment_bytes(64 << 10)
        .compaction(Compaction::Manual)
        .shard_bits(1)
}

/// Names and bytes of a directory.
pub fn files(image: &Image) -> Files {
    image
        .iter()
        .map(|(name, content)| (name.to_owned(), content.to_vec()))
        .collect()
}

/// The stores, made once.
pub fn bases() -> &'static Bases {
    static BASES: OnceLock<Bases> = OnceLock::new();
    BASES.get_or_init(make)
}

struct History {
    fs: SimFs,
    engine: Option<Arc<Engine<SimFs>>>,
    seed: u64,
    contents: Contents,
    oracle: Oracle,
}

impl History {
    fn new() -> Self {
        let mut history = Self {
            fs: SimFs::new(),
            engine: None,
            seed: 0,
            contents: Contents::new(),
            oracle: Oracle::default(),
        };
        history.note();
        history.reopen();
        history
    }

    fn engine(&self) -> &Arc<Engine<SimFs>> {
        self.engine.as_ref().expect("a store is open")
    }

    fn note(&mut self) {
        self.oracle.states.insert(self.contents.clone());
    }

    /// Opens again after whatever stop came before; without a close that is a kill.
    fn reopen(&mut self) {
        self.engine = None;
        self.seed += 1000;
        let engine = open(self.fs.clone(), &options(), self.seed);
        self.engine = Some(engine.expect("a good store opens"));
    }

    fn insert(&mut self, key: &str, value: &[u8]) {
        let key = key.as_bytes().to_vec();
        self.oracle
            .values
            .entry(key.clone())
            .or_default()
            .insert(value.to_vec());
        self.contents.insert(key, value.to_vec());
    }

    fn set(&mut self, key: &str, len: usize) {
        // No value is ever written twice: an old one in the place of a new one shows.
        self.seed += 1;
        let value: Vec<u8> = format!("{key}#{}.", self.seed)
            .bytes()
            .cycle()
            .take(len)
            .collect();
        self.engine()
            .set(key.as_bytes(), &value)
            .expect("a good store takes a value");
        self.insert(key, &value);
        self.note();
    }

    fn remove(&mut self, key: &str) {
        self.engine()
            .remove(key.as_bytes())
            .expect("a good store removes");
        self.contents.remove(key.as_bytes());
        self.note();
    }

    fn batch(&mut self, set: &[&str], remove: &str) {
        let mut batch = Batch::new();
        for key in set {
            self.seed += 1;
            let value = format!("{key} in batch {}", self.seed);
            batch.set(key, &value);
            self.insert(key, value.as_bytes());
        }
        batch.remove(remove);
        self.contents.remove(remove.as_bytes());
        self.engine()
            .write(&batch)
            .expect("a good store takes a batch");
        self.note();
    }

    /// A value under `key` that no other key and no other time had.
    fn value(&mut self, key: &str, of: &str) -> Vec<u8> {
        self.seed += 1;
        format!("{key} {of} {}", self.seed).into_bytes()
    }

    /// Sets a key that expires `at`.
    fn expiring(&mut self, key: &str, at: u64) {
        let value = self.value(key, "expires");
        let engine = self.engine();
        engine
            .set_expiring(key.as_bytes(), &value, at)
            .expect("a good store takes a value");
        self.insert(key, &value);
        self.expires(key, at);
        self.note();
    }

    /// A key that is there expires `at`.
    fn expires(&mut self, key: &str, at: u64) {
        if at <= NOW {
            self.contents.remove(key.as_bytes());
        }
    }

    /// Sets a key that expires when its old value did.
    fn keeping(&mut self, key: &str) {
        let value = self.value(key, "as long as before");
        let kept = SetOptions::new().keep_ttl();
        self.engine()
            .set_with(Durability::Os, key.as_bytes(), &value, &kept)
            .expect("a good store takes a value");
        self.insert(key, &value);
        self.note();
    }

    /// A key that is there expires `at`.
    fn expire(&mut self, key: &str, at: u64) {
        let there = self
            .engine()
            .expire_at(Durability::Os, key.as_bytes(), at)
            .expect("a good store lets a key expire");
        assert!(there);
        self.expires(key, at);
        self.note();
    }

    /// A key that expires does so no more.
    fn persist(&mut self, key: &str) {
        let there = self.engine().persist(Durability::Os, key.as_bytes());
        assert!(there.expect("a good store lets a key live"));
        self.note();
    }

    /// Sets two keys at once: one expires later, the other has.
    fn expiring_batch(&mut self, later: &str, past: &str) {
        let mut batch = Batch::new();
        for (key, at) in [(later, LATER), (past, PAST)] {
            let value = self.value(key, "in a batch expires");
            batch.set_with_expiry(key, &value, Expiry::At(at));
            self.insert(key, &value);
            self.expires(key, at);
        }
        self.engine()
            .write(&batch)
            .expect("a good store takes a batch");
        self.note();
    }

    fn with(&self, what: impl FnOnce(&Engine<SimFs>) -> kvs::Result<()>) {
        what(self.engine()).expect("a good store does what it is asked");
    }
}

fn make() -> Bases {
    let mut h = History::new();
    for key in ["a", "b", "c", "", "long", "d"] {
        h.set(key, 12);
    }
    h.with(Engine::flush);
    h.set("long", 700);
    h.batch(&["a", "e"], "b");
    h.with(Engine::rotate_now);
    h.set("c", 20);
    h.remove("d");
    h.expiring("x", PAST);
    h.expiring("y", u64::MAX);
    h.expiring("z", LATER);
    h.with(Engine::flush);
    h.with(Engine::rotate_now);
    h.set("a", 30);
    h.with(Engine::close);
    h.reopen();
    h.set("f", 9);
    h.keeping("y");
    h.expire("c", LATER);
    h.with(|engine| engine.compact().map(|_| ()));
    h.set("c", 40);
    h.remove("e");
    h.with(Engine::flush);
    h.set("g", 8);
    h.batch(&["h", "i"], "f");
    h.expiring_batch("x", "b");
    h.persist("z");
    h.reopen();
    h.set("a", 17);
    h.with(Engine::rotate_now);
    h.remove("g");
    h.expire("z", PAST);
    h.expire("i", LATER);
    h.set("b", 5);
    h.with(|engine| engine.compact().map(|_| ()));
    h.with(Engine::flush);
    h.with(Engine::close);
    h.engine = None;

    let mut images: Vec<Image> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut replay = h.fs.replay();
    loop {
        let seed = replay.cut() as u64;
        for survive in [
            Survive::Everything,
            Survive::SyncedOnly,
            Survive::Mix { seed },
        ] {
            let image = replay.image(survive);
            if seen.insert(image.digest()) {
                images.push(image);
            }
        }
        if !replay.advance() {
            break;
        }
    }
    // The latest first: they have the most in them, and an input of zeros means the first.
    let images = images.iter().rev().map(files).collect();
    Bases {
        images,
        oracle: h.oracle,
    }
}
