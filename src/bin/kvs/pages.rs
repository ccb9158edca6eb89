//! Completions for shells and manual pages, made from the declaration of the verbs.

use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::{Cli, DIR_VARIABLE, EXIT_CODES};
use crate::exit::{Answer, Failure};
use crate::output::Output;

/// The declaration, with what clap adds when it parses.
fn declaration() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

pub fn completions(shell: Shell, out: &mut Output) -> Result<Answer, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kvs", &mut script);
    out.raw(&script)?;
    Ok(Answer::Yes)
}

pub fn man(
    verb: Option<&str>,
    directory: Option<&Path>,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let declaration = declaration();
    if let Some(directory) = directory {
        let verbs = visible(&declaration).cloned();
        for command in std::iter::once(declaration.clone()).chain(verbs) {
            let path = directory.join(Man::new(command.clone()).get_filename());
            let written = std::fs::write(&path, page(command));
            written.map_err(Failure::file("write", &path))?;
        }
        return Ok(Answer::Yes);
    }
    let command = match verb {
        None => declaration,
        Some(verb) => match visible(&declaration).find(|command| command.get_name() == verb) {
            Some(command) => command.clone(),
            None => {
                let text = format!("there is no verb `{verb}`; `kvs --help` lists them");
                return Err(Failure::Usage(text));
            }
        },
    };
    out.raw(&page(command))?;
    Ok(Answer::Yes)
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
}

/// The page of one command; that of `kvs` itself also explains exit codes, environment and lock.
fn page(command: Command) -> Vec<u8> {
    let whole = command.get_name() == "kvs";
    let page = Man::new(command.after_help(None::<&str>))
        .source(concat!("kvs ", env!("CARGO_PKG_VERSION")))
        .manual("kvs");
    let mut text = Vec::new();
    // Writing into a Vec cannot fail.
    let _ = page.render_title(&mut text);
    let _ = page.render_name_section(&mut text);
    let _ = page.render_synopsis_section(&mut text);
    let _ = page.render_description_section(&mut text);
    let _ = page.render_options_section(&mut text);
    if whole {
        let _ = page.render_subcommands_section(&mut text);
        let _ = text.write_all(sections().render().as_bytes());
        let _ = page.render_version_section(&mut text);
    }
    text
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []);
        roff.text([bold(code)]).text([roman(meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in [
        (
            DIR_VARIABLE,
            "Directory of the store, unless --dir names one. Empty counts as unset.",
        ),
        ("NO_COLOR", "No colours, unless --color=always."),
    ] {
        roff.control("TP", []);
        roff.text([bold(name)]).text([roman(meaning)]);
    }
    roff.control("SH", ["NOTES"]);
    for paragraph in [
        "A store is a directory. It begins with the first verb that writes; verbs that read create \
         nothing and change nothing.",
        "One process may have the store open to write, or any number to read. A command that finds \
         it taken waits for --wait seconds. Verbs that print give the store up before they print, \
         and import gives it up while it waits for its input and at least once a second or two, so \
         that commands in a pipe may use the same store.",
        "A key that is missing is not an error to `kvs get`: it prints `Key not found` and exits \
         with 0. For scripts there are --raw, --json and --output, which exit with 1, and `kvs \
         exists`.",
        "With --json keys and values are members `key` and `value`, or `key_b64` and `value_b64` in \
         base64 where the bytes are not UTF-8. Errors are then objects on standard error, with \
         members `error` and `exit_code`.",
    ] {
        roff.control("PP", []);
        roff.text([roman(paragraph)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for example in [
        "kvs set city Oslo",
        "kvs get --raw photo > photo.jpg",
        "kvs get a | kvs set b -",
        "kvs keys | while read k; do kvs get \"$k\"; done",
        "kvs export ndjson | jq -r .key",
        "kvs import files ./site && kvs export files ./copy",
    ] {
        roff.control("TP", []);
        roff.text([roman(example)]);
    }
    roff
}
