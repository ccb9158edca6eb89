//! What the manifest says the store consists of, and the one writer of new edits.
//!
//! [`Catalog`] is the state that replaying the edits gives; it is pure. [`Manifest`] appends an
//! edit, syncs it and only then applies it: an edit has no effect before it is durable.
//!
//! Invariants
//! - After a failed write or sync of the manifest nothing is appended any more: the caller poisons.
//! - Segment ids and LSNs that the manifest has seen are never given out again.

use std::collections::{BTreeMap, BTreeSet};

use kvs_format::DecodeError;
use kvs_format::manifest::{
    AddBody, CleanBody, CutBody, Edit, Edits, HEADER_BYTES, ManifestHeader, MergedBody, OpenedBody,
    PoisonBody, SealBody, StoreBody, Tail,
};
use kvs_format::name;
use kvs_format::segment::{PAGE_BYTES, SegmentKind};
use zerocopy::byteorder::little_endian::U64;

use crate::storage::error::{Result, StorageError};
use crate::storage::fs::{Access, Fs, FsFile};

/// Bytes of manifest beyond which it is rewritten at the next chance.
const REWRITE_BYTES: u64 = 1 << 20;

/// Bytes of zeros kept behind the last edit, so that an edit seldom needs a new block.
const RESERVE_BYTES: u64 = 8 << 10;

/// Longest manifest that is read at all: far above what rewriting lets it grow to.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// Highest segment id that is believed: far beyond what a store can use up, and far from overflow.
pub const ID_MAX: u64 = 1 << 62;

/// Highest LSN and edit number that is believed, for the same reason.
pub const NUMBER_MAX: u64 = 1 << 62;

/// How a sealed, cut or merged segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Offset behind its last record.
    pub length: u64,
    /// LSN of its last record.
    pub end_lsn: u64,
    /// Lowest LSN of its data records; 0 without any.
    pub min_lsn: u64,
    /// Highest LSN of its data records; 0 without any.
    pub max_lsn: u64,
    /// How many data records it holds.
    pub records: u64,
    /// For a log segment that recovery cut: LSN of the record after it.
    pub cut: Option<u64>,
}

/// A live segment as the manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Number of the segment.
    pub id: u64,
    /// Log or merged.
    pub kind: SegmentKind,
    /// Salt of its header.
    pub salt: [u8; 16],
    /// Bytes its file has at least until it ends.
    pub allocated: u64,
    /// How it ends; `None` while it is being written.
    pub end: Option<End>,
}

/// Where the LINK of the next log segment must point, and its own LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Last ended log segment; 0 if there was none.
    pub id: u64,
    /// Offset behind its last record.
    pub end: u64,
    /// LSN of its last record.
    pub lsn: u64,
    /// LSN of the record after it.
    pub next_lsn: u64,
}

/// The replayed manifest.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The store's constants.
    pub store: StoreBody,
    /// Live segments by id.
    pub live: BTreeMap<u64, SegmentMeta>,
    /// Segments that no longer count but whose files may exist.
    pub retired: BTreeSet<u64>,
    /// The CLEAN that still holds.
    pub clean: Option<CleanBody>,
    /// The last CLEAN, whether it still holds or not: what it vouched for is durable.
    pub last_clean: Option<CleanBody>,
    /// End of the last ended log segment.
    pub log_end: LogEnd,
    /// Next segment id.
    pub next_id: u64,
    /// No log segment with an id up to this one is unknown because an ADD was lost: ADDs stand in the
    /// order of their ids.
    pub newest_log: u64,
    /// Highest LSN the edits state to be durable.
    pub durable_lsn: u64,
    /// A sync failed in the last life.
    pub poisoned: bool,
}

impl Catalog {
    /// Of a store without segments.
    pub fn new(store: StoreBody) -> Self {
        let next_lsn = store.next_lsn.get();
        Self {
            store,
            live: BTreeMap::new(),
            retired: BTreeSet::new(),
            clean: None,
            last_clean: None,
            log_end: LogEnd {
                id: 0,
                end: 0,
                lsn: next_lsn.saturating_sub(1),
                next_lsn,
            },
            next_id: store.next_id.get().max(1),
            newest_log: store.next_id.get().saturating_sub(1),
            durable_lsn: next_lsn.saturating_sub(1),
            poisoned: false,
        }
    }

    fn seen(&mut self, id: u64) {
        self.next_id = self.next_id.max(id.saturating_add(1));
    }

    /// Live log segments that have not ended, oldest first.
    pub fn unsealed(&self) -> impl Iterator<Item = &SegmentMeta> {
        self.live.values().filter(|meta| meta.end.is_none())
    }

    /// Applies an edit that is durable.
    ///
    /// # Errors
    /// An edit that contradicts the ones before it.
    pub fn apply(&mut self, edit: &Edit<'_>) -> std::result::Result<(), DecodeError> {
        let nonsense = DecodeError::WrongIdentity;
        match *edit {
            Edit::Store(_) => return Err(nonsense),
            Edit::Add(add) => {
                self.clean = None;
                self.newest_log = self.newest_log.max(add.id.get());
                self.join(SegmentMeta {
                    id: add.id.get(),
                    kind: SegmentKind::Log,
                    salt: add.salt,
                    allocated: add.allocated.get(),
                    end: None,
                })?;
            }
            Edit::Seal(seal) => {
                let end = End {
                    length: seal.length.get(),
                    end_lsn: seal.end_lsn.get(),
                    min_lsn: seal.min_lsn.get(),
                    max_lsn: seal.max_lsn.get(),
                    records: seal.records.get(),
                    cut: None,
                };
                self.end_log(seal.id.get(), end)?;
            }
            Edit::Compact { outputs, inputs } => {
                for output in outputs {
                    let max_lsn = output.max_lsn.get();
                    if output.length.get() < PAGE_BYTES || max_lsn > NUMBER_MAX {
                        return Err(nonsense);
                    }
                    // Copied from what was, or taken from the log when it was.
                    self.durable_lsn = self.durable_lsn.max(max_lsn);
                    self.join(SegmentMeta {
                        id: output.id.get(),
                        kind: SegmentKind::Merged,
                        salt: output.salt,
                        allocated: 0,
                        end: Some(End {
                            length: output.length.get(),
                            end_lsn: output.max_lsn.get(),
                            min_lsn: output.min_lsn.get(),
                            max_lsn: output.max_lsn.get(),
                            records: output.records.get(),
                            cut: None,
                        }),
                    })?;
                }
                for input in inputs {
                    let id = input.get();
                    if self.live.get(&id).is_none_or(|meta| meta.end.is_none()) {
                        return Err(nonsense);
                    }
                    self.live.remove(&id);
                    self.retired.insert(id);
                }
            }
            Edit::Forget { ids } => {
                for id in ids {
                    self.live.remove(&id.get());
                    self.retired.remove(&id.get());
                }
            }
            Edit::Opened(opened) => {
                self.clean = None;
                let meta = self.live.get_mut(&opened.id.get()).ok_or(nonsense)?;
                if meta.end.is_some() {
                    return Err(nonsense);
                }
                meta.allocated = opened.allocated.get();
            }
            Edit::Clean(clean) => {
                let id = clean.id.get();
                let unsealed: Vec<u64> = self.unsealed().map(|meta| meta.id).collect();
                let expected: &[u64] = if id == 0 { &[] } else { &[id] };
                if clean.lsn.get() > NUMBER_MAX {
                    return Err(nonsense);
                }
                if unsealed != expected || (id != 0 && clean.length.get() < PAGE_BYTES) {
                    return Err(nonsense);
                }
                if let Some(meta) = self.live.get_mut(&id) {
                    // Closing trims the file; OPENED states what it has from then on.
                    meta.allocated = clean.length.get();
                }
                self.durable_lsn = self.durable_lsn.max(clean.lsn.get());
                self.poisoned = false;
                self.clean = Some(clean);
                self.last_clean = Some(clean);
            }
            Edit::Cut { cut, dropped } => {
                self.clean = None;
                let end = End {
                    length: cut.end.get(),
                    end_lsn: cut.end_lsn.get(),
                    min_lsn: cut.min_lsn.get(),
                    max_lsn: cut.max_lsn.get(),
                    records: cut.records.get(),
                    cut: Some(cut.next_lsn.get()),
                };
                for id in dropped {
                    let id = id.get();
                    if self.live.get(&id).is_none_or(|meta| meta.end.is_some()) {
                        return Err(nonsense);
                    }
                    self.live.remove(&id);
                    self.retired.insert(id);
                }
                self.end_log(cut.id.get(), end)?;
            }
            Edit::Poison(poison) => {
                self.clean = None;
                self.durable_lsn = self.durable_lsn.max(poison.durable_lsn.get());
                self.poisoned = true;
            }
        }
        Ok(())
    }

    fn join(&mut self, meta: SegmentMeta) -> std::result::Result<(), DecodeError> {
        let used = self.live.contains_key(&meta.id) || self.retired.contains(&meta.id);
        if meta.id == 0 || meta.id > ID_MAX || used {
            return Err(DecodeError::WrongIdentity);
        }
        self.seen(meta.id);
        self.live.insert(meta.id, meta);
        Ok(())
    }

    fn end_log(&mut self, id: u64, end: End) -> std::result::Result<(), DecodeError> {
        let nonsense = DecodeError::WrongIdentity;
        let meta = self.live.get_mut(&id).ok_or(nonsense)?;
        let next_lsn = end.cut.unwrap_or_else(|| end.end_lsn.saturating_add(1));
        let believable = next_lsn > end.end_lsn && next_lsn <= NUMBER_MAX;
        if meta.end.is_some() || end.length < PAGE_BYTES || !believable {
            return Err(nonsense);
        }
        meta.end = Some(end);
        self.durable_lsn = self.durable_lsn.max(end.end_lsn);
        self.log_end = LogEnd {
            id,
            end: end.length,
            lsn: end.end_lsn,
            next_lsn,
        };
        Ok(())
    }
}

/// A manifest as it was read.
#[derive(Debug)]
pub struct ReadManifest {
    /// Store id and salt.
    pub header: ManifestHeader,
    /// The replayed edits.
    pub catalog: Catalog,
    /// Offset of the last CLEAN.
    pub last_clean_at: u64,
    /// Offset behind the last edit.
    pub end: u64,
    /// Number of the next edit.
    pub next_seq: u64,
    /// The CLEAN that would hold without that edit.
    pub cancelled: Option<CleanBody>,
}

/// Reads and replays the manifest.
pub fn read<F: Fs>(fs: &F) -> Result<ReadManifest> {
    let path = fs.path_of(name::MANIFEST);
    let io = |op| {
        let path = path.clone();
        move |source| StorageError::Io { op, path, source }
    };
    let corrupt = |offset: u64, reason: DecodeError| StorageError::Corrupt {
        path: path.clone(),
        offset,
        reason,
    };
    let file = fs
        .open(name::MANIFEST, Access::Read)
        .map_err(io("open the manifest"))?;
    let len = file.len().map_err(io("read the manifest"))?;
    if len > MANIFEST_BYTES_MAX {
        return Err(corrupt(
            0,
            DecodeError::BadLength {
                found: len,
                allowed: MANIFEST_BYTES_MAX,
            },
        ));
    }
    let mut bytes = vec![0u8; len as usize];
    file.read_exact_at(0, &mut bytes)
        .map_err(io("read the manifest"))?;
    replay(&bytes).map_err(|(offset, reason)| corrupt(offset, reason))
}

/// Replays a whole manifest; errors name the offset.
pub fn replay(bytes: &[u8]) -> std::result::Result<ReadManifest, (u64, DecodeError)> {
    let (header, mut edits) = Edits::new(bytes).map_err(|reason| (0, reason))?;
    let first = edits.next();
    let Some((Edit::Store(store), mut next_seq)) = first.map(|e| (e.edit, e.seq.saturating_add(1)))
    else {
        // The first edit was synced before the manifest got its name: no crash explains this.
        let reason = match edits.tail() {
            Tail::Damaged { reason, .. } => reason,
            _ => DecodeError::Truncated { need: 1, have: 0 },
        };
        return Err((HEADER_BYTES as u64, reason));
    };
    let lsn = store.next_lsn.get();
    if store.next_id.get() > ID_MAX || lsn == 0 || lsn > NUMBER_MAX || next_seq > NUMBER_MAX {
        return Err((HEADER_BYTES as u64, DecodeError::WrongIdentity));
    }
    let mut catalog = Catalog::new(store);
    let mut last_clean_at = HEADER_BYTES as u64;
    for edit in edits.by_ref() {
        if edit.seq > NUMBER_MAX {
            return Err((edit.offset, DecodeError::WrongIdentity));
        }
        catalog
            .apply(&edit.edit)
            .map_err(|reason| (edit.offset, reason))?;
        if matches!(edit.edit, Edit::Clean(_)) {
            last_clean_at = edit.offset;
        }
        next_seq = edit.seq.saturating_add(1);
    }
    let (end, torn) = match edits.tail() {
        Tail::Clean { end } => (end, false),
        Tail::Torn { end } => (end, true),
        Tail::Damaged { offset, reason } => return Err((offset, reason)),
    };
    // The unfinished edit may have been an OPENED.
    let cancelled = catalog.clean.take_if(|_| torn);
    Ok(ReadManifest {
        header,
        catalog,
        last_clean_at,
        end,
        next_seq,
        cancelled,
    })
}

/// The one writer of the manifest.
pub struct Manifest<F: Fs> {
    file: F::File,
    header: ManifestHeader,
    end: u64,
    /// The CLEAN of the life before and what follows it: written once more before the first edit of
    /// this life.
    redirty: Vec<u8>,
    next_seq: u64,
    failed: bool,
    /// Bytes allocated; zeros stand behind the last edit.
    reserved: u64,
    /// What the manifest says, as far as it is durable.
    pub catalog: Catalog,
}

impl<F: Fs> Manifest<F> {
    /// Creates the manifest of a new store.
    pub fn create(
        fs: &F,
        store_id: [u8; 16],
        salt: [u8; 16],
        hash_key: [u8; 16],
        shard_bits: u8,
    ) -> Result<Self> {
        let store = StoreBody {
            hash_key,
            next_id: U64::new(1),
            next_lsn: U64::new(1),
            shard_bits,
            zero: [0; 7],
        };
        Self::write_whole(
            fs,
            ManifestHeader { store_id, salt },
            1,
            Catalog::new(store),
        )
    }

    /// Goes on with a manifest that was read, behind its last whole edit.
    ///
    /// Of what a life that ended badly wrote last, the sync may have failed: readers see it all the
    /// same, and no later sync would make it durable. So nothing is done that rests on it before it
    /// was written again: behind an unclean stop into a new file, since the name is in doubt as well;
    /// behind a CLEAN, before which nothing is in doubt, with the first edit of this life.
    pub fn resume(fs: &F, read: ReadManifest) -> Result<Self> {
        let ReadManifest {
            header,
            mut catalog,
            end,
            mut next_seq,
            ..
        } = read;
        catalog.poisoned = false;
        let file = fs
            .open(name::MANIFEST, Access::ReadWrite)
            .map_err(io::<F>(fs, "open the manifest"))?;
        let from = match catalog.clean {
            Some(_) => read.last_clean_at,
            None => 0,
        };
        let mut bytes = vec![0u8; (end - from) as usize];
        file.read_exact_at(from, &mut bytes)
            .map_err(io::<F>(fs, "read the manifest"))?;
        if catalog.clean.is_some() {
            return Ok(Self {
                file,
                header,
                end,
                redirty: bytes,
                next_seq,
                failed: false,
                reserved: 0,
                catalog,
            });
        }
        let cancelled = read.cancelled.map(|clean| clean.id.get());
        if let Some(meta) = cancelled.and_then(|id| catalog.live.get(&id)) {
            let opened = Edit::Opened(OpenedBody {
                id: U64::new(meta.id),
                allocated: U64::new(meta.allocated),
            });
            bytes.resize(bytes.len() + opened.encoded_bytes(), 0);
            opened
                .encode_into(
                    &mut bytes[end as usize..],
                    &header.place_key(),
                    end,
                    next_seq,
                )
                .expect("the buffer has the size the edit asked for");
            next_seq += 1;
        }
        Self::publish(fs, header, &bytes, next_seq, catalog)
    }

    /// Writes a manifest that says what `catalog` says, and puts it in the place of the old one.
    pub fn write_whole(
        fs: &F,
        header: ManifestHeader,
        first_seq: u64,
        catalog: Catalog,
    ) -> Result<Self> {
        let (bytes, next_seq) = encode_whole(&header, first_seq, &catalog);
        Self::publish(fs, header, &bytes, next_seq, catalog)
    }

    /// Puts a manifest of these bytes in the place of the old one.
    fn publish(
        fs: &F,
        header: ManifestHeader,
        bytes: &[u8],
        next_seq: u64,
        catalog: Catalog,
    ) -> Result<Self> {
        let file = match Self::prepare(fs, bytes) {
            // Opening is on the way to making room.
            Err(error) if error.is_disk_full() && fs.unlink(name::RESERVE).is_ok() => {
                Self::prepare(fs, bytes)?
            }
            prepared => prepared?,
        };
        Self::replace(fs, file, header, bytes.len() as u64, next_seq, catalog)
    }

    /// Writes the bytes of a new manifest; nothing depends on them yet.
    fn prepare(fs: &F, bytes: &[u8]) -> Result<F::File> {
        let prepared = fs
            .create_or_truncate(name::MANIFEST_TMP)
            .map_err(io::<F>(fs, "create the manifest"))
            .and_then(|file| {
                file.write_at(0, bytes)
                    .map_err(io::<F>(fs, "write the manifest"))?;
                Ok(file)
            });
        prepared.inspect_err(|_| {
            let _ = fs.unlink(name::MANIFEST_TMP);
        })
    }

    /// Puts the manifest that was prepared in the place of the old one.
    fn replace(
        fs: &F,
        file: F::File,
        header: ManifestHeader,
        end: u64,
        next_seq: u64,
        catalog: Catalog,
    ) -> Result<Self> {
        file.sync_data().map_err(io::<F>(fs, "sync the manifest"))?;
        fs.rename(name::MANIFEST_TMP, name::MANIFEST)
            .map_err(io::<F>(fs, "rename the manifest"))?;
        let synced = planted!("rename_not_synced", Ok(()), fs.sync_dir());
        synced.map_err(io::<F>(fs, "sync the directory"))?;
        Ok(Self {
            file,
            header,
            end,
            redirty: Vec::new(),
            next_seq,
            failed: false,
            reserved: 0,
            catalog,
        })
    }

    /// True if it has grown long enough to be worth rewriting, and may be: a retired segment whose
    /// file could not be removed is remembered by its COMPACT alone.
    pub fn wants_rewrite(&self) -> bool {
        self.end > REWRITE_BYTES && self.catalog.retired.is_empty() && !self.failed
    }

    /// Rewrites the manifest, shorter.
    ///
    /// # Errors
    /// The old one goes on if [`Self::has_failed`] says no.
    pub fn rewrite(&mut self, fs: &F, salt: [u8; 16]) -> Result<()> {
        let header = ManifestHeader {
            store_id: self.header.store_id,
            salt,
        };
        let (bytes, next_seq) = encode_whole(&header, self.next_seq, &self.catalog);
        let file = Self::prepare(fs, &bytes)?;
        self.failed = true;
        let end = bytes.len() as u64;
        *self = Self::replace(fs, file, header, end, next_seq, self.catalog.clone())?;
        Ok(())
    }

    /// True if nothing may be appended any more.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Makes sure that the next few edits, or `bytes` of them, find room on the device.
    ///
    /// # Errors
    /// What allocating said; nothing has changed then.
    pub fn reserve(&mut self, fs: &F, bytes: u64) -> Result<()> {
        if self.end + bytes + RESERVE_BYTES / 2 <= self.reserved {
            return Ok(());
        }
        let reserved = self.end + bytes + RESERVE_BYTES;
        self.file
            .allocate(reserved)
            .map_err(io::<F>(fs, "allocate the manifest"))?;
        self.reserved = reserved;
        Ok(())
    }

    /// Takes the next segment id; `None` if they are used up.
    pub fn take_id(&mut self) -> Option<u64> {
        let id = self.catalog.next_id;
        if id > ID_MAX {
            return None;
        }
        self.catalog.next_id += 1;
        Some(id)
    }

    /// Appends `edit`, syncs it, applies it.
    ///
    /// # Errors
    /// After any error nothing more is appended: the caller poisons the store.
    pub fn append(&mut self, fs: &F, edit: &Edit<'_>) -> Result<()> {
        // Alone and first: an edit must never be durable before the one it follows.
        self.confirm(fs)?;
        // Applied to a copy first: an edit that contradicts the catalog is a bug of ours, and must
        // not reach the disk.
        let mut next = self.catalog.clone();
        next.apply(edit).expect("an edit fits the ones before it");
        let mut bytes = vec![0u8; edit.encoded_bytes()];
        edit.encode_into(
            &mut bytes,
            &self.header.place_key(),
            self.end,
            self.next_seq,
        )
        .expect("the buffer has the size the edit asked for");
        let end = self.end;
        self.write(fs, |file| file.write_at(end, &bytes))?;
        self.end += bytes.len() as u64;
        self.next_seq += 1;
        self.catalog = next;
        Ok(())
    }

    /// Makes sure that the CLEAN this life began with is durable: to be called before anything is
    /// done to the segment that it names.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn confirm(&mut self, fs: &F) -> Result<()> {
        if self.failed {
            let source = std::io::Error::other("an earlier write of the manifest failed");
            return Err(io::<F>(fs, "write the manifest")(source));
        }
        let doubtful = std::mem::take(&mut self.redirty);
        match planted!("clean_not_confirmed", true, doubtful.is_empty()) {
            true => Ok(()),
            false => {
                let from = self.end - doubtful.len() as u64;
                self.write(fs, |file| file.write_back(from, &doubtful))
            }
        }
    }

    fn write(&mut self, fs: &F, write: impl FnOnce(&F::File) -> std::io::Result<()>) -> Result<()> {
        self.failed = true;
        write(&self.file).map_err(io::<F>(fs, "write the manifest"))?;
        let synced = planted!("edit_not_synced", Ok(()), self.file.sync_data());
        synced.map_err(io::<F>(fs, "sync the manifest"))?;
        self.failed = false;
        Ok(())
    }

    /// Best effort: says in the manifest that a sync failed. It may not be able to.
    pub fn append_poison(&mut self, fs: &F, durable_lsn: u64) {
        let _ = self.append(
            fs,
            &Edit::Poison(PoisonBody {
                durable_lsn: U64::new(durable_lsn),
            }),
        );
        self.failed = true;
    }
}

fn io<F: Fs>(fs: &F, op: &'static str) -> impl FnOnce(std::io::Error) -> StorageError {
    let path = fs.path_of(name::MANIFEST);
    move |source| StorageError::Io { op, path, source }
}

/// The edits that say what `catalog` says, in which no file of a retired segment may exist.
fn encode_whole(header: &ManifestHeader, first_seq: u64, catalog: &Catalog) -> (Vec<u8>, u64) {
    let mut bytes = header.encode().to_vec();
    let mut seq = first_seq;
    let key = header.place_key();
    let mut put = |edit: Edit<'_>| {
        let offset = bytes.len();
        bytes.resize(offset + edit.encoded_bytes(), 0);
        edit.encode_into(&mut bytes[offset..], &key, offset as u64, seq)
            .expect("the buffer has the size the edit asked for");
        seq += 1;
    };
    let mut store = catalog.store;
    store.next_id = U64::new(catalog.next_id);
    let log_end = catalog.log_end;
    store.next_lsn = U64::new(log_end.next_lsn.max(store.next_lsn.get()));
    put(Edit::Store(store));
    for meta in catalog.live.values() {
        if let (SegmentKind::Log, Some(end)) = (meta.kind, &meta.end) {
            put_ended_log(&mut put, meta, end);
        }
    }
    if log_end.id != 0 && !catalog.live.contains_key(&log_end.id) {
        // The last log segment is gone, but the next LINK must still point at its end.
        let end = End {
            length: log_end.end,
            end_lsn: log_end.lsn,
            min_lsn: 0,
            max_lsn: 0,
            records: 0,
            cut: Some(log_end.next_lsn),
        };
        put_ended_log(&mut put, &placeholder(log_end.id), &end);
        let ids = [U64::new(log_end.id)];
        put(Edit::Forget { ids: &ids });
    }
    let merged: Vec<MergedBody> = catalog
        .live
        .values()
        .filter(|meta| meta.kind == SegmentKind::Merged)
        .filter_map(|meta| {
            let end = meta.end?;
            Some(MergedBody {
                id: U64::new(meta.id),
                salt: meta.salt,
                length: U64::new(end.length),
                min_lsn: U64::new(end.min_lsn),
                max_lsn: U64::new(end.max_lsn),
                records: U64::new(end.records),
            })
        })
        .collect();
    if !merged.is_empty() {
        put(Edit::Compact {
            outputs: &merged,
            inputs: &[],
        });
        // Behind it, as behind a load's: see `bulk::ingest`.
        put(Edit::Forget { ids: &[] });
    }
    let no_segment = catalog.clean.filter(|clean| clean.id.get() == 0);
    for meta in catalog.unsealed() {
        put(Edit::Add(AddBody {
            id: U64::new(meta.id),
            salt: meta.salt,
            allocated: U64::new(meta.allocated),
        }));
        let Some(clean) = catalog.last_clean.filter(|clean| clean.id.get() == meta.id) else {
            continue;
        };
        put(Edit::Clean(clean));
        if catalog.clean.is_none() {
            // It no longer holds, but what it vouched for is durable.
            put(Edit::Opened(OpenedBody {
                id: clean.id,
                allocated: U64::new(meta.allocated),
            }));
        }
    }
    if let Some(clean) = no_segment {
        put(Edit::Clean(clean));
    }
    (bytes, seq)
}

/// A log segment of which only the number matters.
fn placeholder(id: u64) -> SegmentMeta {
    SegmentMeta {
        id,
        kind: SegmentKind::Log,
        salt: [0; 16],
        allocated: 0,
        end: None,
    }
}

fn put_ended_log(put: &mut impl FnMut(Edit<'_>), meta: &SegmentMeta, end: &End) {
    put(Edit::Add(AddBody {
        id: U64::new(meta.id),
        salt: meta.salt,
        allocated: U64::new(meta.allocated),
    }));
    put(match end.cut {
        None => Edit::Seal(seal_body(meta.id, end)),
        Some(next_lsn) => Edit::Cut {
            cut: cut_body(meta.id, end, next_lsn),
            dropped: &[],
        },
    });
}

/// CUT of segment `id`.
pub fn cut_body(id: u64, end: &End, next_lsn: u64) -> CutBody {
    CutBody {
        id: U64::new(id),
        end: U64::new(end.length),
        end_lsn: U64::new(end.end_lsn),
        next_lsn: U64::new(next_lsn),
        min_lsn: U64::new(end.min_lsn),
        max_lsn: U64::new(end.max_lsn),
        records: U64::new(end.records),
    }
}

/// SEAL of segment `id`.
pub fn seal_body(id: u64, end: &End) -> SealBody {
    SealBody {
        id: U64::new(id),
        length: U64::new(end.length),
        end_lsn: U64::new(end.end_lsn),
        min_lsn: U64::new(end.min_lsn),
        max_lsn: U64::new(end.max_lsn),
        records: U64::new(end.records),
    }
}

#[cfg(test)]
mod tests;
