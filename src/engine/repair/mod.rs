//! Salvaging what is whole of a damaged store into a new one.
//!
//! The source is only read. Every record that passes its checks counts, wherever damage stands before
//! it; of each key the newest one survives, and removals and expired records shadow older ones as they
//! do in life. What could not be read is reported range by range: any key may have had a newer version
//! there.
//!
//! Elsewhere: which files count, and how far (`inventory`); records and gaps (`salvage`).

mod inventory;
mod salvage;
mod window;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvs_format::hash::HashKey;
use kvs_format::record::{HEADER_BYTES, Kind, complete, parse_header};

use crate::engine::config::Config;
use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::options::{Compaction, Durability, Options};
use crate::engine::report::{Lost, RecoveryReport};
use crate::engine::time::WallClock;
use crate::engine::writer::{One, When};
use crate::storage::beside::Beside;
use crate::storage::fs::{Access, Fs, FsFile};
use crate::storage::real::RealFs;
use inventory::{Item, inventory};
use salvage::{Entry, Survey};

/// How [`repair`] works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    dry_run: bool,
}

impl RepairOptions {
    /// Writes what it salvages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes nothing and makes no directory: says what would be salvaged and what is lost.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }
}

/// Salvages the store in directory `source`, however damaged, into a new store in directory `dest`.
///
/// The source is opened for reading under a shared lock and nothing in it is changed. Each record is
/// checked on its own, so what stands behind damage survives it. Of a key the newest version that was
/// found survives; [`RecoveryReport::lost`] says where a newer one may have been, and
/// [`RecoveryReport::incomplete`] is true if there is any such place. A batch of which a part is lost
/// is salvaged in part, and counted in [`RecoveryReport::broken_batches`]; one that had not been
/// finished when the store stopped is dropped, as opening does, unless records of it stand behind
/// damage. If the end of the manifest is lost, a load that had not returned may be there.
///
/// `dest` must not exist or be an empty directory outside the source; it gets its name when everything
/// in it is durable. Cost: reads the source twice, writes what lives once. Memory: about 100 bytes a
/// key, and the largest record.
///
/// ```
/// use kvs::{RepairOptions, Store, repair};
///
/// # let dir = std::env::temp_dir().join(format!("kvs-repair-{}", std::process::id()));
/// # let (source, dest) = (dir.join("damaged"), dir.join("mended"));
/// # Store::open(&source)?.set("a", "1")?;
/// let report = repair(&source, &dest, &RepairOptions::new())?;
/// assert!(!report.incomplete, "nothing is lost: {:?}", report.lost);
/// assert_eq!(Store::open(&dest)?.get("a")?.as_deref(), Some(&b"1"[..]));
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), kvs::Error>(())
/// ```
///
/// # Errors
/// [`Error::Missing`] if `source` holds nothing of a store, [`Error::Locked`] if somebody writes to it,
/// [`Error::Exists`], [`Error::Unsafe`], [`Error::DiskFull`], [`Error::Io`]. A file of the source that
/// cannot be read is no error but lost.
pub fn repair(
    source: impl AsRef<Path>,
    dest: impl AsRef<Path>,
    options: &RepairOptions,
) -> Result<RecoveryReport> {
    let fs = RealFs::open(source.as_ref(), Access::Read)?;
    fs.lock(Access::Read)?;
    if options.dry_run {
        return Ok(examine(&fs)?.report);
    }
    let (beside, to) = Beside::create(dest.as_ref(), fs.id()?)?;
    let mut salvaged = examine(&fs)?;
    let options = Options::new().compaction(Compaction::Manual);
    let engine = Engine::open(to, Config::new(&options))?;
    salvaged.pour(&fs, &engine).inspect_err(|_| {
        // Its threads end, and what it holds on disk is given back.
        let _ = engine.close_within(Duration::ZERO);
        engine.fs.unlock();
    })?;
    engine
        .fs
        .publish(beside.path())
        .map_err(|source| Error::Io {
            op: "give the directory its name",
            path: beside.path().to_path_buf(),
            source,
        })?;
    beside.keep();
    Ok(salvaged.report)
}

/// What is left of a store.
pub struct Salvaged<F: Fs> {
    items: Vec<Item<F>>,
    /// What lives, in the order in which it is read fastest.
    live: Vec<Entry>,
    /// So far.
    pub report: RecoveryReport,
    started: Instant,
}

/// Reads everything in `fs`.
///
/// # Errors
/// See [`repair`].
pub fn examine<F: Fs>(fs: &F) -> Result<Salvaged<F>> {
    let started = Instant::now();
    let found = inventory(fs)?;
    let random = (Config::new(&Options::new()).entropy)()?;
    let key = HashKey::from_bytes(&random);
    let mut survey = Survey::new(key, WallClock::system().now_ms(), found.durable_lsn);
    for (index, item) in found.items.iter().enumerate() {
        survey.read(fs, index, item);
    }
    survey.settle(fs, &found.items);
    let living = survey.newest.values().filter(|entry| !entry.gone);
    let mut live: Vec<Entry> = living.copied().collect();
    live.sort_unstable_by_key(|entry| (entry.item, entry.offset));
    let mut lost = found.lost;
    lost.append(&mut survey.lost);
    lost.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    let report = RecoveryReport {
        segments: found.items.len() as u64,
        records_scanned: survey.records,
        bytes_scanned: survey.bytes,
        keys: live.len() as u64,
        torn_tail: survey.torn_tail,
        incomplete: !lost.is_empty(),
        damage: found.damage,
        lost,
        broken_batches: survey.broken_batches,
        duration: started.elapsed(),
        ..RecoveryReport::default()
    };
    Ok(Salvaged {
        items: found.items,
        live,
        report,
        started,
    })
}

impl<F: Fs> Salvaged<F> {
    /// Writes what lives into the new store `engine`, and closes it.
    ///
    /// # Errors
    /// What writing says. What can no longer be read is lost, and in the report.
    pub fn pour<G: Fs>(&mut self, fs: &F, engine: &Arc<Engine<G>>) -> Result<()> {
        let mut buffer = Vec::new();
        let mut gone: BTreeMap<(u32, u64), String> = BTreeMap::new();
        for entry in &self.live {
            let item = &self.items[entry.item as usize];
            match read(item, entry.offset, &mut buffer) {
                Ok((expires_at, key_len)) => {
                    let (key, value) = buffer.split_at(key_len);
                    let one = One {
                        kind: Kind::Set,
                        expires_at,
                        key,
                        value,
                    };
                    engine.write_one(Durability::Os, one, When::Always)?;
                }
                // It could be read a moment ago.
                Err(reason) => {
                    gone.insert((entry.item, entry.offset), reason);
                }
            }
        }
        self.report.keys -= gone.len() as u64;
        for ((item, offset), reason) in gone {
            self.report.incomplete = true;
            self.report.lost.push(Lost {
                file: fs.path_of(&self.items[item as usize].name),
                offset,
                bytes: 0,
                lsns: None,
                records: Some(1),
                reason,
            });
        }
        engine.close_within(Duration::ZERO)?;
        self.report.duration = self.started.elapsed();
        Ok(())
    }
}

/// Reads the record once more: its key and value into `buffer`; when it expires, and the key's length.
fn read<F: Fs>(
    item: &Item<F>,
    offset: u64,
    buffer: &mut Vec<u8>,
) -> Result<(Option<u64>, usize), String> {
    let key = item.header.place_key();
    let mut head = [0u8; HEADER_BYTES];
    let failed = |error: std::io::Error| error.to_string();
    item.file.read_exact_at(offset, &mut head).map_err(failed)?;
    let header = parse_header(&key, offset, &head).map_err(|reason| reason.to_string())?;
    let header = header.ok_or("no record")?;
    buffer.clear();
    buffer.resize(header.unpadded() as usize, 0);
    item.file.read_exact_at(offset, buffer).map_err(failed)?;
    let record = complete(&key, header, offset, buffer).map_err(|reason| reason.to_string())?;
    let (expires_at, key_len) = (record.expires_at, record.key.len());
    let body = buffer.len() - record.key.len() - record.value.len();
    buffer.drain(..body);
    Ok((expires_at, key_len))
}
