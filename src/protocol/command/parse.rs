//! From arguments to a [`Command`].

use crate::protocol::command::{
    Cas, Client, Command, CommandError, Expire, ExpireIf, Hello, Kill, ReplyMode, Scan, Set, SetIf,
    Spec, Ttl, lookup,
};
use crate::protocol::number::{float, integer};

type Result<T> = std::result::Result<T, CommandError>;

/// How much of a name that nobody knows is said back.
const QUOTED_BYTES_MAX: usize = 128;

/// How many keys `SCAN` looks at if it is not told.
const SCAN_COUNT: u64 = 10;

impl<'a> Command<'a> {
    /// The command that `args`, the name first, are.
    ///
    /// # Errors
    /// A [`CommandError`] in Redis' words.
    pub fn parse(args: &[&'a [u8]]) -> Result<Self> {
        let spec = args.first().and_then(|name| lookup(name));
        Self::parse_as(spec, args)
    }

    /// As [`Command::parse`], for whoever has looked the name up already.
    pub(crate) fn parse_as(spec: Option<&'static Spec>, args: &[&'a [u8]]) -> Result<Self> {
        let (name, rest) = args.split_first().ok_or(CommandError::Syntax)?;
        let Some(spec) = spec else {
            return Err(unknown(name, rest));
        };
        if !spec.takes(args.len()) {
            return Err(CommandError::Arity { command: spec.name });
        }
        parse(spec, rest)
    }
}

fn unknown(name: &[u8], rest: &[&[u8]]) -> CommandError {
    let mut left = QUOTED_BYTES_MAX;
    let quoted = rest.iter().map_while(|arg| {
        // Redis says them as C strings, up to a zero.
        let arg = arg.split(|byte| *byte == 0).next().unwrap_or(arg);
        let arg = &arg[..arg.len().min(left)];
        left -= arg.len();
        (left > 0).then(|| arg.to_vec())
    });
    CommandError::Unknown {
        name: head(name),
        args: quoted.take(16).collect(),
    }
}

fn head(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(QUOTED_BYTES_MAX)].to_vec()
}

fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

fn number(arg: &[u8]) -> Result<i64> {
    integer(arg).ok_or(CommandError::NotAnInteger)
}

fn parse<'a>(spec: &'static Spec, rest: &[&'a [u8]]) -> Result<Command<'a>> {
    let all = || rest.to_vec();
    let at_most = |count: usize| match rest.len() > count {
        true => Err(CommandError::Arity { command: spec.name }),
        false => Ok(()),
    };
    Ok(match (spec.name, rest) {
        ("append", [key, value]) => Command::Append { key, value },
        ("auth", [password]) => Command::Auth {
            user: None,
            password,
        },
        ("auth", [user, password]) => Command::Auth {
            user: Some(user),
            password,
        },
        ("auth", _) => return Err(CommandError::Syntax),
        ("client", [part, rest @ ..]) => Command::Client(client(part, rest)?),
        ("command", []) => Command::Commands,
        ("command", [part, rest @ ..]) => command(part, rest)?,
        ("config", [part, rest @ ..]) => config(part, rest)?,
        ("copy", [from, to, options @ ..]) => {
            let mut replace = false;
            let mut options = options.iter();
            while let Some(option) = options.next() {
                if is(option, "REPLACE") {
                    replace = true;
                } else if is(option, "DB") {
                    let db = options.next().ok_or(CommandError::Syntax)?;
                    database(db)?;
                } else {
                    return Err(CommandError::Syntax);
                }
            }
            Command::Copy { from, to, replace }
        }
        ("dbsize", []) => Command::DbSize,
        ("decr", [key]) => Command::Increment { key, by: -1 },
        ("decrby", [key, by]) => Command::Increment {
            key,
            by: number(by)?
                .checked_neg()
                .ok_or(CommandError::Other("decrement would overflow"))?,
        },
        ("del" | "unlink", _) => Command::Del(all()),
        ("discard", []) => Command::Discard,
        ("echo", [text]) => Command::Echo(text),
        ("exec", []) => Command::Exec,
        ("exists" | "touch", _) => Command::Exists(all()),
        ("expire", [key, time, options @ ..]) => {
            expire(spec, key, after(spec, time, 1000), options)?
        }
        ("pexpire", [key, time, options @ ..]) => expire(spec, key, after(spec, time, 1), options)?,
        ("expireat", [key, time, options @ ..]) => {
            expire(spec, key, at(spec, time, 1000), options)?
        }
        ("pexpireat", [key, time, options @ ..]) => expire(spec, key, at(spec, time, 1), options)?,
        ("expiretime", [key]) => Command::ExpireTime { key, millis: false },
        ("pexpiretime", [key]) => Command::ExpireTime { key, millis: true },
        ("get", [key]) => Command::Get(key),
        ("getdel", [key]) => Command::GetDel(key),
        ("getex", [key, options @ ..]) => {
            let mut set = Options::default();
            set.read(spec, options, false)?;
            Command::GetEx { key, ttl: set.ttl }
        }
        ("getrange", [key, start, end]) => Command::GetRange {
            key,
            start: number(start)?,
            end: number(end)?,
        },
        ("getset", [key, value]) => Command::GetSet { key, value },
        ("hello", options) => Command::Hello(hello(options)?),
        ("incr", [key]) => Command::Increment { key, by: 1 },
        ("incrby", [key, by]) => Command::Increment {
            key,
            by: number(by)?,
        },
        ("incrbyfloat", [key, by]) => {
            float(by).ok_or(CommandError::NotAFloat)?;
            Command::IncrByFloat { key, by }
        }
        ("info", _) => Command::Info(all()),
        ("keys", [pattern]) => Command::Keys(pattern),
        ("kvs.cas", [key, rest @ ..]) => Command::KvsCas(cas(key, rest)?),
        ("kvs.checkpoint", [name]) => Command::KvsCheckpoint(name),
        ("kvs.compact", []) => Command::KvsCompact,
        ("kvs.stats", []) => Command::KvsStats,
        ("kvs.verify", []) => Command::KvsVerify,
        ("mget", _) => Command::MGet(all()),
        ("mset" | "msetnx", pairs) if pairs.len() % 2 == 1 => {
            return Err(CommandError::Arity { command: spec.name });
        }
        ("mset", _) => Command::MSet(all()),
        ("msetnx", _) => Command::MSetNx(all()),
        ("multi", []) => Command::Multi,
        ("persist", [key]) => Command::Persist(key),
        ("ping", _) => {
            at_most(1)?;
            Command::Ping(rest.first().copied())
        }
        ("psetex", [key, time, value]) => set_for(key, after(spec, time, 1), value, spec)?,
        ("setex", [key, time, value]) => set_for(key, after(spec, time, 1000), value, spec)?,
        ("pttl", [key]) => Command::Ttl { key, millis: true },
        ("quit", _) => Command::Quit,
        ("randomkey", []) => Command::RandomKey,
        ("rename", [from, to]) => Command::Rename {
            from,
            to,
            if_absent: false,
        },
        ("renamenx", [from, to]) => Command::Rename {
            from,
            to,
            if_absent: true,
        },
        ("reset", []) => Command::Reset,
        ("scan", [cursor, options @ ..]) => Command::Scan(scan(cursor, options)?),
        ("select", [db]) => Command::Select(database(db)?),
        ("set", [key, value, options @ ..]) => {
            let mut set = Options::default();
            set.read(spec, options, true)?;
            Command::Set(Set {
                key,
                value,
                condition: set.condition,
                get: set.get,
                ttl: set.ttl,
            })
        }
        ("setnx", [key, value]) => Command::SetNx { key, value },
        ("setrange", [key, offset, value]) => {
            let offset = number(offset)?;
            if offset < 0 {
                return Err(CommandError::Offset);
            }
            Command::SetRange { key, offset, value }
        }
        ("strlen", [key]) => Command::StrLen(key),
        ("time", []) => Command::Time,
        ("ttl", [key]) => Command::Ttl { key, millis: false },
        ("type", [key]) => Command::Type(key),
        ("unwatch", []) => Command::Unwatch,
        ("watch", _) => Command::Watch(all()),
        _ => return Err(CommandError::Arity { command: spec.name }),
    })
}

/// Milliseconds since 1970 that now will not be beyond for centuries: added to it, a time to live must
/// still be a number.
const NOW_MS_MAX: i64 = 1 << 44;

/// So many units from now.
fn after(spec: &'static Spec, time: &[u8], unit: i64) -> Result<Expire> {
    let millis = number(time)?.checked_mul(unit);
    let millis = millis.filter(|millis| *millis <= i64::MAX - NOW_MS_MAX);
    let bad = CommandError::ExpireTime { command: spec.name };
    Ok(Expire::After(millis.ok_or(bad)?))
}

/// At so many units since 1970.
fn at(spec: &'static Spec, time: &[u8], unit: i64) -> Result<Expire> {
    let millis = number(time)?.checked_mul(unit);
    let bad = CommandError::ExpireTime { command: spec.name };
    Ok(Expire::At(millis.ok_or(bad)?))
}

/// A time to live of a value that is being stored is never in the past.
fn positive(spec: &'static Spec, expire: Result<Expire>) -> Result<Expire> {
    match expire? {
        Expire::After(..=0) | Expire::At(..=0) => {
            Err(CommandError::ExpireTime { command: spec.name })
        }
        expire => Ok(expire),
    }
}

fn set_for<'a>(
    key: &'a [u8],
    expire: Result<Expire>,
    value: &'a [u8],
    spec: &'static Spec,
) -> Result<Command<'a>> {
    Ok(Command::Set(Set {
        key,
        value,
        condition: None,
        get: false,
        ttl: Ttl::Expire(positive(spec, expire)?),
    }))
}

fn expire<'a>(
    spec: &'static Spec,
    key: &'a [u8],
    expire: Result<Expire>,
    options: &[&[u8]],
) -> Result<Command<'a>> {
    debug_assert!(spec.name.contains("expire"));
    let mut condition = ExpireIf::default();
    for option in options {
        match option {
            option if is(option, "NX") => condition.absent = true,
            option if is(option, "XX") => condition.present = true,
            option if is(option, "GT") => condition.later = true,
            option if is(option, "LT") => condition.sooner = true,
            _ => return Err(CommandError::unsupported_option(option)),
        }
    }
    if condition.absent && (condition.present || condition.later || condition.sooner) {
        return Err(CommandError::Other(
            "NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if condition.later && condition.sooner {
        return Err(CommandError::Other(
            "GT and LT options at the same time are not compatible",
        ));
    }
    Ok(Command::Expire {
        key,
        expire: expire?,
        condition,
    })
}

/// Options of `SET` and `GETEX`.
#[derive(Default)]
struct Options<'a> {
    condition: Option<SetIf<'a>>,
    get: bool,
    ttl: Ttl,
}

impl<'a> Options<'a> {
    fn read(&mut self, spec: &'static Spec, options: &[&'a [u8]], set: bool) -> Result<()> {
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut argument = || options.next().copied().ok_or(CommandError::Syntax);
            let ttl = match *option {
                option if is(option, "EX") => Some(after(spec, argument()?, 1000)),
                option if is(option, "PX") => Some(after(spec, argument()?, 1)),
                option if is(option, "EXAT") => Some(at(spec, argument()?, 1000)),
                option if is(option, "PXAT") => Some(at(spec, argument()?, 1)),
                _ => None,
            };
            if let Some(expire) = ttl {
                self.live(Ttl::Expire(positive(spec, expire)?))?;
            } else if set && is(option, "KEEPTTL") {
                self.live(Ttl::Keep)?;
            } else if !set && is(option, "PERSIST") {
                self.live(Ttl::Persist)?;
            } else if set && is(option, "GET") {
                self.get = true;
            } else if set && is(option, "NX") {
                self.only(SetIf::Absent)?;
            } else if set && is(option, "XX") {
                self.only(SetIf::Present)?;
            } else if set && is(option, "IFEQ") {
                self.only(SetIf::Equal(argument()?))?;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(())
    }

    fn live(&mut self, ttl: Ttl) -> Result<()> {
        match std::mem::replace(&mut self.ttl, ttl) {
            Ttl::Default => Ok(()),
            _ => Err(CommandError::Syntax),
        }
    }

    fn only(&mut self, condition: SetIf<'a>) -> Result<()> {
        match self.condition.replace(condition) {
            None => Ok(()),
            Some(before) if before == condition => Ok(()),
            Some(_) => Err(CommandError::Syntax),
        }
    }
}

/// A cursor as `strtoul` reads it: nothing is 0, and a minus wraps.
fn cursor_of(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    match (text, digits) {
        ("", _) => Some(0),
        (_, "") => None,
        _ if !is_number => None,
        _ => {
            let number: u64 = digits.parse().ok()?;
            Some(match text.starts_with('-') {
                true => number.wrapping_neg(),
                false => number,
            })
        }
    }
}

fn scan<'a>(cursor: &[u8], options: &[&'a [u8]]) -> Result<Scan<'a>> {
    let mut scan = Scan {
        cursor: cursor_of(cursor).ok_or(CommandError::Cursor)?,
        pattern: None,
        count: SCAN_COUNT,
        kind: None,
    };
    for option in options.chunks(2) {
        let [name, value] = option else {
            return Err(CommandError::Syntax);
        };
        match name {
            name if is(name, "MATCH") => scan.pattern = Some(value),
            name if is(name, "TYPE") => scan.kind = Some(value),
            name if is(name, "COUNT") => match u64::try_from(number(value)?) {
                Ok(count @ 1..) => scan.count = count,
                _ => return Err(CommandError::Syntax),
            },
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(scan)
}

fn hello<'a>(options: &[&'a [u8]]) -> Result<Hello<'a>> {
    let mut hello = Hello::default();
    let Some((version, mut options)) = options.split_first() else {
        return Ok(hello);
    };
    hello.version = Some(integer(version).ok_or(CommandError::Other(
        "Protocol version is not an integer or out of range",
    ))?);
    loop {
        options = match options {
            [] => return Ok(hello),
            [name, user, password, rest @ ..] if is(name, "AUTH") => {
                hello.auth = Some((user, password));
                rest
            }
            [name, value, rest @ ..] if is(name, "SETNAME") => {
                hello.name = Some(value);
                rest
            }
            _ => return Err(CommandError::Other("Syntax error in HELLO option")),
        };
    }
}

fn client<'a>(part: &'a [u8], rest: &[&'a [u8]]) -> Result<Client<'a>> {
    let arity = |command| Err(CommandError::Arity { command });
    Ok(match (part, rest) {
        (part, []) if is(part, "ID") => Client::Id,
        (part, _) if is(part, "ID") => return arity("client|id"),
        (part, []) if is(part, "INFO") => Client::Info,
        (part, _) if is(part, "INFO") => return arity("client|info"),
        (part, []) if is(part, "LIST") => Client::List,
        (part, _) if is(part, "LIST") => return Err(CommandError::Syntax),
        (part, []) if is(part, "GETNAME") => Client::GetName,
        (part, _) if is(part, "GETNAME") => return arity("client|getname"),
        (part, [name]) if is(part, "SETNAME") => Client::SetName(name),
        (part, _) if is(part, "SETNAME") => return arity("client|setname"),
        (part, [attribute, value]) if is(part, "SETINFO") => Client::SetInfo { attribute, value },
        (part, _) if is(part, "SETINFO") => return arity("client|setinfo"),
        (part, [mode]) if is(part, "REPLY") => Client::Reply(match mode {
            mode if is(mode, "ON") => ReplyMode::On,
            mode if is(mode, "OFF") => ReplyMode::Off,
            mode if is(mode, "SKIP") => ReplyMode::Skip,
            _ => return Err(CommandError::Syntax),
        }),
        (part, _) if is(part, "REPLY") => return arity("client|reply"),
        (part, [mode]) if is(part, "NO-EVICT") || is(part, "NO-TOUCH") => {
            if !is(mode, "ON") && !is(mode, "OFF") {
                return Err(CommandError::Syntax);
            }
            Client::Nothing
        }
        (part, _) if is(part, "NO-EVICT") => return arity("client|no-evict"),
        (part, _) if is(part, "NO-TOUCH") => return arity("client|no-touch"),
        (part, []) if is(part, "KILL") => return arity("client|kill"),
        (part, [addr]) if is(part, "KILL") => Client::Kill(Kill {
            addr: Some(addr),
            me: true,
            one: true,
            ..Kill::default()
        }),
        (part, filters) if is(part, "KILL") => Client::Kill(kill(filters)?),
        (name, _) => {
            return Err(CommandError::UnknownSubcommand {
                command: "CLIENT",
                name: head(name),
            });
        }
    })
}

fn kill<'a>(filters: &[&'a [u8]]) -> Result<Kill<'a>> {
    let mut kill = Kill::default();
    for filter in filters.chunks(2) {
        match filter {
            [name, id] if is(name, "ID") => {
                let id = integer(id).filter(|id| *id > 0);
                kill.id = Some(
                    id.ok_or(CommandError::Other("client-id should be greater than 0"))? as u64,
                );
            }
            [name, addr] if is(name, "ADDR") => kill.addr = Some(addr),
            [name, addr] if is(name, "LADDR") => kill.laddr = Some(addr),
            [name, skip] if is(name, "SKIPME") && is(skip, "YES") => kill.me = false,
            [name, skip] if is(name, "SKIPME") && is(skip, "NO") => kill.me = true,
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(kill)
}

fn command<'a>(part: &'a [u8], rest: &[&'a [u8]]) -> Result<Command<'a>> {
    let arity = |command| Err(CommandError::Arity { command });
    Ok(match (part, rest) {
        (part, []) if is(part, "COUNT") => Command::CommandCount,
        (part, _) if is(part, "COUNT") => return arity("command|count"),
        (part, names) if is(part, "DOCS") => Command::CommandDocs(names.to_vec()),
        (part, names) if is(part, "INFO") => Command::CommandInfo(names.to_vec()),
        (part, []) if is(part, "LIST") => Command::CommandList,
        (part, _) if is(part, "LIST") => return Err(CommandError::Syntax),
        (part, [] | [_]) if is(part, "GETKEYS") => return arity("command|getkeys"),
        (part, args) if is(part, "GETKEYS") => Command::CommandGetKeys(args.to_vec()),
        (name, _) => {
            return Err(CommandError::UnknownSubcommand {
                command: "COMMAND",
                name: head(name),
            });
        }
    })
}

fn config<'a>(part: &'a [u8], rest: &[&'a [u8]]) -> Result<Command<'a>> {
    let arity = |command| Err(CommandError::Arity { command });
    Ok(match (part, rest) {
        (part, []) if is(part, "GET") => return arity("config|get"),
        (part, patterns) if is(part, "GET") => Command::ConfigGet(patterns.to_vec()),
        (part, pairs) if is(part, "SET") => match pairs.len() {
            0 => return arity("config|set"),
            len if len % 2 == 1 => return arity("config|set"),
            _ => Command::ConfigSet(pairs.to_vec()),
        },
        (part, []) if is(part, "RESETSTAT") => Command::ConfigResetStat,
        (part, _) if is(part, "RESETSTAT") => return arity("config|resetstat"),
        (name, _) => {
            return Err(CommandError::UnknownSubcommand {
                command: "CONFIG",
                name: head(name),
            });
        }
    })
}

/// The number of a database: there is one.
fn database(text: &[u8]) -> Result<i64> {
    let db = number(text)?;
    if i32::try_from(db).is_err() {
        let text = "value is out of range, value must between -2147483648 and 2147483647";
        return Err(CommandError::Other(text));
    }
    match db {
        0 => Ok(db),
        _ => Err(CommandError::Other("DB index is out of range")),
    }
}

fn cas<'a>(key: &'a [u8], rest: &[&'a [u8]]) -> Result<Cas<'a>> {
    let (expected, rest) = match rest {
        [word, rest @ ..] if is(word, "ABSENT") => (None, rest),
        [word, value, rest @ ..] if is(word, "VALUE") => (Some(*value), rest),
        _ => return Err(CommandError::Syntax),
    };
    let new = match rest {
        [word] if is(word, "DEL") => None,
        [word, value] if is(word, "SET") => Some(*value),
        _ => return Err(CommandError::Syntax),
    };
    Ok(Cas { key, expected, new })
}
