//! What can be done to a store, small enough to be made from a few bytes.

use std::time::Duration;

use kvs::Durability;
use kvs::testing::sim::{Contents, Effect, Errno, Fault, Survive};

/// How many keys there are.
pub const KEYS: u8 = 32;

/// How many snapshots are kept at a time.
pub const SNAPSHOTS: usize = 3;

/// The key number `id`, modulo [`KEYS`]: short ones, and a few that are at the limits.
pub fn key(id: u8) -> Vec<u8> {
    match id % KEYS {
        0 => Vec::new(),
        31 => vec![0; 24],
        30 => vec![b'x'; 65_535],
        29 => vec![b'y'; 4_000],
        28 => vec![b'z'; 300],
        id => format!("key-{id:02}").into_bytes(),
    }
}

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// The number of the operation, then a pattern of it: no two values are equal.
    Unique,
    /// Zeros: what lost sectors read as.
    Zero,
    /// The number of the operation in decimal digits, whatever the length.
    Number,
    /// Bytes of one of the store's own files, so that whole valid records stand inside a value.
    Forged {
        /// Which file.
        file: u8,
        /// From where, in units of 8 bytes.
        from: u16,
    },
}

/// A value to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSpec {
    /// Its length.
    pub len: u32,
    /// Its bytes.
    pub fill: Fill,
}

/// Which failure of a call of the file system to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The k-th call from now.
    pub k: u16,
    /// How it fails.
    pub fault: Fault,
}

/// A level that operations are done at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// [`Durability::Os`].
    Os,
    /// [`Durability::Interval`] of 20 milliseconds.
    Short,
    /// [`Durability::Interval`] of 100 milliseconds.
    Long,
    /// [`Durability::Sync`].
    Sync,
}

impl Level {
    /// As the store calls it.
    pub fn durability(self) -> Durability {
        match self {
            Self::Os => Durability::Os,
            Self::Short => Durability::Interval(Duration::from_millis(20)),
            Self::Long => Durability::Interval(Duration::from_millis(100)),
            Self::Sync => Durability::Sync,
        }
    }
}

/// A read-modify-write of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `set_if_absent`.
    IfAbsent(ValueSpec),
    /// `compare_and_swap`.
    Swap {
        /// The expected value is the one that is there; otherwise it is not.
        equal: bool,
        /// The new value; `None` removes.
        new: Option<ValueSpec>,
    },
    /// `fetch_update` that stores or removes.
    Replace(Option<ValueSpec>),
    /// `fetch_update` that does nothing.
    Keep,
    /// `increment`.
    Add(i64),
}

/// When a value that is set expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// As the store was opened.
    Default,
    /// Never.
    Never,
    /// So many milliseconds from now; 0: it has expired.
    In(u16),
    /// When the old one did.
    Keep,
}

/// On what setting a value depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Nothing.
    Always,
    /// There is none.
    Absent,
    /// There is one.
    Present,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A bit flips.
    Flip {
        /// Which one of its byte, modulo 8.
        bit: u8,
    },
    /// A run of bytes is zero.
    Zero {
        /// How many.
        len: u16,
    },
    /// Nothing is left from there on.
    Cut,
    /// It is gone.
    Delete,
}

/// Damage to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wound {
    /// Which file, modulo how many there are.
    pub file: u8,
    /// Where: so many bytes from its beginning; with the highest bit, before the end of what is not zero.
    pub at: u16,
    /// What.
    pub harm: Harm,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Set {
        /// Number of the key.
        key: u8,
        /// Value.
        value: ValueSpec,
    },
    /// Sets a key to a value that has expired long ago, or never will.
    SetExpiring {
        /// Number of the key.
        key: u8,
        /// Value.
        value: ValueSpec,
        /// It has expired.
        past: bool,
    },
    /// Sets a key in all the ways there are.
    SetWith {
        /// Number of the key.
        key: u8,
        /// Value.
        value: ValueSpec,
        /// When it expires.
        span: Span,
        /// Under which condition.
        only: Only,
    },
    /// Lets a key expire so many milliseconds from now, or never.
    Expire {
        /// Number of the key.
        key: u8,
        /// Milliseconds; 0: it is over.
        ms: Option<u16>,
    },
    /// Sets several keys at once, to expire so many milliseconds from now.
    BatchExpiring(Vec<(u8, ValueSpec, u16)>),
    /// The clock by which keys expire is set back.
    ClockBack {
        /// Milliseconds.
        ms: u16,
    },
    /// Removes a key.
    Remove {
        /// Number of the key.
        key: u8,
    },
    /// Reads a key, and writes it accordingly.
    Update {
        /// Number of the key.
        key: u8,
        /// Which way.
        how: How,
    },
    /// From now on writes are done at this level, whatever the store was opened with.
    At(Level),
    /// Time passes.
    Wait {
        /// Milliseconds.
        ms: u8,
    },
    /// Reads every key in every way that copies nothing.
    ReadAll,
    /// Takes a snapshot; the one that was kept in its place goes.
    Snapshot {
        /// Where it is kept, modulo [`SNAPSHOTS`].
        slot: u8,
    },
    /// Reads a snapshot in every way there is.
    ReadSnapshot {
        /// Which one.
        slot: u8,
    },
    /// Lets go of a snapshot.
    DropSnapshot {
        /// Which one.
        slot: u8,
    },
    /// One call of a walk through all keys; at the end the next call begins another.
    Scan {
        /// About how many keys.
        count: u8,
        /// With their values.
        pairs: bool,
    },
    /// Sets and removes at once.
    Batch(Vec<(u8, Option<ValueSpec>)>),
    /// Loads pairs in bulk.
    Load(Vec<(u8, ValueSpec)>),
    /// The same, to expire so many milliseconds from now, or never.
    LoadExpiring(Vec<(u8, ValueSpec, Option<u16>)>),
    /// Makes everything durable.
    Flush,
    /// Ends the active segment.
    Rotate,
    /// Compacts.
    Compact,
    /// Compacts some segments and not others.
    CompactSome {
        /// The i-th segment if bit i is set.
        mask: u8,
    },
    /// Checks every key and every record.
    Check,
    /// Closes, opens.
    Reopen,
    /// The process is killed, and the store opened again by another.
    Kill,
    /// The power is cut.
    Crash {
        /// Behind the last but `back` recorded operation.
        back: u16,
        /// What survives.
        survive: Survive,
    },
    /// A hint file vanishes.
    DropHint {
        /// Which one.
        which: u8,
    },
    /// A bit of a hint file flips.
    DamageHint {
        /// Which one.
        which: u8,
        /// Which byte, modulo its length.
        at: u16,
        /// Which bit.
        bit: u8,
    },
    /// A copy of the store's files is damaged and opened; the store itself goes on.
    Damage {
        /// The store is closed before, and opened again afterwards.
        closed: bool,
        /// How.
        wounds: Vec<Wound>,
    },
    /// A call is going to fail.
    Fail(Strike),
}

/// Takes operations from arbitrary bytes.
struct Bytes<'a, 'b>(&'a mut &'b [u8]);

impl Bytes<'_, '_> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        *self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.u8()?, self.u8()?]))
    }

    fn wound(&mut self) -> Option<Wound> {
        Some(Wound {
            file: self.u8()?,
            at: self.u16()?,
            harm: match self.u8()? {
                way @ 0..=127 => Harm::Flip { bit: way % 8 },
                128..=175 => Harm::Zero { len: self.u16()? },
                176..=239 => Harm::Cut,
                _ => Harm::Delete,
            },
        })
    }

    fn value(&mut self) -> Option<ValueSpec> {
        let shape = self.u8()?;
        let len = match shape % 16 {
            0 => 0,
            // Larger than a segment: it gets one of its own.
            1 => 70_000,
            2..=4 => u32::from(self.u16()?) % 20_000,
            _ => u32::from(self.u8()?),
        };
        let fill = match shape / 16 % 8 {
            0 => Fill::Zero,
            7 => Fill::Number,
            1 | 2 => Fill::Forged {
                file: self.u8()?,
                from: self.u16()?,
            },
            _ => Fill::Unique,
        };
        Some(ValueSpec { len, fill })
    }
}

impl Op {
    /// Takes one operation from the front of `bytes`; `None` if there are too few left.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let tag = bytes.u8()?;
        Some(match tag % 96 {
            26 | 27 => {
                let count = bytes.u8()? % 12;
                let mut pairs = Vec::new();
                for _ in 0..count {
                    pairs.push((bytes.u8()?, bytes.value()?));
                }
                Self::Load(pairs)
            }
            0..=25 => Self::Set {
                key: bytes.u8()?,
                value: bytes.value()?,
            },
            29 => {
                let (way, key) = (bytes.u8()?, bytes.u8()?);
                let ms = u16::from(bytes.u8()?) / 2;
                match way % 8 {
                    0 | 1 => Self::Expire {
                        key,
                        ms: (way >= 64).then_some(ms),
                    },
                    2 => Self::ClockBack { ms },
                    3 => Self::BatchExpiring(vec![
                        (key, bytes.value()?, ms),
                        (key / 2, bytes.value()?, 60),
                    ]),
                    4 => Self::LoadExpiring(vec![
                        (key, bytes.value()?, (way >= 64).then_some(ms)),
                        (key / 2, bytes.value()?, Some(60)),
                    ]),
                    _ => Self::SetWith {
                        key,
                        value: bytes.value()?,
                        span: match way / 8 % 8 {
                            0 => Span::Default,
                            1 => Span::Never,
                            2 | 3 => Span::Keep,
                            _ => Span::In(ms),
                        },
                        only: match way / 64 {
                            0 => Only::Absent,
                            1 => Only::Present,
                            _ => Only::Always,
                        },
                    },
                }
            }
            28 => Self::SetExpiring {
                key: bytes.u8()?,
                value: bytes.value()?,
                past: tag >= 128,
            },
            30..=37 => Self::Remove { key: bytes.u8()? },
            38..=42 => {
                let count = bytes.u8()? % 6;
                let mut writes = Vec::new();
                for _ in 0..count {
                    let id = bytes.u8()?;
                    let value = match id >= 192 {
                        true => None,
                        false => Some(bytes.value()?),
                    };
                    writes.push((id, value));
                }
                Self::Batch(writes)
            }
            43..=45 => Self::Flush,
            46 | 47 => Self::Rotate,
            48 => Self::Compact,
            49 => Self::CompactSome { mask: bytes.u8()? },
            50 => Self::Check,
            51..=53 => Self::Reopen,
            54 | 55 => Self::Kill,
            56..=58 => Self::Crash {
                back: bytes.u16()? % 256,
                survive: match bytes.u8()? {
                    0..=31 => Survive::SyncedOnly,
                    32..=63 => Survive::Everything,
                    64..=95 => Survive::Names {
                        mask: u64::from(bytes.u16()?),
                        contents: Contents::Synced,
                    },
                    96..=127 => Survive::Names {
                        mask: u64::from(bytes.u16()?),
                        contents: Contents::Latest,
                    },
                    _ => Survive::Mix {
                        seed: u64::from(bytes.u16()?),
                    },
                },
            },
            64..=71 => Self::Update {
                key: bytes.u8()?,
                how: match bytes.u8()? % 16 {
                    0..=2 => How::IfAbsent(bytes.value()?),
                    3..=5 => How::Swap {
                        equal: tag < 128,
                        new: Some(bytes.value()?),
                    },
                    6 => How::Swap {
                        equal: tag < 128,
                        new: None,
                    },
                    7..=9 => How::Replace(Some(bytes.value()?)),
                    10 => How::Replace(None),
                    11 => How::Keep,
                    _ => How::Add(i64::from(bytes.u8()?) - 100),
                },
            },
            72..=74 => Self::At(match bytes.u8()? % 4 {
                0 => Level::Os,
                1 => Level::Short,
                2 => Level::Long,
                _ => Level::Sync,
            }),
            75..=78 => Self::Wait { ms: bytes.u8()? },
            79 => Self::ReadAll,
            80 | 81 => Self::Snapshot { slot: bytes.u8()? },
            82 | 83 => Self::ReadSnapshot { slot: bytes.u8()? },
            84 => Self::DropSnapshot { slot: bytes.u8()? },
            85..=95 => Self::Scan {
                count: bytes.u8()?,
                pairs: tag >= 128,
            },
            59 => Self::DropHint { which: bytes.u8()? },
            60 => Self::DamageHint {
                which: bytes.u8()?,
                at: bytes.u16()?,
                bit: bytes.u8()? % 8,
            },
            61 => {
                let how = bytes.u8()?;
                let count = if how < 192 { 1 } else { how % 4 };
                let wounds = (0..count).map(|_| bytes.wound());
                Self::Damage {
                    closed: how % 2 == 0,
                    wounds: wounds.collect::<Option<_>>()?,
                }
            }
            _ => {
                let kind = bytes.u8()?;
                let errno = match kind & 1 {
                    0 => Errno::IO,
                    _ => Errno::NOSPC,
                };
                let fault = match kind & 2 {
                    0 => Fault::once(errno),
                    _ => Fault::forever(errno),
                };
                let effect = [Effect::None, Effect::Half, Effect::Whole, Effect::None];
                Self::Fail(Strike {
                    k: u16::from(bytes.u8()?) % 96,
                    fault: fault.after(effect[usize::from(kind >> 2) % 4]),
                })
            }
        })
    }

    /// All the operations that `bytes` hold.
    pub fn decode_all(mut bytes: &[u8]) -> Vec<Self> {
        std::iter::from_fn(|| Self::decode(&mut bytes)).collect()
    }
}
