//! What a full disk still allows: removing and compacting, in the room that the reserve gives up.

use crate::engine::core::{Engine, Section};
use crate::engine::error::{Error, Result};
use crate::engine::reserve::Loan;
use crate::storage::fs::Fs;

impl<F: Fs> Engine<F> {
    /// Bytes that the store's segments take up.
    fn stored(section: &Section<F>) -> u64 {
        let ended: u64 = section.ends.values().map(|end| end.length).sum();
        ended + section.active.as_ref().map_or(0, |active| active.capacity)
    }

    /// Makes the reserve fit the store. Best effort: what it lacks is tried again with the next
    /// segment.
    pub(crate) fn keep_reserve(&self) {
        let stored = Self::stored(&self.section.lock());
        self.keep_reserve_of(stored);
    }

    /// The same for a store that takes up `stored` bytes.
    pub(crate) fn keep_reserve_of(&self, stored: u64) {
        let _ = self.reserve.keep(&self.fs, stored);
    }

    /// Refuses to set anything as long as the reserve is used up.
    ///
    /// # Errors
    /// [`Error::DiskFull`].
    pub(crate) fn take_reserve_back(&self, section: &Section<F>) -> Result<()> {
        let kept = self.reserve.keep(&self.fs, Self::stored(section));
        match kept.map_err(self.io("allocate the reserve", kvs_format::name::RESERVE)) {
            Ok(()) => Ok(()),
            Err(error) => match self.or_disk_full(error) {
                error @ Error::DiskFull { .. } => Err(error),
                // It is not the room that is missing.
                _ => Ok(()),
            },
        }
    }

    /// Does something that makes room; if there is none for it, once more in the reserve's.
    pub(crate) fn with_reserve<T>(
        &self,
        loan: Loan,
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        match act() {
            Err(Error::DiskFull { .. }) if self.reserve.lend(&self.fs, loan) => act(),
            done => done,
        }
    }

    /// As [`Engine::begin_life`], for something that makes room.
    pub(crate) fn begin_life_to_remove(&self, section: &mut Section<F>) -> Result<()> {
        self.with_reserve(Loan::Half, || self.begin_life(section))
    }

    /// As [`Engine::rotate`], for something that makes room.
    pub(crate) fn rotate_to_remove(&self, section: &mut Section<F>, bytes: u64) -> Result<()> {
        self.with_reserve(Loan::Half, || self.rotate(section, bytes))
    }

    /// Makes sure that edits of `bytes` find room in the manifest.
    pub(crate) fn reserve_edits(&self, bytes: u64) -> Result<()> {
        self.with_reserve(Loan::Rest, || {
            let mut manifest = self.manifest.lock();
            let manifest = manifest.as_mut().ok_or(Error::ReadOnly)?;
            manifest
                .reserve(&self.fs, bytes)
                .map_err(|error| self.or_disk_full(error.into()))
        })
    }
}
