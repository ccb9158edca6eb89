//! What the demo stores: the files of the current directory, and generated pairs where these are
//! few, so that a percentile has something to stand on.
//!
//! Stays out: hidden names (`.git`, keys and passwords), `target`, symlinks, whatever is no regular
//! file, other file systems, files that cannot be read, empty files (in `/proc` they are none).

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

const IMPORT_BYTES_MAX: u64 = 64 << 20;
/// On a slow disk fewer files, on a fast one a tree of any size: the demo has 30 s for everything.
const IMPORT_TIME_MAX: Duration = Duration::from_secs(5);

const PAIRS_MIN: usize = 20_000;
const GENERATED_VALUE_BYTES: usize = 100;

type Pair = (Vec<u8>, Vec<u8>);

/// Pairs to store, kept in memory to be compared with.
pub struct Corpus {
    pairs: Vec<Pair>,
    files: usize,
}

impl Corpus {
    /// Reads the current directory, as far as it can be read.
    pub fn collect() -> Self {
        let mut pairs = import(Path::new("."));
        let files = pairs.len();
        // A path cannot hold a zero byte, so generated keys never meet imported ones.
        for i in files..PAIRS_MIN {
            let key = format!("\0pair {i:08}").into_bytes();
            let value = key.iter().copied().cycle().take(GENERATED_VALUE_BYTES);
            let value = value.collect();
            pairs.push((key, value));
        }
        Self { pairs, files }
    }

    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Forgets all but the first `count` pairs.
    pub fn truncate(&mut self, count: usize) {
        self.pairs.truncate(count);
    }
}

impl fmt::Display for Corpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generated = self.pairs.len() - self.files;
        match (self.files, generated) {
            (0, _) => write!(f, "{generated} generated pairs"),
            (files, 0) => write!(f, "{files} files of this directory"),
            (files, _) => write!(
                f,
                "{files} files of this directory, {generated} generated pairs"
            ),
        }
    }
}

/// Path and content of the regular files below `root`, nearest first, within the limits above.
fn import(root: &Path) -> Vec<Pair> {
    let begin = Instant::now();
    let Ok(device) = fs::metadata(root).map(|root| root.dev()) else {
        return Vec::new();
    };
    let mut pairs = Vec::new();
    let mut bytes_left = IMPORT_BYTES_MAX;
    let mut level = vec![PathBuf::new()];
    while !level.is_empty() {
        let mut below = Vec::new();
        for dir in level {
            for name in names(&root.join(&dir)) {
                if begin.elapsed() > IMPORT_TIME_MAX {
                    return pairs;
                }
                let path = dir.join(name);
                let Ok(metadata) = fs::symlink_metadata(root.join(&path)) else {
                    continue;
                };
                if metadata.dev() != device {
                    continue;
                }
                if metadata.is_dir() {
                    below.push(path);
                } else if metadata.is_file()
                    && (1..=bytes_left).contains(&metadata.len())
                    && let Some(value) = read(&root.join(&path), bytes_left)
                {
                    bytes_left -= value.len() as u64;
                    pairs.push((path.as_os_str().as_bytes().to_vec(), value));
                }
            }
        }
        level = below;
    }
    pairs
}

/// Names in `dir` that may be imported, sorted; none if it cannot be read.
fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .filter(|name| name != OsStr::new("target") && !name.as_bytes().starts_with(b"."))
        .collect();
    names.sort_unstable();
    names
}

/// Content of a regular file; `None` if it cannot be read, has become something else, or has
/// grown beyond `bytes_max`.
fn read(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    // Since the look at its metadata, a pipe or a link may have taken the name.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut value = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut value).ok()?;
    (value.len() as u64 <= bytes_max).then_some(value)
}
