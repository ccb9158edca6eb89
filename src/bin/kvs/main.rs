//! `kvs`: a key-value store on the command line.
//!
//! Parses arguments, calls the library, turns the answer into text and an exit code; whatever is
//! true of the data is the library's doing. One command, one open store, closed before the exit
//! code is given.
//!
//! Elsewhere: what a verb is called and takes (`args`), what it does (`verbs`, `whole`, `backup`, `transfer`),
//! how bytes reach a terminal or a pipe (`output`, `people`) or JSON (`json`), keys in text (`bytes`), how the store is opened
//! (`open`), what an exit code means (`exit`).

mod args;
mod backup;
mod bytes;
mod demo;
mod exit;
mod expiry;
mod json;
mod open;
mod output;
mod pages;
mod people;
mod plan;
mod target;
mod top;
mod transfer;
mod verbs;
mod whole;

use std::cell::OnceCell;
use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};
use backup::Backup;
use exit::{Answer, Failure};
use expiry::Time;
use open::Place;
use output::Output;
use transfer::{Export, Import, Pieces};
use verbs::{Destination, Listing, Source};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // What could not be parsed is not there to ask.
            let json = std::env::args_os().any(|argument| argument == "--json");
            return exit::usage(&error, json, &mut io::stderr().lock());
        }
        // Help, or the version.
        Err(error) => error.exit(),
    };
    cli.check();
    let json = cli.json;
    let answer = Output::stdout(json, cli.color).and_then(|mut out| {
        let answer = run(cli, &mut out)?;
        match out.finish() {
            // Nobody reads the rest; the answer is the same.
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(answer),
            finished => finished.map(|()| answer),
        }
    });
    exit::code(answer, json, &mut io::stderr().lock())
}

fn run(cli: Cli, out: &mut Output) -> Result<Answer, Failure> {
    let place = Place {
        dir: cli.dir(),
        wait: cli.wait,
        interrupt: OnceCell::new(),
    };
    match cli.verb {
        Verb::Get {
            key,
            coding,
            raw,
            output,
        } => {
            let destination = match output {
                Some(path) => Destination::File(path),
                None if raw => Destination::Raw,
                None => Destination::Line,
            };
            verbs::get(&place, &coding.coding().decode(&key)?, destination, out)
        }
        Verb::Set {
            key,
            value,
            literal,
            value_file,
            ttl,
            coding,
        } => {
            let source = Source::new(value, literal, value_file);
            verbs::set(&place, &coding.coding().decode(&key)?, source, ttl, out)
        }
        Verb::Rm { key, coding } => verbs::rm(&place, &coding.coding().decode(&key)?, out),
        Verb::Exists { key, coding } => verbs::exists(&place, &coding.coding().decode(&key)?, out),
        Verb::Ttl { key, coding } => expiry::ttl(&place, &coding.coding().decode(&key)?, out),
        Verb::Expire {
            key,
            after,
            at,
            ms,
            coding,
        } => {
            let time = match (after, at, ms) {
                (_, _, Some(ms)) => Time::At(ms),
                (_, Some(at), _) => Time::of(at),
                (after, None, None) => Time::After(after.unwrap_or_default()),
            };
            expiry::expire(&place, &coding.coding().decode(&key)?, time, out)
        }
        Verb::Persist { key, coding } => {
            expiry::persist(&place, &coding.coding().decode(&key)?, out)
        }
        Verb::Scan {
            prefix,
            coding,
            keys,
            limit,
            null,
        } => {
            let listing = Listing {
                prefix: &prefix,
                coding: coding.coding(),
                keys_only: keys,
                limit,
                null,
            };
            verbs::list(&place, &listing, out)
        }
        Verb::Keys {
            prefix,
            coding,
            limit,
            null,
        } => {
            let listing = Listing {
                prefix: &prefix,
                coding: coding.coding(),
                keys_only: true,
                limit,
                null,
            };
            verbs::list(&place, &listing, out)
        }
        Verb::Count { prefix, coding } => {
            let coding = coding.coding();
            let prefix = prefix.as_deref().map(|prefix| coding.decode(prefix));
            verbs::count(&place, prefix.transpose()?.as_deref(), out)
        }
        Verb::Stats => whole::stats(&place, out),
        Verb::Verify => whole::verify(&place, out),
        Verb::Compact => whole::compact(&place, out),
        Verb::Backup { dest, since, copy } => {
            let backup = Backup {
                dest,
                since,
                copy,
                quiet: cli.quiet,
            };
            backup::backup(&place, &backup, out)
        }
        Verb::Restore { source } => backup::restore(&place, &source, cli.quiet, out),
        Verb::Repair { dest, .. } => backup::repair(&place, dest.as_deref(), out),
        Verb::Import {
            format,
            from,
            keep_going,
            bulk,
        } => {
            let import = Import {
                format,
                from,
                keep_going,
                bulk,
                quiet: cli.quiet,
            };
            transfer::import(&place, import, out)
        }
        Verb::Batch { from, every } => {
            let pieces = Pieces {
                from,
                every,
                quiet: cli.quiet,
            };
            transfer::batch(&place, pieces, out)
        }
        Verb::Export {
            format,
            to,
            output,
            prefix,
            coding,
            keep_going,
        } => {
            let export = Export {
                format,
                to: to.or(output),
                prefix: prefix.as_deref().unwrap_or_default(),
                coding: coding.coding(),
                keep_going,
                quiet: cli.quiet,
            };
            transfer::export(&place, &export, out)
        }
        Verb::Plan {
            keys,
            key_len,
            value_len,
            ttl,
        } => {
            let planned = kvs::Plan::new(keys, key_len, value_len).expiring(ttl);
            plan::plan(planned, out)
        }
        Verb::Top { interval, once } => top::top(&place, &top::Top { interval, once }, out),
        Verb::Completions { shell } => pages::completions(shell, out),
        Verb::Man { verb, output } => pages::man(verb.as_deref(), output.as_deref(), out),
        Verb::Demo => demo::run(out),
        Verb::DemoWriter => demo::writer::child(&place.dir),
        Verb::DemoJanitor => demo::scratch::janitor(),
    }
}
