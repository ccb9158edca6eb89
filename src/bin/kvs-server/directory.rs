//! Which engine lies in a directory: told by its files, so that nobody opens one with the other.

use std::path::Path;

use kvs_format::name::MANIFEST;

use crate::args::EngineName;
use crate::exit::Failure;

/// Whether `dir` has what a directory of this engine has from the beginning.
fn lies(engine: EngineName, dir: &Path) -> bool {
    match engine {
        EngineName::Kvs => dir.join(MANIFEST).exists(),
        // sled makes `blobs` first. The name `conf` alone may be anybody's.
        EngineName::Sled => dir.join("conf").is_file() && dir.join("blobs").is_dir(),
    }
}

/// The engine to open: what lies there, if that is what is wanted.
pub fn choose(dir: &Path, wanted: Option<EngineName>) -> Result<EngineName, Failure> {
    let found: Vec<EngineName> = [EngineName::Kvs, EngineName::Sled]
        .into_iter()
        .filter(|engine| lies(*engine, dir))
        .collect();
    match (found.as_slice(), wanted) {
        ([], wanted) => Ok(wanted.unwrap_or(EngineName::Kvs)),
        ([found], None) => Ok(*found),
        ([found], Some(wanted)) if *found == wanted => Ok(wanted),
        ([found], Some(_)) => Err(Failure::OtherEngine {
            dir: dir.to_path_buf(),
            found: *found,
        }),
        _ => Err(Failure::BothEngines {
            dir: dir.to_path_buf(),
        }),
    }
}
