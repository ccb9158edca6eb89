//! `kvs`: a key-value store on the command line.
//!
//! Parses arguments, calls the library, turns the answer into text and an exit code; whatever is
//! true of the data is the library's doing. One command, one open store, closed before the exit
//! code is given.
//!
//! Elsewhere: what a verb is called and takes (`args`), what it does (`verbs`), how bytes reach a
//! terminal or a pipe (`output`), what an exit code means (`exit`).

mod args;
mod demo;
mod exit;
mod output;
mod verbs;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};
use exit::{Answer, Failure};
use output::Output;

fn main() -> ExitCode {
    // Wrong usage ends in here: clap prints and exits with 2.
    let cli = Cli::parse();
    cli.check();
    let mut out = Output::stdout();
    let answer = run(cli, &mut out).and_then(|answer| {
        out.finish()?;
        Ok(answer)
    });
    exit::code(answer, &mut io::stderr().lock())
}

fn run(cli: Cli, out: &mut Output) -> Result<Answer, Failure> {
    let dir = cli.dir();
    match cli.verb {
        Verb::Get { key, raw } => verbs::get(&dir, &key, raw, out),
        Verb::Set { key, value } => verbs::set(&dir, &key, &value),
        Verb::Rm { key } => verbs::rm(&dir, &key, out),
        Verb::Exists { key } => verbs::exists(&dir, &key),
        Verb::Scan {
            prefix,
            keys,
            limit,
        } => verbs::scan(&dir, &prefix, keys, limit, out),
        Verb::Count { prefix } => verbs::count(&dir, prefix.as_deref(), out),
        Verb::Stats => verbs::stats(&dir, out),
        Verb::Verify => verbs::verify(&dir, out),
        Verb::Compact => verbs::compact(&dir, out),
        Verb::Demo => demo::run(out),
        Verb::DemoWriter => demo::writer::child(&dir),
        Verb::DemoJanitor => demo::scratch::janitor(),
    }
}
