//! Clients: blocking and, with the feature `async`, asynchronous; both pipeline.
//!
//! They speak RESP2 and nothing that Redis would not answer, so they also speak to Redis.
//!
//! Elsewhere: the bytes (`protocol`), the other side (`server`).

#[cfg(feature = "async")]
mod asynchronous;
mod blocking;
mod convert;
mod error;
mod inbox;

#[cfg(feature = "async")]
pub use asynchronous::AsyncKvsClient;
pub use blocking::{KvsClient, Pipeline};
pub use error::{ClientError, ClientResult};
