//! For the hottest loops: pin once, read many times.
//!
//! A reader holds the views under which it found its words; a view keeps its segments mapped. So
//! slices borrow the reader, no counter is touched per read, and nothing here is unsafe. A rotation
//! or a compaction gives shards a new view; the first read that meets it adds it to those held.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::segment::View;
use crate::storage::fs::Fs;
use crate::storage::location::Word;
use crate::storage::pin::Stripe;
use crate::storage::real::RealFs;

/// Views held, newest last.
#[derive(Default)]
struct Held {
    view: OnceCell<Arc<View>>,
    next: OnceCell<Box<Held>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // One after the other: a long list must not need a deep stack.
        let mut next = self.next.take();
        while let Some(mut held) = next {
            next = held.next.take();
        }
    }
}

impl Held {
    /// The same view, kept here from now on.
    #[inline]
    fn keep(&self, view: &Arc<View>) -> &View {
        let mut at = self;
        loop {
            let held = at.view.get_or_init(|| Arc::clone(view));
            if Arc::ptr_eq(held, view) {
                return held;
            }
            at = at.next.get_or_init(Box::default);
        }
    }
}

/// Reads without touching a counter: see [`crate::Store::reader`].
///
/// What it returns borrows the reader. As long as the reader lives, the disk space of segments that
/// were live when it read is not given back: [`Reader::refresh`] lets go of them.
pub struct Reader<'a, F: Fs = RealFs> {
    engine: &'a Engine<F>,
    held: Held,
}

impl<'a, F: Fs> Reader<'a, F> {
    pub(crate) fn new(engine: &'a Engine<F>) -> Self {
        Self {
            engine,
            held: Held::default(),
        }
    }

    /// Newest value stored under `key`: as [`crate::Store::get`], but it borrows the reader.
    ///
    /// Every call sees the newest value; a reader is not a snapshot.
    ///
    /// # Errors
    /// As [`crate::Store::get`].
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>> {
        let key = key.as_ref();
        self.engine.check_readable(key)?;
        let hash = self.engine.hash_key.hash(key);
        let (mut first, mut several) = (None, false);
        self.engine.index.candidates(hash, |word, view| {
            match first {
                None => first = Some((word, self.held.keep(view).slot(word).stripes.any())),
                Some(_) => several = true,
            };
        });
        let Some((word, stripe)) = first else {
            return Ok(None);
        };
        if several {
            return self.get_among_several(hash, key);
        }
        Ok(self.value(stripe, word, key)?.flatten())
    }

    /// Two keys share 23 hash bits and a shard about once in eight million.
    #[cold]
    fn get_among_several(&self, hash: u64, key: &[u8]) -> Result<Option<&[u8]>> {
        let mut words = Vec::new();
        self.engine.index.candidates(hash, |word, view| {
            words.push((word, self.held.keep(view).slot(word).stripes.any()));
        });
        for (word, stripe) in words {
            if let Some(value) = self.value(stripe, word, key)? {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// `None` if the record is of another key; no value if it has expired.
    #[inline]
    fn value<'s>(
        &self,
        stripe: &'s Stripe,
        word: Word,
        key: &[u8],
    ) -> Result<Option<Option<&'s [u8]>>> {
        let checks = self.engine.checks();
        let Some(found) = self.engine.matches(stripe, word, key, checks)? else {
            return Ok(None);
        };
        let value = found.is_alive().then(|| {
            stripe
                .map
                .slice(found.value_offset, u64::from(found.value_len))
                .expect("what was published once stays published")
        });
        Ok(Some(value))
    }

    /// Lets go of the segments it keeps; nothing may borrow it then.
    pub fn refresh(&mut self) {
        self.held = Held::default();
    }
}
