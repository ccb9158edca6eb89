//! Files of the process: how many may be open, and who may read what it creates.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, umask};

use crate::exit::Failure;

/// Files that connections leave for new segments, compaction and the runtime.
const RESERVE: u64 = 64;

/// As many as the system allows this account. If it does not, there are fewer connections: see [`room`].
pub fn allow_many() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many connections there is room for, beside what is open now; at least one. `None` if there is no
/// limit.
pub fn room() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    // If it cannot be counted there are some dozen; the reserve covers them.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    let room = limit.saturating_sub(open + RESERVE).max(1);
    Some(usize::try_from(room).unwrap_or(usize::MAX))
}

/// From here on, what is created is this account's alone, also by an engine that asks for less.
pub fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Creates `dir`, and what is missing above it, with mode 0700; one that is there keeps its mode.
pub fn create_directory(dir: &Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    let created = builder.recursive(true).mode(0o700).create(dir);
    created.map_err(|source| Failure::Directory {
        dir: dir.to_path_buf(),
        source,
    })
}
