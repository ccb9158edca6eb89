//! What the machine can do without a store: a locked map in memory, a bare log.

use std::fs::File;

use parking_lot::{Condvar, Mutex, RwLock};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};
use crate::foreign::map_file;

type Boxed = Box<[u8]>;

/// A map of boxed keys and values behind one lock.
pub struct Map {
    map: RwLock<hashbrown::HashMap<Boxed, Boxed>>,
}

impl Engine for Map {
    type Reader<'a> = &'a Self;

    fn open(_: &Setup) -> Self {
        Self {
            map: RwLock::default(),
        }
    }

    fn reader(&self) -> &Self {
        self
    }

    #[inline]
    fn get<R>(this: &&Self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        this.map.read().get(key).map(|value| see(value))
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self, key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.map.write().insert(key.into(), value.into());
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut map = self.map.write();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            let key = data.key(i, &mut buffer).into();
            map.insert(key, data.value(i, version).into());
        }
    }

    /// Nothing is ever on a device.
    fn sync(&self) {}

    fn close(self) {}
}

const HEADER_BYTES: usize = 24;

/// Records in a mapped file that was allocated before: no checksum, no index, no recovery.
pub struct Log {
    level: Level,
    file: File,
    log: Mutex<Tail>,
    synced: Mutex<Synced>,
    changed: Condvar,
}

struct Tail {
    map: memmap2::MmapMut,
    end: usize,
    records: u64,
}

struct Synced {
    records: u64,
    busy: bool,
}

impl Tail {
    fn append(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let (header, rest) = self.map[self.end..].split_at_mut(HEADER_BYTES);
        let (at_key, rest) = rest.split_at_mut(key.len());
        header.fill(1);
        at_key.copy_from_slice(key);
        rest[..value.len()].copy_from_slice(value);
        self.end += (HEADER_BYTES + key.len() + value.len()).next_multiple_of(8);
        self.records += 1;
        self.records
    }
}

impl Log {
    /// Whoever comes first syncs for all who have appended by then.
    fn wait(&self, mine: u64) {
        let mut synced = self.synced.lock();
        while synced.records < mine {
            if synced.busy {
                self.changed.wait(&mut synced);
                continue;
            }
            synced.busy = true;
            drop(synced);
            let records = self.log.lock().records;
            self.file.sync_data().expect("sync");
            synced = self.synced.lock();
            *synced = Synced {
                records,
                busy: false,
            };
            self.changed.notify_all();
        }
    }
}

impl Engine for Log {
    type Reader<'a> = ();

    fn open(setup: &Setup) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(setup.dir.join("log"))
            .expect("a file can be made");
        let len = setup.payload + setup.keys * (HEADER_BYTES as u64 + 8);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)
            .expect("space can be allocated");
        file.sync_all().expect("sync");
        let map = map_file(&file).expect("the file can be mapped");
        Self {
            level: setup.level,
            file,
            log: Mutex::new(Tail {
                map,
                end: 0,
                records: 0,
            }),
            synced: Mutex::new(Synced {
                records: 0,
                busy: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn reader(&self) {}

    fn get<R>((): &(), _: &[u8], _: impl FnOnce(&[u8]) -> R) -> Option<R> {
        panic!("a bare log cannot be read");
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let mine = self.log.lock().append(key, value);
        if self.level == Level::Durable {
            self.wait(mine);
        }
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut log = self.log.lock();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            log.append(data.key(i, &mut buffer), data.value(i, version));
        }
    }

    fn sync(&self) {
        self.file.sync_data().expect("sync");
    }

    fn close(self) {}
}
