//! How an answer is made, and a refusal.

use crate::engines::{Engine, EngineError, Operation};
use crate::protocol::{CommandError, Reply};
use crate::server::view::Found;

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

/// No engine has it yet, so no command asks for it yet.
pub fn no_expiry() -> Refusal {
    let operation = Operation::Expiry;
    EngineError::Unsupported { operation }.into()
}

/// A value, or that there is none.
pub fn value<E: Engine>(found: Option<Found<E::Value>>) -> ReplyOf<E> {
    match found {
        None => Reply::Null,
        Some(Found::Stored(value)) => Reply::Value(value),
        Some(Found::Changed(bytes)) => Reply::Bulk(bytes),
    }
}
