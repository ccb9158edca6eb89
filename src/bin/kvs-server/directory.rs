//! Which engine lies in a directory: told by its files, so that nobody opens one with the other.

use std::path::Path;

use kvs_format::name::MANIFEST;

use crate::args::EngineName;
use crate::exit::Failure;

/// A file that a directory of this engine has from the beginning.
fn mark(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Kvs => MANIFEST,
        EngineName::Sled => "conf",
    }
}

/// The engine to open: what lies there, if that is what is wanted.
pub fn choose(dir: &Path, wanted: Option<EngineName>) -> Result<EngineName, Failure> {
    let lies = |engine: &EngineName| dir.join(mark(*engine)).exists();
    let found: Vec<EngineName> = [EngineName::Kvs, EngineName::Sled]
        .into_iter()
        .filter(lies)
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
