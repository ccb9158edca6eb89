//! Commands about keys.

use std::ops::ControlFlow;

use crate::engines::{Engine, EngineError, Operation};
use crate::protocol::command::Scan;
use crate::protocol::{CommandError, Reply};
use crate::server::execute::answer::Answer;
use crate::server::glob::Pattern;
use crate::server::view::View;

/// Bytes of keys that one `KEYS` answers at most.
const KEYS_BYTES_MAX: usize = 16 << 20;

/// How many keys one `SCAN` looks at, whatever it is told.
const SCAN_KEYS_MAX: u64 = 1024;

/// How far `RANDOMKEY` looks at most.
const RANDOM_STEPS_MAX: u64 = 1024;

pub fn del<E: Engine>(view: &mut View<'_, E>, keys: &[&[u8]]) -> Answer<E> {
    let mut count = 0;
    for key in keys {
        count += u64::from(view.remove(key)?);
    }
    Ok(Reply::count(count))
}

pub fn exists<E: Engine>(view: &mut View<'_, E>, keys: &[&[u8]]) -> Answer<E> {
    let mut count = 0;
    for key in keys {
        count += u64::from(view.contains(key)?);
    }
    Ok(Reply::count(count))
}

pub fn kind<E: Engine>(view: &mut View<'_, E>, key: &[u8]) -> Answer<E> {
    let kind: &[u8] = match view.contains(key)? {
        true => b"string",
        false => b"none",
    };
    Ok(Reply::Simple(kind.into()))
}

const NO_SUCH_KEY: CommandError = CommandError::Other("no such key");

pub fn rename<E: Engine>(
    view: &mut View<'_, E>,
    from: &[u8],
    to: &[u8],
    if_absent: bool,
) -> Answer<E> {
    if !view.engine.supports(Operation::Batch) {
        // Two changes that must be one.
        let operation = Operation::Batch;
        return Err(EngineError::Unsupported { operation }.into());
    }
    let (found, ends) = view.get_ending(from)?.ok_or(NO_SUCH_KEY)?;
    if if_absent && view.contains(to)? {
        return Ok(Reply::flag(false));
    }
    // To its own name nothing happens, also for those who watch.
    if from != to {
        view.set_ending(to, found.into_vec(), ends)?;
        view.remove(from)?;
    }
    Ok(match if_absent {
        true => Reply::flag(true),
        false => Reply::OK,
    })
}

pub fn copy<E: Engine>(view: &mut View<'_, E>, from: &[u8], to: &[u8], replace: bool) -> Answer<E> {
    if from == to {
        return Err(CommandError::Other("source and destination objects are the same").into());
    }
    let Some((found, ends)) = view.get_ending(from)? else {
        return Ok(Reply::flag(false));
    };
    if !replace && view.contains(to)? {
        return Ok(Reply::flag(false));
    }
    view.set_ending(to, found.into_vec(), ends)?;
    Ok(Reply::flag(true))
}

/// Not uniform: one of the first keys in the order of the engine.
pub fn random<E: Engine>(view: &mut View<'_, E>) -> Answer<E> {
    use std::hash::{BuildHasher, RandomState};
    let most = view.len()?.clamp(1, RANDOM_STEPS_MAX);
    let mut left = RandomState::new().hash_one(0_u8) % most;
    let mut found = None;
    if view.engine.supports(Operation::Cursor) {
        let mut first = Vec::new();
        view.scan_from(0, most, &mut |key| first.push(key.to_vec()))?;
        let some = usize::try_from(left).unwrap_or(0) % first.len().max(1);
        let found = first.into_iter().nth(some);
        return Ok(found.map_or(Reply::Null, Reply::Bulk));
    }
    view.keys(b"", &mut |key| {
        found = Some(key.to_vec());
        left = match left.checked_sub(1) {
            None => return ControlFlow::Break(()),
            Some(left) => left,
        };
        ControlFlow::Continue(())
    })?;
    Ok(found.map_or(Reply::Null, Reply::Bulk))
}

pub fn keys<E: Engine>(view: &mut View<'_, E>, pattern: &[u8]) -> Answer<E> {
    let pattern = Pattern::new(pattern)?;
    let mut found = Vec::new();
    let mut left = KEYS_BYTES_MAX;
    let mut too_many = false;
    view.keys(pattern.prefix(), &mut |key| {
        if !pattern.matches(key) {
            return ControlFlow::Continue(());
        }
        // What a key costs in the reply, and in the list that the reply is made from.
        match left.checked_sub(key.len() + 64) {
            Some(rest) => left = rest,
            None => {
                too_many = true;
                return ControlFlow::Break(());
            }
        }
        found.push(Reply::bulk(key));
        ControlFlow::Continue(())
    })?;
    match too_many {
        true => Err(CommandError::Other("too many keys for one reply").into()),
        false => Ok(Reply::Array(found)),
    }
}

pub fn scan<E: Engine>(view: &mut View<'_, E>, scan: &Scan<'_>) -> Answer<E> {
    let pattern = scan.pattern.map(Pattern::new).transpose()?;
    let mut found = Vec::new();
    let strings = scan
        .kind
        .is_none_or(|kind| kind.eq_ignore_ascii_case(b"string"));
    let count = scan.count.min(SCAN_KEYS_MAX);
    let next = view.scan_from(scan.cursor, count, &mut |key| {
        if strings && pattern.as_ref().is_none_or(|like| like.matches(key)) {
            found.push(Reply::bulk(key));
        }
    })?;
    let cursor = Reply::bulk(next.to_string());
    Ok(Reply::Array(vec![cursor, Reply::Array(found)]))
}
