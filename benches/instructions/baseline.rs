//! Instruction counts on file, and what is said of new ones beside them.
//!
//! The file is JSON: target, version of the compiler, name of the operation, instructions of one. Another
//! compiler makes other code, so each has its own numbers; one that has none yet is compared with the
//! newest that has, and allowed more.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

/// Instructions of one operation, by its name.
pub type Counts = BTreeMap<String, f64>;

/// Part by which a count may differ from one of the same compiler. Counts of one program repeat within
/// 0.5 %; the rest is for another C library, and another processor for which it chooses another `memcpy`.
pub const TOLERANCE: f64 = 0.03;

/// Part by which it may differ from one of another compiler.
pub const TOLERANCE_OTHER: f64 = 0.25;

/// All counts on file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline(BTreeMap<String, BTreeMap<String, Counts>>);

/// What new counts are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<'a> {
    pub rustc: &'a str,
    pub counts: &'a Counts,
    pub tolerance: f64,
}

/// New counts beside those on file.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Operation, baseline, now, change.
    pub table: String,
    /// Operations that take more than they may, or are missing.
    pub worse: Vec<String>,
    /// Those that take so much less that the baseline is out of date.
    pub better: Vec<String>,
}

impl Baseline {
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let map = |value: &Value, place: &str| match value {
            Value::Object(map) => Ok(map.clone()),
            _ => Err(format!("{place}: not an object")),
        };
        let mut targets = BTreeMap::new();
        for (target, versions) in map(&file, "the file")? {
            let mut by_version = BTreeMap::new();
            for (rustc, counts) in map(&versions, &target)? {
                let place = format!("{target}, {rustc}");
                let mut by_name = Counts::new();
                for (name, count) in map(&counts, &place)? {
                    let count = count.as_f64().filter(|count| *count > 0.0);
                    let count = count.ok_or(format!("{place}, {name}: not a number above 0"))?;
                    by_name.insert(name, count);
                }
                by_version.insert(rustc, by_name);
            }
            targets.insert(target, by_version);
        }
        Ok(Self(targets))
    }

    /// The counts of `rustc` for `target`, else of the newest compiler that has some; `None` if the target
    /// has none at all.
    pub fn choose<'a>(&'a self, target: &str, rustc: &str) -> Option<Chosen<'a>> {
        let versions = self.0.get(target)?;
        let newest = || versions.iter().max_by_key(|(rustc, _)| numbers(rustc));
        let (known, counts) = versions.get_key_value(rustc).or_else(newest)?;
        Some(Chosen {
            rustc: known,
            counts,
            tolerance: match known == rustc {
                true => TOLERANCE,
                false => TOLERANCE_OTHER,
            },
        })
    }

    /// Puts `counts` in the place of those of the same target and compiler.
    pub fn insert(&mut self, target: &str, rustc: &str, counts: Counts) {
        let versions = self.0.entry(target.to_owned()).or_default();
        versions.insert(rustc.to_owned(), counts);
    }

    /// The file: what [`Baseline::parse`] reads.
    pub fn to_text(&self) -> String {
        let file = serde_json::json!(self.0);
        format!("{file:#}\n")
    }
}

/// The three numbers of a version.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(['.', '-']).take(3);
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

/// `now` beside the chosen counts. An operation that stands on one side only counts as worse: a check
/// that is no longer made must not pass.
pub fn compare(chosen: &Chosen<'_>, now: &Counts) -> Verdict {
    let (mut table, mut worse, mut better) = (String::new(), Vec::new(), Vec::new());
    let mut line = |name: &str, before: &str, now: &str, change: &str| {
        let _ = writeln!(table, "{name:<22} {before:>10} {now:>10} {change:>9}");
    };
    line("", "baseline", "now", "change");
    let number = |count: f64| format!("{count:.1}");
    for (name, count) in now {
        let Some(before) = chosen.counts.get(name) else {
            line(name, "-", &number(*count), "new");
            worse.push(name.clone());
            continue;
        };
        let change = count / before - 1.0;
        let percent = format!("{:+.1} %", 100.0 * change);
        line(name, &number(*before), &number(*count), &percent);
        if change < -chosen.tolerance {
            better.push(name.clone());
        } else if change > chosen.tolerance {
            worse.push(name.clone());
        }
    }
    for (name, before) in chosen.counts {
        if !now.contains_key(name) {
            line(name, &number(*before), "-", "gone");
            worse.push(name.clone());
        }
    }
    Verdict {
        table,
        worse,
        better,
    }
}
