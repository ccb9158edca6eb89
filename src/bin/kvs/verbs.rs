//! The verbs on single keys, and those that list keys.
//!
//! Reading verbs open read-only: they create nothing and change nothing. Before they print, they
//! give the store up; what they print lives on in its maps. So a reader that is slow, or that writes
//! to the same store (`kvs keys | while read k; do kvs rm "$k"; done`), never waits for us. Of a
//! damaged store they print what is intact, then fail.
//!
//! Writing verbs open at [`Durability::Sync`] and close before they answer: exit code 0 means on
//! disk.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvs::{Durability, SetOptions};
use kvs_format::VALUE_BYTES_MAX;

use crate::bytes::Coding;
use crate::exit::{Answer, Failure};
use crate::open::{Place, Whole};
use crate::output::Output;
use crate::target::Target;

pub const NOT_FOUND: &str = "Key not found";

/// Name of standard input and output among file names.
const STANDARD: &str = "-";

/// Where `get` puts the value.
pub enum Destination {
    Line,
    Raw,
    File(PathBuf),
}

pub fn get(
    place: &Place,
    key: &[u8],
    destination: Destination,
    out: &mut Output,
) -> Result<Answer, Failure> {
    if let Destination::File(path) = &destination {
        place.spare(path)?;
    }
    let store = place.read()?;
    let value = store.get(key)?;
    let whole = Whole::of(&store);
    store.close()?;
    let Some(value) = value else {
        // Before any word of "not found": the key may be in the damaged part.
        whole.answer(Answer::Yes)?;
        if out.json {
            out.object(|o| {
                o.bytes("key", key).plain("value", "null");
            })?;
            return Ok(Answer::No);
        }
        if !matches!(destination, Destination::Line) {
            return Ok(Answer::No);
        }
        // The course's contract: in words, and a success.
        out.line(NOT_FOUND)?;
        return Ok(Answer::Yes);
    };
    match destination {
        Destination::File(path) if path != Path::new(STANDARD) => {
            let written = Target::create(&path).and_then(|mut file| {
                file.write(&value)?;
                file.finish(true)
            });
            written.map_err(Failure::file("write", &path))?;
        }
        Destination::File(_) | Destination::Raw => out.raw(&value)?,
        Destination::Line if out.json => out.object(|o| {
            o.bytes("key", key).bytes("value", &value);
        })?,
        Destination::Line => {
            out.data(&value)?;
            out.raw(b"\n")?;
        }
    }
    whole.answer(Answer::Yes)
}

/// Where `set` finds the value.
pub enum Source {
    Argument(OsString),
    Stdin,
    File(PathBuf),
}

impl Source {
    pub fn new(value: Option<OsString>, literal: Option<OsString>, file: Option<PathBuf>) -> Self {
        match (value, literal, file) {
            (_, _, Some(path)) if path != Path::new(STANDARD) => Self::File(path),
            (_, _, Some(_)) => Self::Stdin,
            (_, Some(literal), _) => Self::Argument(literal),
            (Some(value), _, _) if value != STANDARD => Self::Argument(value),
            _ => Self::Stdin,
        }
    }

    /// The whole value, or as much of it as shows that it is too long.
    fn read(self) -> Result<Vec<u8>, Failure> {
        let at_most = VALUE_BYTES_MAX as u64 + 1;
        let mut value = Vec::new();
        match self {
            Self::Argument(value) => {
                use std::os::unix::ffi::OsStringExt;
                return Ok(value.into_vec());
            }
            Self::Stdin => io::stdin().lock().take(at_most).read_to_end(&mut value),
            Self::File(ref path) => {
                File::open(path).and_then(|file| file.take(at_most).read_to_end(&mut value))
            }
        }
        .map_err(|error| match self {
            Self::File(path) => Failure::file("read", &path)(error),
            _ => Failure::file("read", Path::new("standard input"))(error),
        })?;
        Ok(value)
    }
}

pub fn set(
    place: &Place,
    key: &[u8],
    source: Source,
    ttl: Option<Duration>,
    out: &mut Output,
) -> Result<Answer, Failure> {
    // Before the store is opened: whoever writes our standard input may be reading the store.
    let value = source.read()?;
    let store = place.write(Durability::Sync)?;
    match ttl {
        Some(ttl) => {
            store.set_with(key, value, &SetOptions::new().ttl(ttl))?;
        }
        None => store.set(key, value)?,
    }
    store.close()?;
    if out.json {
        out.object(|o| {
            o.bytes("key", key).plain("stored", true);
        })?;
    }
    Ok(Answer::Yes)
}

pub fn rm(place: &Place, key: &[u8], out: &mut Output) -> Result<Answer, Failure> {
    let removed = if place.has_store()? {
        let store = place.write(Durability::Sync)?;
        let removed = store.remove(key)?;
        store.close()?;
        removed
    } else {
        false
    };
    if out.json {
        out.object(|o| {
            o.bytes("key", key).plain("removed", removed);
        })?;
    } else if !removed {
        out.line(NOT_FOUND)?;
    }
    Ok(Answer::of(removed))
}

pub fn exists(place: &Place, key: &[u8], out: &mut Output) -> Result<Answer, Failure> {
    let store = place.read()?;
    let found = store.contains_key(key)?;
    let whole = Whole::of(&store);
    store.close()?;
    whole.answer(Answer::Yes)?;
    if out.json {
        out.object(|o| {
            o.bytes("key", key).plain("exists", found);
        })?;
    }
    Ok(Answer::of(found))
}

/// What `scan` and `keys` print.
pub struct Listing<'a> {
    pub prefix: &'a OsStr,
    pub coding: Coding,
    pub keys_only: bool,
    pub limit: Option<u64>,
    pub null: bool,
}

pub fn list(place: &Place, listing: &Listing<'_>, out: &mut Output) -> Result<Answer, Failure> {
    let prefix = listing.coding.decode(listing.prefix)?;
    let store = place.read()?;
    let pairs = store.prefix(&prefix)?;
    let whole = Whole::of(&store);
    store.close()?;
    let limit = usize::try_from(listing.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    for pair in pairs.take(limit) {
        let (key, value) = pair?;
        if out.json {
            out.object(|o| {
                o.bytes("key", &key);
                if !listing.keys_only {
                    o.bytes("value", &value);
                }
            })?;
            continue;
        }
        out.data(&listing.coding.encode(&key))?;
        if !listing.keys_only {
            out.raw(b"\t")?;
            out.data(&value)?;
        }
        out.raw(if listing.null { b"\0" } else { b"\n" })?;
    }
    whole.answer(Answer::Yes)
}

pub fn count(place: &Place, prefix: Option<&[u8]>, out: &mut Output) -> Result<Answer, Failure> {
    let store = place.read()?;
    let whole = Whole::of(&store);
    let count = match prefix {
        None => store.len(),
        Some(prefix) => {
            let pairs = store.prefix(prefix)?;
            store.close()?;
            let mut count = 0u64;
            for pair in pairs {
                pair?;
                count += 1;
            }
            count
        }
    };
    if out.json {
        out.object(|o| {
            o.plain("count", count);
        })?;
    } else {
        out.line(count)?;
    }
    whole.answer(Answer::Yes)
}
