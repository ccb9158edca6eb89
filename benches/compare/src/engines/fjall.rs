//! fjall.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};

/// Values from here on lie apart from their keys.
const SEPARATE_FROM: usize = 1 << 10;

pub struct Fjall {
    base: Database,
    keys: Keyspace,
    level: Level,
}

impl Engine for Fjall {
    type Reader<'a> = &'a Keyspace;

    fn open(setup: &Setup) -> Self {
        let base = Database::builder(&setup.dir)
            .cache_size(setup.cache)
            .open()
            .expect("fjall opens");
        let separation = setup.value_len >= SEPARATE_FROM;
        let options = || {
            let separation = separation.then(KvSeparationOptions::default);
            KeyspaceCreateOptions::default().with_kv_separation(separation)
        };
        let keys = base.keyspace("data", options).expect("keyspace");
        Self {
            base,
            keys,
            level: setup.level,
        }
    }

    fn reader(&self) -> &Keyspace {
        &self.keys
    }

    #[inline]
    fn get<R>(keys: &&Keyspace, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        keys.get(key).expect("get").map(|value| see(&value))
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.keys.insert(key, value).expect("insert");
        if self.level == Level::Durable {
            self.sync();
        }
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut batch = self.base.batch();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            batch.insert(&self.keys, data.key(i, &mut buffer), data.value(i, version));
        }
        batch.commit().expect("commit");
    }

    fn sync(&self) {
        self.base.persist(PersistMode::SyncData).expect("persist");
    }

    fn close(self) {
        self.sync();
    }
}
