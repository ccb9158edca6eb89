//! What the kernel says of this process and of the files it leaves: processor time, private memory,
//! written bytes, allocated blocks. Also how memory is warmed and the page cache emptied.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::time::ClockId;

/// The number behind `name` in a file of lines `name: number`, as those below `/proc/self`.
fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.trim_start_matches(':').split_whitespace().next()?;
    number.parse().ok()
}

/// Bytes of anonymous memory of this process: heaps, stacks and caches, not maps of files.
pub fn private_bytes() -> u64 {
    field("/proc/self/status", "RssAnon").unwrap_or(0) * 1024
}

/// Bytes that this process has had written to storage, page cache and maps included.
pub fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes").unwrap_or(0)
}

/// How often this thread was interrupted for another.
pub fn interruptions() -> u64 {
    field("/proc/thread-self/status", "nonvoluntary_ctxt_switches").unwrap_or(0)
}

/// Bytes of memory that could be had without swapping.
pub fn available_bytes() -> u64 {
    field("/proc/meminfo", "MemAvailable").unwrap_or(0) * 1024
}

/// Processor time of all threads of this process, those that have ended included.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a stretch of work took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Time on the wall.
    pub seconds: f64,
    /// Processor time, all threads.
    pub processor: f64,
}

/// A stretch of work under way.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    processor: Duration,
}

impl Meter {
    /// From now on.
    pub fn start() -> Self {
        Self {
            processor: processor_time(),
            started: Instant::now(),
        }
    }

    /// Until now.
    pub fn stop(self) -> Cost {
        let seconds = self.started.elapsed().as_secs_f64();
        Cost {
            seconds,
            processor: (processor_time() - self.processor).as_secs_f64(),
        }
    }
}

/// Every file below `dir`, however deep. What goes meanwhile is left out.
fn files(dir: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        match metadata.is_dir() {
            true => files(&entry.path(), see),
            false => see(&entry.path(), &metadata),
        }
    }
}

/// Allocated blocks of all files below `dir`, in bytes; a file with two names counts once.
pub fn disk_bytes(dir: &Path) -> u64 {
    let (mut total, mut seen) = (0, HashSet::new());
    files(dir, &mut |_, metadata| {
        if seen.insert(metadata.ino()) {
            total += metadata.blocks() * 512;
        }
    });
    total
}

/// Touches and frees `bytes` of memory, so that no engine pays for memory that the host of a virtual
/// machine has not backed yet.
pub fn warm_memory(bytes: u64) {
    let bytes = bytes.min(available_bytes() / 10 * 6);
    let mut block = vec![0u8; bytes as usize];
    for page in block.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&block);
}

/// Takes the files below `dir` out of the page cache.
///
/// # Errors
///
/// What the system says if a file cannot be opened, synced or advised on.
fn forget(dir: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    files(dir, &mut |path, _| all.push(path.to_owned()));
    for path in all {
        let file = File::open(path)?;
        // Pages that are not on the device yet stay.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// The same, and everything else that the machine has cached, if this process may; says how.
///
/// # Errors
///
/// As [`forget`].
pub fn empty_cache(dir: &Path) -> io::Result<&'static str> {
    forget(dir)?;
    Ok(match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => "caches of the whole machine dropped",
        Err(_) => "POSIX_FADV_DONTNEED on every file",
    })
}

/// A control group with a memory limit; removed when dropped.
#[derive(Debug)]
pub struct MemoryLimit {
    dir: std::path::PathBuf,
}

impl MemoryLimit {
    /// A group whose processes may use `bytes`, page cache included.
    ///
    /// # Errors
    ///
    /// What the system says if this process may not make groups or limit them.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let name = format!("kvs-compare-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (base, limit) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = Self {
            dir: base.join(name),
        };
        fs::create_dir(&group.dir)?;
        fs::write(group.dir.join(limit), bytes.to_string())?;
        Ok(group)
    }

    /// The file into which a process writes its id to be limited.
    pub fn members(&self) -> std::path::PathBuf {
        self.dir.join("cgroup.procs")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // A group goes only when it is empty, and a process that has just ended may linger.
        for _ in 0..50 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blocks_are_counted_in_all_directories_and_once_for_two_names() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk_bytes(dir.path()), 0);
        fs::create_dir(dir.path().join("below")).unwrap();
        let path = dir.path().join("below/file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        file.sync_all().unwrap();
        let once = disk_bytes(dir.path());
        assert!((100_000..200_000).contains(&once), "{once}");
        fs::hard_link(&path, dir.path().join("again")).unwrap();
        assert_eq!(disk_bytes(dir.path()), once);
    }

    #[test]
    fn private_memory_grows_by_what_is_touched() {
        let before = private_bytes();
        let block = vec![1u8; 64 << 20];
        std::hint::black_box(&block);
        assert!(private_bytes() >= before + (60 << 20));
    }

    #[test]
    fn a_meter_counts_work() {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meter::start();
        let mut file = File::create(dir.path().join("file")).unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            std::hint::black_box(processor_time());
        }
        let cost = meter.stop();
        assert!(cost.seconds >= 0.02, "{cost:?}");
        assert!(cost.processor > 0.0 && cost.processor < 10.0, "{cost:?}");
    }

    #[test]
    fn files_can_be_taken_out_of_the_cache_and_still_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), [7; 10_000]).unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), [7; 10_000]);
    }
}
