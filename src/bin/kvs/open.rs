//! Opening the store for a verb: to read or to write, and waiting for whoever has it.
//!
//! The lock of a store belongs to one process that writes or to any number that read. Commands are
//! short, so one that finds the store taken tries again for a while before it gives up.

use std::cell::OnceCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvs::{Durability, Error, Options, Store};
use kvs_format::name::{self, MANIFEST};

use crate::exit::{Answer, Failure};
use crate::target::resolved;
use crate::transfer::interrupt::Interrupt;

/// Longest pause between two tries: what a store that is free again stays unnoticed.
const PAUSE_MAX: Duration = Duration::from_millis(8);

/// Where the store is, and how patient the command is.
#[derive(Clone, Debug)]
pub struct Place {
    pub dir: PathBuf,
    pub wait: Duration,
    /// What may cut the waiting short, once somebody listens.
    pub interrupt: OnceCell<Interrupt>,
}

impl Place {
    /// Opens under a shared lock; creates and changes nothing.
    ///
    /// A directory without a store reads like an empty one: a store begins with its first `set`. A
    /// directory that does not exist is more likely a slip.
    pub fn read(&self) -> Result<Store, Failure> {
        match self.patiently(|| Store::open_read_only(&self.dir)) {
            Err(Failure::Store(Error::Io { source, .. }))
                if source.kind() == ErrorKind::NotFound && !self.dir.exists() =>
            {
                Err(Failure::NoDirectory(self.dir.clone()))
            }
            opened => opened,
        }
    }

    /// Opens to write, creating the store if there is none.
    pub fn write(&self, durability: Durability) -> Result<Store, Failure> {
        let options = Options::new().durability(durability);
        self.patiently(|| options.open(&self.dir))
    }

    /// Whether there is a store to change, for verbs that have nothing to do in an empty one and
    /// shall not create it. The name of the manifest is the cheap way to a yes; a no is the
    /// library's to say.
    pub fn has_store(&self) -> Result<bool, Failure> {
        if self.dir.join(MANIFEST).exists() {
            return Ok(true);
        }
        self.read()?;
        Ok(false)
    }

    /// Refuses a file to write that is one of the store's own.
    pub fn spare(&self, path: &Path) -> Result<(), Failure> {
        let file = resolved(path);
        let name = file.file_name().and_then(|name| name.to_str());
        if name.and_then(name::parse).is_none() {
            return Ok(());
        }
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let same =
            |one: &Path, other: &Path| Some(one.canonicalize().ok()? == other.canonicalize().ok()?);
        if same(parent, &self.dir) != Some(true) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{} is a file of the store itself; choose another name",
            path.display()
        )))
    }

    fn patiently(&self, open: impl Fn() -> kvs::Result<Store>) -> Result<Store, Failure> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            match open() {
                Err(Error::Locked { .. }) if begin.elapsed() < self.wait => {
                    if let Some(signal) = self.interrupt.get().and_then(Interrupt::signal) {
                        let done = "the store was taken, and nothing more was done".to_owned();
                        return Err(Failure::Interrupted { signal, done });
                    }
                    sleep(pause.min(self.wait.saturating_sub(begin.elapsed())));
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                opened => return Ok(opened?),
            }
        }
    }
}

/// Whether all of the store could be read. Asked before the store is given up, told at the end: what
/// is intact is printed first, and no part of a store is taken for the whole.
#[derive(Debug)]
pub enum Whole {
    Yes,
    No {
        dir: PathBuf,
        places: Vec<kvs::Damage>,
    },
}

impl Whole {
    pub fn of(store: &Store) -> Self {
        let recovery = store.recovery();
        if !recovery.incomplete {
            return Self::Yes;
        }
        Self::No {
            dir: Path::to_owned(store.path()),
            places: recovery.damage.clone(),
        }
    }

    /// `answer`, unless something may be missing.
    pub fn answer(self, answer: Answer) -> Result<Answer, Failure> {
        match self {
            Self::Yes => Ok(answer),
            Self::No { dir, places } => Err(Failure::Damaged { dir, places }),
        }
    }
}
