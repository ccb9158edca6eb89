//! Serves a disk: `kvs-disk IMAGE MOUNTPOINT SOCKET`. Ends when its standard input does, so that it does not
//! outlive who started it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use kvs_disk::daemon;
use kvs_disk::log::{Blocks, Disk};

fn run() -> io::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [image, mountpoint, socket] = &paths[..] else {
        return Err(io::Error::other("usage: kvs-disk IMAGE MOUNTPOINT SOCKET"));
    };
    let image = File::open(image)?;
    let disk = Disk::new(image.metadata()?.len(), Blocks::load(&image)?);
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        // The kernel then fails whatever still waits for this disk.
        std::process::exit(0);
    });
    daemon::serve(disk, mountpoint, socket)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "kvs-disk: {error}");
            ExitCode::FAILURE
        }
    }
}
