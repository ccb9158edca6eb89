//! The parent: rounds, interleaved over engines; every stage a process of its own; what it said, or why
//! it failed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engines::{self, Known};
use crate::job::{Job, Outcome, Work};
use crate::probe::{self, MemoryLimit};
use crate::rows::{Memory, Scale, Scenario, Size, Stage};

/// Least and most bytes of memory that caches may take.
const CACHE_BYTES: (u64, u64) = (256 << 20, 4 << 30);

/// Warmed for a run besides three times its data.
const WARM_BYTES: u64 = 256 << 20;

/// Longer than any load takes.
const UNLIMITED_SECONDS: f64 = 3600.0;

/// Durable puts that are counted by strace.
const TRACED_PUTS: u64 = 200;

/// The signal by which a job kills itself.
const KILLED: i32 = 9;

/// One engine in one row in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Row, by name.
    pub row: String,
    /// Engine, by name.
    pub engine: String,
    /// Round, from 0.
    pub round: usize,
    /// What it found.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Or why it found nothing.
    #[serde(default)]
    pub failed: Option<String>,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How large.
    pub scale: Scale,
    /// Engines, by name.
    pub engines: Vec<&'static Known>,
    /// Rows, by name; empty for all of the size.
    pub rows: Vec<String>,
    /// Rounds.
    pub rounds: usize,
    /// Where directories are made.
    pub dir: PathBuf,
}

impl Plan {
    /// Whether a row is to be shown.
    fn wants(&self, scenario: &Scenario, row: &str) -> bool {
        match self.rows.is_empty() {
            true => scenario.quick || self.scale.size != Size::Quick,
            false => self.rows.iter().any(|wanted| wanted == row),
        }
    }

    /// Stages that lead to a row that is wanted: those that make one, and those that change the directory
    /// before.
    fn stages<'a>(&self, scenario: &'a Scenario) -> Vec<&'a Stage> {
        let wanted = |stage: &&Stage| stage.row.is_some_and(|row| self.wants(scenario, row));
        let Some(last) = scenario.stages.iter().rposition(|stage| wanted(&stage)) else {
            return Vec::new();
        };
        let up_to = scenario.stages[..=last].iter();
        up_to
            .filter(|stage| wanted(stage) || stage.work.stores())
            .collect()
    }

    /// Everything, in interleaved rounds. `told` hears what is going on, and sees all runs so far.
    pub fn run(&self, scenarios: &[Scenario], told: &mut dyn FnMut(&str, &[Run])) -> Vec<Run> {
        let mut runs = Vec::new();
        for round in 0..self.rounds {
            for scenario in scenarios {
                if self.stages(scenario).is_empty() || (round > 0 && !scenario.repeated) {
                    continue;
                }
                // Nobody always comes behind the same other.
                let mut engines = self.engines.clone();
                let turn = round % engines.len().max(1);
                engines.rotate_left(turn);
                for known in engines {
                    if !scenario.fits(known) || !engines::here(known.name) {
                        continue;
                    }
                    let start = Instant::now();
                    self.run_scenario(scenario, known, round, &mut runs);
                    let seconds = start.elapsed().as_secs_f64();
                    let (round, scenario, engine) = (round + 1, scenario.name, known.name);
                    let what = format!("round {round}: {scenario}: {engine}: {seconds:.1} s");
                    told(&what, &runs);
                }
            }
        }
        runs
    }

    fn run_scenario(&self, scenario: &Scenario, known: &Known, round: usize, runs: &mut Vec<Run>) {
        let dir = match tempfile::Builder::new()
            .prefix("kvs-compare-")
            .tempdir_in(&self.dir)
        {
            Ok(dir) => dir,
            Err(error) => panic!("{}: {error}", self.dir.display()),
        };
        let mut broken: Option<String> = None;
        for stage in self.stages(scenario) {
            if !scenario.stage_fits(known, stage) {
                continue;
            }
            let result = match &broken {
                None => self.run_stage(scenario, stage, known, round, dir.path()),
                Some(earlier) => Err(format!("an earlier stage failed: {earlier}")),
            };
            if let Err(message) = &result {
                broken.get_or_insert_with(|| message.clone());
            }
            // Where a stage makes no row that is wanted, those that follow tell what failed.
            let Some(row) = stage.row.filter(|row| self.wants(scenario, row)) else {
                continue;
            };
            let same = runs
                .iter_mut()
                .find(|run| run.row == row && run.engine == known.name && run.round == round);
            match (same, result) {
                // Another stage of the same row: its numbers come beside, those there stay.
                (Some(run), Ok(outcome)) => match &mut run.outcome {
                    Some(there) => {
                        let mut both = outcome;
                        both.merge(std::mem::take(there));
                        *there = both;
                    }
                    None => run.outcome = Some(outcome),
                },
                (Some(run), Err(message)) => run.failed = Some(message),
                (None, result) => runs.push(Run {
                    row: row.to_owned(),
                    engine: known.name.to_owned(),
                    round,
                    failed: result.as_ref().err().cloned(),
                    outcome: result.ok(),
                }),
            }
        }
    }

    fn run_stage(
        &self,
        scenario: &Scenario,
        stage: &Stage,
        known: &Known,
        round: usize,
        dir: &Path,
    ) -> Result<Outcome, String> {
        let payload = scenario.shape.payload();
        let mut job = Job {
            engine: known.name.to_owned(),
            work: stage.work.clone(),
            shape: scenario.shape,
            dir: dir.to_owned(),
            seed: 17 + round as u64 * 1000,
            seconds: match stage.work {
                // What rows other than its own need is loaded whole.
                Work::Load if stage.row.is_some() => self.scale.load_seconds,
                Work::Load => UNLIMITED_SECONDS,
                _ => scenario.seconds,
            },
            cache: (payload * 2).clamp(CACHE_BYTES.0, CACHE_BYTES.1),
            warm: match self.scale.size {
                Size::Test => 1 << 20,
                _ => payload * 3 + WARM_BYTES,
            },
            members: None,
        };
        let mut notes = Vec::new();
        if stage.memory != Memory::Warm {
            let how = probe::empty_cache(dir).map_err(|e| format!("dropping caches: {e}"))?;
            notes.push(how.to_owned());
        }
        let mut limit = None;
        if let Memory::Short(bytes) = stage.memory {
            match MemoryLimit::new(bytes) {
                Ok(group) => {
                    job.members = Some(group.members());
                    job.cache = bytes / 4;
                    notes.push(format!("memory limit {} MiB", bytes >> 20));
                    limit = Some(group);
                }
                Err(error) => return Err(format!("skipped: no memory limit: {error}")),
            }
        }
        let mut outcome = measured(&job)?;
        drop(limit);
        outcome.notes.extend(notes);
        if let Some(stored) = stage.verify
            && known.can.files
            && known.can.reads
        {
            let done = outcome.get("done").unwrap_or(0.0) as u64;
            let mut job = job.clone();
            job.work = Work::Verify { stored, done };
            job.warm = 1 << 20;
            let verified = child(&job)?;
            outcome.set("verified", verified.get("verified").unwrap_or(0.0));
        }
        let traced = matches!(stage.work, Work::Durable { threads: 1 });
        if traced && round == 0 {
            match syncs_a_put(&job, &self.dir) {
                Ok(syncs) => outcome.set("syncs_a_put", syncs),
                Err(why) => outcome.notes.push(format!("syncs not counted: {why}")),
            }
        }
        Ok(outcome)
    }
}

/// A job, and how busy others kept the machine meanwhile.
fn measured(job: &Job) -> Result<Outcome, String> {
    let (busy, start) = (busy_seconds(), Instant::now());
    let mut outcome = child(job)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let own = outcome.get("process_seconds").unwrap_or(0.0);
    let others = busy_seconds() - busy - own;
    let share = others / (start.elapsed().as_secs_f64() * cores) * 100.0;
    outcome.set("others_percent", share.max(0.0));
    Ok(outcome)
}

/// Processor time of everything that ran on the machine, waiting for input and output aside.
fn busy_seconds() -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq.
    let busy = [0, 1, 2, 5, 6].map(|n| ticks.get(n).copied().unwrap_or(0.0));
    busy.iter().sum::<f64>() / TICKS_A_SECOND
}

fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("this program: {e}"))
}

/// Has a process of its own do the job.
fn child(job: &Job) -> Result<Outcome, String> {
    let told = serde_json::to_string(job).map_err(|e| e.to_string())?;
    let mut command = Command::new(program()?);
    command.arg("job").arg(told);
    answer(command, matches!(job.work, Work::Kill { .. }))
}

/// What the process said at its end; nothing from one that kills itself.
fn answer(mut command: Command, killed: bool) -> Result<Outcome, String> {
    let output = command
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "0")
        // Wherever this one was started, and whatever becomes of that directory meanwhile.
        .current_dir("/")
        .output()
        .map_err(|e| format!("starting it: {e}"))?;
    if killed && output.status.signal() == Some(KILLED) {
        return Ok(Outcome::default());
    }
    if !output.status.success() {
        return Err(last_words(&output.stderr, &output.status.to_string()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|e| format!("its answer: {e}"))
}

/// The end of what a process that failed had to say, on one line.
fn last_words(stderr: &[u8], status: &str) -> String {
    const CHARS_MAX: usize = 300;
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("note:"))
        .collect();
    let said = lines[lines.len().saturating_sub(3)..].join(" ");
    let said: String = said.chars().take(CHARS_MAX).collect();
    format!("{status}: {said}")
}

/// Calls that a put makes to get bytes to the device, counted by strace: those of a run with puts less
/// those of a run without.
fn syncs_a_put(job: &Job, base: &Path) -> Result<f64, String> {
    // A stretch that may take no time at all is cut before its first put.
    let with = traced(job, base, 30.0)?;
    let without = traced(job, base, 0.0)?;
    Ok(with.saturating_sub(without) as f64 / TRACED_PUTS as f64)
}

fn traced(job: &Job, base: &Path, seconds: f64) -> Result<u64, String> {
    const CALLS: &str = "fsync,fdatasync,msync,sync_file_range,syncfs,sync";
    let dir = tempfile::tempdir_in(base).map_err(|e| e.to_string())?;
    let data = dir.path().join("data");
    fs::create_dir(&data).map_err(|e| e.to_string())?;
    let mut job = job.clone();
    job.dir = data;
    job.warm = 1 << 20;
    job.seconds = seconds;
    job.shape.keys = TRACED_PUTS;
    let log = dir.path().join("calls");
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            &format!("trace={CALLS}"),
            "-o",
        ])
        .arg(&log)
        .arg(program()?)
        .arg("job")
        .arg(serde_json::to_string(&job).map_err(|e| e.to_string())?);
    answer(command, false).map_err(|e| format!("strace: {e}"))?;
    let text = fs::read_to_string(&log).map_err(|e| e.to_string())?;
    // A call that another thread interrupts is shown twice: its second half says `resumed`.
    let calls = text.lines().filter(|line| {
        let is_call = CALLS
            .split(',')
            .any(|name| line.contains(&format!(" {name}(")));
        is_call && !line.contains("resumed>")
    });
    Ok(calls.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::scenarios;

    #[test]
    fn only_what_leads_to_a_wanted_row_is_run() {
        let mut plan = Plan {
            scale: Scale::new(Size::Quick, None),
            engines: Vec::new(),
            rows: Vec::new(),
            rounds: 1,
            dir: PathBuf::new(),
        };
        let all = scenarios(&plan.scale);
        let rows = |plan: &Plan, name: &str| -> Vec<Option<&str>> {
            let scenario = all.iter().find(|s| s.name == name).unwrap();
            plan.stages(scenario)
                .iter()
                .map(|stage| stage.row)
                .collect()
        };
        assert_eq!(rows(&plan, "fill"), [Some("fill")]);
        assert_eq!(rows(&plan, "large"), [], "no part of a quick run");
        plan.rows = vec!["miss".to_owned(), "open-clean".to_owned()];
        assert_eq!(rows(&plan, "fill"), []);
        assert_eq!(rows(&plan, "reads"), [None, Some("miss")]);
        assert_eq!(rows(&plan, "large"), [Some("large"), Some("open-clean")]);
        plan.rows = vec!["open-killed".to_owned()];
        assert_eq!(
            rows(&plan, "large"),
            [Some("large"), None, Some("open-killed")]
        );
        plan.rows = vec!["ycsb-a".to_owned()];
        assert_eq!(rows(&plan, "mixed"), [None, Some("ycsb-b"), Some("ycsb-a")]);
    }

    #[test]
    fn last_words_are_short_and_without_noise() {
        let stderr = b"thread 'main' panicked at a.rs:1:2:\nset: it broke\nnote: run with ...\n\n";
        let words = last_words(stderr, "exit status: 101");
        assert_eq!(
            words,
            "exit status: 101: thread 'main' panicked at a.rs:1:2: set: it broke"
        );
        assert!(last_words(&[b'x'; 5000], "s").len() < 400);
    }

    #[test]
    fn a_process_that_fails_or_says_nothing_is_an_error() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        assert!(answer(shell("echo oops >&2; exit 3"), false).is_err_and(|e| e.contains("oops")));
        assert!(answer(shell("echo not json"), false).is_err());
        assert!(answer(shell("kill -9 $$"), false).is_err());
        assert!(answer(shell("kill -9 $$"), true).is_ok());
        assert!(answer(shell("exit 3"), true).is_err());
        let good = answer(shell("echo noise; echo '{\"metrics\":{\"a\":1.5}}'"), false);
        assert_eq!(good.unwrap().get("a"), Some(1.5));
    }

    #[test]
    fn the_machine_was_busy_at_some_time() {
        assert!(busy_seconds() > 0.0);
    }
}
