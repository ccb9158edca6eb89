//! LMDB, through heed.

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, RoTxn, WithoutTls};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};
use crate::foreign::{LmdbFlags, open_lmdb};

type Base = Database<'static, Bytes, Bytes>;

pub struct Lmdb {
    env: Env<WithoutTls>,
    base: Base,
}

/// Smallest map. It costs address space only, but for `WRITEMAP`, whose file is sparse and as long.
const MAP_BYTES_MIN: u64 = 1 << 30;

impl Engine for Lmdb {
    type Reader<'a> = (RoTxn<'a, WithoutTls>, Base);

    fn open(setup: &Setup) -> Self {
        let flags = match (setup.name, setup.level) {
            ("lmdb:writemap", _) => LmdbFlags::WriteMap,
            (_, Level::Relaxed) => LmdbFlags::NoSync,
            (_, Level::Durable) => LmdbFlags::Sync,
        };
        let map = (setup.payload * 8)
            .max(MAP_BYTES_MIN)
            .next_multiple_of(1 << 20);
        let env = open_lmdb(&setup.dir, map as usize, flags).expect("LMDB opens");
        let txn = env.write_txn().expect("transaction");
        let base = env
            .create_databases_and_commit(txn, |opener, txn| {
                let base = opener.create_database::<Bytes, Bytes>(txn, None)?;
                Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(base))
            })
            .expect("database")
            .unwrap_commit();
        Self { env, base }
    }

    fn reader(&self) -> Self::Reader<'_> {
        (self.env.read_txn().expect("transaction"), self.base)
    }

    #[inline]
    fn get<R>(reader: &Self::Reader<'_>, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        reader.1.get(&reader.0, key).expect("get").map(see)
    }

    #[inline]
    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let txn = self.env.read_txn().expect("transaction");
        self.base.get(&txn, key).expect("get").map(see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let mut txn = self.env.write_txn().expect("transaction");
        self.base.put(&mut txn, key, value).expect("put");
        txn.commit().expect("commit");
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut txn = self.env.write_txn().expect("transaction");
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            let (key, value) = (data.key(i, &mut buffer), data.value(i, version));
            self.base.put(&mut txn, key, value).expect("put");
        }
        txn.commit().expect("commit");
    }

    fn sync(&self) {
        self.env.force_sync().expect("sync");
    }

    fn close(self) {
        self.env.prepare_for_closing().wait();
    }
}
