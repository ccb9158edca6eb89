//! Why arguments are no command. `Display` is what goes on the wire, in Redis' words.

use std::fmt;

/// A command that cannot be. The connection goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no command of this name.
    Unknown {
        /// The name, at most 128 bytes of it.
        name: Vec<u8>,
        /// The first arguments, at most 128 bytes of them.
        args: Vec<Vec<u8>>,
    },
    /// A command has no such part.
    UnknownSubcommand {
        /// The command, in capitals.
        command: &'static str,
        /// The part, at most 128 bytes of it.
        name: Vec<u8>,
    },
    /// Too few or too many arguments.
    Arity {
        /// The command's name, or `command|part`.
        command: &'static str,
    },
    /// Options that do not exist or exclude each other.
    Syntax,
    /// Not an integer of 64 bits.
    NotAnInteger,
    /// Not a float.
    NotAFloat,
    /// A time that is none.
    ExpireTime {
        /// The command's name.
        command: &'static str,
    },
    /// A negative place in a value.
    Offset,
    /// An option of a command that takes others.
    UnsupportedOption {
        /// It, at most 128 bytes of it.
        name: Vec<u8>,
    },
    /// Not a number that `SCAN` gave.
    Cursor,
    /// Another text of Redis'.
    Other(&'static str),
}

impl CommandError {
    /// [`CommandError::UnsupportedOption`] of what was given.
    pub(super) fn unsupported_option(given: &[u8]) -> Self {
        let name = given[..given.len().min(128)].to_vec();
        Self::UnsupportedOption { name }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ERR ")?;
        match self {
            Self::Unknown { name, args } => {
                let name = String::from_utf8_lossy(name);
                write!(f, "unknown command '{name}', with args beginning with: ")?;
                args.iter()
                    .try_for_each(|arg| write!(f, "'{}' ", String::from_utf8_lossy(arg)))
            }
            Self::UnknownSubcommand { command, name } => {
                let name = String::from_utf8_lossy(name);
                write!(f, "unknown subcommand '{name}'. Try {command} HELP.")
            }
            Self::Arity { command } => {
                write!(f, "wrong number of arguments for '{command}' command")
            }
            Self::Syntax => f.write_str("syntax error"),
            Self::NotAnInteger => f.write_str("value is not an integer or out of range"),
            Self::NotAFloat => f.write_str("value is not a valid float"),
            Self::ExpireTime { command } => {
                write!(f, "invalid expire time in '{command}' command")
            }
            Self::Offset => f.write_str("offset is out of range"),
            Self::UnsupportedOption { name } => {
                write!(f, "Unsupported option {}", String::from_utf8_lossy(name))
            }
            Self::Cursor => f.write_str("invalid cursor"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for CommandError {}
