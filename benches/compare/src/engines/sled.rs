//! sled.

use std::time::{Duration, Instant};

use sled::{Batch, Db, Mode};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};

pub struct Sled {
    base: Db,
    level: Level,
}

/// A thread of sled's may hold its lock for a moment after the last handle has gone.
fn patiently(open: impl Fn() -> sled::Result<Db>) -> sled::Result<Db> {
    let start = Instant::now();
    loop {
        match open() {
            Err(sled::Error::Io(_)) if start.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

impl Engine for Sled {
    type Reader<'a> = &'a Db;

    fn open(setup: &Setup) -> Self {
        let config = sled::Config::new()
            .path(&setup.dir)
            .cache_capacity(setup.cache)
            .mode(Mode::HighThroughput)
            .flush_every_ms(Some(1000));
        let open = || config.open();
        Self {
            base: patiently(open).expect("sled opens"),
            level: setup.level,
        }
    }

    fn reader(&self) -> &Db {
        &self.base
    }

    #[inline]
    fn get<R>(base: &&Db, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        base.get(key).expect("get").map(|value| see(&value))
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.base.insert(key, value).expect("insert");
        if self.level == Level::Durable {
            self.sync();
        }
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut batch = Batch::default();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            batch.insert(data.key(i, &mut buffer), data.value(i, version));
        }
        self.base.apply_batch(batch).expect("batch");
    }

    fn sync(&self) {
        self.base.flush().expect("flush");
    }

    fn close(self) {
        self.sync();
    }
}
