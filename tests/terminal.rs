//! What a person at a terminal sees and a script never does: tables, bars, colours, progress, escaped
//! bytes. Method: the other end of a pseudo-terminal.
#![cfg(feature = "cli")]
#![allow(clippy::print_stdout)]

mod cli_common;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use cli_common::*;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Whether this system gives out pseudo-terminals; says that it skips if not.
fn has_terminals() -> bool {
    match openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY) {
        Ok(_) => true,
        Err(error) => {
            let required = std::env::var_os("KVS_REQUIRE_ALL").is_some();
            assert!(!required, "no pseudo-terminal: {error}");
            println!("SKIPPED: no pseudo-terminal: {error}");
            false
        }
    }
}

/// A pseudo-terminal of 120 columns: our end, and the other.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let size = Winsize {
        ws_row: 40,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let other = rustix::fs::open(
        name,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let file = |fd: OwnedFd| File::from(fd);
    (file(ours), file(other.unwrap()))
}

/// Which streams are the terminal.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Both,
    Stdout,
    Stderr,
}

struct Seen {
    code: Option<i32>,
    /// What the terminal was sent, with its own line feeds as one byte again.
    text: String,
    /// What went past it.
    piped: Ran,
}

/// Runs `kvs` on a terminal with `environment` in addition.
fn see(dir: &Path, on: On, environment: &[(&str, &str)], arguments: &[&str]) -> Seen {
    let (mut ours, other) = terminal();
    let mut command = kvs(dir);
    command
        .args(arguments)
        .env("TERM", "xterm")
        .env_remove("CLICOLOR_FORCE");
    command.envs(environment.iter().copied());
    if on != On::Stderr {
        command.stdout(Stdio::from(other.try_clone().unwrap()));
    }
    if on != On::Stdout {
        command.stderr(Stdio::from(other.try_clone().unwrap()));
    }
    let child = command.spawn().unwrap();
    // The terminal ends when the last of its users has closed it.
    drop((command, other));
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // EIO is how it says that it has ended.
        let _ = ours.read_to_end(&mut bytes);
        bytes
    });
    let piped = Ran::from(child.wait_with_output().unwrap());
    let bytes = reading.join().unwrap();
    Seen {
        code: piped.code,
        text: String::from_utf8(bytes).unwrap().replace("\r\n", "\n"),
        piped,
    }
}

/// A store with live and dead records in several segments.
fn store_with_garbage() -> tempfile::TempDir {
    let dir = empty_dir();
    let options = kvs::Options::new()
        .segment_bytes(64 << 10)
        .compaction(kvs::Compaction::Manual);
    let store = options.open(dir.path()).unwrap();
    for round in 0..3u8 {
        for key in 0..(100 - u32::from(round) * 30) {
            store.set(key.to_be_bytes(), [round; 500]).unwrap();
        }
    }
    store.close().unwrap();
    dir
}

mod stats {
    use super::*;

    #[test]
    fn every_segment_is_a_bar_of_its_live_and_dead_bytes() {
        if !has_terminals() {
            return;
        }
        let dir = store_with_garbage();
        let seen = see(dir.path(), On::Both, &[("NO_COLOR", "1")], &["stats"]);
        assert_eq!(seen.code, Some(0));
        let text = &seen.text;
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("keys      100\n"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.starts_with("live ") && line.ends_with(" KiB"))
        );
        assert!(
            text.contains("█ live  ▒ dead  ░ pinned by readers\n"),
            "{text}"
        );

        // The bars say what the numbers say.
        let exact = run(dir.path(), ["stats", "--json"]).good();
        let exact: serde_json::Value = serde_json::from_slice(&exact.stdout).unwrap();
        let segments = exact["segments"].as_array().unwrap();
        assert!(segments.len() >= 2, "{exact}");
        let number = |segment: &serde_json::Value, name: &str| segment[name].as_f64().unwrap();
        let full = segments
            .iter()
            .map(|s| number(s, "bytes"))
            .fold(0.0, f64::max);
        for segment in segments {
            let id = segment["id"].as_str().unwrap();
            let line = text.lines().find(|line| line.contains(id)).unwrap();
            let count = |glyph: char| line.chars().filter(|c| *c == glyph).count() as f64;
            for (name, glyph) in [("live_bytes", '█'), ("dead_bytes", '▒')] {
                let wanted = number(segment, name) / full * 48.0;
                let shown = count(glyph);
                assert!((shown - wanted).abs() <= 1.0, "{name} {wanted} of {line}");
                assert_eq!(shown > 0.0, number(segment, name) > 0.0, "{line}");
            }
            assert!(line.chars().count() <= 120, "{line}");
        }
    }

    #[test]
    fn colours_are_for_a_terminal_that_wants_them() {
        if !has_terminals() {
            return;
        }
        let dir = store_with_garbage();
        let colours = |environment: &[(&str, &str)], arguments: &[&str]| {
            let seen = see(dir.path(), On::Both, environment, arguments);
            assert_eq!(seen.code, Some(0));
            seen.text.contains("\x1b[32m█") && seen.text.contains("\x1b[31m▒")
        };
        assert!(colours(&[], &["stats"]));
        assert!(colours(&[("NO_COLOR", "")], &["stats"]));
        assert!(!colours(&[("NO_COLOR", "1")], &["stats"]));
        assert!(!colours(&[("TERM", "dumb")], &["stats"]));
        assert!(!colours(&[], &["stats", "--color=never"]));
        assert!(colours(&[("NO_COLOR", "1")], &["stats", "--color=always"]));
        let piped = run(dir.path(), ["stats"]).good().text();
        assert!(!piped.contains(['\x1b', '█']), "{piped}");
    }

    #[test]
    fn numbers_are_for_people_on_a_terminal_and_exact_in_a_pipe() {
        if !has_terminals() {
            return;
        }
        let dir = store_with(&pairs((0..1500u32).map(|i| (i.to_be_bytes(), [1; 100]))));
        let seen = |verb: &str| see(dir.path(), On::Both, &[("NO_COLOR", "1")], &[verb]).text;
        assert!(seen("stats").contains("keys      1,500\n"));
        let verified = seen("verify");
        assert!(
            verified.contains("records   1,5") && verified.contains(" KiB\n"),
            "{verified}"
        );
        let compacted = seen("compact");
        assert!(
            compacted.contains(" -> ") && compacted.contains("moved     "),
            "{compacted}"
        );
        let exact = run(dir.path(), ["stats"]).good().text();
        assert!(exact.contains("keys          1500\n"), "{exact}");
        // JSON is JSON, whoever reads it.
        let json = see(dir.path(), On::Both, &[], &["stats", "--json"]).text;
        assert!(
            serde_json::from_str::<serde_json::Value>(&json).is_ok(),
            "{json}"
        );
    }
}

mod top {
    use super::*;

    /// Runs `kvs top` until it has drawn `frames` frames, then ends it by a signal.
    fn watch(dir: &Path, arguments: &[&str], frames: usize) -> (Option<i32>, String) {
        let (mut ours, other) = terminal();
        let mut command = kvs(dir);
        command
            .args([&["top", "--interval", "0.1"], arguments].concat())
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdout(Stdio::from(other.try_clone().unwrap()))
            .stderr(Stdio::from(other));
        let mut child = command.spawn().unwrap();
        drop(command);
        let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
        let mut asked = false;
        // EIO is how it says that it has ended.
        while let Ok(len @ 1..) = ours.read(&mut piece) {
            seen.extend_from_slice(&piece[..len]);
            let drawn = String::from_utf8_lossy(&seen).matches("\x1b[H").count();
            if drawn >= frames && !std::mem::replace(&mut asked, true) {
                let id = i32::try_from(child.id()).unwrap();
                let id = rustix::process::Pid::from_raw(id).unwrap();
                rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
            }
        }
        (
            child.wait().unwrap().code(),
            String::from_utf8(seen).unwrap(),
        )
    }

    #[test]
    fn a_screen_is_drawn_again_and_given_back_on_a_signal() {
        if !has_terminals() {
            return;
        }
        let dir = store_with_garbage();
        let (code, text) = watch(dir.path(), &[], 3);
        assert_eq!(code, Some(0), "{text:?}");
        assert!(text.starts_with("\x1b[?1049h\x1b[?25l\x1b[H"), "{text:?}");
        assert!(text.ends_with("\x1b[J\x1b[?25h\x1b[?1049l"), "{text:?}");
        assert_eq!(text.matches("\x1b[?1049").count(), 2, "{text:?}");
        for frame in text.split("\x1b[H").skip(1) {
            assert!(frame.contains("keys        100\x1b[K\r\n"), "{frame:?}");
            assert!(frame.contains("writer      nobody"), "{frame:?}");
            assert!(frame.contains('█') && frame.contains('▒'), "{frame:?}");
            assert!(frame.lines().count() <= 40, "{frame:?}");
            let line = |l: &str| l.replace("\x1b[K", "").trim_end().chars().count();
            assert!(frame.lines().all(|l| line(l) <= 120), "{frame:?}");
        }
    }

    #[test]
    fn a_screen_shows_no_more_than_it_has_room_for() {
        if !has_terminals() {
            return;
        }
        let dir = empty_dir();
        let options = kvs::Options::new().segment_bytes(64 << 10);
        let store = options.open(dir.path()).unwrap();
        for i in 0..60u32 {
            store.set(i.to_be_bytes(), [1; 60_000]).unwrap();
        }
        let (code, text) = watch(dir.path(), &[], 2);
        assert_eq!(code, Some(0), "{text:?}");
        let last = text.rsplit("\x1b[H").next().unwrap();
        assert!(last.contains(" older segments"), "{last:?}");
        assert!(last.lines().count() <= 40, "{last:?}");
        // Held by this process.
        let id = std::process::id().to_string();
        assert!(
            last.contains(&format!("writer      process {id} ")),
            "{last:?}"
        );
        assert!(last.contains("not known while somebody writes"), "{last:?}");
        store.close().unwrap();
    }

    #[test]
    fn what_needs_no_screen_gets_none() {
        if !has_terminals() {
            return;
        }
        let dir = store_with_garbage();
        for arguments in [&["top", "--once"][..], &["top", "--once", "--json"]] {
            let seen = see(dir.path(), On::Both, &[("NO_COLOR", "1")], arguments);
            assert_eq!(seen.code, Some(0), "{}", seen.text);
            assert!(!seen.text.contains('\x1b'), "{}", seen.text);
        }
    }
}

mod escapes {
    use super::*;

    const NASTY: &str = "\x1b[2J\u{9b}\u{202e}\x07ok";

    #[test]
    fn nothing_from_a_value_is_obeyed_by_a_terminal() {
        if !has_terminals() {
            return;
        }
        let dir = store_with(&pairs([(format!("k{NASTY}"), format!("v{NASTY}\\"))]));
        let key = format!("k{NASTY}");
        for arguments in [
            &["get", &key][..],
            &["scan"],
            &["keys"],
            &["scan", "--json"],
            &["get", &key, "--json"],
            &["export", "tsv"],
            &["export", "ndjson"],
        ] {
            let seen = see(dir.path(), On::Both, &[], arguments);
            assert_eq!(seen.code, Some(0), "{}", seen.text);
            assert!(seen.text.contains("ok"), "{}", seen.text);
            let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
            assert!(!seen.text.contains(bad), "{arguments:?}: {:?}", seen.text);
            // In a pipe every byte is what it is.
            if !arguments.contains(&"--json") && !arguments.contains(&"ndjson") {
                let piped = run(dir.path(), arguments).good().text();
                assert!(piped.contains(NASTY), "{arguments:?}: {piped:?}");
            }
        }
    }

    #[test]
    fn json_on_a_terminal_means_the_same() {
        if !has_terminals() {
            return;
        }
        let dir = store_with(&pairs([("k", NASTY)]));
        for arguments in [&["get", "k", "--json"][..], &["export", "ndjson"]] {
            let text = see(dir.path(), On::Stdout, &[], arguments).text;
            let object: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(object["value"], NASTY);
        }
    }

    #[test]
    fn a_binary_export_is_kept_from_a_terminal() {
        if !has_terminals() {
            return;
        }
        let dir = store_with(&pairs([("k", "v")]));
        let seen = see(dir.path(), On::Both, &[], &["export", "kvx"]);
        assert_eq!(seen.code, Some(USAGE));
        assert_eq!(
            seen.text,
            "kvs: kvx is no text for a terminal; name a file or use a pipe\n"
        );
        assert_eq!(
            see(dir.path(), On::Both, &[], &["export", "kvx", "out"]).code,
            Some(0)
        );
        assert!(dir.path().join("out").exists());
    }
}

mod progress {
    use super::*;

    fn lines() -> String {
        (0..200_000)
            .map(|i| format!("key {i:010}\tvalue {i:090}\n"))
            .collect()
    }

    #[test]
    fn an_import_shows_rate_and_remaining_time_and_then_what_it_did() {
        if !has_terminals() {
            return;
        }
        let dir = empty_dir();
        fs::write(dir.path().join("in"), lines()).unwrap();
        let import = |on, more: &[&str]| {
            let arguments = [&["-d", "s", "import", "tsv", "in"], more].concat();
            let seen = see(dir.path(), on, &[], &arguments);
            assert_eq!(seen.code, Some(0), "{}", seen.text);
            seen
        };
        let seen = import(On::Stderr, &[]);
        assert_eq!(seen.piped.stdout, b"");
        assert!(seen.text.contains("ETA "), "{:?}", seen.text);
        assert!(seen.text.contains("MiB/s"), "{:?}", seen.text);
        let last = seen
            .text
            .rsplit('\r')
            .next()
            .unwrap()
            .replace("\x1b[2K", "");
        assert!(
            last.contains("kvs: imported 200,000 pairs, 21.0 MiB in "),
            "{last:?}"
        );
        // Not for who does not look, or does not want it.
        assert_eq!(import(On::Stderr, &["-q"]).text, "");
        assert_eq!(import(On::Stdout, &[]).piped.stderr, "");
        let told = import(On::Stderr, &["--quiet", "--json"]);
        assert_eq!(told.text, "");
        assert!(told.piped.text().contains("\"pairs\":200000"));
        let exported = see(dir.path(), On::Stderr, &[], &["-d", "s", "export", "tsv"]);
        assert!(
            exported.text.contains("/200000 pairs"),
            "{:?}",
            exported.text
        );
        assert!(exported.text.contains("ETA ") && exported.text.contains("exported 200,000 pairs"));
        assert_eq!(exported.piped.text().lines().count(), 200_000);
    }

    #[test]
    fn a_tree_is_measured_first_so_that_its_bar_has_an_end() {
        if !has_terminals() {
            return;
        }
        let dir = empty_dir();
        fs::create_dir(dir.path().join("tree")).unwrap();
        for i in 0..50 {
            fs::write(dir.path().join(format!("tree/{i}")), [b'x'; 40_000]).unwrap();
        }
        let arguments = ["-d", "s", "import", "files", "tree"];
        let seen = see(dir.path(), On::Stderr, &[], &arguments);
        assert_eq!(seen.code, Some(0), "{}", seen.text);
        assert!(
            seen.text.contains("/1.91 MiB") && seen.text.contains("ETA "),
            "{:?}",
            seen.text
        );
    }

    #[test]
    fn no_bar_stands_among_the_pairs() {
        if !has_terminals() {
            return;
        }
        let dir = store_with(&pairs([("k", "v")]));
        let seen = see(dir.path(), On::Both, &[], &["export", "tsv"]);
        assert_eq!(seen.text, "k\tv\n");
    }
}

#[test]
fn an_error_is_one_line_without_colours_of_its_own() {
    if !has_terminals() {
        return;
    }
    let dir = empty_dir();
    let seen = see(
        dir.path(),
        On::Both,
        &[],
        &["-d", "none\x1b[31m", "get", "k"],
    );
    assert_eq!(seen.code, Some(REFUSED));
    assert_eq!(seen.text.lines().count(), 1, "{:?}", seen.text);
    assert!(!seen.text.contains('\x1b'), "{:?}", seen.text);
}
