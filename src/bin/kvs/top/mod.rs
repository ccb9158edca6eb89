//! `top`: what happens in a store's directory, shown again and again.
//!
//! On a terminal it redraws a screen of its own and gives the old one back when a signal ends it; in
//! a pipe it prints one look after the other.
//!
//! Elsewhere: what can be seen, and of whose store (`look`).

mod look;

use std::time::{Duration, Instant};

use crate::exit::{Answer, Failure};
use crate::open::Place;
use crate::output::Output;
use crate::people::{LEGEND, bar, bold, number, painted, size, table};
use crate::transfer::interrupt::Interrupt;
use look::{Look, Row};

/// A screen of its own, without a cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Draw over what is there; a frame ends with clearing what is left of the one before.
const HOME: &[u8] = b"\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_REST: &[u8] = b"\x1b[J";

/// How soon a signal is obeyed.
const LOOK_OUT: Duration = Duration::from_millis(25);

/// Columns of the table beside the bar, about.
const TABLE_COLUMNS: u16 = 64;

/// Lines of a frame that are no segments, and the one behind it where the cursor stays.
const OTHER_LINES: usize = 14;

/// Segments that are shown in a pipe, or on a terminal of unknown height.
const SEGMENTS_MAX: usize = 1000;

/// How to show it.
pub struct Top {
    pub interval: Duration,
    pub once: bool,
}

pub fn top(place: &Place, how: &Top, out: &mut Output) -> Result<Answer, Failure> {
    let interrupt = Interrupt::listen().map_err(|source| Failure::File {
        what: "listen for",
        path: "signals".into(),
        source,
    })?;
    // Before there is a screen to give back: what is wrong at once is told on the usual one.
    let first = Look::at(place, None)?;
    let screen = out.is_terminal() && !out.json && !how.once;
    if screen {
        out.raw(ENTER)?;
    }
    let shown = show(place, how, &interrupt, first, screen, out);
    if screen {
        out.raw(LEAVE)?;
        out.flush()?;
    }
    shown.map(|()| Answer::Yes)
}

fn show(
    place: &Place,
    how: &Top,
    interrupt: &Interrupt,
    first: Look,
    screen: bool,
    out: &mut Output,
) -> Result<(), Failure> {
    let (mut last, mut look) = (None, first);
    loop {
        if out.json {
            object(&look, last.as_ref(), out)?;
        } else if screen {
            frame(place, &look, last.as_ref(), out)?;
        } else {
            let room = SEGMENTS_MAX;
            for line in lines(place, &look, last.as_ref(), room, out.columns()) {
                out.line(line)?;
            }
            if !how.once {
                out.line("")?;
            }
        }
        out.flush()?;
        if how.once {
            return Ok(());
        }
        let next = Instant::now() + how.interval;
        while Instant::now() < next {
            // The way to end it.
            if interrupt.signal().is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK_OUT.min(next.saturating_duration_since(Instant::now())));
        }
        let newer = Look::at(place, Some(&look))?;
        last = Some(std::mem::replace(&mut look, newer));
    }
}

fn frame(place: &Place, look: &Look, last: Option<&Look>, out: &mut Output) -> Result<(), Failure> {
    let columns = out.columns();
    let room = usize::from(out.rows()).saturating_sub(OTHER_LINES).max(1);
    out.raw(HOME)?;
    for (index, line) in lines(place, look, last, room, columns).iter().enumerate() {
        // A line that is wider than the terminal would take two.
        let line: String = line.chars().take(usize::from(columns)).collect();
        let line = match index {
            0 => bold(&line, out.has_colour()),
            _ => painted(&line, out.has_colour()),
        };
        out.raw(line.as_bytes())?;
        out.raw(CLEAR_LINE.as_bytes())?;
        out.raw(b"\n")?;
    }
    out.raw(CLEAR_REST)
}

/// A look as text, with at most `room` segments.
fn lines(
    place: &Place,
    look: &Look,
    last: Option<&Look>,
    room: usize,
    columns: u16,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, value: String| lines.push(format!("{name:<11} {value}"));
    let mut dir = Vec::new();
    // Writing into a Vec cannot fail.
    let _ = crate::output::write_escaped(&mut dir, place.dir.as_os_str().as_encoded_bytes());
    fact("store", String::from_utf8_lossy(&dir).into_owned());
    let writer = match (&look.holder, look.is_taken()) {
        (_, false) => "nobody".to_owned(),
        (None, true) => "a process that is not known".to_owned(),
        (Some(holder), true) => {
            let mut command = Vec::new();
            let _ = crate::output::write_escaped(&mut command, holder.command.as_bytes());
            let command = String::from_utf8_lossy(&command).into_owned();
            format!("process {} {command}", holder.process)
        }
    };
    fact("writer", writer.trim_end().to_owned());
    match &look.stats {
        Some(stats) => {
            fact("keys", number(stats.keys));
            fact("live", size(stats.live_bytes));
            fact("dead", size(stats.dead_bytes));
        }
        None => {
            for name in ["keys", "live", "dead"] {
                fact(name, "not known while somebody writes".to_owned());
            }
        }
    }
    let growth = look.growth(last).map_or(String::new(), |rate| {
        let sign = if rate < 0.0 { '-' } else { '+' };
        format!(", {sign}{}/s", size(rate.abs() as u64))
    });
    fact("disk", format!("{}{growth}", size(look.disk)));
    fact("reserve", size(look.reserve));
    let sealed = match look.since_sealed() {
        Some(ago) => format!("{} s ago", ago.as_secs()),
        None => "never".to_owned(),
    };
    fact("last sealed", sealed);
    let compaction = match look.outputs() {
        0 => "none seen".to_owned(),
        outputs => format!("writes {outputs} segments"),
    };
    fact("compaction", compaction);
    if look.rows.is_empty() {
        return lines;
    }
    lines.push(String::new());
    // The newest are where something happens.
    let left_out = look.rows.len().saturating_sub(room);
    let rows = &look.rows[left_out..];
    let full = rows.iter().map(|row| row.bytes.max(row.allocated)).max();
    let full = full.unwrap_or(0);
    let bar_columns = usize::from(columns.saturating_sub(TABLE_COLUMNS).clamp(8, 48));
    let cells = |row: &Row| {
        let known = |bytes: Option<u64>| bytes.map_or("?".to_owned(), size);
        let (live, dead) = row.records.unwrap_or((row.bytes.min(row.allocated), 0));
        vec![
            format!("{:016x}", row.id),
            kind(row).to_owned(),
            if row.hinted { "hinted" } else { "" }.to_owned(),
            size(row.allocated),
            known(row.records.map(|(live, _)| live)),
            known(row.records.map(|(_, dead)| dead)),
            bar(live, dead, 0, full, bar_columns),
        ]
    };
    let header = ["segment", "kind", "", "disk", "live", "dead", ""];
    let rows = rows.iter().map(cells).collect();
    let table = table(&header, &[3, 4, 5], rows, columns);
    lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
    if left_out > 0 {
        lines.push(format!("and {} older segments", number(left_out as u64)));
    }
    lines.push(match look.is_taken() {
        true => "█ disk of the file; live and dead are not known while somebody writes".to_owned(),
        false => LEGEND.to_owned(),
    });
    lines
}

fn kind(row: &Row) -> &'static str {
    match row.kind {
        Some(kvs::SegmentKind::Log) => "log",
        Some(kvs::SegmentKind::Merged) => "merged",
        None => "?",
    }
}

fn object(look: &Look, last: Option<&Look>, out: &mut Output) -> Result<(), Failure> {
    let or_null = |value: Option<f64>| value.map_or("null".to_owned(), |v| v.to_string());
    let whole = |value: Option<u64>| value.map_or("null".to_owned(), |v| v.to_string());
    let stats = look.stats.as_ref();
    out.object(|o| {
        o.plain("taken", look.is_taken());
        match &look.holder {
            Some(holder) => o
                .plain("process", holder.process)
                .text("command", &holder.command),
            None => o.plain("process", "null").plain("command", "null"),
        };
        o.plain("keys", whole(stats.map(|stats| stats.keys)))
            .plain("live_bytes", whole(stats.map(|stats| stats.live_bytes)))
            .plain("dead_bytes", whole(stats.map(|stats| stats.dead_bytes)))
            .plain("disk_bytes", look.disk)
            .plain("disk_bytes_per_second", or_null(look.growth(last)))
            .plain("reserve_bytes", look.reserve)
            .plain(
                "sealed_seconds_ago",
                or_null(look.since_sealed().map(|ago| ago.as_secs_f64())),
            )
            .plain("compaction_outputs", look.outputs())
            .objects("segments", &look.rows, |row, o| {
                o.text("id", &format!("{:016x}", row.id))
                    .text("kind", kind(row))
                    .plain("hinted", row.hinted)
                    .plain("allocated_bytes", row.allocated)
                    .plain("live_bytes", whole(row.records.map(|(live, _)| live)))
                    .plain("dead_bytes", whole(row.records.map(|(_, dead)| dead)));
            });
    })
}
