//! For the hottest loops: pin once, read many times.
//!
//! A reader holds the segments it has met, by window; a held segment stays mapped, and its windows
//! come to mean no other. So slices borrow the reader, no counter is touched per read, and nothing
//! here is unsafe.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::read::Plain;
use crate::engine::segment::{Slot, View};
use crate::storage::fs::Fs;
use crate::storage::location::{WINDOWS_MAX, Word};
use crate::storage::pin::Stripe;
use crate::storage::raw::pinned::Find;
use crate::storage::real::RealFs;

/// Windows looked up together.
const PAGE_WINDOWS: usize = 256;

type Cell = OnceCell<Arc<Slot>>;

/// Segments held, by window.
struct Held {
    /// Of the first windows: all that most stores have.
    first: Box<[Cell]>,
    /// Of all others, so many together.
    pages: Box<[OnceCell<Box<[Cell]>>]>,
}

fn cells<T>(n: usize) -> Box<[OnceCell<T>]> {
    (0..n).map(|_| OnceCell::new()).collect()
}

impl Held {
    fn new() -> Self {
        Self {
            first: cells(PAGE_WINDOWS),
            pages: cells(WINDOWS_MAX / PAGE_WINDOWS),
        }
    }

    #[cold]
    fn in_pages(&self, window: usize) -> &Cell {
        let page = self.pages[window / PAGE_WINDOWS].get_or_init(|| cells(PAGE_WINDOWS));
        &page[window % PAGE_WINDOWS]
    }

    /// The segment that `word` points into, held from now on.
    #[inline]
    fn keep(&self, word: Word, view: &View) -> &Stripe {
        let window = word.window();
        let cell = match self.first.get(window) {
            Some(cell) => cell,
            None => self.in_pages(window),
        };
        let held = cell.get_or_init(|| Arc::clone(view.slot(word)));
        debug_assert!(
            Arc::ptr_eq(held, view.slot(word)),
            "a window is not used again while its segment is mapped"
        );
        held.stripes.any()
    }
}

/// Reads without touching a counter: see [`crate::Store::reader`].
///
/// What it returns borrows the reader. As long as the reader lives, segments that it has read from
/// stay mapped and their disk space is not given back, though they may long have been compacted away:
/// call [`Reader::refresh`] now and then in a store that is written to. Memory: 6 KiB, and up to 2 KiB
/// for every further 64 GiB of windows read from.
pub struct Reader<'a, F: Fs = RealFs> {
    engine: &'a Engine<F>,
    held: Held,
}

impl<'a, F: Fs> Reader<'a, F> {
    pub(crate) fn new(engine: &'a Engine<F>) -> Self {
        Self {
            engine,
            held: Held::new(),
        }
    }

    /// Newest value stored under `key`: as [`crate::Store::get`], but it borrows the reader.
    ///
    /// Every call sees the newest value; a reader is not a snapshot.
    ///
    /// # Errors
    /// As [`crate::Store::get`].
    #[inline(always)]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>> {
        let key = key.as_ref();
        let hash = self.engine.hash_key.hash(key);
        if self.engine.may_be_poisoned() {
            return self.get_in_full(hash, key).map_err(|error| *error);
        }
        let held = |word, view: &Arc<View>| (word, self.held.keep(word, view));
        let Some((word, stripe)) = self.engine.index.candidate(hash, held) else {
            return Ok(None);
        };
        let checked = self.engine.config.verify_reads;
        if let Some(value) = (Plain { word, key, checked }).find(stripe) {
            return Ok(Some(value));
        }
        self.get_in_full(hash, key).map_err(|error| *error)
    }

    /// Of a record that is not an ordinary one, or not of this key, or damaged. See
    /// [`Engine::get_in_full`] for its type.
    #[cold]
    #[inline(never)]
    fn get_in_full(&self, hash: u64, key: &[u8]) -> Result<Option<&[u8]>, Box<Error>> {
        self.engine.check_readable(key)?;
        let mut words = Vec::new();
        self.engine.index.candidates(hash, |word, view| {
            words.push((word, self.held.keep(word, view)));
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
        let value = found.is_alive(&self.engine.config.wall_clock).then(|| {
            stripe
                .map
                .slice(found.value_offset, u64::from(found.value_len))
                .expect("what was published once stays published")
        });
        Ok(Some(value))
    }

    /// Lets go of the segments it keeps; nothing may borrow it then.
    pub fn refresh(&mut self) {
        self.held = Held::new();
    }
}
