//! What the tests of the command line share: running `kvs`, and stores to run it on.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kvs::Store;
use tempfile::TempDir;

pub const NOT_FOUND: i32 = 1;
pub const USAGE: i32 = 2;
pub const LOCKED: i32 = 3;
pub const DAMAGED: i32 = 4;
pub const REFUSED: i32 = 5;

pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

pub fn empty_dir() -> TempDir {
    TempDir::new().unwrap()
}

pub fn pairs<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, V)>) -> Pairs {
    let owned = |(k, v): (K, V)| (k.as_ref().to_vec(), v.as_ref().to_vec());
    pairs.into_iter().map(owned).collect()
}

pub fn store_with(pairs: &Pairs) -> TempDir {
    let dir = empty_dir();
    let store = Store::open(dir.path()).unwrap();
    for (key, value) in pairs {
        store.set(key, value).unwrap();
    }
    store.close().unwrap();
    dir
}

/// Everything the store holds.
pub fn content(dir: &Path) -> Pairs {
    let store = Store::open_read_only(dir).unwrap();
    let pair = |pair: kvs::Result<(kvs::Key, kvs::Value)>| pair.unwrap();
    pairs(store.iter().unwrap().map(pair))
}

/// `kvs` with `dir` as current directory, its standard streams piped.
pub fn kvs(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvs"));
    command
        .current_dir(dir)
        .env_remove("KVS_DIR")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Panics unless it ended with `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }

    /// Panics unless it ended with 0 and said nothing on standard error.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.stderr, "");
        self.code(0)
    }

    #[track_caller]
    pub fn prints(self, text: &str) -> Self {
        assert_eq!(String::from_utf8_lossy(&self.stdout), text);
        self
    }

    /// Panics unless standard error is one line of ours that contains every one of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let text = &self.stderr;
        assert!(text.starts_with("kvs: ") && text.ends_with('\n'), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// Lines of standard output, sorted: the order of keys is nobody's.
    pub fn sorted(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

pub fn run<A: AsRef<OsStr>>(dir: &Path, arguments: impl IntoIterator<Item = A>) -> Ran {
    kvs(dir).args(arguments).output().unwrap().into()
}

/// Runs with `input` on standard input.
pub fn fed<A: AsRef<OsStr>>(
    dir: &Path,
    arguments: impl IntoIterator<Item = A>,
    input: &[u8],
) -> Ran {
    use std::io::Write;
    let mut child = kvs(dir)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Who has failed reads no more.
        let _ = stdin.write_all(&input);
    });
    let ran = child.wait_with_output().unwrap().into();
    writer.join().unwrap();
    ran
}

/// Runs a script in which `kvs` is ours.
pub fn shell(dir: &Path, script: &str) -> Ran {
    let bin = Path::new(env!("CARGO_BIN_EXE_kvs")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
    Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .env_remove("KVS_DIR")
        .env("PATH", std::env::join_paths(paths).unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .into()
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}
