//! Completions and manual pages: they name what there is, and the programs they are for take them. The
//! pages in `tests/pages`, sessions verb by verb, go as they are shown.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout)]

mod cli_common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cli_common::*;

const VERBS: [&str; 24] = [
    "get",
    "set",
    "rm",
    "exists",
    "ttl",
    "expire",
    "persist",
    "scan",
    "keys",
    "count",
    "stats",
    "verify",
    "compact",
    "backup",
    "restore",
    "repair",
    "import",
    "batch",
    "export",
    "plan",
    "top",
    "completions",
    "man",
    "demo",
];

/// Verbs without a page: their output is a text of its own, and compared by the tests below and in
/// `tests/cli.rs`.
const NO_SESSION: [&str; 3] = ["completions", "man", "demo"];

/// The fenced blocks of `page` in `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = page.split(&fence).skip(1).collect();
    let block = |rest: &&'a str| rest.split_once("```").unwrap().0;
    parts.iter().map(block).collect()
}

/// A store of three keys, and a byte of the second one's value is another.
fn damaged(dir: &Path) {
    let store = kvs::Store::open(dir).unwrap();
    for (key, value) in [("first", "1"), ("second", "2222"), ("third", "3")] {
        store.set(key, value).unwrap();
    }
    store.close().unwrap();
    let mut changed = 0;
    for file in fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(10).position(|w| w == b"second2222") {
            bytes[at + 7] ^= 1;
            fs::write(&path, bytes).unwrap();
            changed += 1;
        }
        if path.extension().is_some_and(|e| e == "hint") {
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(changed, 1);
}

#[test]
fn the_sessions_of_the_pages_go_as_they_are_shown() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages");
    let dir = empty_dir();
    let cases = trycmd::TestCases::new();
    cases.register_bin("kvs", trycmd::cargo::cargo_bin!("kvs"));
    let mut known = Vec::new();
    for page in fs::read_dir(pages).unwrap() {
        let page = page.unwrap().path();
        let verb = page.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&page).unwrap();
        let begins = format!("# kvs {verb}\n");
        assert!(text.starts_with(&begins), "{}", page.display());
        let sessions = blocks(&text, "console").concat();
        assert!(sessions.contains(&format!(" {verb} ")), "{verb}");
        // One directory for all commands of a page.
        let file = |suffix: &str| dir.path().join(format!("{verb}.{suffix}"));
        for name in ["in", "out"] {
            fs::create_dir(file(name)).unwrap();
            fs::write(file(name).join(".keep"), "").unwrap();
        }
        let inputs = ["operations", "wrong"];
        for (name, block) in inputs.iter().zip(blocks(&text, "json")) {
            fs::write(file("in").join(name), block).unwrap();
        }
        if verb == "repair" {
            damaged(&file("in").join("damaged"));
        }
        fs::write(file("md"), text).unwrap();
        cases.case(file("md"));
        known.push(verb);
    }
    let readme = include_str!("../README.md");
    let sessions = blocks(readme, "console").concat();
    for verb in VERBS {
        let in_readme = sessions.lines().any(|line| {
            let mut words = line.split(' ');
            line.starts_with("$ kvs ") && words.any(|word| word == verb)
        });
        let shown = in_readme || known.iter().any(|known| known == verb);
        assert_eq!(shown, !NO_SESSION.contains(&verb), "a session of {verb}");
    }
    for verb in &known {
        assert!(VERBS.contains(&verb.as_str()), "{verb}");
    }
    cases.run();
}

/// Output of `program`; says that it skips if there is none.
fn with(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(
                std::env::var_os("KVS_REQUIRE_ALL").is_none(),
                "{program}: {error}"
            );
            println!("SKIPPED: {program} cannot be started: {error}");
            return None;
        }
    };
    use std::io::Write;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Some((output.status.success(), text))
}

#[test]
fn every_shell_gets_completions_of_every_verb() {
    let dir = empty_dir();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(dir.path(), ["completions", shell]).good().text();
        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
        assert!(script.contains("keep-going"), "{shell}");
        // What stands behind a verb is completed where the shell's generator can do it.
        let formats = script.contains("ndjson");
        assert!(formats || !["bash", "zsh"].contains(&shell), "{shell}");
    }
    run(dir.path(), ["completions", "tcsh"]).code(USAGE);
    run(dir.path(), ["completions"]).code(USAGE);
}

#[test]
fn bash_completes_verbs_flags_and_formats() {
    let dir = empty_dir();
    let script = run(dir.path(), ["completions", "bash"]).good().text();
    let ask = |words: &str, index: usize, current: &str, previous: &str| {
        let question = format!(
            "\nCOMP_WORDS=(kvs {words})\nCOMP_CWORD={index}\n_kvs kvs '{current}' '{previous}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        );
        with("bash", &["--norc", "-s"], &(script.clone() + &question))
    };
    for (words, index, current, previous, wanted) in [
        ("im", 1, "im", "kvs", "import"),
        ("import nd", 2, "nd", "import", "ndjson"),
        ("import ndjson --ke", 3, "--ke", "ndjson", "--keep-going"),
        ("get --ra", 2, "--ra", "get", "--raw"),
    ] {
        let Some((worked, answer)) = ask(words, index, current, previous) else {
            return;
        };
        assert!(worked, "{answer}");
        assert_eq!(answer.trim(), wanted, "{words}");
    }
}

#[test]
fn the_manual_says_what_the_help_says_and_more() {
    let dir = empty_dir();
    let page = run(dir.path(), ["man"]).good().text();
    for word in [
        "EXIT STATUS",
        "ENVIRONMENT",
        "KVS_DIR",
        "NO_COLOR",
        "NOTES",
        "EXAMPLES",
        "VERSION",
    ] {
        assert!(page.contains(word), "{word}");
    }
    for verb in VERBS {
        assert!(page.contains(&format!("kvs\\-{verb}(1)")), "{verb}");
        let of_verb = run(dir.path(), ["man", verb]).good().text();
        assert!(of_verb.contains(&format!("kvs\\-{verb}")), "{verb}");
        assert!(of_verb.contains("\\-\\-wait"), "{verb}");
    }
    assert!(!page.contains("demo\\-writer"), "hidden verbs");
    for verb in ["frobnicate", "demo-writer"] {
        run(dir.path(), ["man", verb]).code(USAGE).says(&[&format!(
            "there is no verb `{verb}`; `kvs --help` lists them"
        )]);
    }
}

#[test]
fn groff_formats_every_page_without_a_warning() {
    let dir = empty_dir();
    run(dir.path(), ["man", "--output", "."]).good().prints("");
    let mut pages: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    pages.sort();
    assert_eq!(pages.len(), VERBS.len() + 1, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let Some((worked, shown)) = with("groff", &["-man", "-Tutf8", "-ww", "-P-cbou"], &text)
        else {
            return;
        };
        assert!(
            worked && !shown.contains("warning"),
            "{}: {shown}",
            page.display()
        );
        assert!(shown.contains("DESCRIPTION"), "{}: {shown}", page.display());
    }
    run(dir.path(), ["man", "-o", "none"])
        .code(REFUSED)
        .says(&["cannot write: none/kvs.1: "]);
}
