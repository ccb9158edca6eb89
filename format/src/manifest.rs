//! The edits of the one authoritative file.
//!
//! ```text
//! header  0        8    10      16         32      48             60    64
//!         | magic  | vn | 0     | store id | salt  | 0            | crc |  edits follow
//! edit    0     4     8       16   17        24
//!         | crc | len | seq   | kd | 0       | body of len bytes, then zeros to a multiple of 8 |
//! ```
//!
//! Invariants
//! - An edit is synced before its effect and before the next edit is written, so only the last one
//!   can be unfinished. An invalid edit with a valid one behind it is damage, not a torn tail.
//! - `crc` covers the edit's offset and everything behind `crc` up to the end of the body, from a
//!   start state bound to store id and salt: no edit of another manifest passes.
//! - `seq` grows by one from edit to edit.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{PlaceKey, crc32};
use crate::error::DecodeError;
use crate::hash::SHARD_BITS_MAX;
use crate::{FORMAT_VERSION, aligned};

/// Bytes of the file header; the first edit starts here.
pub const HEADER_BYTES: usize = 64;

/// Bytes of an edit before its body.
pub const EDIT_HEADER_BYTES: usize = 24;

/// First bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"kvs-man\0";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    version: U16,
    zero_a: [u8; 6],
    store_id: [u8; 16],
    salt: [u8; 16],
    zero_b: [u8; 12],
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEdit {
    crc: U32,
    len: U32,
    seq: U64,
    kind: u8,
    zero: [u8; 7],
}

const CRC_AT: usize = 60;

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(core::mem::offset_of!(RawHeader, store_id) == 16);
    assert!(core::mem::offset_of!(RawHeader, salt) == 32);
    assert!(core::mem::offset_of!(RawHeader, crc) == CRC_AT);
    assert!(size_of::<RawEdit>() == EDIT_HEADER_BYTES);
    assert!(core::mem::offset_of!(RawEdit, seq) == 8);
    assert!(core::mem::offset_of!(RawEdit, kind) == 16);
};

/// Whose manifest this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    /// 16 random bytes: the store.
    pub store_id: [u8; 16],
    /// 16 random bytes: this writing of its manifest.
    pub salt: [u8; 16],
}

impl ManifestHeader {
    /// The 64 bytes as they stand in the file.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = RawHeader {
            magic: MAGIC,
            version: U16::new(FORMAT_VERSION),
            zero_a: [0; 6],
            store_id: self.store_id,
            salt: self.salt,
            zero_b: [0; 12],
            crc: U32::ZERO,
        };
        let mut bytes: [u8; HEADER_BYTES] = zerocopy::transmute!(raw);
        let crc = crc32(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// Whatever makes it no manifest header of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated {
                need: HEADER_BYTES as u64,
                have: bytes.len() as u64,
            });
        };
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(DecodeError::BadMagic);
        }
        let (stored, computed) = (raw.crc.get(), crc32(&bytes[..CRC_AT]));
        if stored != computed {
            return Err(DecodeError::BadCrc { stored, computed });
        }
        if raw.version.get() != FORMAT_VERSION {
            return Err(DecodeError::BadVersion {
                found: raw.version.get(),
            });
        }
        if raw.zero_a != [0; 6] || raw.zero_b != [0; 12] {
            return Err(DecodeError::NotZero);
        }
        Ok(Self {
            store_id: raw.store_id,
            salt: raw.salt,
        })
    }

    /// The start state of this manifest's edit checks.
    #[must_use]
    pub fn place_key(&self) -> PlaceKey {
        PlaceKey::of_manifest(&self.store_id, &self.salt)
    }
}

/// Body of STORE: the first edit of every manifest, and only that.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StoreBody {
    /// Key of the fingerprint hash.
    pub hash_key: [u8; 16],
    /// No segment of this store had this id or a higher one when the manifest was written.
    pub next_id: U64,
    /// No record of this store had this LSN or a higher one when the manifest was written, except
    /// in segments that are not sealed.
    pub next_lsn: U64,
    /// log2 of the number of index shards.
    pub shard_bits: u8,
    /// Zero.
    pub zero: [u8; 7],
}

/// Body of ADD: a log segment exists, whole allocated, header and name durable.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AddBody {
    /// The segment.
    pub id: U64,
    /// Salt of its header.
    pub salt: [u8; 16],
    /// Bytes allocated: until the segment is sealed, cut or cleanly closed its file is never shorter.
    pub allocated: U64,
}

/// Body of SEAL: a log segment is complete and durable.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SealBody {
    /// The segment.
    pub id: U64,
    /// Offset behind its last record; bytes behind it mean nothing.
    pub length: U64,
    /// LSN of its last record.
    pub end_lsn: U64,
    /// Lowest LSN of its data records; 0 if it has none.
    pub min_lsn: U64,
    /// Highest LSN of its data records; 0 if it has none.
    pub max_lsn: U64,
    /// How many data records it holds.
    pub records: U64,
}

/// One output of COMPACT: a merged segment, whole and durable.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct MergedBody {
    /// The segment.
    pub id: U64,
    /// Salt of its header.
    pub salt: [u8; 16],
    /// Offset behind its last record.
    pub length: U64,
    /// Lowest LSN of its data records.
    pub min_lsn: U64,
    /// Highest LSN of its data records.
    pub max_lsn: U64,
    /// How many data records it holds.
    pub records: U64,
}

/// Body of OPENED: the first write of a life goes into the segment of the last CLEAN.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct OpenedBody {
    /// The segment.
    pub id: U64,
    /// Bytes allocated from now on, as in ADD.
    pub allocated: U64,
}

/// Body of CLEAN: the store was closed and everything it held is durable.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CleanBody {
    /// The unsealed log segment; 0 if there is none.
    pub id: U64,
    /// Offset behind its last record; 0 if there is none.
    pub length: U64,
    /// LSN of the last record of the store.
    pub lsn: U64,
}

/// Fixed part of CUT: recovery gave up what stood behind `end`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CutBody {
    /// The segment that ends here.
    pub id: U64,
    /// Offset behind its last record.
    pub end: U64,
    /// LSN of its last record.
    pub end_lsn: U64,
    /// LSN of the next record of the store; never one that was seen before.
    pub next_lsn: U64,
    /// Lowest LSN of its data records; 0 if it has none.
    pub min_lsn: U64,
    /// Highest LSN of its data records; 0 if it has none.
    pub max_lsn: U64,
    /// How many data records it holds.
    pub records: U64,
}

/// Body of POISON: a sync failed; nothing behind this LSN may be believed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PoisonBody {
    /// Highest LSN known to be durable.
    pub durable_lsn: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Counts {
    outputs: U32,
    inputs: U32,
}

const _: () = {
    assert!(size_of::<StoreBody>() == 40);
    assert!(size_of::<AddBody>() == 32);
    assert!(size_of::<SealBody>() == 48);
    assert!(size_of::<MergedBody>() == 56);
    assert!(size_of::<OpenedBody>() == 16);
    assert!(size_of::<CleanBody>() == 24);
    assert!(size_of::<CutBody>() == 56);
    assert!(size_of::<PoisonBody>() == 8);
};

/// One change of what the store consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Kind 1: the store's constants.
    Store(StoreBody),
    /// Kind 2: a log segment joins.
    Add(AddBody),
    /// Kind 3: a log segment is complete.
    Seal(SealBody),
    /// Kind 4: merged segments take the place of their inputs, all at once.
    Compact {
        /// What is there from now on.
        outputs: &'a [MergedBody],
        /// What is not; their files may still exist.
        inputs: &'a [U64],
    },
    /// Kind 5: the files of these segments are gone, durably, or never mattered.
    Forget {
        /// The segments.
        ids: &'a [U64],
    },
    /// Kind 6: the last CLEAN no longer holds.
    Opened(OpenedBody),
    /// Kind 7: a clean close.
    Clean(CleanBody),
    /// Kind 8: recovery gave up a tail, and these later segments whole.
    Cut {
        /// Where the log ends.
        cut: CutBody,
        /// Log segments given up whole.
        dropped: &'a [U64],
    },
    /// Kind 9: a sync failed.
    Poison(PoisonBody),
}

impl Edit<'_> {
    /// The kind byte.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Store(_) => 1,
            Self::Add(_) => 2,
            Self::Seal(_) => 3,
            Self::Compact { .. } => 4,
            Self::Forget { .. } => 5,
            Self::Opened(_) => 6,
            Self::Clean(_) => 7,
            Self::Cut { .. } => 8,
            Self::Poison(_) => 9,
        }
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Store(body) => size_of_val(body),
            Self::Add(body) => size_of_val(body),
            Self::Seal(body) => size_of_val(body),
            Self::Compact { outputs, inputs } => 8 + size_of_val(*outputs) + size_of_val(*inputs),
            Self::Forget { ids } => size_of_val(*ids),
            Self::Opened(body) => size_of_val(body),
            Self::Clean(body) => size_of_val(body),
            Self::Cut { cut, dropped } => size_of_val(cut) + size_of_val(*dropped),
            Self::Poison(body) => size_of_val(body),
        }
    }

    /// Bytes of the edit in the file.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        aligned((EDIT_HEADER_BYTES + self.body_bytes()) as u64) as usize
    }

    /// Encodes the edit for `offset` of the manifest with this key into `out`; returns its bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if `out` is shorter than [`Edit::encoded_bytes`].
    pub fn encode_into(
        &self,
        out: &mut [u8],
        key: &PlaceKey,
        offset: u64,
        seq: u64,
    ) -> Result<usize, DecodeError> {
        let total = self.encoded_bytes();
        let have = out.len() as u64;
        let Some(out) = out.get_mut(..total) else {
            return Err(DecodeError::Truncated {
                need: total as u64,
                have,
            });
        };
        out.fill(0);
        let header = RawEdit {
            crc: U32::ZERO,
            len: U32::new(self.body_bytes() as u32),
            seq: U64::new(seq),
            kind: self.kind(),
            zero: [0; 7],
        };
        out[..EDIT_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let mut at = EDIT_HEADER_BYTES;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        match self {
            Self::Store(body) => put(body.as_bytes()),
            Self::Add(body) => put(body.as_bytes()),
            Self::Seal(body) => put(body.as_bytes()),
            Self::Compact { outputs, inputs } => {
                let counts = Counts {
                    outputs: U32::new(outputs.len() as u32),
                    inputs: U32::new(inputs.len() as u32),
                };
                put(counts.as_bytes());
                put(outputs.as_bytes());
                put(inputs.as_bytes());
            }
            Self::Forget { ids } => put(ids.as_bytes()),
            Self::Opened(body) => put(body.as_bytes()),
            Self::Clean(body) => put(body.as_bytes()),
            Self::Cut { cut, dropped } => {
                put(cut.as_bytes());
                put(dropped.as_bytes());
            }
            Self::Poison(body) => put(body.as_bytes()),
        }
        let crc = key.edit(offset, &out[4..EDIT_HEADER_BYTES + self.body_bytes()]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        Ok(total)
    }
}

fn body<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Result<T, DecodeError> {
    T::read_from_bytes(bytes).map_err(|_| DecodeError::BadLength {
        found: bytes.len() as u64,
        allowed: size_of::<T>() as u64,
    })
}

fn ids(bytes: &[u8]) -> Result<&[U64], DecodeError> {
    <[U64]>::ref_from_bytes(bytes).map_err(|_| DecodeError::BadLength {
        found: bytes.len() as u64,
        allowed: bytes.len() as u64 / 8 * 8,
    })
}

fn decode_body(kind: u8, bytes: &[u8]) -> Result<Edit<'_>, DecodeError> {
    Ok(match kind {
        1 => {
            let store: StoreBody = body(bytes)?;
            if store.zero != [0; 7] {
                return Err(DecodeError::NotZero);
            }
            if store.shard_bits > SHARD_BITS_MAX {
                return Err(DecodeError::BadLength {
                    found: u64::from(store.shard_bits),
                    allowed: u64::from(SHARD_BITS_MAX),
                });
            }
            Edit::Store(store)
        }
        2 => Edit::Add(body(bytes)?),
        3 => Edit::Seal(body(bytes)?),
        4 => {
            let bad = DecodeError::BadLength {
                found: bytes.len() as u64,
                allowed: 8,
            };
            let (counts, rest) = Counts::read_from_prefix(bytes).map_err(|_| bad)?;
            let split = (counts.outputs.get() as usize)
                .checked_mul(size_of::<MergedBody>())
                .filter(|split| *split <= rest.len())
                .ok_or(bad)?;
            let (outputs, inputs) = rest.split_at(split);
            let outputs = <[MergedBody]>::ref_from_bytes(outputs).map_err(|_| bad)?;
            let inputs = ids(inputs)?;
            if inputs.len() != counts.inputs.get() as usize {
                return Err(bad);
            }
            Edit::Compact { outputs, inputs }
        }
        5 => Edit::Forget { ids: ids(bytes)? },
        6 => Edit::Opened(body(bytes)?),
        7 => Edit::Clean(body(bytes)?),
        8 => {
            let (cut, dropped) =
                CutBody::read_from_prefix(bytes).map_err(|_| DecodeError::BadLength {
                    found: bytes.len() as u64,
                    allowed: size_of::<CutBody>() as u64,
                })?;
            Edit::Cut {
                cut,
                dropped: ids(dropped)?,
            }
        }
        9 => Edit::Poison(body(bytes)?),
        kind => return Err(DecodeError::BadKind { kind, framing: 0 }),
    })
}

/// An edit with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditRef<'a> {
    /// Bytes from the start of the manifest.
    pub offset: u64,
    /// Its number.
    pub seq: u64,
    /// Bytes in the file, padding included.
    pub size: u64,
    /// What it says.
    pub edit: Edit<'a>,
}

/// Decodes the edit at `offset`, of which `bytes` are the file's bytes from there on.
///
/// # Errors
/// Whatever makes it no whole edit of this manifest.
pub fn decode_edit<'a>(
    key: &PlaceKey,
    offset: u64,
    bytes: &'a [u8],
) -> Result<EditRef<'a>, DecodeError> {
    let have = bytes.len() as u64;
    let Some(head) = bytes.first_chunk::<EDIT_HEADER_BYTES>() else {
        return Err(DecodeError::Truncated {
            need: EDIT_HEADER_BYTES as u64,
            have,
        });
    };
    let raw: RawEdit = zerocopy::transmute!(*head);
    let unpadded = EDIT_HEADER_BYTES as u64 + u64::from(raw.len.get());
    let size = aligned(unpadded);
    if size > have {
        return Err(DecodeError::Truncated { need: size, have });
    }
    let whole = &bytes[..unpadded as usize];
    let (stored, computed) = (raw.crc.get(), key.edit(offset, &whole[4..]));
    if stored != computed {
        return Err(DecodeError::BadCrc { stored, computed });
    }
    if raw.zero != [0; 7] {
        return Err(DecodeError::NotZero);
    }
    Ok(EditRef {
        offset,
        seq: raw.seq.get(),
        size,
        edit: decode_body(raw.kind, &whole[EDIT_HEADER_BYTES..])?,
    })
}

/// How the edits of a manifest end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing, or only zeros, behind the last edit.
    Clean {
        /// Offset behind the last edit.
        end: u64,
    },
    /// An unfinished edit behind the last one: the only one a crash can leave.
    Torn {
        /// Offset behind the last whole edit.
        end: u64,
    },
    /// Damage: an edit that was synced is no longer whole.
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: DecodeError,
    },
}

/// Walks the edits of a manifest.
#[derive(Clone, Debug)]
pub struct Edits<'a> {
    bytes: &'a [u8],
    key: PlaceKey,
    offset: u64,
    next_seq: Option<u64>,
}

impl<'a> Edits<'a> {
    /// The edits of the manifest whose whole content is `bytes`.
    ///
    /// # Errors
    /// As [`ManifestHeader::decode`].
    pub fn new(bytes: &'a [u8]) -> Result<(ManifestHeader, Self), DecodeError> {
        let header = ManifestHeader::decode(bytes)?;
        Ok((
            header,
            Self {
                bytes,
                key: header.place_key(),
                offset: HEADER_BYTES as u64,
                next_seq: None,
            },
        ))
    }

    fn decode_at(&self, offset: u64) -> Result<EditRef<'a>, DecodeError> {
        let rest = self.bytes.get(offset as usize..).unwrap_or(&[]);
        let edit = decode_edit(&self.key, offset, rest)?;
        match self.next_seq {
            Some(expected) if edit.seq != expected => Err(DecodeError::BadLsn {
                expected,
                found: edit.seq,
            }),
            _ => Ok(edit),
        }
    }

    /// Where the edits end and why; call it when the iterator has returned `None`.
    #[must_use]
    pub fn tail(&self) -> Tail {
        let rest = self.bytes.get(self.offset as usize..).unwrap_or(&[]);
        if rest.iter().all(|byte| *byte == 0) {
            return Tail::Clean { end: self.offset };
        }
        let reason = match self.decode_at(self.offset) {
            Ok(_) => return Tail::Clean { end: self.offset },
            Err(reason) => reason,
        };
        // A whole edit of a later number behind this place: the one here had been synced.
        // Behind no valid edit, any number is a later one.
        let later = self.next_seq.map_or(0, |next| next.saturating_add(1));
        let mut at = 0usize;
        while let Some(head) = rest
            .get(at..)
            .and_then(|r| r.first_chunk::<EDIT_HEADER_BYTES>())
        {
            let raw: RawEdit = zerocopy::transmute!(*head);
            let seq = raw.seq.get();
            if seq >= later && (1..=9).contains(&raw.kind) {
                let offset = self.offset + at as u64;
                if decode_edit(&self.key, offset, &rest[at..]).is_ok() {
                    return Tail::Damaged {
                        offset: self.offset,
                        reason,
                    };
                }
            }
            at += 8;
        }
        Tail::Torn { end: self.offset }
    }
}

impl<'a> Iterator for Edits<'a> {
    type Item = EditRef<'a>;

    fn next(&mut self) -> Option<EditRef<'a>> {
        let edit = self.decode_at(self.offset).ok()?;
        self.offset += edit.size;
        self.next_seq = Some(edit.seq.saturating_add(1));
        Some(edit)
    }
}
