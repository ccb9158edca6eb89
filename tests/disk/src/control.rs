//! What the daemon is told and asked, by lines over a Unix socket.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::log::Survive;

/// One line to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// How much has happened?
    Position,
    /// Writes and flushes so far.
    Counts,
    /// Make an image of what is left after a cut.
    Image {
        /// At which position.
        cut: usize,
        /// What survives.
        survive: Survive,
        /// Dice.
        seed: u64,
        /// Where to.
        path: String,
    },
    /// The next `times` writes with `pattern` in them fail.
    FailWrites {
        /// What they have in them.
        pattern: Vec<u8>,
        /// How many.
        times: u64,
    },
    /// Reads of `pattern` fail until [`Command::Heal`].
    FailReads {
        /// What they would read.
        pattern: Vec<u8>,
    },
    /// Nothing fails any more.
    Heal,
    /// How many requests were failed.
    Failed,
    /// Flushes take so long.
    Delay(Duration),
    /// Flushes are answered and forgotten, or not.
    Drop(bool),
    /// Is `pattern` on the disk?
    Contains {
        /// What.
        pattern: Vec<u8>,
    },
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digit).collect()
}

impl Command {
    /// As a line.
    pub fn encode(&self) -> String {
        match self {
            Self::Position => "position".to_owned(),
            Self::Counts => "counts".to_owned(),
            Self::Image {
                cut,
                survive,
                seed,
                path,
            } => {
                let survive = match survive {
                    Survive::Nothing => "nothing",
                    Survive::Everything => "everything",
                    Survive::Some => "some",
                };
                format!("image {cut} {survive} {seed} {path}")
            }
            Self::FailWrites { pattern, times } => {
                format!("fail-writes {times} {}", hex(pattern))
            }
            Self::FailReads { pattern } => format!("fail-reads {}", hex(pattern)),
            Self::Heal => "heal".to_owned(),
            Self::Failed => "failed".to_owned(),
            Self::Delay(delay) => format!("delay {}", delay.as_millis()),
            Self::Drop(dropped) => format!("drop {dropped}"),
            Self::Contains { pattern } => format!("contains {}", hex(pattern)),
        }
    }

    /// From a line; `None` if it makes no sense.
    pub fn decode(line: &str) -> Option<Self> {
        let mut words = line.splitn(5, ' ');
        Some(match words.next()? {
            "position" => Self::Position,
            "counts" => Self::Counts,
            "image" => Self::Image {
                cut: words.next()?.parse().ok()?,
                survive: match words.next()? {
                    "nothing" => Survive::Nothing,
                    "everything" => Survive::Everything,
                    "some" => Survive::Some,
                    _ => return None,
                },
                seed: words.next()?.parse().ok()?,
                path: words.next()?.to_owned(),
            },
            "fail-writes" => {
                let times = words.next()?.parse().ok()?;
                let pattern = unhex(words.next()?)?;
                Self::FailWrites { pattern, times }
            }
            "fail-reads" => Self::FailReads {
                pattern: unhex(words.next()?)?,
            },
            "heal" => Self::Heal,
            "failed" => Self::Failed,
            "delay" => Self::Delay(Duration::from_millis(words.next()?.parse().ok()?)),
            "drop" => Self::Drop(words.next()?.parse().ok()?),
            "contains" => Self::Contains {
                pattern: unhex(words.next()?)?,
            },
            _ => return None,
        })
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Control {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let write = UnixStream::connect(socket)?;
        let read = BufReader::new(write.try_clone()?);
        Ok(Self { write, read })
    }

    /// Says `command` and returns the numbers of the answer.
    ///
    /// # Errors
    /// If the daemon is gone or could not do it.
    pub fn say(&mut self, command: &Command) -> io::Result<Vec<u64>> {
        let line = command.encode() + "\n";
        self.write.write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.read.read_line(&mut answer)?;
        let answer = answer.trim_end();
        let numbers = answer.strip_prefix("ok").ok_or_else(|| {
            let said = format!("{command:?}: the disk says '{answer}'");
            io::Error::other(said)
        })?;
        let numbers = numbers.split_whitespace().map(str::parse);
        numbers
            .collect::<Result<_, _>>()
            .map_err(|error| io::Error::other(format!("'{answer}': {error}")))
    }

    /// [`Command::Position`].
    ///
    /// # Errors
    /// If the daemon is gone.
    pub fn position(&mut self) -> io::Result<usize> {
        let answer = self.say(&Command::Position)?;
        let position = answer.first().ok_or(io::ErrorKind::InvalidData)?;
        Ok(*position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let image = Command::Image {
            cut: 12,
            survive: Survive::Some,
            seed: u64::MAX,
            path: "/a dir/image 1".to_owned(),
        };
        let pattern = vec![0, 7, 255];
        let all = [
            Command::Position,
            Command::Counts,
            image,
            Command::FailWrites {
                pattern: pattern.clone(),
                times: 1,
            },
            Command::FailReads {
                pattern: pattern.clone(),
            },
            Command::Heal,
            Command::Failed,
            Command::Delay(Duration::from_millis(30)),
            Command::Drop(true),
            Command::Contains { pattern },
        ];
        for command in all {
            assert_eq!(Command::decode(&command.encode()), Some(command));
        }
        for nonsense in [
            "",
            "drop",
            "drop perhaps",
            "image 1 most 2 /x",
            "contains 1",
        ] {
            assert_eq!(Command::decode(nonsense), None, "{nonsense}");
        }
    }
}
