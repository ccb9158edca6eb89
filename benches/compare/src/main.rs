//! kvs beside its peers: the same work for every engine, in a process of its own, in fresh directories,
//! rounds interleaved over engines, memory warmed before each.
//!
//! ```text
//! cargo run --release -- run --quick                  # rough numbers in about five minutes
//! cargo run --release -- run --out results.json       # everything
//! cargo run --release -- report results.json --insert RESULTS.md --plots plots
//! cargo run --release -- list
//! ```
//!
//! RocksDB and Tkrzw are compared if their libraries are here: on Debian `apt-get install librocksdb-dev
//! libtkrzw-dev`, then build again. They are left out otherwise, and the tables say `not here`. With
//! strace, the syncs of durable puts are counted.
//!
//! How engines are set up is in `engines/mod.rs`, what is run in `rows.rs`, how it is measured in
//! `work.rs`.

mod data;
mod engines;
mod foreign;
mod job;
mod plot;
mod probe;
mod report;
mod rows;
mod run;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::engines::KNOWN;
use crate::report::Report;
use crate::rows::{ROWS, Scale, Size};
use crate::run::Plan;

/// kvs beside other embedded key-value stores.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write what was found to a file.
    Run(RunArguments),
    /// Print tables of what was found; insert them into a text, draw plots.
    Report(ReportArguments),
    /// Print the names of engines and rows.
    List,
    /// Do one job and print its outcome: for this program itself.
    #[command(hide = true)]
    Job {
        /// The job, as JSON.
        job: String,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Fewer keys, fewer rows, one round: rough numbers in about five minutes.
    #[arg(long, conflicts_with = "test")]
    quick: bool,
    /// Hardly any keys: to see that every row runs. Fails if one does not.
    #[arg(long)]
    test: bool,
    /// Rows, by name, with commas between. Default: all.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Engines, by name, with commas between; `kvs` means all four columns of it. Default: all.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Rounds: medians are over these. Default: 3.
    #[arg(long)]
    rounds: Option<usize>,
    /// Keys of most rows. Default: 1 000 000.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    keys: Option<u64>,
    /// Where directories are made. Must be on the device to be measured. Default: the system's temporary
    /// directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// File for the numbers, JSON.
    #[arg(long, default_value = "results.json")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct ReportArguments {
    /// File with the numbers.
    results: PathBuf,
    /// Put the tables into this text, between its markers.
    #[arg(long)]
    insert: Option<PathBuf>,
    /// Draw plots into this directory.
    #[arg(long)]
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Report(arguments) => report(&arguments),
        Command::List => {
            list();
            Ok(())
        }
        Command::Job { job } => one_job(&job),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("kvs-compare: {message}");
            ExitCode::FAILURE
        }
    }
}

fn one_job(job: &str) -> Result<(), String> {
    let job = serde_json::from_str(job).map_err(|e| format!("the job: {e}"))?;
    let outcome = work::run(&job).ok_or("the engine is not here")?;
    let line = serde_json::to_string(&outcome).map_err(|e| e.to_string())?;
    println!("{line}");
    Ok(())
}

fn list() {
    println!("engines");
    for known in KNOWN {
        let here = match engines::here(known.name) {
            true => engines::version(known),
            false => "not here".to_owned(),
        };
        println!("  {:<16} {here}", known.name);
    }
    println!("rows");
    for row in ROWS {
        println!("  {:<16} {}", row.id, row.title);
    }
}

fn run(arguments: &RunArguments) -> Result<(), String> {
    let size = match (arguments.quick, arguments.test) {
        (true, _) => Size::Quick,
        (_, true) => Size::Test,
        _ => Size::Full,
    };
    let scale = Scale::new(size, arguments.keys);
    for row in &arguments.rows {
        rows::known(row).ok_or(format!("no row is called {row:?}: see `list`"))?;
    }
    let wanted = |name: &str| {
        let family = name.split(':').next().unwrap_or(name);
        arguments.engines.is_empty()
            || arguments
                .engines
                .iter()
                .any(|e| e == name || (e == "kvs" && family == "kvs"))
    };
    for name in &arguments.engines {
        engines::known(name).ok_or(format!("no engine is called {name:?}: see `list`"))?;
    }
    let dir = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = dir
        .canonicalize()
        .map_err(|e| format!("{}: {e}", dir.display()))?;
    let plan = Plan {
        scale,
        engines: KNOWN.iter().filter(|known| wanted(known.name)).collect(),
        rows: arguments.rows.clone(),
        rounds: arguments.rounds.unwrap_or(scale.rounds).max(1),
        dir,
    };
    let mut report = Report::new(&plan);
    let scenarios = rows::scenarios(&scale);
    let start = std::time::Instant::now();
    report.runs = plan.run(&scenarios, &mut |what, runs| {
        let mut so_far = report.clone();
        so_far.seconds = start.elapsed().as_secs_f64();
        so_far.runs = runs.to_vec();
        eprintln!("{:>6.0} s: {what}", so_far.seconds);
        // Whoever ends it early keeps what there is; the last time it must work.
        if let Err(error) = save(&so_far, &arguments.out) {
            eprintln!("{error}");
        }
    });
    report.seconds = start.elapsed().as_secs_f64();
    save(&report, &arguments.out)?;
    let failed: Vec<String> = report
        .runs
        .iter()
        .filter_map(|run| Some((run, run.failed.as_ref()?)))
        .map(|(run, why)| format!("{}: {}: {why}", run.row, run.engine))
        .collect();
    for line in &failed {
        eprintln!("failed: {line}");
    }
    println!("{}", report.markdown(None));
    // A memory limit may not be ours to set; everything else must work.
    let excused = |line: &String| line.contains("skipped: ");
    match size == Size::Test && !failed.iter().all(excused) {
        true => Err(format!(
            "{} of {} runs failed",
            failed.len(),
            report.runs.len()
        )),
        false => Ok(()),
    }
}

fn save(report: &Report, path: &Path) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|e| e.to_string())?;
    write(path, &text)
}

fn report(arguments: &ReportArguments) -> Result<(), String> {
    let text = read(&arguments.results)?;
    let report: Report =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", arguments.results.display()))?;
    let mut drawn = Vec::new();
    if let Some(dir) = &arguments.plots {
        std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        drawn = plot::all(&report, dir)?;
    }
    let plots = arguments.plots.as_deref().map(|dir| (dir, &drawn[..]));
    let tables = report.markdown(plots);
    match &arguments.insert {
        Some(path) => {
            let whole = report::inserted(&read(path)?, &tables)
                .map_err(|why| format!("{}: {why}", path.display()))?;
            write(path, &whole)
        }
        None => {
            println!("{tables}");
            Ok(())
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
