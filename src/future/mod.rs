//! The course's asynchronous face (project 5): the same engines, answering by futures.
//!
//! A call hands its work to a thread pool at once and returns a future for the answer. No particular
//! runtime is needed: any executor can wait for it.
//!
//! Invariants
//! - What was called is done, whether or not anybody waits: dropping a future loses the answer, never
//!   a write.
//! - Calls run side by side, in any order: who needs one after another waits in between.
//!
//! Elsewhere: the engines themselves (`engines`), who runs the work (`thread_pool`), the server that
//! needs none of this (`server`).

mod engine;
mod oneshot;

#[cfg(feature = "sled")]
pub use engine::SledKvsEngine;
pub use engine::{KvStore, KvsEngine};
