//! From numbers to Markdown: the machine, the settings, a summary, a table for every row.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::engines::{self, KNOWN, Known, Part};
use crate::job::Outcome;
use crate::rows::{Column, ROWS, Row, Size, Unit};
use crate::run::{Plan, Run};

/// Markers between which tables are inserted.
const BEGIN: &str = "<!-- begin: compare -->";
const END: &str = "<!-- end: compare -->";

/// Of a hundred: where others had more of the machine than that, a table says so.
const OTHERS_MAX: f64 = 10.0;

/// A version that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Engine, by name.
    pub engine: String,
    /// Its version, or `not here`.
    pub version: String,
}

/// Everything that was found, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Day, `YYYY-MM-DD`, in UTC.
    pub date: String,
    /// Name and release of the system.
    pub system: String,
    /// Model of the processor.
    pub processor: String,
    /// Threads it runs at once.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// File system and mount options of the directories.
    pub file_system: String,
    /// `full`, `quick` or `test`.
    pub size: String,
    /// Keys of most rows.
    pub keys: u64,
    /// Rounds.
    pub rounds: usize,
    /// What was compared.
    pub versions: Vec<Version>,
    /// How long it took.
    pub seconds: f64,
    /// What was found.
    pub runs: Vec<Run>,
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Day of a number of seconds since 1970, in UTC (Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn day(seconds: u64) -> String {
    let z = (seconds / 86_400) as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Type and options of the file system that `dir` is on.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        let (_, at, kind, options) = (words.next()?, words.next()?, words.next()?, words.next()?);
        dir.starts_with(at)
            .then(|| (at.len(), format!("{kind} ({options})")))
    };
    // The longest mount point counts; of several there, the last.
    let found = mounts.lines().filter_map(of_line);
    found.max_by_key(|(len, _)| *len).map(|(_, text)| text)
}

impl Report {
    /// Of a plan that has not been run yet.
    pub fn new(plan: &Plan) -> Self {
        let unknown = || "unknown".to_owned();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let memory = line_of("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib = memory.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            date: day(now.map_or(0, |now| now.as_secs())),
            system: format!("Linux {}", release.trim()),
            processor: line_of("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kib.unwrap_or(0) * 1024,
            file_system: file_system(&plan.dir).unwrap_or_else(unknown),
            size: match plan.scale.size {
                Size::Full => "full",
                Size::Quick => "quick",
                Size::Test => "test",
            }
            .to_owned(),
            keys: plan.scale.keys,
            rounds: plan.rounds,
            versions: plan
                .engines
                .iter()
                .map(|known| Version {
                    engine: known.name.to_owned(),
                    version: engines::version(known),
                })
                .collect(),
            seconds: 0.0,
            runs: Vec::new(),
        }
    }

    /// What one engine found in a row, all rounds.
    pub fn outcomes(&self, row: &str, engine: &str) -> Vec<&Outcome> {
        self.runs
            .iter()
            .filter(|run| run.row == row && run.engine == engine)
            .filter_map(|run| run.outcome.as_ref())
            .collect()
    }

    /// The numbers of that name.
    pub fn samples(&self, row: &str, engine: &str, metric: &str) -> Vec<f64> {
        let outcomes = self.outcomes(row, engine);
        outcomes.iter().filter_map(|o| o.get(metric)).collect()
    }

    /// Engines that were to be compared, in order.
    pub fn engines(&self) -> impl Iterator<Item = &'static Known> {
        KNOWN
            .iter()
            .filter(|known| self.versions.iter().any(|v| v.engine == known.name))
    }

    fn is_here(&self, known: &Known) -> bool {
        let version = self.versions.iter().find(|v| v.engine == known.name);
        version.is_some_and(|v| v.version != "not here")
    }

    /// All of it. `plots`: the directory and the files in it.
    pub fn markdown(&self, plots: Option<(&Path, &[String])>) -> String {
        let mut out = String::new();
        self.machine(&mut out);
        self.settings(&mut out);
        self.summary(&mut out);
        for row in ROWS {
            self.table(row, &mut out);
        }
        if let Some((dir, files)) = plots {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            out.push_str("### Plots\n\n");
            for file in files {
                let what = file.trim_end_matches(".svg");
                let _ = writeln!(out, "![{what}]({name}/{file})\n");
            }
        }
        out.truncate(out.trim_end().len());
        out
    }

    fn machine(&self, out: &mut String) {
        let others = |run: &Run| run.outcome.as_ref()?.get("others_percent");
        let mut others: Vec<f64> = self.runs.iter().filter_map(others).collect();
        others.sort_by(f64::total_cmp);
        let share = |n: usize| others.get(n).copied().unwrap_or(0.0);
        let _ = writeln!(
            out,
            "| | |\n|---|---|\n| date | {} |\n| system | {} |\n| processor | {}, {} threads |\n\
             | memory | {:.1} GiB |\n| file system | {} |\n| run | {}, {} keys in most rows, {} rounds, {:.0} min |\n\
             | others' share of the processors | median {:.0} %, highest {:.0} % of a run |\n",
            self.date,
            self.system,
            self.processor,
            self.cores,
            self.memory as f64 / f64::from(1 << 30),
            self.file_system,
            self.size,
            self.keys,
            self.rounds,
            self.seconds / 60.0,
            share(others.len() / 2),
            share(others.len().saturating_sub(1)),
        );
        if self.size != "full" {
            out.push_str(
                "**Not the published run**: fewer keys or rounds, rough numbers, only to see that it works.\n\n",
            );
        }
    }

    fn settings(&self, out: &mut String) {
        out.push_str("### Settings\n\n| engine | version | most rows | durable rows | remarks |\n|---|---|---|---|---|\n");
        for known in self.engines() {
            let version = self.versions.iter().find(|v| v.engine == known.name);
            let label = match known.part {
                Part::Kvs | Part::Peer => "",
                Part::Labelled => " (not as users run it)",
                Part::Ceiling => " (ceiling)",
            };
            let _ = writeln!(
                out,
                "| {}{label} | {} | {} | {} | {} |",
                known.name,
                version.map_or("unknown", |v| &v.version),
                known.relaxed,
                known.durable,
                known.remarks,
            );
        }
        out.push_str(
            "\nCaches: twice the data, at least 256 MiB, at most 4 GiB; a quarter of the limit where memory is \
             short. All engines use the system's allocator.\n\n",
        );
    }

    /// The peers' best of a column: whose, and its median.
    fn best_peer(&self, row: &Row, column: &Column) -> Option<(&'static str, f64)> {
        let peers = self.engines().filter(|known| known.part == Part::Peer);
        let medians = peers.filter_map(|known| {
            let samples = self.samples(row.id, known.name, column.metric);
            Some((known.name, median(&samples)?))
        });
        match lower_is_better(column.unit) {
            true => medians.min_by(|a, b| a.1.total_cmp(&b.1)),
            false => medians.max_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    fn summary(&self, out: &mut String) {
        const OURS: [&str; 4] = ["kvs", "kvs:reader", "kvs:bare", "kvs:bare-reader"];
        out.push_str(
            "### Summary\n\nMedians. The last two columns: how many times as good as the best peer, which is \
             never one that is labelled or a ceiling.\n\n\
             | work | | kvs | kvs:reader | kvs:bare | kvs:bare-reader | best peer | map | log | kvs / peer | kvs:bare / peer |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in ROWS {
            for column in summarised(row) {
                let of = |engine: &str| median(&self.samples(row.id, engine, column.metric));
                if OURS.iter().all(|engine| of(engine).is_none()) {
                    continue;
                }
                let cell = |engine: &str| {
                    of(engine).map_or_else(|| "–".to_owned(), |x| written(x, column.unit))
                };
                let best = self.best_peer(row, column);
                let times = |engine: &str| match (of(engine), best) {
                    (Some(ours), Some((_, peer))) if ours > 0.0 && peer > 0.0 => {
                        let times = match lower_is_better(column.unit) {
                            true => peer / ours,
                            false => ours / peer,
                        };
                        format!("{times:.2}×")
                    }
                    _ => "–".to_owned(),
                };
                let best_cell = best.map_or_else(
                    || "–".to_owned(),
                    |(name, x)| format!("{} ({name})", written(x, column.unit)),
                );
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} | {} | {} | {best_cell} | {} | {} | {} | {} |",
                    row.title,
                    column.head,
                    cell(OURS[0]),
                    cell(OURS[1]),
                    cell(OURS[2]),
                    cell(OURS[3]),
                    cell("map"),
                    cell("log"),
                    times("kvs"),
                    times("kvs:bare"),
                );
            }
        }
        out.push('\n');
    }

    fn table(&self, row: &Row, out: &mut String) {
        if !self.runs.iter().any(|run| run.row == row.id) {
            return;
        }
        let _ = writeln!(out, "### {} (`{}`)\n", row.title, row.id);
        let heads: Vec<_> = row.columns.iter().map(|column| column.head).collect();
        let _ = writeln!(out, "| engine | {} | |", heads.join(" | "));
        let _ = writeln!(out, "|---|{}---|", "---:|".repeat(heads.len()));
        for known in self.engines() {
            if !self.is_here(known) {
                let empty = " |".repeat(heads.len());
                let _ = writeln!(out, "| {} |{empty} not here |", known.name);
                continue;
            }
            let mut runs = self
                .runs
                .iter()
                .filter(|run| run.row == row.id && run.engine == known.name)
                .peekable();
            if runs.peek().is_none() {
                continue;
            }
            let cells: Vec<String> = row
                .columns
                .iter()
                .map(|column| {
                    cell(
                        &self.samples(row.id, known.name, column.metric),
                        column.unit,
                    )
                })
                .collect();
            let mut remarks: Vec<String> = Vec::new();
            let mut remark = |text: &str| {
                let text = text.replace('|', "/");
                if !remarks.contains(&text) {
                    remarks.push(text);
                }
            };
            for run in runs {
                if let Some(why) = &run.failed {
                    let failed = match why.starts_with("skipped: ") {
                        true => why.clone(),
                        false => format!("failed: {why}"),
                    };
                    remark(&failed);
                }
                let outcome = run.outcome.as_ref();
                for note in outcome.iter().flat_map(|outcome| &outcome.notes) {
                    remark(note);
                }
                let others = outcome.and_then(|outcome| outcome.get("others_percent"));
                if others.is_some_and(|others| others > OTHERS_MAX) {
                    remark("others were busy");
                }
            }
            let label = match known.part {
                Part::Kvs | Part::Peer => "",
                Part::Labelled => " (not as users run it)",
                Part::Ceiling => " (ceiling)",
            };
            let _ = writeln!(
                out,
                "| {}{label} | {} | {} |",
                known.name,
                cells.join(" | "),
                remarks.join("; ")
            );
        }
        out.push('\n');
    }
}

/// Columns that stand in the summary.
fn summarised(row: &Row) -> Vec<&'static Column> {
    let metrics: &[&str] = match row.id {
        "put-latency" => &["p999_ns", "max_ns"],
        "get-beside" | "put-beside" => &["p999_ns"],
        "overwrite" => &["ops_per_s", "peak_factor", "disk_factor"],
        "large" => &["ops_per_s", "private_a_key"],
        "short" => &["ops_per_s", "put_per_s"],
        "open-killed" => &["open_ms", "survived"],
        id if id.starts_with("value-") || id.starts_with("key-") => &["ops_per_s", "get_per_s"],
        _ => return row.columns.iter().take(1).collect(),
    };
    let columns = row.columns.iter();
    columns.filter(|c| metrics.contains(&c.metric)).collect()
}

fn lower_is_better(unit: Unit) -> bool {
    match unit {
        Unit::Time | Unit::Milliseconds | Unit::Factor | Unit::Bytes | Unit::Mebibytes => true,
        Unit::Rate | Unit::Percent | Unit::Plain => false,
    }
}

/// Median; of an even number, the lower middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// Lowest and highest.
pub fn spread(samples: &[f64]) -> (f64, f64) {
    let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let high = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

/// Three digits that matter.
fn digits(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

/// A number as tables show it.
pub fn written(x: f64, unit: Unit) -> String {
    match unit {
        Unit::Rate => digits(x / 1e3),
        Unit::Time if x < 1e3 => format!("{x:.0} ns"),
        Unit::Time if x < 1e6 => format!("{} µs", digits(x / 1e3)),
        Unit::Time => format!("{} ms", digits(x / 1e6)),
        Unit::Milliseconds | Unit::Factor => digits(x),
        Unit::Bytes | Unit::Mebibytes | Unit::Percent => format!("{x:.1}"),
        Unit::Plain => format!("{x:.0}"),
    }
}

/// Median, and lowest to highest if there are several.
fn cell(samples: &[f64], unit: Unit) -> String {
    let Some(middle) = median(samples) else {
        return "–".to_owned();
    };
    let (low, high) = spread(samples);
    match samples.len() {
        1 => written(middle, unit),
        _ => format!(
            "{} ({}–{})",
            written(middle, unit),
            written(low, unit),
            written(high, unit)
        ),
    }
}

/// `text` with `tables` between its markers.
///
/// # Errors
///
/// If the markers are not there once each, in order.
pub fn inserted(text: &str, tables: &str) -> Result<String, String> {
    let once = |marker: &str| match text.matches(marker).count() {
        1 => Ok(text.find(marker).unwrap_or(0)),
        n => Err(format!("{marker} stands there {n} times, not once")),
    };
    let (begin, end) = (once(BEGIN)? + BEGIN.len(), once(END)?);
    if begin > end {
        return Err(format!("{END} stands before {BEGIN}"));
    }
    Ok(format!(
        "{}\n\n{tables}\n\n{}",
        &text[..begin],
        &text[end..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Scale;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_795_305_600), "2026-11-22");
    }

    #[test]
    fn numbers_are_written_with_their_units() {
        assert_eq!(written(1_234_567.0, Unit::Rate), "1235");
        assert_eq!(written(12_345.0, Unit::Rate), "12.3");
        assert_eq!(written(250.0, Unit::Time), "250 ns");
        assert_eq!(written(2_500.0, Unit::Time), "2.50 µs");
        assert_eq!(written(37_000_000.0, Unit::Time), "37.0 ms");
        assert_eq!(cell(&[], Unit::Plain), "–");
        assert_eq!(cell(&[3.0], Unit::Plain), "3");
        assert_eq!(cell(&[3.0, 9.0, 1.0], Unit::Plain), "3 (1–9)");
    }

    #[test]
    fn tables_replace_what_stood_between_the_markers_and_nothing_else() {
        let text = format!("above\n{BEGIN}\nold\n{END}\nbelow\n");
        let new = inserted(&text, "new").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"));
        assert_eq!(inserted(&new, "new").unwrap(), new);
        assert!(inserted("nothing", "new").is_err());
        assert!(inserted(&format!("{END}{BEGIN}"), "new").is_err());
        assert!(inserted(&format!("{BEGIN}{BEGIN}{END}"), "new").is_err());
    }

    fn run(engine: &str, rate: f64, round: usize) -> Run {
        let mut outcome = Outcome::default();
        outcome.set("ops_per_s", rate);
        outcome.set("others_percent", 50.0);
        Run {
            row: "fill".to_owned(),
            engine: engine.to_owned(),
            round,
            outcome: Some(outcome),
            failed: None,
        }
    }

    fn report() -> Report {
        let plan = Plan {
            scale: Scale::new(Size::Test, None),
            engines: KNOWN.iter().collect(),
            rows: Vec::new(),
            rounds: 2,
            dir: std::env::temp_dir(),
        };
        let mut report = Report::new(&plan);
        // As if built where nothing native is.
        for version in &mut report.versions {
            if version.engine == "rocksdb" {
                version.version = "not here".to_owned();
            }
        }
        report.runs = vec![
            run("kvs", 3e6, 0),
            run("kvs", 4e6, 1),
            run("lmdb", 1e6, 0),
            run("lmdb:writemap", 9e6, 0),
            run("map", 8e6, 0),
            Run {
                outcome: None,
                failed: Some("exit status: 101: a | b".to_owned()),
                ..run("sled", 0.0, 0)
            },
        ];
        report
    }

    #[test]
    fn the_best_peer_is_no_ceiling_and_none_that_is_labelled() {
        let report = report();
        let row = crate::rows::known("fill").unwrap();
        assert_eq!(report.best_peer(row, &row.columns[0]), Some(("lmdb", 1e6)));
        let text = report.markdown(None);
        let line = text
            .lines()
            .find(|l| l.starts_with("| Fill, one put"))
            .unwrap();
        assert!(
            line.contains("| 3000 |") && line.contains("1000 (lmdb)"),
            "{line}"
        );
        assert!(
            line.contains("| 3.00× |") && line.contains("| 8000 |"),
            "{line}"
        );
    }

    #[test]
    fn tables_tell_what_failed_what_is_missing_and_who_was_busy() {
        let text = report().markdown(None);
        let table = text.split("(`fill`)").nth(1).unwrap();
        let line = |start: &str| table.lines().find(|l| l.starts_with(start)).unwrap();
        assert!(line("| sled |").contains("failed: exit status: 101: a / b"));
        assert!(line("| rocksdb |").contains("not here"));
        assert!(line("| kvs |").contains("3000 (3000–4000)"));
        assert!(line("| kvs |").contains("others were busy"));
        assert!(line("| lmdb:writemap (not as users run it) |").contains("9000"));
        let cells = line("| kvs |").matches('|').count();
        assert_eq!(line("| rocksdb |").matches('|').count(), cells);
        assert_eq!(line("| engine |").matches('|').count(), cells);
    }

    #[test]
    fn what_is_stored_can_be_read_again() {
        let report = report();
        let text = serde_json::to_string(&report).unwrap();
        let again: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(again.markdown(None), report.markdown(None));
    }
}
