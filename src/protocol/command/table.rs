//! What there is: names, numbers of arguments, where the keys stand.

use std::sync::LazyLock;

/// One command, as `COMMAND` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name, in small letters.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Changes something stored.
    pub writes: bool,
    /// First key, last key (negative: from the end), step. Zeros: no keys.
    pub keys: (i32, i32, i32),
    /// `connection`, `server`, `string`, `generic` or `transactions`, as Redis groups them.
    pub group: &'static str,
    /// What it does.
    pub summary: &'static str,
}

impl Spec {
    /// Whether a request of `count` arguments, the name among them, is one.
    #[must_use]
    pub fn takes(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        count == wanted || (self.arity < 0 && count > wanted)
    }

    /// Which of `count` arguments are keys.
    pub fn key_positions(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.keys;
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let last = match last {
            last if last < 0 => count + last,
            last => last.min(count - 1),
        };
        let first = if step == 0 { i32::MAX } else { first };
        (first..=last)
            .step_by(step.max(1) as usize)
            .map(|at| at as usize)
    }
}

macro_rules! table {
    ($($name:literal $arity:literal $mode:ident $keys:tt $group:ident $summary:literal;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            writes: table!(@ $mode),
            keys: $keys,
            group: stringify!($group),
            summary: $summary,
        }),*]
    };
    (@ write) => { true };
    (@ read) => { false };
}

/// All commands, by name.
pub static TABLE: &[Spec] = table! {
    "append" 3 write (1, 1, 1) string "Appends to a value, which begins empty.";
    "auth" -2 read (0, 0, 0) connection "Says who is there.";
    "client" -2 read (0, 0, 0) connection "Tells of and changes connections.";
    "command" -1 read (0, 0, 0) server "Tells of the commands.";
    "config" -2 read (0, 0, 0) server "Tells of the settings.";
    "copy" -3 write (1, 2, 1) generic "Copies a value to another key.";
    "dbsize" 1 read (0, 0, 0) server "Counts the keys.";
    "decr" 2 write (1, 1, 1) string "Takes one from a number.";
    "decrby" 3 write (1, 1, 1) string "Takes some from a number.";
    "del" -2 write (1, -1, 1) generic "Removes keys.";
    "discard" 1 read (0, 0, 0) transactions "Forgets a transaction.";
    "echo" 2 read (0, 0, 0) connection "Answers its argument.";
    "exec" 1 read (0, 0, 0) transactions "Runs a transaction, whole or not at all.";
    "exists" -2 read (1, -1, 1) generic "Counts those of the keys that are there.";
    "expire" -3 write (1, 1, 1) generic "Ends a key in some seconds.";
    "expireat" -3 write (1, 1, 1) generic "Ends a key at a second since 1970.";
    "expiretime" 2 read (1, 1, 1) generic "Tells the second since 1970 at which a key ends.";
    "get" 2 read (1, 1, 1) string "Answers a value.";
    "getdel" 2 write (1, 1, 1) string "Answers a value and removes it.";
    "getex" -2 write (1, 1, 1) string "Answers a value and changes when it ends.";
    "getrange" 4 read (1, 1, 1) string "Answers a part of a value.";
    "getset" 3 write (1, 1, 1) string "Stores a value and answers the old one.";
    "hello" -1 read (0, 0, 0) connection "Chooses the protocol.";
    "incr" 2 write (1, 1, 1) string "Adds one to a number.";
    "incrby" 3 write (1, 1, 1) string "Adds some to a number.";
    "incrbyfloat" 3 write (1, 1, 1) string "Adds a float to a number.";
    "info" -1 read (0, 0, 0) server "Tells of the server.";
    "keys" 2 read (0, 0, 0) generic "Answers all keys like a pattern.";
    "kvs.cas" -4 write (1, 1, 1) string "Changes a value if it is the expected one.";
    "kvs.checkpoint" 2 read (0, 0, 0) server "Copies the store as it is now, under a name.";
    "kvs.compact" 1 read (0, 0, 0) server "Gives back the space of what was overwritten and removed.";
    "kvs.stats" 1 read (0, 0, 0) server "Tells what the store holds and costs.";
    "kvs.verify" 1 read (0, 0, 0) server "Reads everything and checks it.";
    "mget" -2 read (1, -1, 1) string "Answers values.";
    "mset" -3 write (1, -1, 2) string "Stores values, all at once.";
    "msetnx" -3 write (1, -1, 2) string "Stores values if none of the keys has one.";
    "multi" 1 read (0, 0, 0) transactions "Begins a transaction.";
    "persist" 2 write (1, 1, 1) generic "Lets a key live for ever.";
    "pexpire" -3 write (1, 1, 1) generic "Ends a key in some milliseconds.";
    "pexpireat" -3 write (1, 1, 1) generic "Ends a key at a millisecond since 1970.";
    "pexpiretime" 2 read (1, 1, 1) generic "Tells the millisecond since 1970 at which a key ends.";
    "ping" -1 read (0, 0, 0) connection "Answers PONG or its argument.";
    "psetex" 4 write (1, 1, 1) string "Stores a value for some milliseconds.";
    "pttl" 2 read (1, 1, 1) generic "Tells how many milliseconds a key has left.";
    "quit" -1 read (0, 0, 0) connection "Closes the connection.";
    "randomkey" 1 read (0, 0, 0) generic "Answers one of the keys.";
    "rename" 3 write (1, 2, 1) generic "Gives a value another key.";
    "renamenx" 3 write (1, 2, 1) generic "Gives a value another key that has none.";
    "reset" 1 read (0, 0, 0) connection "Makes the connection like new.";
    "scan" -2 read (0, 0, 0) generic "Answers some keys and where to go on.";
    "select" 2 read (0, 0, 0) connection "Chooses the database; there is one, 0.";
    "set" -3 write (1, 1, 1) string "Stores a value.";
    "setex" 4 write (1, 1, 1) string "Stores a value for some seconds.";
    "setnx" 3 write (1, 1, 1) string "Stores a value if the key has none.";
    "setrange" 4 write (1, 1, 1) string "Overwrites a part of a value.";
    "strlen" 2 read (1, 1, 1) string "Tells the length of a value.";
    "time" 1 read (0, 0, 0) server "Tells the time.";
    "touch" -2 read (1, -1, 1) generic "Counts those of the keys that are there.";
    "ttl" 2 read (1, 1, 1) generic "Tells how many seconds a key has left.";
    "type" 2 read (1, 1, 1) generic "Answers string, or none.";
    "unlink" -2 write (1, -1, 1) generic "Removes keys.";
    "unwatch" 1 read (0, 0, 0) transactions "Watches no key any more.";
    "watch" -2 read (1, -1, 1) transactions "Lets a transaction fail if a key changes before it.";
};

/// Those of which the first argument is half of the name, with that half.
const WITH_PARTS: &[&str] = &[
    "client|getname",
    "client|id",
    "client|info",
    "client|kill",
    "client|list",
    "client|no-evict",
    "client|no-touch",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "command|count",
    "command|docs",
    "command|getkeys",
    "command|info",
    "command|list",
    "config|get",
    "config|resetstat",
    "config|set",
];

impl Spec {
    /// The full name of a request whose first argument is `part`: `client|list`. `None` if the command
    /// has parts and this is none of them.
    pub(crate) fn full_name(&self, part: Option<&[u8]>) -> Option<&'static str> {
        let Some(part) = part.filter(|_| matches!(self.name, "client" | "command" | "config"))
        else {
            return Some(self.name);
        };
        let is = |name: &&&str| {
            let (command, of) = name.split_once('|').unwrap_or_default();
            command == self.name && part.eq_ignore_ascii_case(of.as_bytes())
        };
        WITH_PARTS.iter().find(is).copied()
    }
}

/// The command of this name, in any case.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    static PACKED: LazyLock<Vec<u128>> = LazyLock::new(|| {
        let names = TABLE.iter().map(|spec| packed(spec.name.as_bytes()));
        names.map(|name| name.expect("names are short")).collect()
    });
    let at = PACKED.binary_search(&packed(name)?);
    at.ok().map(|at| &TABLE[at])
}

/// A name of up to 16 bytes, in small letters, as a number: the order of the numbers is that of the
/// names, and comparing them is one instruction or two. `None` also if it has a zero byte.
fn packed(name: &[u8]) -> Option<u128> {
    let mut small = [0; 16];
    let part = small.get_mut(..name.len())?;
    part.copy_from_slice(name);
    part.make_ascii_lowercase();
    (!part.contains(&0)).then_some(u128::from_be_bytes(small))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for spec in TABLE {
            assert_eq!(lookup(spec.name.as_bytes()), Some(spec));
            assert_eq!(lookup(spec.name.to_uppercase().as_bytes()), Some(spec));
        }
        for unknown in [
            &b""[..],
            b"ge",
            b"gett",
            b"a-name-longer-than-any-there-is",
            b"get\0",
            b"\xff",
        ] {
            assert_eq!(lookup(unknown), None);
        }
    }

    #[test]
    fn a_full_name_is_a_command_and_its_part() {
        use crate::protocol::command::{Command, CommandError};
        let parts: Vec<&[u8]> = WITH_PARTS
            .iter()
            .map(|name| name.split_once('|').unwrap().1.as_bytes())
            .chain([&b""[..], b"none", b"list x", b"help"])
            .collect();
        for (command, known) in [("client", 10), ("command", 5), ("config", 3)] {
            let spec = lookup(command.as_bytes()).unwrap();
            assert_eq!(spec.full_name(None), Some(command));
            let mut found = std::collections::BTreeSet::new();
            for part in &parts {
                let parsed = Command::parse(&[command.as_bytes(), part]);
                let unknown = matches!(parsed, Err(CommandError::UnknownSubcommand { .. }));
                let name = spec.full_name(Some(&part.to_ascii_uppercase()));
                assert_eq!(name.is_none(), unknown, "{command} {}", part.escape_ascii());
                found.extend(name);
            }
            assert_eq!(found.len(), known, "{command}");
        }
        let get = lookup(b"get").unwrap();
        assert_eq!(get.full_name(Some(b"list")), Some("get"));
    }

    #[test]
    fn keys_stand_where_the_table_says() {
        let keys = |name: &str, count| -> Vec<usize> {
            let spec = lookup(name.as_bytes()).expect(name);
            spec.key_positions(count).collect()
        };
        assert_eq!(keys("get", 2), [1]);
        assert_eq!(keys("mset", 5), [1, 3]);
        assert_eq!(keys("del", 4), [1, 2, 3]);
        assert_eq!(keys("rename", 3), [1, 2]);
        assert_eq!(keys("ping", 2), [0; 0]);
        assert_eq!(keys("copy", 1), [0; 0]);
    }
}
