//! The demo's temporary directory, which goes away however the demo ends.
//!
//! Ctrl-C and SIGKILL run no destructor, so a child holds the broom: it creates the directory,
//! says its name, waits until the pipe from its parent closes, and removes it. It removes only what
//! it has created, and stands outside the terminal's process group, so that Ctrl-C misses it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::DemoError;
use crate::exit::{Answer, Failure};

/// A new, empty, private directory.
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

impl Scratch {
    pub fn create() -> Result<Self, Failure> {
        let executable = std::env::current_exe().map_err(DemoError::io("finding myself"))?;
        let mut janitor = Command::new(executable)
            .arg("demo-janitor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(DemoError::io("starting a child"))?;
        let mut path = Vec::new();
        let said = match janitor.stdout.take() {
            Some(stdout) => BufReader::new(stdout).read_until(0, &mut path),
            None => Ok(0),
        };
        let whole = path.pop() == Some(0);
        if !whole {
            // Half a path is somebody else's directory.
            path.clear();
        }
        // Built before the answer is judged: its destructor waits for the child.
        let scratch = Self {
            path: PathBuf::from(OsString::from_vec(path)),
            janitor,
        };
        said.map_err(DemoError::io("hearing from a child"))?;
        if whole {
            Ok(scratch)
        } else {
            Err(Failure::SaidByChild)
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and says whether that worked.
    pub fn remove(&mut self) -> Result<(), DemoError> {
        drop(self.janitor.stdin.take());
        let what = "removing the temporary directory";
        self.janitor.wait().map_err(DemoError::io(what))?;
        // Gone, unless something killed the janitor.
        remove_all(&self.path).map_err(DemoError::io(what))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After `remove`, nothing is left to do; after a failure, its reason is what matters.
        let _ = self.remove();
    }
}

/// The child: creates, names, waits, removes.
pub fn janitor() -> Result<Answer, Failure> {
    let path = create_private().map_err(DemoError::io("creating a temporary directory"))?;
    let said = say(&path);
    if said.is_ok() {
        // To the end of the pipe, whatever ends it.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    }
    remove_all(&path).map_err(DemoError::io("removing the temporary directory"))?;
    said.map_err(Failure::Output)?;
    Ok(Answer::Yes)
}

/// Writes the path and a zero byte, which no path contains: the parent knows that it is whole.
fn say(path: &Path) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(path.as_os_str().as_bytes())?;
    stdout.write_all(&[0])?;
    stdout.flush()
}

/// A new directory that only we can enter. `mkdir` follows no link and takes no existing name.
fn create_private() -> io::Result<PathBuf> {
    let temp = std::path::absolute(std::env::temp_dir())?;
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    let mut attempt = 0u32;
    loop {
        let name = format!("kvs-demo-{}-{nanos:09}-{attempt}", std::process::id());
        let path = temp.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
            Err(error) => {
                let text = format!("{}: {error}", path.display());
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
}

/// Removes `path` and all in it; fine if it is gone. When the demo was killed, its writing child
/// may live on for a moment and create files behind the broom.
fn remove_all(path: &Path) -> io::Result<()> {
    let mut attempts_left = 50;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Ok(()),
            Err(error) if attempts_left == 0 => return Err(error),
            Err(_) => attempts_left -= 1,
        }
        sleep(Duration::from_millis(40));
    }
}
