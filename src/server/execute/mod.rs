//! What a command does: `execute(command, view) -> reply`. Knows no socket and no connection.
//!
//! | command | needs of the engine |
//! |---|---|
//! | `GET` `SET` `SETNX` `GETSET` `GETDEL` `GETEX` `MGET` `APPEND` `STRLEN` `GETRANGE` `SETRANGE` `INCR` `INCRBY` `INCRBYFLOAT` `DECR` `DECRBY` `DEL` `UNLINK` `EXISTS` `TOUCH` `TYPE` `COPY` `KVS.CAS` | nothing more |
//! | `MSET` `MSETNX` `RENAME` `RENAMENX`, `EXEC` that changes several keys | batch |
//! | `KEYS` `RANDOMKEY` | scan |
//! | `DBSIZE` | len |
//! | `SCAN` | cursor |
//! | `EXPIRE` `PEXPIRE` `EXPIREAT` `PEXPIREAT` `PERSIST` `TTL` `PTTL` `EXPIRETIME` `PEXPIRETIME` `SETEX` `PSETEX`, `SET` and `GETEX` with a time | expiry |
//! | `KVS.STATS` `KVS.COMPACT` `KVS.VERIFY` | that |
//!
//! What an engine has is told in `engines::Engine`. A command whose need it lacks answers
//! `-ERR expiry not supported by engine 'sled'` and does not stand in `COMMAND`.
//!
//! Read-modify-write commands read and change through the [`View`]; they are atomic because the
//! caller holds the stripes of their keys (`server::locks`).

mod answer;
mod expiry;
mod keys;
mod strings;

use crate::engines::{Engine, EngineResult, Figures, Operation};
use crate::protocol::Reply;
use crate::protocol::command::{Command, Set, Ttl};
use crate::server::execute::answer::{Answer, Refusal};
use crate::server::view::View;

pub use answer::{ReplyOf, engine_error, unsupported};

/// What the command of this name cannot do without.
pub fn needs(name: &str) -> Option<Operation> {
    Some(match name {
        "mset" | "msetnx" | "rename" | "renamenx" => Operation::Batch,
        "keys" | "randomkey" => Operation::Scan,
        "dbsize" => Operation::Len,
        "scan" => Operation::Cursor,
        "expire" | "pexpire" | "expireat" | "pexpireat" | "persist" | "ttl" | "pttl"
        | "expiretime" | "pexpiretime" | "setex" | "psetex" => Operation::Expiry,
        "kvs.stats" => Operation::Stats,
        "kvs.compact" => Operation::Compact,
        "kvs.checkpoint" => Operation::Checkpoint,
        "kvs.verify" => Operation::Verify,
        _ => return None,
    })
}

/// Runs a command about stored things.
///
/// Commands about the connection or the server are not known here: `None`.
pub fn execute<E: Engine>(command: &Command<'_>, view: &mut View<'_, E>) -> Option<ReplyOf<E>> {
    let answer = match *command {
        Command::Get(key) => strings::get(view, key),
        Command::Set(ref set) => strings::set(view, set),
        Command::SetNx { key, value } => strings::set_nx(view, key, value),
        Command::GetSet { key, value } => strings::set(
            view,
            &Set {
                key,
                value,
                condition: None,
                get: true,
                ttl: Ttl::Default,
            },
        ),
        Command::GetDel(key) => strings::get_del(view, key),
        Command::GetEx { key, ttl } => strings::get_ex(view, key, ttl),
        Command::MGet(ref keys) => strings::mget(view, keys),
        Command::MSet(ref pairs) => strings::mset(view, pairs),
        Command::MSetNx(ref pairs) => strings::mset_nx(view, pairs),
        Command::Append { key, value } => strings::append(view, key, value),
        Command::StrLen(key) => strings::strlen(view, key),
        Command::GetRange { key, start, end } => strings::get_range(view, key, start, end),
        Command::SetRange { key, offset, value } => strings::set_range(view, key, offset, value),
        Command::Increment { key, by } => strings::increment(view, key, by),
        Command::IncrByFloat { key, by } => strings::increment_float(view, key, by),
        Command::KvsCas(ref cas) => strings::cas(view, cas),
        Command::Del(ref keys) => keys::del(view, keys),
        Command::Exists(ref keys) => keys::exists(view, keys),
        Command::Type(key) => keys::kind(view, key),
        Command::Rename {
            from,
            to,
            if_absent,
        } => keys::rename(view, from, to, if_absent),
        Command::Copy { from, to, replace } => keys::copy(view, from, to, replace),
        Command::RandomKey => keys::random(view),
        Command::Keys(pattern) => keys::keys(view, pattern),
        Command::Scan(ref scan) => keys::scan(view, scan),
        Command::Expire {
            key,
            expire,
            condition,
        } => expiry::expire(view, key, expire, condition),
        Command::Persist(key) => expiry::persist(view, key),
        Command::Ttl { key, millis } => expiry::ttl(view, key, millis),
        Command::ExpireTime { key, millis } => expiry::time(view, key, millis),
        Command::DbSize => view.len().map(Reply::count).map_err(Refusal::from),
        Command::KvsStats => figures::<E>(view.engine.stats()),
        Command::KvsCompact => figures::<E>(view.engine.compact()),
        Command::KvsVerify => figures::<E>(view.engine.verify()),
        _ => return None,
    };
    Some(answer.unwrap_or_else(|refusal| match refusal {
        Refusal::Engine(error) => engine_error(view.engine, &error),
        Refusal::Command(error) => Reply::error(error),
    }))
}

fn figures<E: Engine>(figures: EngineResult<Figures>) -> Answer<E> {
    let pair = |(name, number): (&str, u64)| (Reply::bulk(name), Reply::count(number));
    Ok(Reply::Map(figures?.into_iter().map(pair).collect()))
}
