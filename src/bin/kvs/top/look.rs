//! One look at a store's directory, whoever has the store open.
//!
//! Nobody has it open to write: it is opened to read, for as long as that takes, and all is known.
//! Otherwise its lock is left alone and only files are looked at: names, sizes, times, the heads of
//! segments, who holds the lock. What only the index knows - keys, garbage - is then not known, and
//! said so. Files come and go meanwhile: one that is gone is left out.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use kvs::{Error, SegmentKind, Stats};
use kvs_format::name::{self, Name};
use kvs_format::segment::{HEADER_BYTES, SegmentHeader};

use crate::exit::Failure;
use crate::open::Place;

/// A process that has the store open to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub process: u32,
    /// Its command, if this user may know.
    pub command: String,
}

/// A segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: u64,
    /// `None` if its head could not be read.
    pub kind: Option<SegmentKind>,
    /// It has a hint: it was sealed, or closed.
    pub hinted: bool,
    /// Bytes of the file: what is preallocated included.
    pub bytes: u64,
    pub allocated: u64,
    /// Bytes of its live and dead records, if the store could be opened.
    pub records: Option<(u64, u64)>,
}

/// What a look saw.
#[derive(Clone, Debug)]
pub struct Look {
    pub taken: Instant,
    /// Everything, if nobody writes.
    pub stats: Option<Stats>,
    pub holder: Option<Holder>,
    pub rows: Vec<Row>,
    pub disk: u64,
    pub reserve: u64,
    /// When the newest hint was written: the last segment that was sealed.
    pub sealed: Option<SystemTime>,
    files: Vec<Seen>,
}

/// By what a file is recognised as unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: Name,
    len: u64,
    allocated: u64,
    modified: Option<SystemTime>,
}

impl Look {
    /// Looks at the store of `place`; does not open it again if no file has changed since `last`.
    pub fn at(place: &Place, last: Option<&Self>) -> Result<Self, Failure> {
        let files = list(&place.dir);
        let known = last
            .filter(|last| last.files == files)
            .and_then(|last| last.stats.clone());
        let stats = match known {
            // Whoever opened it since has changed nothing yet, and may be there still.
            Some(stats) if holder(&place.dir).is_none() => Some(stats),
            _ => open(place)?,
        };
        let holder = match stats {
            Some(_) => None,
            None => holder(&place.dir),
        };
        let hinted = |id: u64| files.iter().any(|file| file.name == Name::Hint(id));
        let rows = files.iter().filter_map(|file| {
            let Name::Segment(id) = file.name else {
                return None;
            };
            let known = stats.iter().flat_map(|stats| &stats.segments);
            let known = known.clone().find(|segment| segment.id == id);
            Some(Row {
                id,
                kind: known.map(|s| s.kind).or_else(|| kind(&place.dir, id)),
                hinted: hinted(id),
                bytes: known.map_or(file.len, |segment| segment.bytes),
                allocated: file.allocated,
                records: known.map(|segment| (segment.live_bytes, segment.dead_bytes)),
            })
        });
        let hints = files
            .iter()
            .filter(|file| matches!(file.name, Name::Hint(_)));
        let reserve = files.iter().find(|file| file.name == Name::Reserve);
        Ok(Self {
            taken: Instant::now(),
            holder,
            rows: rows.collect(),
            disk: files.iter().map(|file| file.allocated).sum(),
            reserve: reserve.map_or(0, |file| file.allocated),
            sealed: hints.filter_map(|file| file.modified).max(),
            stats,
            files,
        })
    }

    /// True if another process has the store open to write.
    pub fn is_taken(&self) -> bool {
        self.stats.is_none()
    }

    /// Merged segments without a hint: what a compaction that goes on, or was killed, writes.
    pub fn outputs(&self) -> usize {
        let outputs = self
            .rows
            .iter()
            .filter(|row| row.kind == Some(SegmentKind::Merged) && !row.hinted);
        match self.is_taken() {
            true => outputs.count(),
            false => 0,
        }
    }

    /// Bytes of disk a second by which it has grown since `last`; negative if it has shrunk.
    pub fn growth(&self, last: Option<&Self>) -> Option<f64> {
        let last = last?;
        let seconds = self.taken.duration_since(last.taken).as_secs_f64();
        (seconds > 0.0).then(|| (self.disk as f64 - last.disk as f64) / seconds)
    }

    /// How long ago the last segment was sealed.
    pub fn since_sealed(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.sealed?).ok()
    }
}

/// `None` if another process writes to it.
fn open(place: &Place) -> Result<Option<Stats>, Failure> {
    let now = Place {
        wait: Duration::ZERO,
        ..place.clone()
    };
    let store = match now.read() {
        Ok(store) => store,
        Err(Failure::Store(Error::Locked { .. })) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let stats = store.stats();
    store.close()?;
    Ok(Some(stats))
}

/// The store's own files, by name.
fn list(dir: &Path) -> Vec<Seen> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<(String, Seen)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let text = entry.file_name().into_string().ok()?;
            let name = name::parse(&text)?;
            let metadata = entry.metadata().ok()?;
            let seen = Seen {
                name,
                len: metadata.len(),
                allocated: metadata.blocks() * 512,
                modified: metadata.modified().ok(),
            };
            Some((text, seen))
        })
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files.into_iter().map(|(_, seen)| seen).collect()
}

fn kind(dir: &Path, id: u64) -> Option<SegmentKind> {
    let mut head = [0; HEADER_BYTES];
    let mut file = File::open(dir.join(&*name::segment(id))).ok()?;
    file.read_exact(&mut head).ok()?;
    Some(SegmentHeader::decode(&head).ok()?.kind)
}

/// Who holds the lock of `dir` for writing, as far as the kernel tells.
fn holder(dir: &Path) -> Option<Holder> {
    let metadata = fs::metadata(dir).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let process = writer_of(&locks, metadata.dev(), metadata.ino())?;
    let command = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Some(Holder {
        process,
        command: command.trim().to_owned(),
    })
}

/// The process with a write lock by `flock` on inode `inode` of device `device` in `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 22408 fe:00:12394625 0 EOF`.
fn writer_of(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", process, at, ..] if at == place => process.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_among_others() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11 fe:00:100 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 12 fe:01:200 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 13 fe:01:200 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 14 fe:01:200 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 15 fe:01:200 0 EOF\nnonsense\n";
        let device = |minor| rustix::fs::makedev(0xfe, minor);
        assert_eq!(writer_of(locks, device(0), 100), Some(11));
        assert_eq!(writer_of(locks, device(1), 200), Some(15));
        assert_eq!(writer_of(locks, device(1), 100), None);
        assert_eq!(writer_of("", device(1), 100), None);
    }
}
