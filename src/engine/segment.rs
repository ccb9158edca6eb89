//! A live segment in this process: its open file, its map, what it holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sync::Mutex;
use kvs_format::segment::{HEADER_BYTES, SegmentHeader};

use crate::engine::expiring::Expiring;
use crate::storage::error::{Result, StorageError};
use crate::storage::fs::{Fs, FsFile};
use crate::storage::location::Word;
use crate::storage::pin::{Pin, Stripes};
use crate::storage::raw::mmap::Map;
use crate::storage::window::WindowLease;

/// What readers need of a segment; one per live segment, shared by all its windows.
#[derive(Debug)]
pub struct Slot {
    /// Keeps the map.
    pub stripes: Stripes,
    /// First of its windows.
    pub base: u16,
    /// How many.
    pub windows: u16,
    /// Bytes of records that are the newest of their key.
    pub live: AtomicU64,
    /// Bytes of all data records.
    pub payload: AtomicU64,
    /// Those of them that expire.
    pub expiring: Expiring,
}

impl Slot {
    /// The slot of a freshly mapped segment.
    pub fn new(map: &Arc<Map>, header: &SegmentHeader, lease: WindowLease) -> Arc<Self> {
        let (base, windows) = (lease.base(), lease.count());
        map.keep(lease);
        Arc::new(Self {
            stripes: Stripes::new(map, &header.place_key(), header.id, base),
            base,
            windows,
            live: AtomicU64::new(0),
            payload: AtomicU64::new(0),
            expiring: Expiring::default(),
        })
    }

    /// The index word of the record at `offset`.
    pub fn word(&self, hash: u64, offset: u64) -> Word {
        Word::new(hash, self.base, offset)
    }

    /// The map.
    pub fn map(&self) -> &Map {
        &self.stripes.any().map
    }

    /// A record became the newest of its key; whether it expires.
    #[inline]
    pub fn gain(&self, bytes: u64, expires: bool) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
        if expires {
            self.expiring.gain(bytes);
        }
    }

    /// A record is no longer the newest of its key.
    #[inline]
    pub fn lose(&self, bytes: u64, expires: bool) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
        if expires {
            self.expiring.lose(bytes);
        }
    }
}

/// Window -> segment, as one shard sees it.
#[derive(Clone, Debug, Default)]
pub struct View {
    slots: Vec<Option<Arc<Slot>>>,
}

impl View {
    /// The slot that `word` points into.
    ///
    /// # Panics
    /// If there is none: a word is in the table only while its segment is in the view.
    #[inline]
    pub fn slot(&self, word: Word) -> &Arc<Slot> {
        self.slots[word.window()]
            .as_ref()
            .expect("a word's segment is in the view of its shard")
    }

    /// Pins the segment that `word` points into.
    #[inline]
    pub fn pin(&self, word: Word) -> Pin {
        self.slot(word).stripes.pin()
    }

    /// This view and `slot`.
    #[must_use]
    pub fn with(&self, slot: &Arc<Slot>) -> Self {
        let mut next = self.clone();
        let base = usize::from(slot.base);
        let end = base + usize::from(slot.windows);
        if next.slots.len() < end {
            next.slots.resize(end, None);
        }
        for place in &mut next.slots[base..end] {
            *place = Some(Arc::clone(slot));
        }
        next
    }

    /// This view without `slot`.
    #[must_use]
    pub fn without(&self, slot: &Slot) -> Self {
        let mut next = self.clone();
        let base = usize::from(slot.base);
        for place in &mut next.slots[base..base + usize::from(slot.windows)] {
            *place = None;
        }
        next
    }

    /// Every segment once.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(window, slot)| slot.as_ref().filter(|s| usize::from(s.base) == window))
    }
}

/// Tombstones in a merged segment that had to stay, and why.
#[derive(Clone, Debug, Default)]
pub struct Graves {
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that hold, or may hold, older values of their keys. Compacting one of those drops the
    /// values.
    pub reasons: Vec<u64>,
}

/// A live segment.
pub struct Segment<F: Fs> {
    /// Kind, id, salt.
    pub header: SegmentHeader,
    /// Its file.
    pub file: F::File,
    /// What readers see of it.
    pub slot: Arc<Slot>,
    /// Tombstones that had to stay when it was written; unknown after opening.
    pub graves: OnceLock<Graves>,
    /// A sync of the file has failed.
    sync_failed: Mutex<bool>,
}

impl<F: Fs> Segment<F> {
    /// A segment just opened or created.
    pub fn new(header: SegmentHeader, file: F::File, slot: Arc<Slot>) -> Self {
        Self {
            header,
            file,
            slot,
            graves: OnceLock::new(),
            sync_failed: Mutex::new(false),
        }
    }

    /// Makes the file's bytes durable.
    ///
    /// The kernel tells a failed write-back once: whoever asks next is told that all is well. So
    /// everybody asks here, one at a time, and after a failure nobody is told otherwise.
    pub fn sync(&self) -> std::io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(std::io::Error::other("an earlier sync of the file failed"));
        }
        let synced = self.file.sync_data();
        *failed = synced.is_err();
        synced
    }
}

/// Reads and checks the header of the segment file `name`, which must be of segment `id`.
pub fn read_header<F: Fs>(fs: &F, file: &F::File, name: &str, id: u64) -> Result<SegmentHeader> {
    let path = || fs.path_of(name);
    let corrupt = |reason| StorageError::Corrupt {
        path: path(),
        offset: 0,
        reason,
    };
    let mut bytes = [0u8; HEADER_BYTES];
    file.read_exact_at(0, &mut bytes).map_err(|source| {
        if source.kind() == std::io::ErrorKind::UnexpectedEof {
            return corrupt(kvs_format::DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have: 0,
            });
        }
        StorageError::Io {
            op: "read the segment header",
            path: path(),
            source,
        }
    })?;
    let header = SegmentHeader::decode(&bytes).map_err(corrupt)?;
    if header.id != id {
        return Err(corrupt(kvs_format::DecodeError::WrongId {
            expected: id,
            found: header.id,
        }));
    }
    Ok(header)
}
