//! Export: every pair of the store as it was at one moment, to a file, a tree or standard output.
//!
//! The store is given up before the first pair is written; what is exported lives on in its maps.

use std::path::{Path, PathBuf};
use std::time::Instant;

use kvs::{Expiry, Key, Value};
use kvs_format::kvx::Encoder;

use crate::args::Format;
use crate::bytes::Coding;
use crate::exit::{Answer, Failure};
use crate::open::{Place, Whole};
use crate::output::{BUFFER_BYTES, Output};
use crate::target::Target;
use crate::transfer::files::{Refused, Tree};
use crate::transfer::interrupt::Interrupt;
use crate::transfer::progress::{self, Progress, Unit};
use crate::transfer::{Tally, ndjson, tsv};

/// Pairs between two looks at the signals and the bar.
const LOOK_PAIRS: u64 = 256;

/// Lines of what was left out that are printed; the rest is counted.
const TOLD_MAX: u64 = 20;

/// What to export, and where to.
pub struct Export<'a> {
    pub format: Format,
    /// Standard output without.
    pub to: Option<PathBuf>,
    pub prefix: &'a std::ffi::OsStr,
    pub coding: Coding,
    pub keep_going: bool,
    pub quiet: bool,
}

pub fn export(place: &Place, export: &Export<'_>, out: &mut Output) -> Result<Answer, Failure> {
    let begin = Instant::now();
    let to = export.to.as_deref().filter(|to| *to != Path::new("-"));
    if to.is_none() && out.is_terminal() && export.format == Format::Kvx {
        let text = "kvx is no text for a terminal; name a file or use a pipe";
        return Err(Failure::Usage(text.to_owned()));
    }
    if let Some(to) = to {
        place.spare(to)?;
    }
    let interrupt = Interrupt::listen().map_err(|source| Failure::File {
        what: "listen for",
        path: "signals".into(),
        source,
    })?;
    let _ = place.interrupt.set(interrupt.clone());
    let prefix = export.coding.decode(export.prefix)?;
    let store = place.read()?;
    let keys = prefix.is_empty().then(|| store.len());
    let pairs = store.prefix(&prefix)?;
    let whole = Whole::of(&store);
    store.close()?;
    // A bar among the pairs would be read as one of them.
    let seen = progress::is_seen() && !export.quiet && !(to.is_none() && out.is_terminal());
    let progress = Progress::new(Unit::Pairs, keys, seen);
    let mut tally = Tally::default();
    let mut sink = Sink::create(export.format, to, out)?;
    let ended = write_all(pairs, export, &mut sink, &interrupt, &progress, &mut tally);
    progress.clear();
    // After a failure too: what was begun ends with a whole record. But only what is all there is, is
    // said to be all.
    let complete = ended.is_ok() && matches!(whole, Whole::Yes);
    let finished = sink.finish(complete);
    ended?;
    finished?;
    let answer = tally.tell("exported", begin, to.is_some(), seen, out)?;
    whole.answer(answer)
}

fn write_all(
    pairs: impl Iterator<Item = kvs::Result<(Key, Value)>>,
    export: &Export<'_>,
    sink: &mut Sink<'_>,
    interrupt: &Interrupt,
    progress: &Progress,
    tally: &mut Tally,
) -> Result<(), Failure> {
    for (index, pair) in (0u64..).zip(pairs) {
        if index.is_multiple_of(LOOK_PAIRS) {
            progress.set(index);
            if let Some(signal) = interrupt.signal() {
                let done = format!("{} pairs are written", tally.pairs);
                return Err(Failure::Interrupted { signal, done });
            }
        }
        let (key, value) = pair?;
        let expires_at = match key.expiry() {
            Expiry::Never => None,
            Expiry::At(ms) => Some(ms),
        };
        match sink.pair(&key, &value, expires_at)? {
            Ok(()) => tally.add(1, (key.len() + value.len()) as u64),
            Err(reason) => {
                let what = format!(
                    "the key `{}` cannot be a file: {reason}",
                    key.escape_ascii()
                );
                if !export.keep_going {
                    let next = "export another format, or leave it out with --keep-going";
                    return Err(Failure::Usage(format!("{what}; {next}")));
                }
                tally.left_out += 1;
                if tally.left_out <= TOLD_MAX {
                    progress.say(&format!("{what}; left out"));
                }
            }
        }
    }
    Ok(())
}

/// Where the bytes of a stream go.
enum Stream<'a> {
    Stdout(&'a mut Output),
    File(PathBuf, Target),
}

impl Stream<'_> {
    /// Whole records.
    fn write(&mut self, format: Format, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => out.records(bytes, format == Format::Ndjson),
            Self::File(path, file) => {
                let written = file.write(bytes);
                written.map_err(Failure::file("write", path))
            }
        }
    }
}

enum Sink<'a> {
    Tree(Tree, PathBuf),
    Stream {
        to: Stream<'a>,
        format: Format,
        encoder: Option<Encoder>,
        buffer: Vec<u8>,
    },
}

impl<'a> Sink<'a> {
    fn create(format: Format, to: Option<&Path>, out: &'a mut Output) -> Result<Self, Failure> {
        if format == Format::Files {
            let root = to.unwrap_or(Path::new("-"));
            let tree = Tree::create(root).map_err(Failure::file("write", root))?;
            return Ok(Self::Tree(tree, root.to_owned()));
        }
        let to = match to {
            None => Stream::Stdout(out),
            Some(path) => {
                let file = Target::create(path).map_err(Failure::file("write", path))?;
                Stream::File(path.to_owned(), file)
            }
        };
        let mut buffer = Vec::with_capacity(2 * BUFFER_BYTES);
        let mut encoder = None;
        if format == Format::Kvx {
            buffer.extend_from_slice(&Encoder::header());
            encoder = Some(Encoder::new());
        }
        Ok(Self::Stream {
            to,
            format,
            encoder,
            buffer,
        })
    }

    /// Writes a pair; the inner error says why its key does not fit the format.
    fn pair(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<Result<(), String>, Failure> {
        match self {
            Self::Tree(tree, _) => match tree.write(key, value) {
                Ok(()) => Ok(Ok(())),
                Err(Refused::Key(reason)) => Ok(Err(reason)),
                Err(Refused::Io(path, error)) => Err(Failure::file("write", &path)(error)),
            },
            Self::Stream {
                to,
                format,
                encoder,
                buffer,
            } => {
                match encoder {
                    Some(encoder) => match encoder.pair(key, value, expires_at) {
                        Ok(head) => {
                            buffer.extend_from_slice(&head);
                            buffer.extend_from_slice(key);
                            buffer.extend_from_slice(value);
                        }
                        // What a store holds is as long as a store can hold.
                        Err(reason) => return Ok(Err(reason.to_string())),
                    },
                    None if *format == Format::Ndjson => {
                        ndjson::write(key, value, expires_at, buffer);
                    }
                    None => tsv::write(key, value, buffer),
                }
                if buffer.len() >= BUFFER_BYTES {
                    to.write(*format, buffer)?;
                    buffer.clear();
                    // A huge value does not keep its memory for ever.
                    buffer.shrink_to(2 * BUFFER_BYTES);
                }
                Ok(Ok(()))
            }
        }
    }

    /// Writes what is left and makes files durable; the end frame only if all pairs are there: an
    /// export of what is left of a damaged store is not taken for the whole later.
    fn finish(self, complete: bool) -> Result<(), Failure> {
        match self {
            Self::Tree(tree, root) => {
                let synced = tree.sync();
                synced.map_err(Failure::file("sync", &root))
            }
            Self::Stream {
                mut to,
                format,
                encoder,
                mut buffer,
            } => {
                if let Some(encoder) = encoder.filter(|_| complete) {
                    buffer.extend_from_slice(&encoder.end());
                }
                to.write(format, &buffer)?;
                match to {
                    Stream::Stdout(out) => out.flush(),
                    Stream::File(path, file) => {
                        let finished = file.finish(complete);
                        finished.map_err(Failure::file("sync", &path))
                    }
                }
            }
        }
    }
}
