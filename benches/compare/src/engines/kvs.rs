//! kvs itself: by default or bare, read by `get` or by a pinned reader.

use kvs::{Batch, Durability, Options, Store};

use super::{Engine, Level, Setup};
use crate::data::{Data, KEY_BYTES_MAX};

pub struct Kvs {
    store: Store,
    pinned: bool,
}

pub enum Reader<'a> {
    Plain(&'a Store),
    Pinned(kvs::Reader<'a>),
}

impl Engine for Kvs {
    type Reader<'a> = Reader<'a>;

    fn open(setup: &Setup) -> Self {
        let bare = setup.name.contains("bare");
        let mut options = Options::new();
        if bare {
            options = options.verify_reads(false).durability(Durability::Os);
        }
        if setup.level == Level::Durable {
            options = options.durability(Durability::Sync);
        }
        Self {
            store: options.open(&setup.dir).expect("the store opens"),
            pinned: setup.name.contains("reader"),
        }
    }

    fn reader(&self) -> Reader<'_> {
        match self.pinned {
            true => Reader::Pinned(self.store.reader()),
            false => Reader::Plain(&self.store),
        }
    }

    #[inline]
    fn get<R>(reader: &Reader<'_>, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        match reader {
            Reader::Plain(store) => store.get(key).expect("get").map(|value| see(&value)),
            Reader::Pinned(reader) => reader.get(key).expect("get").map(see),
        }
    }

    #[inline]
    fn get_now<R>(&self, key: &[u8], see: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.store.get(key).expect("get").map(|value| see(&value))
    }

    #[inline]
    fn put(&self, key: &[u8], value: &[u8]) {
        self.store.set(key, value).expect("set");
    }

    fn put_many(&self, data: &Data, keys: &[u32], version: u64) {
        let mut batch = Batch::new();
        let mut buffer = [0; KEY_BYTES_MAX];
        for i in keys {
            let i = u64::from(*i);
            batch.set(data.key(i, &mut buffer), data.value(i, version));
        }
        self.store.write(&batch).expect("write");
    }

    fn sync(&self) {
        self.store.flush().expect("flush");
    }

    fn close(self) {
        self.store.close().expect("close");
    }
}
