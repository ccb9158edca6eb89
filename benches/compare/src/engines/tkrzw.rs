//! Tkrzw's HashDBM, through its C interface.

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};
use crate::foreign::Dbm;

pub struct Tkrzw {
    base: Dbm,
    level: Level,
}

/// Buckets for every key: fewer make chains, more cost memory that reads must touch.
const BUCKETS_A_KEY: u64 = 2;

impl Engine for Tkrzw {
    type Reader<'a> = &'a Dbm;

    fn open(setup: &Setup) -> Self {
        let buckets = (setup.keys * BUCKETS_A_KEY).max(1024);
        // Offsets of five bytes reach 8 TiB at this alignment.
        let settings = format!(
            "dbm=HashDBM,file=MemoryMapParallelFile,num_buckets={buckets},align_pow=3,offset_width=5"
        );
        Self {
            base: Dbm::open(&setup.dir.join("data.tkh"), &settings).expect("Tkrzw opens"),
            level: setup.level,
        }
    }

    fn reader(&self) -> &Dbm {
        &self.base
    }

    #[inline]
    fn get<R>(base: &&Dbm, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        base.get(key, see).expect("get")
    }

    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        Self::get(&self.reader(), key, see)
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.base.set(key, value).expect("set");
        if self.level == Level::Durable {
            self.sync();
        }
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut bytes = Vec::with_capacity(keys.len() * data.shape.key_len);
        for i in keys {
            let mut buffer = [0; KEY_BYTES_MAX];
            bytes.extend_from_slice(data.key(u64::from(*i), &mut buffer));
        }
        let pairs: Vec<_> = bytes
            .chunks(data.shape.key_len)
            .zip(keys)
            .map(|(key, i)| (key, data.value(u64::from(*i), version)))
            .collect();
        self.base.set_many(&pairs).expect("set");
    }

    fn sync(&self) {
        self.base.synchronize().expect("sync");
    }

    fn close(self) {}
}
