//! Iterating over the store as it was at one moment.

use std::sync::Arc;

use kvs_format::record::{HEADER_BYTES, Kind};

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::read::verified;
use crate::engine::segment::View;
use crate::engine::time::now_ms;
use crate::engine::value::{Key, Value};
use crate::index::ShardSnapshot;
use crate::storage::fs::Fs;
use crate::storage::location::Word;

/// All pairs of a snapshot, in no stated order.
///
/// Owns what it looks at: writes, compaction and closing go on meanwhile and change nothing of what
/// it yields. After an error it goes on erring. Cost: an `Arc` per shard to make; the first write to
/// each shard while it lives copies that shard's table (8 bytes an entry).
pub struct Pairs<F: Fs> {
    engine: Arc<Engine<F>>,
    shards: std::vec::IntoIter<ShardSnapshot<View>>,
    view: Option<Arc<View>>,
    words: std::vec::IntoIter<Word>,
    now: u64,
    failed: Option<(u64, u64, kvs_format::DecodeError)>,
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::iter`].
    pub fn pairs(self: &Arc<Self>) -> Result<Pairs<F>> {
        // Inside the section, so that a batch is in it whole or not at all.
        let mut section = self.section.lock();
        if self.upkeep.has_failed() {
            self.poison(&mut section);
        }
        if self.is_poisoned() && self.undurable.get().is_none_or(|keys| !keys.is_empty()) {
            return Err(Error::Poisoned);
        }
        let shards = self.index.snapshot();
        drop(section);
        Ok(Pairs {
            engine: Arc::clone(self),
            shards: shards.into_iter(),
            view: None,
            words: Vec::new().into_iter(),
            now: now_ms(),
            failed: None,
        })
    }
}

impl<F: Fs> Iterator for Pairs<F> {
    type Item = Result<(Key, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((segment, offset, reason)) = self.failed {
            return Some(Err(self.engine.corrupt(segment, offset, reason)));
        }
        loop {
            let Some(word) = self.words.next() else {
                let shard = self.shards.next()?;
                let mut words: Vec<Word> = shard.table.iter().copied().collect();
                // In the order of the log, so that cold pages come one after the other.
                words.sort_unstable_by_key(|word| word.0 << 23);
                self.words = words.into_iter();
                self.view = Some(shard.view);
                continue;
            };
            let view = self.view.as_ref()?;
            let pin = view.pin(word);
            let offset = pin.offset_of(word);
            let record = match verified(&pin, offset) {
                Ok(record) => record,
                Err(reason) => {
                    self.failed = Some((pin.segment_id, offset, reason));
                    return Some(Err(self.engine.corrupt(pin.segment_id, offset, reason)));
                }
            };
            if record.expires_at.is_some_and(|at| at <= self.now) {
                continue;
            }
            debug_assert!(record.header.kind != Kind::Tombstone);
            let key_len = u32::from(record.header.key_len);
            let value_len = record.header.value_len;
            let key_at = offset + HEADER_BYTES as u64 + record.header.kind.extension();
            let value_at = key_at + u64::from(key_len);
            let key = Key::new(Arc::clone(&pin), key_at, key_len);
            return Some(Ok((key, Value::new(pin, value_at, value_len))));
        }
    }
}
