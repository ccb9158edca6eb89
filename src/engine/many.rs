//! Many keys at once: what one get waits for, the gets of a batch wait for together.
//!
//! A get waits for its index entry, then for its record. Here the index entries of a batch are all asked
//! for before the first is looked at, and the records before the first is read, so that the processor
//! has many cache misses under way instead of one or two. Without an instruction for it (`raw::prefetch`)
//! this is only as fast as one by one.

use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::read::Candidates;
use crate::engine::value::Value;
use crate::storage::fs::Fs;

/// Keys looked up together: some three cache lines each, first of the index, then of the log. More than a core
/// can have under way, so it never has too few.
pub(crate) const TOGETHER: usize = 32;

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::get_many`].
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut hashes = [0; TOGETHER];
        for keys in keys.chunks(TOGETHER) {
            let hashes = self.prefetch_some(keys, &mut hashes);
            for (key, hash) in keys.iter().zip(hashes) {
                values.push(self.get_hashed(*hash, key.as_ref())?);
            }
        }
        Ok(values)
    }

    /// See [`crate::Store::prefetch`].
    pub fn prefetch<K: AsRef<[u8]>>(&self, keys: &[K]) {
        let mut hashes = [0; TOGETHER];
        for keys in keys.chunks(TOGETHER) {
            self.prefetch_some(keys, &mut hashes);
        }
    }

    /// Asks for the index entries of at most [`TOGETHER`] keys, then for their records; the hashes.
    fn prefetch_some<'h, K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        hashes: &'h mut [u64; TOGETHER],
    ) -> &'h [u64] {
        for (key, hash) in keys.iter().zip(&mut *hashes) {
            *hash = self.hash_key.hash(key.as_ref());
            self.index.prefetch(*hash);
        }
        let hashes = &hashes[..keys.len()];
        for hash in hashes {
            // No pin: it is looked up again when it is read, and what was asked for in vain does no harm.
            self.index.candidates(*hash, |word, view| {
                view.slot(word).stripes.any().prefetch(word);
            });
        }
        hashes
    }
}

/// Asks for the records of all candidates before anybody waits for one of them.
#[inline]
pub(crate) fn bring(found: &[Candidates]) {
    for (word, pin) in found.iter().flat_map(Candidates::iter) {
        pin.prefetch(*word);
    }
}
