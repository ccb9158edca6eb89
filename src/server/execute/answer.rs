//! How an answer is made, and a refusal.

use crate::engines::{Engine, EngineError, Operation};
use crate::protocol::command::Expire;
use crate::protocol::{CommandError, Reply};
use crate::server::view::{Found, View};

/// A reply that may hold a value of the engine.
pub type ReplyOf<E> = Reply<<E as Engine>::Value>;

/// Why a command is answered by an error.
pub enum Refusal {
    Engine(EngineError),
    Command(CommandError),
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

/// What a command comes to.
pub type Answer<E> = Result<ReplyOf<E>, Refusal>;

/// An engine's error as it goes on the wire.
pub fn engine_error<E: Engine>(engine: &E, error: &EngineError) -> ReplyOf<E> {
    match error {
        EngineError::Unsupported { operation } => unsupported(engine, *operation),
        EngineError::Store(error) => Reply::error(format_args!("ERR {error}")),
    }
}

/// As [`engine_error`], of an operation that was not even tried.
pub fn unsupported<E: Engine>(engine: &E, operation: Operation) -> ReplyOf<E> {
    let name = engine.name();
    Reply::error(format_args!(
        "ERR {operation} not supported by engine '{name}'"
    ))
}

/// Refuses what needs keys that expire where the engine has none.
pub fn needs_expiry<E: Engine>(view: &View<'_, E>) -> Result<(), EngineError> {
    match view.engine.supports(Operation::Expiry) {
        true => Ok(()),
        false => Err(EngineError::Unsupported {
            operation: Operation::Expiry,
        }),
    }
}

/// The millisecond since 1970 that a command means, if it is now `now`. A time before 1970 is over as
/// any other that is; a time beyond counting is the last.
pub fn absolute(expire: Expire, now: u64) -> u64 {
    match expire {
        Expire::At(ms) => u64::try_from(ms).unwrap_or(0),
        Expire::After(ms) => now.saturating_add_signed(ms),
    }
}

/// A value, or that there is none.
pub fn value<E: Engine>(found: Option<Found<E::Value>>) -> ReplyOf<E> {
    match found {
        None => Reply::Null,
        Some(Found::Stored(value)) => Reply::Value(value),
        Some(Found::Changed(bytes)) => Reply::Bulk(bytes),
    }
}
