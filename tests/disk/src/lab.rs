//! Mounts on a disk of ours, and their orderly end: file system, loop device, FUSE.
//!
//! Everything of one run lies in one directory whose name says which process it belongs to. What a
//! killed run has left is taken down by the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::control::{Command, Control};
use crate::daemon;
use crate::log::{BLOCK, Survive};

/// Beginning of the names of our directories; the id of the process follows.
const PREFIX: &str = "kvs-disk-";
/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file system of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// As `mount -t` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// About the smallest disk that its tools make one on.
    fn mib(self) -> u64 {
        match self {
            Self::Ext4 => 64,
            Self::Xfs => 300,
            Self::Btrfs => 128,
        }
    }

    fn make(self, image: &Path) -> Result<(), String> {
        let mut mkfs = Program::new(format!("mkfs.{}", self.name()));
        match self {
            // Nothing is left to be written later by a thread of the kernel.
            Self::Ext4 => mkfs
                .args(["-q", "-F", "-b", "4096", "-J", "size=4"])
                .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]),
            Self::Xfs => mkfs.args(["-q", "-f", "-K", "-s", "size=4096"]),
            Self::Btrfs => mkfs.args(["-q", "-f", "-K"]),
        };
        done(mkfs.arg(image))
    }
}

/// Runs a program to its end.
fn done(program: &mut Program) -> Result<(), String> {
    said(program).map(drop)
}

fn said(program: &mut Program) -> Result<String, String> {
    let output = program.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{:?}: {error}", program.get_program()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!(
            "{program:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Where our directories are: in memory if possible, for the many images.
fn place() -> PathBuf {
    match Path::new("/dev/shm") {
        memory if memory.is_dir() => memory.to_owned(),
        _ => std::env::temp_dir(),
    }
}

/// A file system on a loop device; both end when dropped.
#[derive(Debug)]
pub struct Mounted {
    device: Option<String>,
    at: Option<PathBuf>,
}

impl Mounted {
    /// Mounts the file system in `image` at `at`, which is made if it does not exist.
    ///
    /// # Errors
    /// If that cannot be done; says why.
    pub fn new(kind: Kind, image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let block = BLOCK.to_string();
        let device = said(
            Program::new("losetup")
                .args([
                    "--find",
                    "--show",
                    "--direct-io=on",
                    "--sector-size",
                    &block,
                ])
                .arg(image),
        )?;
        // From here on the device is given back.
        let mut mounted = Self {
            device: Some(device.clone()),
            at: None,
        };
        if kind == Kind::Btrfs {
            // It remembers the newest copy it has met, and refuses an older one.
            done(Program::new("btrfs").args(["device", "scan", "--forget"]))?;
        }
        let mut mount = Program::new("mount");
        mount.args(["-t", kind.name(), "-o", "noatime"]);
        done(mount.arg(device).arg(at))?;
        mounted.at = Some(at.to_owned());
        Ok(mounted)
    }

    /// Unmounts, and lets go of the device.
    ///
    /// # Errors
    /// If somebody has a file open.
    pub fn end(mut self) -> Result<(), String> {
        if let Some(at) = &self.at {
            done(Program::new("umount").arg(at))?;
            self.at = None;
        }
        match self.device.take() {
            Some(device) => done(Program::new("losetup").arg("--detach").arg(device)),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            let _ = done(Program::new("umount").arg(&at)).or_else(|_| {
                // Somebody still has a file open: it goes with its last user.
                done(Program::new("umount").arg("--lazy").arg(&at))
            });
        }
        if let Some(device) = self.device.take() {
            let _ = done(Program::new("losetup").arg("--detach").arg(device));
        }
    }
}

/// A disk with a file system that is mounted, and a directory for what is made of it.
#[derive(Debug)]
pub struct Lab {
    kind: Kind,
    dir: PathBuf,
    daemon: Child,
    mounted: Option<Mounted>,
    /// A line to the disk.
    pub control: Control,
}

impl Lab {
    /// Makes a disk with a file system on it and mounts it. `program` is the daemon, `kvs-disk`.
    ///
    /// # Errors
    /// If the machine does not allow it or lacks a tool; says what.
    pub fn new(kind: Kind, program: &Path) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = Unfinished(Some(place().join(name)));
        let (image, front) = (dir.path().join("new"), dir.path().join("fuse"));
        fs::create_dir_all(&front).map_err(|error| error.to_string())?;
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(kind.mib() << 20)
            .map_err(|error| error.to_string())?;
        kind.make(&image)?;
        let socket = dir.path().join("control");
        let daemon = Program::new(program)
            .args([&image, &front, &socket])
            .stdin(Stdio::piped())
            .spawn();
        let mut daemon = Killed(Some(daemon.map_err(|error| error.to_string())?));
        let control = patiently(|| {
            fs::metadata(front.join(daemon::FILE))?;
            Control::connect(&socket)
        });
        let control = control.map_err(|error| format!("the disk does not appear: {error}"));
        let control = control.inspect_err(|_| drop(take_down(dir.path())))?;
        let mut lab = Self {
            kind,
            daemon: daemon.0.take().expect("it was started"),
            dir: dir.keep(),
            mounted: None,
            control,
        };
        fs::remove_file(&image).map_err(|error| error.to_string())?;
        lab.mount()?;
        Ok(lab)
    }

    /// The file system.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where things may be put that have nothing to do with the disk.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the file system is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// What connects to the disk.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// Mounts the file system.
    ///
    /// # Errors
    /// If that cannot be done; says why.
    pub fn mount(&mut self) -> Result<(), String> {
        let disk = self.dir.join("fuse").join(daemon::FILE);
        self.mounted = Some(Mounted::new(self.kind, &disk, &self.path())?);
        Ok(())
    }

    /// Unmounts it: the kernel then forgets what it knows of its files.
    ///
    /// # Errors
    /// If somebody has a file open.
    pub fn unmount(&mut self) -> Result<(), String> {
        self.mounted.take().map_or(Ok(()), Mounted::end)
    }

    /// Mounts what is left of the disk after a cut. The file system itself must not be mounted: two
    /// with one name confuse the kernel.
    ///
    /// # Errors
    /// If it cannot be made, or what is left is not a file system any more.
    pub fn mount_cut(
        &mut self,
        cut: usize,
        survive: Survive,
        seed: u64,
    ) -> Result<Mounted, String> {
        let image = self.dir.join("image");
        let command = Command::Image {
            cut,
            survive,
            seed,
            path: image.display().to_string(),
        };
        let made = self.control.say(&command);
        made.map_err(|error| error.to_string())?;
        Mounted::new(self.kind, &image, &self.dir.join("left"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.mounted = None;
        let front = self.dir.join("fuse");
        let _ = done(Program::new("umount").arg(&front))
            .or_else(|_| done(Program::new("umount").arg("--lazy").arg(&front)));
        // It ends when it is unmounted.
        let _ = patiently(|| match self.daemon.try_wait()? {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::WouldBlock.into()),
        });
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = take_down(&self.dir);
    }
}

/// Tries until it works or takes too long.
fn patiently<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match act() {
            Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            done => return done,
        }
    }
}

/// A directory that goes if what it is for is not finished.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn path(&self) -> &Path {
        self.0.as_deref().expect("it was not kept")
    }

    fn keep(mut self) -> PathBuf {
        self.0.take().expect("it was not kept")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = take_down(dir);
        }
    }
}

/// A process that ends if what it is for is not finished.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Unmounts what is mounted below `dir`, lets go of loop devices on files in it, removes it.
fn take_down(dir: &Path) -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    // What was mounted last lies on top.
    for line in mounts.lines().rev() {
        let at = line.split(' ').nth(1).map(Path::new);
        if let Some(at) = at.filter(|at| at.starts_with(dir)) {
            let on_loop = line.starts_with("/dev/loop");
            done(Program::new("umount").arg("--lazy").arg(at))?;
            if on_loop {
                let device = line.split(' ').next().unwrap_or_default();
                let _ = done(Program::new("losetup").arg("--detach").arg(device));
            }
        }
    }
    let mut list = Program::new("losetup");
    list.args([
        "--list",
        "--noheadings",
        "--raw",
        "--output",
        "NAME,BACK-FILE",
    ]);
    for line in said(&mut list)?.lines() {
        if let Some((device, file)) = line.split_once(' ')
            && Path::new(file).starts_with(dir)
        {
            let _ = done(Program::new("losetup").arg("--detach").arg(device));
        }
    }
    fs::remove_dir_all(dir).map_err(|error| error.to_string())
}

/// Takes down what runs have left that were killed.
///
/// # Errors
/// If something cannot be unmounted.
pub fn clean_leftovers() -> Result<(), String> {
    let entries = fs::read_dir(place()).map_err(|error| error.to_string())?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if let Some(process) = process
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            take_down(&entry.path())?;
        }
    }
    Ok(())
}
