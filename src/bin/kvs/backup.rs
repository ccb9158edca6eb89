//! Copies of the whole store: backup, restore, repair.
//!
//! Backup and repair read only: they take the shared lock and change nothing. What they make gets its
//! name when it is whole and on disk; an interrupted one leaves nothing.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kvs::{
    CheckpointOptions, CheckpointProgress, CheckpointReport, Error, RecoveryReport, RepairOptions,
    Store,
};

use crate::exit::{Answer, Failure, place as place_of};
use crate::open::Place;
use crate::output::Output;
use crate::transfer::interrupt::Interrupt;
use crate::transfer::progress::{self, Progress, Unit};

/// What `backup` makes.
pub struct Backup {
    pub dest: PathBuf,
    pub since: Option<PathBuf>,
    pub copy: bool,
    pub quiet: bool,
}

pub fn backup(place: &Place, backup: &Backup, out: &mut Output) -> Result<Answer, Failure> {
    let interrupt = listen(place)?;
    let store = place.read().map_err(|failure| match failure {
        Failure::Store(Error::Locked { path }) => Failure::Serving { path },
        failure => failure,
    })?;
    let mut options = CheckpointOptions::new().links(!backup.copy);
    if let Some(since) = &backup.since {
        options = options.since(since);
    }
    make(
        &store,
        &backup.dest,
        &options,
        backup.quiet,
        &interrupt,
        out,
    )
}

/// Copies the backup `source` to `place`, which is new.
pub fn restore(
    place: &Place,
    source: &Path,
    quiet: bool,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let interrupt = listen(place)?;
    let from = Place {
        dir: std::path::absolute(source).unwrap_or_else(|_| source.to_owned()),
        wait: place.wait,
        interrupt: place.interrupt.clone(),
    };
    let store = from.read()?;
    // Every record is read and checked, and nothing is shared with the backup.
    let options = CheckpointOptions::new().links(false);
    make(&store, &place.dir, &options, quiet, &interrupt, out)
}

fn listen(place: &Place) -> Result<Interrupt, Failure> {
    let interrupt = Interrupt::listen().map_err(|source| Failure::File {
        what: "listen for",
        path: "signals".into(),
        source,
    })?;
    let _ = place.interrupt.set(interrupt.clone());
    Ok(interrupt)
}

fn make(
    store: &Store,
    dest: &Path,
    options: &CheckpointOptions,
    quiet: bool,
    interrupt: &Interrupt,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let total = store.stats().segments.iter().map(|s| s.bytes).sum();
    let progress = Progress::new(Unit::Bytes, Some(total), progress::is_seen() && !quiet);
    let control = |now: &CheckpointProgress| {
        progress.set(now.bytes_done);
        match interrupt.signal() {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    };
    let made = store.checkpoint_with(dest, options, control);
    progress.clear();
    let report = made?;
    if let Some(signal) = interrupt.signal().filter(|_| report.cancelled) {
        let done = format!("nothing is left of {}", dest.display());
        return Err(Failure::Interrupted { signal, done });
    }
    tell(store.len(), &report, out)?;
    Ok(Answer::Yes)
}

fn tell(keys: u64, report: &CheckpointReport, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return out.object(|o| {
            o.plain("keys", keys)
                .plain("segments", report.segments)
                .plain("bytes", report.bytes)
                .plain("linked", report.linked)
                .plain("shared", report.shared)
                .plain("copied", report.copied)
                .plain("bytes_copied", report.bytes_copied)
                .plain("seconds", report.duration.as_secs_f64());
        });
    }
    out.line(format_args!("keys      {keys}"))?;
    out.line(format_args!("segments  {}", report.segments))?;
    out.line(format_args!("bytes     {}", report.bytes))?;
    out.line(format_args!("copied    {}", report.bytes_copied))
}

/// Salvages `place` into `dest`; without one it only says what could be.
pub fn repair(place: &Place, dest: Option<&Path>, out: &mut Output) -> Result<Answer, Failure> {
    if !place.dir.exists() {
        return Err(Failure::NoDirectory(place.dir.clone()));
    }
    let options = RepairOptions::new().dry_run(dest.is_none());
    let report = kvs::repair(&place.dir, dest.unwrap_or(Path::new("")), &options)?;
    if out.json {
        told(&report, dest.is_none(), out)?;
    } else {
        for lost in &report.lost {
            let mut line = format!("{}: lost: {} bytes", lost.file.display(), lost.bytes);
            line.push_str(&format!(" at offset {}", lost.offset));
            if let Some(records) = lost.records {
                line.push_str(&format!(", {records} records"));
            }
            line.push_str(&format!(": {}", lost.reason));
            out.data(line.as_bytes())?;
            out.raw(b"\n")?;
        }
        for damage in &report.damage {
            out.data(place_of(damage).as_bytes())?;
            out.raw(b"\n")?;
        }
        out.line(format_args!("keys      {}", report.keys))?;
        out.line(format_args!("records   {}", report.records_scanned))?;
        out.line(format_args!("batches in part  {}", report.broken_batches))?;
        out.line(format_args!("ranges lost  {}", report.lost.len()))?;
    }
    if report.lost.is_empty() {
        return Ok(Answer::Yes);
    }
    out.flush()?;
    Err(Failure::Lost {
        dir: place.dir.clone(),
        ranges: report.lost.len(),
        salvaged: dest.map(Path::to_owned),
    })
}

/// One object for each range, and one for all.
fn told(report: &RecoveryReport, dry_run: bool, out: &mut Output) -> Result<(), Failure> {
    for lost in &report.lost {
        out.object(|o| {
            o.bytes("file", lost.file.as_os_str().as_bytes())
                .plain("offset", lost.offset)
                .plain("bytes", lost.bytes);
            if let Some((first, last)) = lost.lsns {
                o.plain("first_lsn", first).plain("last_lsn", last);
            }
            if let Some(records) = lost.records {
                o.plain("records", records);
            }
            o.text("reason", &lost.reason);
        })?;
    }
    out.object(|o| {
        o.plain("dry_run", dry_run)
            .plain("keys", report.keys)
            .plain("segments", report.segments)
            .plain("records", report.records_scanned)
            .plain("bytes", report.bytes_scanned)
            .plain("broken_batches", report.broken_batches)
            .plain("lost", report.lost.len())
            .objects("harmless", &report.damage, |damage, o| {
                o.bytes("file", damage.file.as_os_str().as_bytes())
                    .plain("offset", damage.offset)
                    .text("reason", &damage.reason);
            })
            .plain("seconds", report.duration.as_secs_f64());
    })
}
