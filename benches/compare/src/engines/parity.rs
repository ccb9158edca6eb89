//! parity-db: one hash column.

use parity_db::{Db, Options};

use super::{Engine, Setup};
use crate::data::{Data, KEY_BYTES_MAX};

const COLUMN: u8 = 0;

pub struct Parity {
    base: Db,
}

impl Engine for Parity {
    type Reader<'a> = &'a Db;

    fn open(setup: &Setup) -> Self {
        let mut options = Options::with_columns(&setup.dir, 1);
        options.sync_wal = false;
        options.sync_data = false;
        options.stats = false;
        Self {
            base: Db::open_or_create(&options).expect("parity-db opens"),
        }
    }

    fn reader(&self) -> &Db {
        &self.base
    }

    #[inline]
    fn get<R>(base: &&Db, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        base.get(COLUMN, key).expect("get").map(|value| see(&value))
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let change = (COLUMN, key, Some(value.to_vec()));
        self.base.commit([change]).expect("commit");
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let changes = keys.iter().map(|i| {
            let i = u64::from(*i);
            let mut buffer = [0; KEY_BYTES_MAX];
            let key = data.key(i, &mut buffer).to_vec();
            (COLUMN, key, Some(data.value(i, version).to_vec()))
        });
        self.base.commit(changes).expect("commit");
    }

    /// Has no such call, and is in no row that would make it.
    fn sync(&self) {
        panic!("parity-db cannot be told to sync");
    }

    /// Dropping writes what is queued and waits for it.
    fn close(self) {}
}
