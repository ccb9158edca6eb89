//! What each verb does.
//!
//! Reading verbs open read-only: they create nothing and change nothing. Of a damaged store they
//! print what is intact, then fail, so that a script cannot take a part for the whole.
//!
//! Writing verbs open at [`Durability::Sync`] and close before they answer: exit code 0 means on
//! disk.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvs::{CompactReport, Durability, Error, Options, Store};
use kvs_format::name::MANIFEST;

use crate::exit::{Answer, Failure, place};
use crate::output::Output;

const NOT_FOUND: &str = "Key not found";

pub fn get(dir: &Path, key: &OsStr, raw: bool, out: &mut Output) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    match store.get(key.as_bytes())? {
        Some(value) if raw => out.raw(&value)?,
        Some(value) => {
            out.data(&value)?;
            out.raw(b"\n")?;
        }
        None => {
            // Before any word of "not found": the key may be in the damaged part.
            whole(&store)?;
            if raw {
                return Ok(Answer::No);
            }
            // The course's contract: in words, and a success.
            out.line(NOT_FOUND)?;
        }
    }
    whole(&store)
}

pub fn set(dir: &Path, key: &OsStr, value: &OsStr) -> Result<Answer, Failure> {
    let store = open_to_write(dir)?;
    store.set(key.as_bytes(), value.as_bytes())?;
    store.close()?;
    Ok(Answer::Yes)
}

pub fn rm(dir: &Path, key: &OsStr, out: &mut Output) -> Result<Answer, Failure> {
    let removed = if has_store(dir)? {
        let store = open_to_write(dir)?;
        let removed = store.remove(key.as_bytes())?;
        store.close()?;
        removed
    } else {
        false
    };
    if removed {
        return Ok(Answer::Yes);
    }
    out.line(NOT_FOUND)?;
    Ok(Answer::No)
}

pub fn exists(dir: &Path, key: &OsStr) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    let found = store.contains_key(key.as_bytes())?;
    whole(&store)?;
    Ok(if found { Answer::Yes } else { Answer::No })
}

pub fn scan(
    dir: &Path,
    prefix: &OsStr,
    keys_only: bool,
    limit: Option<u64>,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    if keys_only && prefix.is_empty() {
        for key in store.keys()?.take(limit) {
            out.data(&key?)?;
            out.raw(b"\n")?;
        }
    } else {
        for pair in store.prefix(prefix.as_bytes())?.take(limit) {
            let (key, value) = pair?;
            out.data(&key)?;
            if !keys_only {
                out.raw(b"\t")?;
                out.data(&value)?;
            }
            out.raw(b"\n")?;
        }
    }
    whole(&store)
}

pub fn count(dir: &Path, prefix: Option<&OsStr>, out: &mut Output) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    let count = match prefix {
        None => store.len(),
        Some(prefix) => {
            let mut count = 0u64;
            for pair in store.prefix(prefix.as_bytes())? {
                pair?;
                count += 1;
            }
            count
        }
    };
    out.line(count)?;
    whole(&store)
}

pub fn stats(dir: &Path, out: &mut Output) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    let stats = store.stats();
    out.line(format_args!("keys          {}", stats.keys))?;
    out.line(format_args!("live bytes    {}", stats.live_bytes))?;
    out.line(format_args!("dead bytes    {}", stats.dead_bytes))?;
    out.line(format_args!("index bytes   {}", stats.index_bytes))?;
    out.line(format_args!("disk bytes    {}", stats.disk_bytes))?;
    out.line(format_args!("recovery      {}", store.recovery()))?;
    out.line("")?;
    out.line(format_args!(
        "{:>16}  {:<6}  {:<6}  {:>12}  {:>12}  {:>12}",
        "segment", "kind", "state", "bytes", "live", "dead"
    ))?;
    for segment in &stats.segments {
        out.line(format_args!(
            "{:016x}  {:<6}  {:<6}  {:>12}  {:>12}  {:>12}",
            segment.id,
            format!("{:?}", segment.kind).to_lowercase(),
            if segment.sealed { "sealed" } else { "active" },
            segment.bytes,
            segment.live_bytes,
            segment.dead_bytes,
        ))?;
    }
    whole(&store)
}

pub fn verify(dir: &Path, out: &mut Output) -> Result<Answer, Failure> {
    let store = open_to_read(dir)?;
    let report = store.verify()?;
    out.line(format_args!("segments  {}", report.segments))?;
    out.line(format_args!("records   {}", report.records))?;
    out.line(format_args!("bytes     {}", report.bytes))?;
    let mut places = report.damage;
    for damage in &store.recovery().damage {
        let known = |d: &kvs::Damage| d.file == damage.file && d.offset == damage.offset;
        if !places.iter().any(known) {
            places.push(damage.clone());
        }
    }
    out.line(format_args!("damaged   {}", places.len()))?;
    for damage in &places {
        out.data(place(damage).as_bytes())?;
        out.raw(b"\n")?;
    }
    if places.is_empty() && !store.recovery().incomplete {
        return Ok(Answer::Yes);
    }
    // The list first, then the verdict, on a terminal that shows both streams.
    out.flush()?;
    Err(Failure::Damaged {
        dir: dir.to_owned(),
        places,
    })
}

pub fn compact(dir: &Path, out: &mut Output) -> Result<Answer, Failure> {
    let report = if has_store(dir)? {
        let store = open_to_write(dir)?;
        let report = store.compact()?;
        store.close()?;
        report
    } else {
        CompactReport::default()
    };
    out.line(format_args!(
        "segments  {} -> {}",
        report.segments_before, report.segments_after
    ))?;
    out.line(format_args!(
        "bytes     {} -> {}",
        report.bytes_before, report.bytes_after
    ))?;
    Ok(Answer::Yes)
}

/// A directory without a store reads like an empty one: a store begins with its first `set`. A
/// directory that does not exist is more likely a slip.
fn open_to_read(dir: &Path) -> Result<Store, Failure> {
    match Store::open_read_only(dir) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !dir.exists() => {
            Err(Failure::NoDirectory(dir.to_owned()))
        }
        opened => Ok(opened?),
    }
}

fn open_to_write(dir: &Path) -> Result<Store, Failure> {
    Ok(Options::new().durability(Durability::Sync).open(dir)?)
}

/// Whether there is a store to change, for verbs that have nothing to do in an empty one and shall
/// not create it. The name of the manifest is the cheap way to a yes; a no is the library's to say.
fn has_store(dir: &Path) -> Result<bool, Failure> {
    if dir.join(MANIFEST).exists() {
        return Ok(true);
    }
    open_to_read(dir)?;
    Ok(false)
}

/// Fails if part of the store could not be read.
fn whole(store: &Store) -> Result<Answer, Failure> {
    let recovery = store.recovery();
    if !recovery.incomplete {
        return Ok(Answer::Yes);
    }
    Err(Failure::Damaged {
        dir: store.path().to_owned(),
        places: recovery.damage.clone(),
    })
}
