//! Import: a thread reads and parses, this one writes batches.
//!
//! The store is open only while there is something to write: a slow or idle source does not keep
//! others out, and a busy one lets them in between batches. Batches are written at [`Durability::Os`],
//! and whenever the store is given up, what was written is durable.
//!
//! With `--bulk` it is one bulk load instead: the store is held from the first pair to the last, and what
//! goes wrong before the end leaves nothing behind.

use std::fs::File;
use std::io::{self, Read, StdinLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvs::{Batch, Durability, Expiry, SetOptions, Store};
use kvs_format::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use crate::args::Format;
use crate::exit::{Answer, Failure};
use crate::open::Place;
use crate::output::Output;
use crate::transfer::interrupt::Interrupt;
use crate::transfer::kvx::KvxError;
use crate::transfer::lines::Lines;
use crate::transfer::progress::{self, Progress, Unit};
use crate::transfer::{Tally, files, kvx, ndjson, tsv};

/// A batch is written when it has this many bytes. Small enough for the smallest segment that a store
/// of default options has.
const BATCH_BYTES: usize = 512 << 10;
const BATCH_PAIRS: usize = 4096;

/// Batches read ahead.
const AHEAD: usize = 2;

/// A store that nobody has written to for so long is given up until there is more.
const IDLE: Duration = Duration::from_millis(100);

/// How often an idle import looks for a signal.
const LOOK: Duration = Duration::from_millis(25);

/// The store is held for so long at least, then given up for [`PAUSE`]; longer if opening it and
/// closing it take more than a [`SHARE`]th of that.
const HOLD: Duration = Duration::from_secs(1);
const SHARE: u32 = 10;

/// Others look for a free store every 8 milliseconds.
const PAUSE: Duration = Duration::from_millis(20);

/// Lines of what was left out that are printed; the rest is counted.
const TOLD_MAX: u64 = 20;

/// What to import.
pub struct Import {
    pub format: Format,
    /// Standard input without.
    pub from: Option<PathBuf>,
    pub keep_going: bool,
    /// All at once or nothing.
    pub bulk: bool,
    pub quiet: bool,
}

/// What the reading thread sends.
pub(super) enum Message {
    Batch {
        batch: Batch,
        bytes: u64,
    },
    Single {
        key: Vec<u8>,
        value: Vec<u8>,
        expires_at: Option<u64>,
    },
    /// Something --keep-going leaves out: where and why.
    LeftOut {
        place: String,
        reason: String,
    },
    /// The same without --keep-going.
    Bad {
        place: String,
        reason: String,
    },
    Failed(Failure),
}

/// The writing thread has gone.
pub(super) struct Gone;

pub fn import(place: &Place, import: Import, out: &mut Output) -> Result<Answer, Failure> {
    let begin = Instant::now();
    let seen = progress::is_seen() && !import.quiet;
    // Opening a named pipe may wait for ever: a signal ends that as it ends any program.
    let (source, total) = Source::open(&import, &place.dir, seen)?;
    let keep_going = import.keep_going;
    let (tally, ended) = pump(place, seen, import.bulk, total, move |to, read| {
        let _ = source.read(read, &mut Collector::new(to, keep_going));
    });
    ended?;
    tally.tell("imported", begin, true, seen, out)
}

/// Writes what `read`, in a thread of its own, sends; how much that was, and how it ended.
pub(super) fn pump(
    place: &Place,
    seen: bool,
    bulk: bool,
    total: Option<u64>,
    read: impl FnOnce(SyncSender<Message>, &AtomicU64) + Send + 'static,
) -> (Tally, Result<(), Failure>) {
    let mut tally = Tally::default();
    let ended = pump_into(place, seen, bulk, total, read, &mut tally);
    (tally, ended)
}

fn pump_into(
    place: &Place,
    seen: bool,
    bulk: bool,
    total: Option<u64>,
    reading: impl FnOnce(SyncSender<Message>, &AtomicU64) + Send + 'static,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(|source| Failure::File {
        what: "listen for",
        path: "signals".into(),
        source,
    })?;
    let _ = place.interrupt.set(interrupt.clone());
    let progress = Progress::new(Unit::Bytes, total, seen);
    let read = Arc::new(AtomicU64::new(0));
    let (to, from) = sync_channel(AHEAD);
    let reader = {
        let read = Arc::clone(&read);
        thread::spawn(move || reading(to, &read))
    };
    let mut writer = Writer::new(place);
    let looking = Looking {
        interrupt: &interrupt,
        progress: &progress,
        read: &read,
    };
    let ended = match bulk {
        true => load_all(&mut writer, &from, &looking, tally),
        false => write_all(&mut writer, &from, &looking, tally),
    };
    progress.clear();
    // Also after a failure: what has been written shall be durable, and the first error is told.
    let closed = writer.release();
    if ended.is_ok() && reader.join().is_err() {
        return Err(Failure::Broken("the reading thread of the import"));
    }
    let ended = match (ended, closed) {
        // What is said to be stored must be.
        (
            Err(Failure::Interrupted { .. } | Failure::Input { .. } | Failure::Operation { .. }),
            Err(unsynced),
        ) => Err(unsynced),
        (ended, closed) => ended.and(closed),
    };
    ended.map_err(|failure| match failure {
        Failure::Interrupted { signal, .. } => Failure::Interrupted {
            signal,
            done: format!("{} pairs are stored", tally.pairs),
        },
        Failure::Store(error) if tally.pairs > 0 => Failure::Midway {
            error,
            stored: tally.pairs,
        },
        Failure::Operation { place, reason, .. } => Failure::Operation {
            place,
            reason,
            applied: tally.pairs,
        },
        failure => failure,
    })
}

struct Looking<'a> {
    interrupt: &'a Interrupt,
    progress: &'a Progress,
    read: &'a AtomicU64,
}

impl Looking<'_> {
    /// # Errors
    /// A signal has come.
    fn look(&self) -> Result<(), Failure> {
        if let Some(signal) = self.interrupt.signal() {
            let done = String::new();
            return Err(Failure::Interrupted { signal, done });
        }
        self.progress.set(self.read.load(Ordering::Relaxed));
        Ok(())
    }

    fn left_out(&self, tally: &mut Tally, place: &str, reason: &str) {
        tally.left_out += 1;
        if tally.left_out <= TOLD_MAX {
            self.progress.say(&format!("{place}: {reason}; left out"));
        }
    }
}

/// One bulk load of everything.
fn load_all(
    writer: &mut Writer<'_>,
    from: &Receiver<Message>,
    looking: &Looking<'_>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut pairs = Pairs {
        from,
        looking,
        tally,
        ready: Vec::new().into_iter(),
    };
    // Nothing to import creates nothing.
    let Some(first) = pairs.next().transpose()? else {
        return Ok(());
    };
    let all = std::iter::once(Ok(first)).chain(&mut pairs);
    let loaded = writer
        .store()
        .and_then(|store| store.try_load_with_expiry(all));
    if loaded.is_err() {
        tally.pairs = 0;
        tally.bytes = 0;
    }
    loaded.map(|_| ())
}

type Pair = (Vec<u8>, Vec<u8>, Expiry);

/// What the reading thread sends, pair by pair.
struct Pairs<'a> {
    from: &'a Receiver<Message>,
    looking: &'a Looking<'a>,
    tally: &'a mut Tally,
    ready: std::vec::IntoIter<Pair>,
}

impl Iterator for Pairs<'_> {
    type Item = Result<Pair, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(pair) = self.ready.next() {
                return Some(Ok(pair));
            }
            if let Err(interrupted) = self.looking.look() {
                return Some(Err(interrupted));
            }
            match self.from.recv_timeout(LOOK) {
                Ok(Message::Batch { batch, bytes }) => {
                    self.tally.add(batch.len() as u64, bytes);
                    let pair = |(key, value, expiry): (&[u8], Option<&[u8]>, Option<Expiry>)| {
                        let expiry = expiry.unwrap_or(Expiry::Never);
                        Some((key.to_vec(), value?.to_vec(), expiry))
                    };
                    // A load has no removals, and an import asks for none.
                    let pairs: Option<Vec<Pair>> = batch.entries().map(pair).collect();
                    let Some(pairs) = pairs else {
                        return Some(Err(Failure::Broken("the import")));
                    };
                    self.ready = pairs.into_iter();
                }
                Ok(Message::Single {
                    key,
                    value,
                    expires_at,
                }) => {
                    self.tally.add(1, (key.len() + value.len()) as u64);
                    let expiry = expires_at.map_or(Expiry::Never, Expiry::At);
                    return Some(Ok((key, value, expiry)));
                }
                Ok(Message::LeftOut { place, reason }) => {
                    self.looking.left_out(self.tally, &place, &reason);
                }
                Ok(Message::Bad { place, reason }) => {
                    return Some(Err(Failure::Input {
                        place,
                        reason,
                        stored: 0,
                    }));
                }
                Ok(Message::Failed(failure)) => return Some(Err(failure)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

fn write_all(
    writer: &mut Writer<'_>,
    from: &Receiver<Message>,
    looking: &Looking<'_>,
    tally: &mut Tally,
) -> Result<(), Failure> {
    loop {
        looking.look()?;
        match from.recv_timeout(LOOK) {
            Ok(Message::Batch { batch, bytes }) => {
                writer.store()?.write(&batch)?;
                tally.add(batch.len() as u64, bytes);
                writer.wrote()?;
            }
            Ok(Message::Single {
                key,
                value,
                expires_at,
            }) => {
                let mut options = SetOptions::new();
                if let Some(ms) = expires_at {
                    options = options.expires_at(ms);
                }
                writer.store()?.set_with(&key, &value, &options)?;
                tally.add(1, (key.len() + value.len()) as u64);
                writer.wrote()?;
            }
            Ok(Message::LeftOut { place, reason }) => {
                looking.left_out(tally, &place, &reason);
            }
            Ok(Message::Bad { place, reason }) => {
                return Err(Failure::Input {
                    place,
                    reason,
                    stored: tally.pairs,
                });
            }
            Ok(Message::Failed(failure)) => return Err(failure),
            Err(RecvTimeoutError::Timeout) => writer.idle()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Has the store open while it is needed.
struct Writer<'a> {
    place: &'a Place,
    store: Option<Store>,
    since: Instant,
    last: Instant,
    opening: Duration,
    hold: Duration,
}

impl<'a> Writer<'a> {
    fn new(place: &'a Place) -> Self {
        let now = Instant::now();
        Self {
            place,
            store: None,
            since: now,
            last: now,
            opening: Duration::ZERO,
            hold: HOLD,
        }
    }

    fn store(&mut self) -> Result<&Store, Failure> {
        if self.store.is_none() {
            self.store = Some(self.place.write(Durability::Os)?);
            // Not the waiting for others, which `write` did too.
            let opened = self.store.as_ref().map(|store| store.recovery().duration);
            self.opening = opened.unwrap_or_default();
            self.since = Instant::now();
        }
        match &self.store {
            Some(store) => Ok(store),
            None => Err(Failure::Broken("opening the store")),
        }
    }

    /// A batch is written: lets others in if they have waited long.
    fn wrote(&mut self) -> Result<(), Failure> {
        self.last = Instant::now();
        if self.last.duration_since(self.since) < self.hold {
            return Ok(());
        }
        let begin = Instant::now();
        self.release()?;
        self.hold = HOLD.max((begin.elapsed() + self.opening) * SHARE);
        thread::sleep(PAUSE);
        Ok(())
    }

    /// There is nothing to write now.
    fn idle(&mut self) -> Result<(), Failure> {
        if self.last.elapsed() > IDLE {
            self.release()?;
        }
        Ok(())
    }

    /// Makes durable what was written and gives the store up.
    fn release(&mut self) -> Result<(), Failure> {
        if let Some(store) = self.store.take() {
            store.close()?;
        }
        Ok(())
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Gathers pairs into batches and sends them.
struct Collector {
    to: SyncSender<Message>,
    keep_going: bool,
    batch: Batch,
    bytes: usize,
}

impl Collector {
    fn new(to: SyncSender<Message>, keep_going: bool) -> Self {
        Self {
            to,
            keep_going,
            batch: Batch::new(),
            bytes: 0,
        }
    }

    fn send(&self, message: Message) -> Result<(), Gone> {
        self.to.send(message).map_err(|_| Gone)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.bytes) as u64;
        self.send(Message::Batch { batch, bytes })
    }

    /// `place` is asked only if the pair cannot be stored.
    fn pair(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
        place: impl FnOnce() -> String,
    ) -> Result<(), Gone> {
        let lengths = [
            ("key", key.len(), KEY_BYTES_MAX),
            ("value", value.len(), VALUE_BYTES_MAX),
        ];
        if let Some((what, len, max)) = lengths.into_iter().find(|(_, len, max)| len > max) {
            let reason = format!("{what} of {len} bytes, at most {max} are allowed");
            return self.bad(place(), reason);
        }
        // One that is over goes on like any other: storing it ends an older value of its key.
        if value.len() >= BATCH_BYTES {
            // In the order they came: a key may come twice.
            self.flush()?;
            return self.send(Message::Single {
                key: key.to_vec(),
                value: value.to_vec(),
                expires_at,
            });
        }
        match expires_at {
            Some(ms) => self.batch.set_with_expiry(key, value, Expiry::At(ms)),
            None => self.batch.set(key, value),
        };
        self.bytes += key.len() + value.len();
        if self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_PAIRS {
            self.flush()?;
        }
        Ok(())
    }

    /// Something that cannot be stored.
    fn bad(&mut self, place: String, reason: String) -> Result<(), Gone> {
        if self.keep_going {
            return self.send(Message::LeftOut { place, reason });
        }
        self.stop(place, reason)
    }

    /// Something that ends the import, --keep-going or not.
    fn stop(&mut self, place: String, reason: String) -> Result<(), Gone> {
        self.flush()?;
        self.send(Message::Bad { place, reason })?;
        Err(Gone)
    }

    fn failed(&mut self, failure: Failure) -> Result<(), Gone> {
        self.flush()?;
        self.send(Message::Failed(failure))?;
        Err(Gone)
    }
}

/// Where the pairs come from.
struct Source {
    format: Format,
    name: PathBuf,
    from: Option<File>,
    store: PathBuf,
}

impl Source {
    /// Opens it before anything else happens; also its bytes, if somebody wants to know and can.
    fn open(import: &Import, store: &Path, seen: bool) -> Result<(Self, Option<u64>), Failure> {
        let name = import.from.clone().unwrap_or_else(|| "-".into());
        let standard = import.from.is_none() || name == Path::new("-");
        let mut source = Self {
            format: import.format,
            name: if standard {
                "standard input".into()
            } else {
                name.clone()
            },
            from: None,
            store: store.to_owned(),
        };
        if import.format == Format::Files {
            // A directory that is not there must not look like one without files.
            std::fs::read_dir(&name).map_err(Failure::file("read", &name))?;
            let total = seen.then(|| files::total(&name, store)).flatten();
            source.name = name;
            return Ok((source, total));
        }
        if standard {
            return Ok((source, None));
        }
        let file = File::open(&name).map_err(Failure::file("read", &name))?;
        let metadata = file.metadata().map_err(Failure::file("read", &name))?;
        if metadata.is_dir() {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(Failure::file("read", &name)(error));
        }
        source.from = Some(file);
        Ok((source, metadata.is_file().then_some(metadata.len())))
    }

    fn read(self, read: &AtomicU64, to: &mut Collector) -> Result<(), Gone> {
        let Self {
            format,
            name,
            from,
            store,
        } = self;
        let counted = Counted {
            from: match from {
                Some(file) => Stream::File(file),
                None => Stream::Stdin(io::stdin().lock()),
            },
            read,
        };
        match format {
            Format::Files => tree(&name, &store, read, to)?,
            Format::Ndjson => lines(&name, counted, to, ndjson::parse)?,
            Format::Tsv => lines(&name, counted, to, |line| {
                let (key, value) = tsv::parse(line)?;
                Ok(Some((key, value, None)))
            })?,
            Format::Kvx => frames(&name, counted, to)?,
        }
        to.flush()
    }
}

pub(super) enum Stream {
    File(File),
    Stdin(StdinLock<'static>),
}

/// Counts the bytes that were read, for the bar.
pub(super) struct Counted<'a> {
    pub(super) from: Stream,
    pub(super) read: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.from {
            Stream::File(file) => file.read(to),
            Stream::Stdin(stdin) => stdin.read(to),
        }?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

type Parsed<'a> = Result<Option<ndjson::Pair<'a>>, String>;

fn lines(
    name: &Path,
    from: impl Read,
    to: &mut Collector,
    parse: impl for<'a> Fn(&'a [u8]) -> Parsed<'a>,
) -> Result<(), Gone> {
    let mut lines = Lines::new(from);
    loop {
        let (number, line) = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => return to.failed(Failure::file("read", name)(error)),
        };
        let place = || format!("{}:{number}", name.display());
        match parse(line) {
            Ok(Some((key, value, expires_at))) => to.pair(&key, &value, expires_at, place)?,
            Ok(None) => {}
            Err(reason) => to.bad(place(), reason)?,
        }
    }
}

fn frames(name: &Path, from: impl Read, to: &mut Collector) -> Result<(), Gone> {
    let place = |offset| format!("{} at offset {offset}", name.display());
    let ended = kvx::read(from, |offset, pair| {
        to.pair(pair.key, pair.value, pair.expires_at, || place(offset))
    });
    match ended {
        Ok(()) => Ok(()),
        Err(KvxError::Each(gone)) => Err(gone),
        Err(KvxError::Read(error)) => to.failed(Failure::file("read", name)(error)),
        // Nothing behind it can be trusted to be where it seems.
        Err(KvxError::Bad { offset, reason }) => to.stop(place(offset), reason.to_string()),
    }
}

fn tree(root: &Path, store: &Path, read: &AtomicU64, to: &mut Collector) -> Result<(), Gone> {
    for found in files::Walk::new(root, store) {
        match found {
            Ok(found) => match files::content(&found.path) {
                Ok(content) => {
                    read.fetch_add(content.len() as u64, Ordering::Relaxed);
                    to.pair(&found.key, &content, None, || {
                        found.path.display().to_string()
                    })?;
                }
                Err(error) => to.bad(found.path.display().to_string(), error.to_string())?,
            },
            Err(obstacle) => to.bad(obstacle.path.display().to_string(), obstacle.reason)?,
        }
    }
    Ok(())
}
