//! The file system with one file, the disk.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request,
};

use crate::control::Command;
use crate::log::{Disk, has};

/// Name of the one file.
pub const FILE: &str = "disk";
/// What is mounted, as `/proc/self/mounts` shows it.
pub const SOURCE: &str = "kvs-disk";

const ROOT: u64 = 1;
const INODE: u64 = 2;
/// Nothing changes behind the kernel's back but the disk's content, which it asks for.
const TTL: Duration = Duration::from_secs(3600);

/// The disk and what is wrong with it.
#[derive(Debug)]
struct State {
    disk: Disk,
    fail_writes: (Vec<u8>, u64),
    fail_reads: Option<Vec<u8>>,
    failed: u64,
    delay: Duration,
    dropping: bool,
}

type Shared = Arc<Mutex<State>>;

fn look(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Daemon(Shared);

fn attributes(inode: u64, len: u64) -> FileAttr {
    FileAttr {
        ino: inode,
        size: len,
        blocks: len / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: match inode {
            ROOT => FileType::Directory,
            _ => FileType::RegularFile,
        },
        perm: if inode == ROOT { 0o700 } else { 0o600 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: crate::log::BLOCK as u32,
        flags: 0,
    }
}

impl Daemon {
    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        match inode {
            ROOT => Some(attributes(ROOT, 0)),
            INODE => Some(attributes(INODE, look(&self.0).disk.len())),
            _ => None,
        }
    }
}

impl Filesystem for Daemon {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(INODE) {
            Some(attributes) if parent == ROOT && name == FILE => {
                reply.entry(&TTL, &attributes, 0);
            }
            _ => reply.error(libc::ENOENT),
        }
    }

    fn getattr(&mut self, _: &Request<'_>, inode: u64, _: Option<u64>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(libc::ENOENT),
        }
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        reply.opened(0, 0);
    }

    fn readdir(&mut self, _: &Request<'_>, _: u64, _: u64, offset: i64, mut reply: ReplyDirectory) {
        if offset == 0 {
            let _ = reply.add(INODE, 1, FileType::RegularFile, FILE);
        }
        reply.ok();
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        let mut state = look(&self.0);
        let left = state.disk.len().saturating_sub(offset as u64);
        let len = left.min(u64::from(size)) as usize;
        let bytes = state.disk.now().read(offset as u64, len);
        if state.fail_reads.as_ref().is_some_and(|p| has(&bytes, p)) {
            state.failed += 1;
            return reply.error(libc::EIO);
        }
        drop(state);
        reply.data(&bytes);
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        let mut state = look(&self.0);
        let (pattern, times) = &state.fail_writes;
        if *times > 0 && has(data, pattern) {
            state.fail_writes.1 -= 1;
            state.failed += 1;
            return reply.error(libc::EIO);
        }
        state.disk.write(offset as u64, data);
        drop(state);
        reply.written(data.len() as u32);
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        let state = look(&self.0);
        let (covers, delay) = (state.disk.position(), state.delay);
        if state.dropping {
            return reply.ok();
        }
        drop(state);
        let state = Arc::clone(&self.0);
        let end = move || {
            std::thread::sleep(delay);
            look(&state).disk.flushed(covers);
            reply.ok();
        };
        match delay {
            Duration::ZERO => end(),
            // What is written meanwhile is written, and not covered.
            _ => drop(std::thread::spawn(end)),
        }
    }
}

/// Does what `line` says.
fn obey(state: &Shared, line: &str) -> Result<String, String> {
    let command = Command::decode(line).ok_or("what?")?;
    let mut state = look(state);
    match command {
        Command::Position => return Ok(state.disk.position().to_string()),
        Command::Counts => {
            let (writes, flushes) = state.disk.counts();
            return Ok(format!("{writes} {flushes}"));
        }
        Command::Image {
            cut,
            survive,
            seed,
            path,
        } => {
            let blocks = state.disk.after_cut(cut, survive, seed);
            let len = state.disk.len();
            drop(state);
            let saved = blocks.save(Path::new(&path), len);
            saved.map_err(|error| error.to_string())?;
        }
        Command::FailWrites { pattern, times } => state.fail_writes = (pattern, times),
        Command::FailReads { pattern } => state.fail_reads = Some(pattern),
        Command::Heal => {
            state.fail_reads = None;
            state.fail_writes.1 = 0;
        }
        Command::Failed => return Ok(state.failed.to_string()),
        Command::Delay(delay) => state.delay = delay,
        Command::Drop(dropping) => state.dropping = dropping,
        Command::Contains { pattern } => {
            return Ok(u64::from(state.disk.now().contain(&pattern)).to_string());
        }
    }
    Ok(String::new())
}

fn converse(state: &Shared, mut stream: UnixStream) -> io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        let answer = match obey(state, &line?) {
            Ok(answer) => format!("ok {answer}\n"),
            Err(why) => format!("error: {why}\n"),
        };
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Serves `disk` at `mountpoint` and listens on `socket`; returns when it was unmounted.
///
/// # Errors
/// If it cannot be mounted, or the kernel gives up on it.
pub fn serve(disk: Disk, mountpoint: &Path, socket: &Path) -> io::Result<()> {
    let state = Arc::new(Mutex::new(State {
        disk,
        fail_writes: (Vec::new(), 0),
        fail_reads: None,
        failed: 0,
        delay: Duration::ZERO,
        dropping: false,
    }));
    let listener = UnixListener::bind(socket)?;
    let shared = Arc::clone(&state);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || converse(&shared, stream));
        }
    });
    let options = [
        MountOption::FSName(SOURCE.to_owned()),
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    fuser::mount2(Daemon(state), mountpoint, &options)
}
