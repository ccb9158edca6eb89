//! Exit codes, and the one line on standard error that says what, where and what to do next.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kvs::{Damage, Error};
use kvs_format::name::MANIFEST;

use crate::demo::DemoError;
use crate::json::Object;
use crate::output::write_escaped_except;

/// What a command that worked has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, there, true: 0.
    Yes,
    /// Not found, false, not all of it: 1.
    No,
}

impl Answer {
    pub fn of(answer: bool) -> Self {
        if answer { Self::Yes } else { Self::No }
    }
}

/// Why a command did not work.
#[derive(Debug)]
pub enum Failure {
    /// The library's answer.
    Store(Error),
    /// The store answers what it can; part of it is damaged.
    Damaged { dir: PathBuf, places: Vec<Damage> },
    /// Another process has the store open to write, and goes on to.
    Serving { path: PathBuf },
    /// A repair could not salvage everything.
    Lost {
        dir: PathBuf,
        ranges: usize,
        /// What is whole is there.
        salvaged: Option<PathBuf>,
    },
    /// There is no directory of this name, hence no store.
    NoDirectory(PathBuf),
    /// Standard output took no more.
    Output(io::Error),
    /// An argument that cannot be what it should be; says what to do next.
    Usage(String),
    /// A file that the command line names, other than the store's.
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// What is to be imported is not what it should be.
    Input {
        /// File and line, or file and offset.
        place: String,
        reason: String,
        /// Pairs that were stored before it; they stay.
        stored: u64,
    },
    /// An operation of a batch is not what it should be; none of its batch is applied.
    Operation {
        /// File and line.
        place: String,
        reason: String,
        /// Operations of the batches before it; they stay.
        applied: u64,
    },
    /// The library's answer in the middle of an import.
    Midway {
        error: Error,
        /// Pairs that were stored before it; they stay.
        stored: u64,
    },
    /// A signal asked for an end; what is done stays and is whole.
    Interrupted { signal: i32, done: String },
    /// A part of this program ended as it never should.
    Broken(&'static str),
    /// The demonstration did not hold.
    Demo(DemoError),
    /// A child process has said why on the standard error that it shares with us.
    SaidByChild,
}

impl Failure {
    /// For `map_err` on calls about a file.
    pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        Self::Demo(error)
    }
}

const USAGE: u8 = 2;
const LOCKED: u8 = 3;
const DAMAGED: u8 = 4;
const REFUSED: u8 = 5;

/// Wrong usage: what clap says of it, with whatever stood in the arguments made harmless.
pub fn usage(error: &clap::Error, json: bool, stderr: &mut impl Write) -> ExitCode {
    let said = error.render().to_string();
    let mut text = Vec::new();
    if json {
        let mut object = Object::new(&mut text);
        object.text("error", said.trim()).plain("exit_code", USAGE);
        object.end();
        text.push(b'\n');
    } else {
        // Writing into a Vec cannot fail.
        let _ = write_escaped_except(&mut text, said.as_bytes(), "\n");
    }
    let _ = stderr.write_all(&text);
    ExitCode::from(USAGE)
}

/// The exit code of `answer`; a failure also leaves its line in `stderr`, a JSON object with `json`.
pub fn code(answer: Result<Answer, Failure>, json: bool, stderr: &mut impl Write) -> ExitCode {
    let failure = match answer {
        Ok(Answer::Yes) => return ExitCode::SUCCESS,
        Ok(Answer::No) => return ExitCode::from(1),
        // `kvs scan | head`: the reader has what it wanted.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(failure) => failure,
    };
    let (code, text) = describe(&failure);
    if text.is_empty() {
        return ExitCode::from(code);
    }
    let mut line = Vec::new();
    if json {
        let mut object = Object::new(&mut line);
        object.text("error", &text).plain("exit_code", code);
        object.end();
    } else {
        line.extend_from_slice(b"kvs: ");
        // A path may hold anything; writing into a Vec cannot fail.
        let _ = write_escaped_except(&mut line, text.as_bytes(), "\\");
    }
    line.push(b'\n');
    // Nobody is left to be told when standard error is closed; the code still says it.
    let _ = stderr.write_all(&line);
    ExitCode::from(code)
}

/// Exit code, and the line without its head; empty if nothing is left to say.
fn describe(failure: &Failure) -> (u8, String) {
    match failure {
        Failure::Store(error) => {
            let (code, next) = classify(error);
            (code, format!("{error}; {next}"))
        }
        Failure::Damaged { dir, places } => {
            let what = match places.as_slice() {
                [] => format!("{}: part of the store is damaged", dir.display()),
                [only] => place(only),
                [first, others @ ..] => format!("{} (and {} more)", place(first), others.len()),
            };
            let next = "what is missing here may be in the damaged part; keep the directory as it \
                        is and restore from a copy";
            (DAMAGED, format!("{what}; {next}"))
        }
        Failure::Serving { path } => {
            let next = "a kvs-server makes a copy itself: send it KVS.CHECKPOINT; or try again when \
                        the store is closed, or wait longer with --wait";
            (
                LOCKED,
                format!("{} is in use by another process; {next}", path.display()),
            )
        }
        Failure::Lost {
            dir,
            ranges,
            salvaged,
        } => {
            let next = match salvaged {
                Some(dest) => format!("what is whole is in {}", dest.display()),
                None => "nothing was written: name a new directory to salvage the rest".to_owned(),
            };
            let what = match ranges {
                1 => "1 range is".to_owned(),
                ranges => format!("{ranges} ranges are"),
            };
            let dir = dir.display();
            (DAMAGED, format!("{dir}: {what} lost; {next}"))
        }
        Failure::NoDirectory(dir) => {
            let next = "check --dir and KVS_DIR, or `kvs set` a first key to create it";
            (
                REFUSED,
                format!("{}: no such directory; {next}", dir.display()),
            )
        }
        Failure::Output(error) => (
            REFUSED,
            format!("standard output: {error}; what was printed is incomplete"),
        ),
        Failure::Usage(text) => (USAGE, text.clone()),
        Failure::File { what, path, source } => {
            let next = match source.kind() {
                ErrorKind::NotFound => "check the name",
                ErrorKind::PermissionDenied => "check who owns it and its mode",
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
                _ => "look at the system's log",
            };
            let path = path.display();
            (
                REFUSED,
                format!("cannot {what}: {path}: {source}; {next}, then try again"),
            )
        }
        Failure::Input {
            place,
            reason,
            stored,
        } => {
            let next = "mend it and import again, or leave it out with --keep-going";
            (
                DAMAGED,
                format!("{place}: {reason}; {stored} pairs before it are stored; {next}"),
            )
        }
        Failure::Operation {
            place,
            reason,
            applied,
        } => {
            let done = match applied {
                0 => "nothing was applied".to_owned(),
                more => format!("the batches before it are applied, {more} operations"),
            };
            (
                DAMAGED,
                format!("{place}: {reason}; {done}; mend it and try again"),
            )
        }
        Failure::Midway { error, stored } => {
            let (code, next) = classify(error);
            (
                code,
                format!("{error}; {stored} pairs before it are stored; {next}"),
            )
        }
        Failure::Interrupted { signal, done } => (
            128u8.saturating_add(*signal as u8),
            format!("interrupted; {done}"),
        ),
        Failure::Broken(what) => (REFUSED, format!("{what} broke down; please report this")),
        Failure::Demo(error) => {
            let code = if error.is_about_data() {
                DAMAGED
            } else {
                REFUSED
            };
            (code, format!("demo: {error}"))
        }
        Failure::SaidByChild => (REFUSED, String::new()),
    }
}

/// Where and what; the reason may say where by itself.
pub fn place(damage: &Damage) -> String {
    let (file, offset) = (damage.file.display().to_string(), damage.offset);
    if damage.reason.contains(&file) {
        damage.reason.clone()
    } else {
        format!("{file}: damaged at offset {offset}: {}", damage.reason)
    }
}

/// Exit code and next step of a library error; the error itself names the place.
fn classify(error: &Error) -> (u8, &'static str) {
    match error {
        Error::KeyTooLong { .. } | Error::ValueTooLong { .. } => (USAGE, "nothing was written"),
        Error::Locked { .. } => (
            LOCKED,
            "try again when the other process has closed it, or wait longer with --wait",
        ),
        Error::Corrupt { path, .. } if path.ends_with(MANIFEST) => (
            DAMAGED,
            "nothing was changed; restore the directory from a copy, or salvage it with `kvs repair`",
        ),
        Error::Corrupt { .. } => (
            DAMAGED,
            "nothing was changed; `kvs verify` lists all damage, `kvs repair` salvages what is intact",
        ),
        Error::Missing { .. } => (
            DAMAGED,
            "nothing was changed; restore the file, or the directory from a copy",
        ),
        Error::Exists { .. } => (
            REFUSED,
            "nothing was changed; choose another name, or remove it first",
        ),
        Error::Incomplete { .. } => (
            DAMAGED,
            "nothing was changed; `kvs repair` salvages what is whole",
        ),
        Error::Unsafe { .. } => (
            REFUSED,
            "nothing was changed; mend that or choose another --dir",
        ),
        Error::DiskFull { .. } => (REFUSED, "free some space and try again"),
        Error::IndexFull { .. } => (REFUSED, "remove keys, or allow more"),
        Error::BatchTooLarge { .. } => (USAGE, "nothing was written; make smaller batches"),
        Error::Poisoned => (
            REFUSED,
            "the disk refused to sync; look at the system's log, then try again",
        ),
        Error::Io { source, .. } => (
            REFUSED,
            match source.kind() {
                ErrorKind::PermissionDenied => "check who owns it and its mode",
                ErrorKind::NotFound | ErrorKind::NotADirectory => "check --dir and KVS_DIR",
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free some space, then try again"
                }
                ErrorKind::ReadOnlyFilesystem => {
                    "it is on a read-only file system; reading verbs work"
                }
                _ => "look at the system's log, then try again",
            },
        ),
        Error::StoreFull => (REFUSED, "remove keys and run `kvs compact`"),
        _ => (
            REFUSED,
            "nothing is known that would help; please report this",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: ErrorKind) -> Error {
        Error::Io {
            op: "write",
            path: "/a/b".into(),
            source: kind.into(),
        }
    }

    /// Exit code as a number, and the line.
    fn said(failure: Failure) -> (u8, String) {
        let known = describe(&failure);
        let mut line = Vec::new();
        let code = code(Err(failure), false, &mut line);
        assert_eq!(code, ExitCode::from(known.0));
        (known.0, String::from_utf8(line).unwrap())
    }

    #[test]
    fn every_error_has_its_code_its_place_and_what_to_do_next() {
        let dir = || PathBuf::from("/a\n/b");
        let failures = [
            (
                USAGE,
                Error::KeyTooLong { len: 9, max: 8 }.into(),
                "key of 9 bytes",
                "nothing was written",
            ),
            (
                USAGE,
                Error::ValueTooLong { len: 9, max: 8 }.into(),
                "value of 9 bytes",
                "nothing was written",
            ),
            (
                LOCKED,
                Error::Locked { path: dir() }.into(),
                "/a\\n/b is in use",
                "--wait",
            ),
            (
                DAMAGED,
                Error::Missing { path: dir() }.into(),
                "/a\\n/b is missing",
                "restore",
            ),
            (
                REFUSED,
                Error::DiskFull { path: dir() }.into(),
                "in /a\\n/b",
                "free some space",
            ),
            (
                REFUSED,
                Error::IndexFull { bytes: 9, max: 8 }.into(),
                "9 bytes of memory",
                "remove keys",
            ),
            (
                USAGE,
                Error::BatchTooLarge { bytes: 9, max: 8 }.into(),
                "batch of 9 bytes",
                "smaller batches",
            ),
            (
                REFUSED,
                Error::Poisoned.into(),
                "an earlier sync failed",
                "the system's log",
            ),
            (REFUSED, Error::StoreFull.into(), "16 TiB", "remove keys"),
            (
                REFUSED,
                Error::Unsafe {
                    path: dir(),
                    reason: "why",
                }
                .into(),
                "/a\\n/b: why",
                "--dir",
            ),
            (
                REFUSED,
                io(ErrorKind::PermissionDenied).into(),
                "/a/b",
                "its mode",
            ),
            (
                REFUSED,
                io(ErrorKind::NotFound).into(),
                "/a/b",
                "check --dir and KVS_DIR",
            ),
            (
                REFUSED,
                io(ErrorKind::StorageFull).into(),
                "/a/b",
                "free some space",
            ),
            (
                REFUSED,
                io(ErrorKind::ReadOnlyFilesystem).into(),
                "/a/b",
                "reading verbs work",
            ),
            (
                REFUSED,
                io(ErrorKind::Other).into(),
                "/a/b",
                "the system's log",
            ),
            (
                REFUSED,
                Error::Closed.into(),
                "closed",
                "please report this",
            ),
            (
                REFUSED,
                Error::Exists { path: dir() }.into(),
                "/a\\n/b exists",
                "another name",
            ),
            (
                DAMAGED,
                Error::Incomplete { path: dir() }.into(),
                "/a\\n/b is damaged",
                "kvs repair",
            ),
            (
                LOCKED,
                Failure::Serving { path: dir() },
                "/a\\n/b is in use",
                "KVS.CHECKPOINT",
            ),
            (
                DAMAGED,
                Failure::Lost {
                    dir: dir(),
                    ranges: 2,
                    salvaged: None,
                },
                "/a\\n/b: 2 ranges",
                "nothing was written",
            ),
            (
                DAMAGED,
                Failure::Lost {
                    dir: dir(),
                    ranges: 2,
                    salvaged: Some("new".into()),
                },
                "/a\\n/b: 2 ranges",
                "is in new",
            ),
            (
                REFUSED,
                Failure::NoDirectory(dir()),
                "/a\\n/b: no such directory",
                "KVS_DIR",
            ),
            (
                DAMAGED,
                Failure::Damaged {
                    dir: dir(),
                    places: vec![],
                },
                "/a\\n/b: part of",
                "from a copy",
            ),
            (
                REFUSED,
                Failure::Output(ErrorKind::StorageFull.into()),
                "standard output: ",
                "incomplete",
            ),
            (
                REFUSED,
                Failure::Broken("the wheel"),
                "the wheel broke down",
                "please report this",
            ),
            (
                REFUSED,
                Failure::file("read", Path::new("f"))(ErrorKind::PermissionDenied.into()),
                "cannot read: f: ",
                "its mode",
            ),
            (
                130,
                Failure::Interrupted {
                    signal: 2,
                    done: "so far".into(),
                },
                "interrupted",
                "so far",
            ),
            (
                143,
                Failure::Interrupted {
                    signal: 15,
                    done: "so far".into(),
                },
                "interrupted",
                "so far",
            ),
            (
                DAMAGED,
                Failure::Operation {
                    place: "f:3".into(),
                    reason: "why".into(),
                    applied: 0,
                },
                "f:3: why",
                "nothing was applied",
            ),
            (
                DAMAGED,
                Failure::Operation {
                    place: "f:3".into(),
                    reason: "why".into(),
                    applied: 20,
                },
                "f:3: why",
                "before it are applied, 20 operations",
            ),
            (
                USAGE,
                Failure::Usage("wrong; right".into()),
                "wrong",
                "right",
            ),
        ];
        for (code, failure, place, next) in failures {
            let text = format!("{failure:?}");
            let (found, line) = said(failure);
            assert_eq!(found, code, "{text}");
            assert!(
                line.starts_with("kvs: ") && line.lines().count() == 1,
                "{line}"
            );
            assert!(line.contains(place) && line.contains(next), "{line}");
            assert!(line.trim_end().find(next) > line.find(place), "{line}");
        }
    }

    #[test]
    fn who_reads_no_further_and_who_was_told_already_is_told_nothing() {
        let mut line = Vec::new();
        let broken = Failure::Output(ErrorKind::BrokenPipe.into());
        assert_eq!(code(Err(broken), false, &mut line), ExitCode::SUCCESS);
        assert_eq!(
            code(Err(Failure::SaidByChild), false, &mut line),
            ExitCode::from(REFUSED)
        );
        assert_eq!(code(Ok(Answer::No), false, &mut line), ExitCode::from(1));
        assert!(line.is_empty());
    }
}
