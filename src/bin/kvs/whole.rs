//! The verbs about the store as a whole: stats, verify, compact.
//!
//! Into a pipe they print exact numbers, one a line; on a terminal a table, sizes for people and a
//! bar for each segment; with `--json` one object a line.

use kvs::{CompactReport, Damage, Durability, RecoveryReport, SegmentStats, Stats};

use crate::exit::{Answer, Failure, place as place_of};
use crate::open::{Place, Whole};
use crate::output::Output;
use crate::people::{LEGEND, bar, bold, number, painted, size, table};

/// Columns of the table beside the bar, about.
const TABLE_COLUMNS: u16 = 72;

pub fn stats(place: &Place, out: &mut Output) -> Result<Answer, Failure> {
    let store = place.read()?;
    let stats = store.stats();
    let recovery = store.recovery().clone();
    let whole = Whole::of(&store);
    store.close()?;
    if out.json {
        stats_object(&stats, &recovery, out)?;
    } else if out.is_terminal() {
        stats_for_people(&stats, &recovery, out)?;
    } else {
        stats_lines(&stats, &recovery, out)?;
    }
    whole.answer(Answer::Yes)
}

fn kind(segment: &SegmentStats) -> String {
    format!("{:?}", segment.kind).to_lowercase()
}

fn state(segment: &SegmentStats) -> &'static str {
    if segment.sealed { "sealed" } else { "active" }
}

fn stats_lines(stats: &Stats, recovery: &RecoveryReport, out: &mut Output) -> Result<(), Failure> {
    out.line(format_args!("keys          {}", stats.keys))?;
    out.line(format_args!("live bytes    {}", stats.live_bytes))?;
    out.line(format_args!("dead bytes    {}", stats.dead_bytes))?;
    out.line(format_args!("expired bytes {}", stats.expired_bytes))?;
    out.line(format_args!("pinned bytes  {}", stats.pinned_bytes))?;
    out.line(format_args!("index bytes   {}", stats.index_bytes))?;
    out.line(format_args!("disk bytes    {}", stats.disk_bytes))?;
    out.line(format_args!("reserve bytes {}", stats.reserve_bytes))?;
    out.line(format_args!("recovery      {recovery}"))?;
    out.line("")?;
    out.line(format_args!(
        "{:>16}  {:<6}  {:<6}  {:>12}  {:>12}  {:>12}  {:>12}",
        "segment", "kind", "state", "bytes", "live", "dead", "allocated"
    ))?;
    for segment in &stats.segments {
        out.line(format_args!(
            "{:016x}  {:<6}  {:<6}  {:>12}  {:>12}  {:>12}  {:>12}",
            segment.id,
            kind(segment),
            state(segment),
            segment.bytes,
            segment.live_bytes,
            segment.dead_bytes,
            segment.allocated_bytes,
        ))?;
    }
    Ok(())
}

fn stats_for_people(
    stats: &Stats,
    recovery: &RecoveryReport,
    out: &mut Output,
) -> Result<(), Failure> {
    let facts = [
        ("keys", number(stats.keys)),
        ("live", size(stats.live_bytes)),
        ("dead", size(stats.dead_bytes)),
        ("expired", size(stats.expired_bytes)),
        ("pinned", size(stats.pinned_bytes)),
        ("index", format!("{} of memory", size(stats.index_bytes))),
        (
            "disk",
            format!(
                "{}, of which {} in reserve",
                size(stats.disk_bytes),
                size(stats.reserve_bytes)
            ),
        ),
        ("recovery", recovery.to_string()),
    ];
    facts_for_people(&facts, out)?;
    if stats.segments.is_empty() {
        return Ok(());
    }
    let full = stats.segments.iter().map(|segment| segment.bytes).max();
    let full = full.unwrap_or(0).max(stats.pinned_bytes);
    let columns = out.columns();
    let bar_columns = usize::from(columns.saturating_sub(TABLE_COLUMNS).clamp(8, 48));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for segment in &stats.segments {
        rows.push(vec![
            format!("{:016x}", segment.id),
            kind(segment),
            state(segment).to_owned(),
            size(segment.bytes),
            size(segment.live_bytes),
            size(segment.dead_bytes),
            bar(segment.live_bytes, segment.dead_bytes, 0, full, bar_columns),
        ]);
    }
    if stats.pinned_bytes > 0 {
        let mut row = vec!["removed".to_owned(), String::new(), "pinned".to_owned()];
        row.extend([size(stats.pinned_bytes), String::new(), String::new()]);
        row.push(bar(0, 0, stats.pinned_bytes, full, bar_columns));
        rows.push(row);
    }
    let header = ["segment", "kind", "state", "bytes", "live", "dead", ""];
    out.line("")?;
    for (index, line) in table(&header, &[3, 4, 5], rows, columns)
        .lines()
        .enumerate()
    {
        let line = line.trim_end();
        match index {
            0 => out.line(bold(line, out.has_colour()))?,
            _ => out.line(painted(line, out.has_colour()))?,
        }
    }
    out.line(painted(LEGEND, out.has_colour()))
}

pub fn facts_for_people(facts: &[(&str, String)], out: &mut Output) -> Result<(), Failure> {
    for (name, value) in facts {
        let name = bold(&format!("{name:<9}"), out.has_colour());
        out.line(format_args!("{name} {value}"))?;
    }
    Ok(())
}

fn stats_object(stats: &Stats, recovery: &RecoveryReport, out: &mut Output) -> Result<(), Failure> {
    out.object(|o| {
        o.plain("keys", stats.keys)
            .plain("live_bytes", stats.live_bytes)
            .plain("dead_bytes", stats.dead_bytes)
            .plain("expired_bytes", stats.expired_bytes)
            .plain("pinned_bytes", stats.pinned_bytes)
            .plain("index_bytes", stats.index_bytes)
            .plain("disk_bytes", stats.disk_bytes)
            .plain("reserve_bytes", stats.reserve_bytes)
            .plain("last_lsn", stats.last_lsn)
            .plain("durable_lsn", stats.durable_lsn)
            .plain("clean", recovery.clean)
            .plain("incomplete", recovery.incomplete)
            .plain("records_scanned", recovery.records_scanned)
            .plain("bytes_scanned", recovery.bytes_scanned)
            .plain("hints_used", recovery.hints_used)
            .plain("torn_tail", recovery.torn_tail.is_some())
            .plain("dropped_segments", recovery.dropped_segments)
            .plain("open_seconds", recovery.duration.as_secs_f64())
            .objects("segments", &stats.segments, |segment, o| {
                o.text("id", &format!("{:016x}", segment.id))
                    .text("kind", &kind(segment))
                    .text("state", state(segment))
                    .plain("bytes", segment.bytes)
                    .plain("live_bytes", segment.live_bytes)
                    .plain("dead_bytes", segment.dead_bytes)
                    .plain("allocated_bytes", segment.allocated_bytes);
            });
    })
}

pub fn verify(place: &Place, out: &mut Output) -> Result<Answer, Failure> {
    let store = place.read()?;
    let report = store.verify()?;
    let recovery = store.recovery().clone();
    let whole = Whole::of(&store);
    store.close()?;
    let mut places = report.damage;
    for damage in &recovery.damage {
        let known = |d: &Damage| d.file == damage.file && d.offset == damage.offset;
        if !places.iter().any(known) {
            places.push(damage.clone());
        }
    }
    if out.json {
        for damage in &places {
            use std::os::unix::ffi::OsStrExt;
            out.object(|o| {
                o.bytes("file", damage.file.as_os_str().as_bytes())
                    .plain("offset", damage.offset)
                    .text("reason", &damage.reason);
            })?;
        }
        out.object(|o| {
            o.plain("segments", report.segments)
                .plain("records", report.records)
                .plain("bytes", report.bytes)
                .plain("damaged", places.len());
        })?;
    } else {
        if out.is_terminal() {
            let facts = [
                ("segments", number(report.segments)),
                ("records", number(report.records)),
                ("bytes", size(report.bytes)),
                ("damaged", number(places.len() as u64)),
            ];
            facts_for_people(&facts, out)?;
        } else {
            out.line(format_args!("segments  {}", report.segments))?;
            out.line(format_args!("records   {}", report.records))?;
            out.line(format_args!("bytes     {}", report.bytes))?;
            out.line(format_args!("damaged   {}", places.len()))?;
        }
        for damage in &places {
            out.data(place_of(damage).as_bytes())?;
            out.raw(b"\n")?;
        }
    }
    if places.is_empty() {
        return whole.answer(Answer::Yes);
    }
    // The list first, then the verdict, on a terminal that shows both streams.
    match out.flush() {
        // The verdict is the same when nobody reads the list.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        flushed => flushed?,
    }
    Err(Failure::Damaged {
        dir: place.dir.clone(),
        places,
    })
}

pub fn compact(place: &Place, out: &mut Output) -> Result<Answer, Failure> {
    let report = if place.has_store()? {
        let store = place.write(Durability::Sync)?;
        let report = store.compact()?;
        store.close()?;
        report
    } else {
        CompactReport::default()
    };
    let (segments, bytes) = (
        [report.segments_before, report.segments_after],
        [report.bytes_before, report.bytes_after],
    );
    if out.json {
        return out
            .object(|o| {
                o.plain("segments_before", segments[0])
                    .plain("segments_after", segments[1])
                    .plain("bytes_before", bytes[0])
                    .plain("bytes_after", bytes[1])
                    .plain("records_moved", report.records_moved)
                    .plain("records_expired", report.records_expired)
                    .plain("tombstones_kept", report.tombstones_kept);
            })
            .map(|()| Answer::Yes);
    }
    if out.is_terminal() {
        let arrow = |of: &dyn Fn(u64) -> String, [before, after]: [u64; 2]| {
            format!("{} -> {}", of(before), of(after))
        };
        let facts = [
            ("segments", arrow(&number, segments)),
            ("bytes", arrow(&size, bytes)),
            ("moved", format!("{} records", number(report.records_moved))),
        ];
        facts_for_people(&facts, out)?;
    } else {
        out.line(format_args!("segments  {} -> {}", segments[0], segments[1]))?;
        out.line(format_args!("bytes     {} -> {}", bytes[0], bytes[1]))?;
    }
    Ok(Answer::Yes)
}
