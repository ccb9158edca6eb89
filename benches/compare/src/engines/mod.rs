//! The engines that are compared, each behind the same few calls, and how each is set up.
//!
//! Calls that fail panic: the process they run in does one run, and its parent reports what it said.

mod ceilings;
mod fjall;
mod kvs;
mod lmdb;
mod parity;
mod redb;
#[cfg(has_rocksdb)]
mod rocksdb;
mod sled;
#[cfg(has_tkrzw)]
mod tkrzw;

use std::path::PathBuf;

use crate::data::Data;

/// What a write promises when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Each engine's fastest level that its users would still run; see [`KNOWN`].
    Relaxed,
    /// The device has the bytes.
    Durable,
}

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where its files go.
    pub dir: PathBuf,
    /// What a write promises.
    pub level: Level,
    /// Name among [`KNOWN`]: some engines come in several.
    pub name: &'static str,
    /// Keys there will be at most.
    pub keys: u64,
    /// Bytes of their keys and values.
    pub payload: u64,
    /// Bytes of one value.
    pub value_len: usize,
    /// Most bytes of memory for caches.
    pub cache: u64,
}

/// What every engine can do.
pub trait Engine: Sized + Sync {
    /// What a thread keeps while it only reads: a transaction, a pin, or nothing.
    type Reader<'a>
    where
        Self: 'a;

    /// Opens what is in the directory, or makes it.
    fn open(setup: &Setup) -> Self;

    /// For reads while nobody writes.
    fn reader(&self) -> Self::Reader<'_>;

    /// Shows the value to `see` where it lies, if the engine can.
    fn get<R>(reader: &Self::Reader<'_>, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// The same beside writers: the newest value.
    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// One write of its own.
    fn put(&self, key: &[u8], value: &[u8]);

    /// Keys of `data` with their value of `version`, as one write where the engine has that.
    fn put_many(&self, data: &Data, keys: &[u32], version: u64);

    /// Returns when everything written is on the device.
    fn sync(&self);

    /// Closes in order.
    fn close(self);
}

/// What an engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It can be read.
    pub reads: bool,
    /// It has files that can be opened again.
    pub files: bool,
    /// A write can wait for the device.
    pub durable: bool,
    /// Only worth running where nobody writes: elsewhere it is the same as another.
    pub only_reads: bool,
    /// Only worth running where somebody writes.
    pub only_writes: bool,
}

const FULL: Abilities = Abilities {
    reads: true,
    files: true,
    durable: true,
    only_reads: false,
    only_writes: false,
};

/// What an engine is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Ours.
    Kvs,
    /// One that people use.
    Peer,
    /// Set as its users would not: shown, not counted among the best.
    Labelled,
    /// Not a store: what the machine can do.
    Ceiling,
}

/// An engine, and how it is set.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// What it is to the comparison.
    pub part: Part,
    /// Crate whose version counts, or empty.
    pub package: &'static str,
    /// What it can.
    pub can: Abilities,
    /// Settings of [`Level::Relaxed`], and what a write then promises.
    pub relaxed: &'static str,
    /// Settings of [`Level::Durable`].
    pub durable: &'static str,
    /// How it is read, and other reasons.
    pub remarks: &'static str,
}

/// All of them, in the order of the tables.
pub const KNOWN: &[Known] = &[
    Known {
        name: "kvs",
        part: Part::Kvs,
        package: "kvs",
        can: FULL,
        relaxed: "defaults: `Interval(1s)`, reads verified; survives kill -9, a power cut takes at most 1 s",
        durable: "`Durability::Sync`",
        remarks: "`get` returns a `Value`",
    },
    Known {
        name: "kvs:reader",
        part: Part::Kvs,
        package: "kvs",
        can: Abilities {
            only_reads: true,
            ..FULL
        },
        relaxed: "as `kvs`",
        durable: "as `kvs`",
        remarks: "a `Reader`, pinned once",
    },
    Known {
        name: "kvs:bare",
        part: Part::Kvs,
        package: "kvs",
        can: FULL,
        relaxed: "`Os`, reads not verified; survives kill -9",
        durable: "`Durability::Sync`, reads not verified",
        remarks: "`get` returns a `Value`",
    },
    Known {
        name: "kvs:bare-reader",
        part: Part::Kvs,
        package: "kvs",
        can: Abilities {
            only_reads: true,
            ..FULL
        },
        relaxed: "as `kvs:bare`",
        durable: "as `kvs:bare`",
        remarks: "a `Reader`, pinned once",
    },
    Known {
        name: "lmdb",
        part: Part::Peer,
        package: "heed",
        can: FULL,
        relaxed: "`MDB_NOSYNC`; survives kill -9",
        durable: "no flags: every commit syncs",
        remarks: "`MDB_NOTLS`, map of eight times the data; without writers one read transaction for all gets, beside writers one for each; values read in the map, nothing is checked",
    },
    Known {
        name: "lmdb:writemap",
        part: Part::Labelled,
        package: "heed",
        can: Abilities {
            only_writes: true,
            durable: false,
            ..FULL
        },
        relaxed: "`MDB_WRITEMAP` and `MDB_NOSYNC`; a stray pointer or a power cut may destroy the file, which has the size of the map",
        durable: "not run",
        remarks: "not as users should run it, shown because it is LMDB's fastest",
    },
    Known {
        name: "redb",
        part: Part::Peer,
        package: "redb",
        can: FULL,
        relaxed: "`Durability::None`, and `Immediate` once a second; kill -9 takes up to 1 s",
        durable: "`Durability::Immediate`",
        remarks: "cache as said below; one read transaction and table for all gets without writers, one for each beside them",
    },
    Known {
        name: "fjall",
        part: Part::Peer,
        package: "fjall",
        can: FULL,
        relaxed: "defaults (`PersistMode::Buffer`); survives kill -9",
        durable: "`persist(SyncData)` after every insert",
        remarks: "cache as said below, no compression (random values do not compress), values of 1 KiB and more apart from keys, as its documentation advises",
    },
    Known {
        name: "sled",
        part: Part::Peer,
        package: "sled",
        can: FULL,
        relaxed: "`HighThroughput`, `flush_every_ms(1000)`; kill -9 takes up to 1 s",
        durable: "`flush()` after every insert",
        remarks: "cache as said below, no compression",
    },
    Known {
        name: "rocksdb",
        part: Part::Peer,
        package: "",
        can: FULL,
        relaxed: "log written, not synced; survives kill -9",
        durable: "`sync`; threads share syncs",
        remarks: "LRU cache as said below, Bloom filter of 10 bits, hash index in data blocks, memtable with Bloom filter (`OptimizeForPointLookup`), no compression, 2 background jobs, pipelined writes; values pinned, not copied; checksums verified as by default",
    },
    Known {
        name: "parity-db",
        part: Part::Peer,
        package: "parity-db",
        can: Abilities {
            durable: false,
            ..FULL
        },
        relaxed: "`sync_wal` and `sync_data` off, no statistics; `commit` returns before anything is written: kill -9 takes what is queued",
        durable: "has none: `commit` does not wait for the device",
        remarks: "one hash column, no compression; gets copy the value; a sync is closing and reopening, so it is not run where syncs are",
    },
    Known {
        name: "tkrzw",
        part: Part::Peer,
        package: "",
        can: FULL,
        relaxed: "`HashDBM`, in place, memory-mapped file; survives kill -9 if the file is restored, a power cut may destroy it",
        durable: "`Synchronize(hard)` after every `Set`; in place, so a power cut during a write may damage the record",
        remarks: "2 buckets a key, `align_pow=3`, no checksum (as by default); read by `Process`, in place; a batch is `SetMulti`, which is not atomic",
    },
    Known {
        name: "map",
        part: Part::Ceiling,
        package: "hashbrown",
        can: Abilities {
            files: false,
            durable: false,
            ..FULL
        },
        relaxed: "`RwLock<HashMap<Box<[u8]>, Box<[u8]>>>`: memory only",
        durable: "not run",
        remarks: "`parking_lot` lock, foldhash",
    },
    Known {
        name: "log",
        part: Part::Ceiling,
        package: "memmap2",
        can: Abilities {
            reads: false,
            ..FULL
        },
        relaxed: "records of 24 bytes, key and value, one behind the other in an allocated, mapped file; no checksum, no index, no recovery",
        durable: "one `fdatasync` for all who wait",
        remarks: "cannot be read",
    },
];

/// The engine of that name.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// Whether it was built in.
pub fn here(name: &str) -> bool {
    let missing = [("rocksdb", cfg!(has_rocksdb)), ("tkrzw", cfg!(has_tkrzw))];
    !missing.contains(&(name, false))
}

/// Version of an engine as it is linked.
pub fn version(known: &Known) -> String {
    match known.name {
        "rocksdb" => option_env!("ROCKSDB_VERSION")
            .unwrap_or("not here")
            .to_owned(),
        #[cfg(has_tkrzw)]
        "tkrzw" => crate::foreign::tkrzw_version(),
        #[cfg(not(has_tkrzw))]
        "tkrzw" => "not here".to_owned(),
        _ => locked(known.package).unwrap_or("unknown").to_owned(),
    }
}

/// Version of a package in this program's `Cargo.lock`.
fn locked(package: &str) -> Option<&'static str> {
    const LOCK: &str = include_str!("../../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    // Where there are several, the last is the newest.
    let at = LOCK.rfind(&entry)? + entry.len();
    LOCK[at..].split('"').next()
}

/// Something to do with whichever engine is chosen by name.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<E: Engine>(self) -> Self::Output;
}

/// Does `work` with the engine of that name; `None` if it is not here.
pub fn with<W: Work>(name: &str, work: W) -> Option<W::Output> {
    Some(match name.split(':').next().unwrap_or(name) {
        "kvs" => work.run::<kvs::Kvs>(),
        "lmdb" => work.run::<lmdb::Lmdb>(),
        "redb" => work.run::<redb::Redb>(),
        "fjall" => work.run::<fjall::Fjall>(),
        "sled" => work.run::<sled::Sled>(),
        #[cfg(has_rocksdb)]
        "rocksdb" => work.run::<rocksdb::Rocksdb>(),
        "parity-db" => work.run::<parity::Parity>(),
        #[cfg(has_tkrzw)]
        "tkrzw" => work.run::<tkrzw::Tkrzw>(),
        "map" => work.run::<ceilings::Map>(),
        "log" => work.run::<ceilings::Log>(),
        _ => return None,
    })
}
