//! redb.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");

/// How often a relaxed store commits durably.
const INTERVAL: Duration = Duration::from_secs(1);

pub struct Redb {
    base: Database,
    level: Level,
    durable: Mutex<Instant>,
}

impl Redb {
    fn durability(&self) -> Durability {
        if self.level == Level::Durable {
            return Durability::Immediate;
        }
        let mut durable = self.durable.lock();
        if durable.elapsed() < INTERVAL {
            return Durability::None;
        }
        *durable = Instant::now();
        Durability::Immediate
    }

    fn write(
        &self,
        durability: Durability,
        mut fill: impl FnMut(&mut redb::Table<'_, &[u8], &[u8]>),
    ) {
        let mut txn = self.base.begin_write().expect("transaction");
        txn.set_durability(durability).expect("durability");
        {
            let mut table = txn.open_table(TABLE).expect("table");
            fill(&mut table);
        }
        txn.commit().expect("commit");
    }
}

impl Engine for Redb {
    type Reader<'a> = ReadOnlyTable<&'static [u8], &'static [u8]>;

    fn open(setup: &Setup) -> Self {
        let base = Database::builder()
            .set_cache_size(setup.cache as usize)
            .create(setup.dir.join("data.redb"))
            .expect("redb opens");
        let this = Self {
            base,
            level: setup.level,
            durable: Mutex::new(Instant::now()),
        };
        let there = {
            let txn = this.base.begin_read().expect("transaction");
            txn.open_table(TABLE).is_ok()
        };
        if !there {
            this.write(Durability::Immediate, |_| ());
        }
        this
    }

    fn reader(&self) -> Self::Reader<'_> {
        let txn = self.base.begin_read().expect("transaction");
        txn.open_table(TABLE).expect("table")
    }

    #[inline]
    fn get<R>(table: &Self::Reader<'_>, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let value = redb::ReadableTable::get(table, key).expect("get");
        value.map(|value| see(value.value()))
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.write(self.durability(), |table| {
            table.insert(key, value).expect("insert");
        });
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        self.write(self.durability(), |table| {
            let mut buffer = [0; KEY_BYTES_MAX];
            for i in keys {
                let i = u64::from(*i);
                let (key, value) = (data.key(i, &mut buffer), data.value(i, version));
                table.insert(key, value).expect("insert");
            }
        });
    }

    fn sync(&self) {
        self.write(Durability::Immediate, |_| ());
    }

    fn close(self) {
        self.sync();
        self.base.close().expect("close");
    }
}
