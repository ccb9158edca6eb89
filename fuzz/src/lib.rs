//! What the fuzz targets check, as functions: a target is one line, and the same functions run as
//! plain tests over the stored inputs (`cargo test --lib`, no nightly compiler needed).
//!
//! An input is a choice of a good file or store, a list of edits to it and, if it says so, the checks
//! written anew over the result ([`forge`]): random bytes alone never get past a checksum.

mod edit;
mod export;
mod forge;
mod format;
mod input;
mod model;
mod resp;
mod store;
mod workload;

/// The command line's readers of lines, which are no part of the library, and what they need.
#[allow(dead_code)]
#[path = "../../src/bin/kvs"]
mod lines {
    #[path = "json.rs"]
    pub mod json;
    #[path = "transfer/ndjson.rs"]
    pub mod ndjson;
    #[path = "transfer/tsv.rs"]
    pub mod tsv;
}

use lines::json;

pub use export::{kvx, ndjson, tsv};
pub use format::{hint, manifest, record, segment_scan};
pub use model::store_model;
pub use resp::{command, resp_reply, resp_request};
pub use store::{recovery, repair};

#[cfg(test)]
mod tests;
