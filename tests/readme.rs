//! The README's section on the command line is true: its sessions are run and compared line by line,
//! its scripts are run, and it names every verb, format and exit code that there is.
#![cfg(feature = "cli")]

mod cli_common;

use std::fs;

use cli_common::*;

const README: &str = include_str!("../README.md");

/// The section on the command line.
fn section() -> &'static str {
    let (_, rest) = README.split_once("\n## The command line\n").unwrap();
    rest.split_once("\n## ").unwrap().0
}

/// Contents of its fenced blocks in `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let block = |rest: &'static str| rest.split_once("```").unwrap().0;
    section().split(&fence).skip(1).map(block).collect()
}

#[test]
fn the_sessions_go_as_they_are_shown() {
    assert!(blocks("console").len() == 1 && blocks("console")[0].matches("\n$ ").count() > 15);
    let dir = empty_dir();
    fs::write(dir.path().join("readme.trycmd"), section()).unwrap();
    // One directory for all commands of the session, empty to begin with.
    for name in ["readme.in", "readme.out"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(".keep"), "").unwrap();
    }
    trycmd::TestCases::new()
        .register_bin("kvs", trycmd::cargo::cargo_bin!("kvs"))
        .case(dir.path().join("readme.trycmd"));
}

#[test]
fn the_scripts_run_on_the_store_of_the_session() {
    let scripts = blocks("sh");
    assert_eq!(scripts.len(), 3);
    let dir = store_with(&pairs([("temperature", "-5"), ("city", "Oslo")]));
    let ran = shell(dir.path(), &format!("set -eu\n{}", scripts[0])).good();
    assert_eq!(ran.sorted(), ["-5", "-5", "Oslo"]);
    let wanted = pairs([("temperature", "-5"), ("city", "Oslo"), ("copy", "-5")]);
    assert_eq!(content(dir.path()), wanted);
    assert_eq!(content(&dir.path().join("other")), wanted);
    let ran = shell(dir.path(), &format!("set -eu\n{}", scripts[1])).good();
    assert!(ran.text().contains("\"lost\":0"), "{}", ran.text());
    assert_eq!(content(&dir.path().join("monday")), wanted);
    let later = pairs([("temperature", "-5"), ("city", "Bergen"), ("copy", "-5")]);
    for name in ["other", "tuesday", "again"] {
        assert_eq!(content(&dir.path().join(name)), later, "{name}");
    }
    for key in ["old/1", "old/2"] {
        run(dir.path(), ["set", key, "x"]).good();
    }
    shell(dir.path(), &format!("set -eu\n{}", scripts[2])).good();
    assert_eq!(content(dir.path()), wanted);
}

#[test]
fn it_names_every_exit_code_and_format_as_the_help_does() {
    let dir = empty_dir();
    let help = run(dir.path(), ["--help"]).good().text();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let mut known = 0;
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        let row = format!("\n| {code} | {}", meaning.trim());
        let row = row
            .replace("--keep-going", "`--keep-going`")
            .replace("--wait", "`--wait`");
        assert!(section().contains(&row), "{row}");
        known += 1;
    }
    assert_eq!(known, 7);
    let help = run(dir.path(), ["import", "--help"]).good().text();
    for format in ["files", "ndjson", "tsv", "kvx"] {
        assert!(help.contains(&format!("- {format}:")), "{help}");
        assert!(section().contains(&format!("\n| `{format}` |")), "{format}");
    }
}
