//! RocksDB, through its C interface.

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};
use crate::foreign::{RocksBatch, RocksDb, RocksSettings};

pub struct Rocksdb {
    base: RocksDb,
}

impl Engine for Rocksdb {
    type Reader<'a> = &'a RocksDb;

    fn open(setup: &Setup) -> Self {
        let settings = RocksSettings {
            cache: setup.cache as usize,
            sync: setup.level == Level::Durable,
            jobs: 2,
        };
        Self {
            base: RocksDb::open(&setup.dir, &settings).expect("RocksDB opens"),
        }
    }

    fn reader(&self) -> &RocksDb {
        &self.base
    }

    #[inline]
    fn get<R>(base: &&RocksDb, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        base.get(key, see).expect("get")
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.base.put(key, value).expect("put");
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut batch = RocksBatch::new();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            batch.put(data.key(i, &mut buffer), data.value(i, version));
        }
        self.base.write(batch).expect("write");
    }

    fn sync(&self) {
        self.base.sync().expect("sync");
    }

    fn close(self) {}
}
