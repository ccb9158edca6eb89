//! Commands: arguments in, a typed command or Redis' error text out.
//!
//! Names and options are matched without regard to case, keys and values are bytes. Whether an
//! engine can do it is not known here.
//!
//! Elsewhere: names, arities and where keys stand (`table`), how options are read (`parse`), what
//! a command does (`server::execute`).

mod error;
mod parse;
mod table;

pub use error::CommandError;
pub use table::{Spec, TABLE, lookup};

/// When a value stops being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    /// So many milliseconds from now.
    After(i64),
    /// At so many milliseconds since 1970.
    At(i64),
}

/// Under which condition `SET` and `EXPIRE` do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIf<'a> {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has this value.
    Equal(&'a [u8]),
}

/// What becomes of the time a key has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// A new value lives for ever; reading changes nothing.
    #[default]
    Default,
    /// It stays as it was.
    Keep,
    /// It is taken away.
    Persist,
    /// It is this.
    Expire(Expire),
}

/// `SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its new value.
    pub value: &'a [u8],
    /// `NX`, `XX`, `IFEQ`.
    pub condition: Option<SetIf<'a>>,
    /// `GET`: answer the old value.
    pub get: bool,
    /// `EX`, `PX`, `EXAT`, `PXAT`, `KEEPTTL`.
    pub ttl: Ttl,
}

/// `NX`, `XX`, `GT`, `LT` of `EXPIRE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireIf {
    /// Only if it has no end yet.
    pub absent: bool,
    /// Only if it has an end.
    pub present: bool,
    /// Only if it ends later than now set.
    pub later: bool,
    /// Only if it ends sooner than now set.
    pub sooner: bool,
}

/// `SCAN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Where the last call stopped; 0 to begin.
    pub cursor: u64,
    /// Only keys like this.
    pub pattern: Option<&'a [u8]>,
    /// About how many keys to look at.
    pub count: u64,
    /// `TYPE`; only `string` has any keys.
    pub kind: Option<&'a [u8]>,
}

/// `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The protocol wanted; `None` to leave it.
    pub version: Option<i64>,
    /// User and password.
    pub auth: Option<(&'a [u8], &'a [u8])>,
    /// A name for the connection.
    pub name: Option<&'a [u8]>,
}

/// `CLIENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client<'a> {
    /// `CLIENT ID`
    Id,
    /// `CLIENT INFO`
    Info,
    /// `CLIENT LIST`
    List,
    /// `CLIENT GETNAME`
    GetName,
    /// `CLIENT SETNAME name`
    SetName(&'a [u8]),
    /// `CLIENT SETINFO LIB-NAME|LIB-VER value`
    SetInfo {
        /// `LIB-NAME` or `LIB-VER`, as given.
        attribute: &'a [u8],
        /// What it is.
        value: &'a [u8],
    },
    /// `CLIENT KILL [ID id] [ADDR addr] [LADDR addr] [SKIPME yes|no]`
    Kill(Kill<'a>),
    /// `CLIENT REPLY ON|OFF|SKIP`
    Reply(ReplyMode),
    /// `CLIENT NO-EVICT`, `CLIENT NO-TOUCH`: nothing here is evicted or touched.
    Nothing,
}

/// Whom `CLIENT KILL` means; all given conditions hold at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kill<'a> {
    /// `ID`.
    pub id: Option<u64>,
    /// `ADDR`: the client's side.
    pub addr: Option<&'a [u8]>,
    /// `LADDR`: our side.
    pub laddr: Option<&'a [u8]>,
    /// `SKIPME no`: the caller too.
    pub me: bool,
    /// The form `CLIENT KILL addr`, which errs if there is nobody.
    pub one: bool,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The next one is not.
    Skip,
}

/// `KVS.CAS key ABSENT|VALUE old SET new|DEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cas<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value it must have; `None`: no value.
    pub expected: Option<&'a [u8]>,
    /// The value it gets; `None`: it is removed.
    pub new: Option<&'a [u8]>,
}

/// A command with its arguments checked, borrowed from the request.
///
/// Lists are of even length where pairs are meant, and never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as Redis names them")]
pub enum Command<'a> {
    // The connection.
    Ping(Option<&'a [u8]>),
    Echo(&'a [u8]),
    Quit,
    Reset,
    Select(i64),
    Auth {
        user: Option<&'a [u8]>,
        password: &'a [u8],
    },
    Hello(Hello<'a>),
    Client(Client<'a>),
    // The server.
    Commands,
    CommandCount,
    CommandDocs(Vec<&'a [u8]>),
    CommandInfo(Vec<&'a [u8]>),
    CommandList,
    CommandGetKeys(Vec<&'a [u8]>),
    Info(Vec<&'a [u8]>),
    ConfigGet(Vec<&'a [u8]>),
    ConfigSet(Vec<&'a [u8]>),
    ConfigResetStat,
    DbSize,
    Time,
    // Values.
    Get(&'a [u8]),
    Set(Set<'a>),
    /// `SETNX`: answers 1 or 0 where `SET NX` answers `OK` or nothing.
    SetNx {
        key: &'a [u8],
        value: &'a [u8],
    },
    /// `GETSET`.
    GetSet {
        key: &'a [u8],
        value: &'a [u8],
    },
    GetDel(&'a [u8]),
    GetEx {
        key: &'a [u8],
        ttl: Ttl,
    },
    MGet(Vec<&'a [u8]>),
    MSet(Vec<&'a [u8]>),
    MSetNx(Vec<&'a [u8]>),
    Append {
        key: &'a [u8],
        value: &'a [u8],
    },
    StrLen(&'a [u8]),
    GetRange {
        key: &'a [u8],
        start: i64,
        end: i64,
    },
    SetRange {
        key: &'a [u8],
        offset: i64,
        value: &'a [u8],
    },
    /// `INCR`, `INCRBY`, `DECR`, `DECRBY`.
    Increment {
        key: &'a [u8],
        by: i64,
    },
    IncrByFloat {
        key: &'a [u8],
        by: &'a [u8],
    },
    // Keys.
    /// `DEL` and `UNLINK`.
    Del(Vec<&'a [u8]>),
    /// `EXISTS` and `TOUCH`.
    Exists(Vec<&'a [u8]>),
    Type(&'a [u8]),
    /// `RENAME`, and `RENAMENX` if the new name must be free.
    Rename {
        from: &'a [u8],
        to: &'a [u8],
        if_absent: bool,
    },
    Copy {
        from: &'a [u8],
        to: &'a [u8],
        replace: bool,
    },
    RandomKey,
    Keys(&'a [u8]),
    Scan(Scan<'a>),
    /// `EXPIRE`, `PEXPIRE`, `EXPIREAT`, `PEXPIREAT`.
    Expire {
        key: &'a [u8],
        expire: Expire,
        condition: ExpireIf,
    },
    Persist(&'a [u8]),
    /// `TTL`, and `PTTL` in milliseconds.
    Ttl {
        key: &'a [u8],
        millis: bool,
    },
    /// `EXPIRETIME`, and `PEXPIRETIME` in milliseconds.
    ExpireTime {
        key: &'a [u8],
        millis: bool,
    },
    // Transactions.
    Multi,
    Exec,
    Discard,
    Watch(Vec<&'a [u8]>),
    Unwatch,
    // Ours.
    KvsStats,
    KvsCompact,
    /// Name of the copy.
    KvsCheckpoint(&'a [u8]),
    KvsVerify,
    KvsCas(Cas<'a>),
}
