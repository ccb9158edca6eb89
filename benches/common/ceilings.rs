//! What the store is measured beside, in the same process: a locked map of boxed keys and values in
//! memory, bare appends to a mapped file, and a bare table of places in a bare log.
#![allow(dead_code)]

use std::fs::File;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use kvs::testing::FileMap;
use kvs_format::record::{Draft, Framing, Kind};
use kvs_format::segment::{SegmentHeader, SegmentKind};
use parking_lot::RwLock;

use crate::common::{absent, key, seconds, sum};

pub const VALUE_BYTES: usize = 100;

/// Of one record: 24 bytes of header, key, value, and what makes them a multiple of 8.
const RECORD_BYTES: u64 = 144;

pub type Map = RwLock<hashbrown::HashMap<Box<[u8]>, Box<[u8]>>>;

/// Value number `i`.
pub fn value(i: usize) -> [u8; VALUE_BYTES] {
    let mut value = [i as u8; VALUE_BYTES];
    value[..8].copy_from_slice(&(i as u64).to_le_bytes());
    value
}

/// Seconds to put every pair into the map.
pub fn fill_map(map: &Map, order: &[u32]) -> f64 {
    seconds(|| {
        for i in order {
            let i = *i as usize;
            map.write().insert(key(i).into(), value(i).into());
        }
    })
}

/// Seconds to look for as many keys that are not there.
pub fn miss_map(map: &Map, order: &[u32]) -> f64 {
    seconds(|| {
        for i in order {
            assert!(map.read().get(&absent(*i as usize)[..]).is_none());
        }
    })
}

/// Seconds to read pairs, and the sum of all bytes of their values, of each of which `get` gives one.
pub fn read_some(order: &[u32], get: impl Fn(&[u8]) -> u64) -> (f64, u64) {
    let mut total = 0u64;
    let time = seconds(|| {
        for i in order {
            total = total.wrapping_add(get(&key(*i as usize)));
        }
    });
    (time, total)
}

/// Seconds to read every pair.
pub fn read_all(order: &[u32], get: impl Fn(&[u8]) -> u64) -> f64 {
    let (time, total) = read_some(order, get);
    assert_eq!(
        total,
        total_of(order.len()),
        "every byte of every value was read"
    );
    time
}

/// Sum of the bytes of the first `n` values.
pub fn total_of(n: usize) -> u64 {
    (0..n).fold(0u64, |t, i| t.wrapping_add(sum(&value(i))))
}

/// Maps `file`, which is empty, with room for `n` records.
fn mapped(file: &File, n: usize) -> FileMap {
    let len = n as u64 * RECORD_BYTES;
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len)
        .expect("space can be allocated");
    FileMap::new(file, len).expect("the file can be mapped")
}

/// Seconds for bare appends to `file`, preallocated and mapped: header, key, value, nothing else.
pub fn bare_log(file: &File, n: usize) -> f64 {
    let mut writer = mapped(file, n);
    seconds(|| {
        for i in 0..n {
            writer.append(&[&[1u8; 24], &key(i), &value(i)], RECORD_BYTES);
        }
    })
}

/// What a load can at best do: whole records, one behind the other, into `file`, preallocated and mapped;
/// then one sync.
pub fn bare_load(file: &File, order: &[u32]) -> f64 {
    let mut writer = mapped(file, order.len());
    file.sync_all().expect("the file can be synced");
    let header = SegmentHeader {
        kind: SegmentKind::Merged,
        id: 1,
        salt: [7; 16],
    };
    let place_key = header.place_key();
    let mut offset = 0;
    seconds(|| {
        for i in order {
            let (key, value) = (key(*i as usize), value(*i as usize));
            let draft = Draft::new(Kind::Set, None, &key, &value).expect("it is short");
            let (header, extension) = draft.place(&place_key, offset, 1, Framing::Single);
            writer.append(&[&header[..], extension, &key, &value], draft.size());
            offset += draft.size();
        }
        file.sync_data().expect("the file can be synced");
    })
}

/// What a get from a log can at best do: a table of places, a log of records whose lengths stand in front of
/// them. One thread, no locks, no pins, no checks, nothing that can be damaged, removed or moved.
#[derive(Default)]
pub struct BareTable {
    hasher: DefaultHashBuilder,
    places: HashTable<u64>,
    log: Vec<u8>,
}

impl BareTable {
    /// Of the pairs of `order`.
    pub fn filled(order: &[u32]) -> Self {
        let mut table = Self::default();
        for i in order {
            let (key, value) = (key(*i as usize), value(*i as usize));
            let place = table.log.len();
            table.log.extend([0; 16]);
            table.log.extend((key.len() as u32).to_le_bytes());
            table.log.extend((value.len() as u32).to_le_bytes());
            table.log.extend(key);
            table.log.extend(value);
            table.log.resize(place + RECORD_BYTES as usize, 0);
            let (hasher, log) = (&table.hasher, &table.log);
            table
                .places
                .insert_unique(hasher.hash_one(key), place as u64, |place| {
                    hasher.hash_one(Self::pair(log, *place).0)
                });
        }
        table
    }

    #[inline]
    fn pair(log: &[u8], place: u64) -> (&[u8], &[u8]) {
        let record = &log[place as usize..];
        let length = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four"));
        let (key, value) = (length(16) as usize, length(20) as usize);
        record[24..24 + key + value].split_at(key)
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let is_it = |place: &u64| Self::pair(&self.log, *place).0 == key;
        let place = self.places.find(self.hasher.hash_one(key), is_it)?;
        Some(Self::pair(&self.log, *place).1)
    }
}
