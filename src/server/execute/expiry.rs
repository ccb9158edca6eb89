//! Commands about when keys end.

use crate::engines::Engine;
use crate::protocol::Reply;
use crate::protocol::command::{Expire, ExpireIf};
use crate::server::execute::answer::{Answer, absolute, needs_expiry};
use crate::server::view::View;

/// What is answered of a key that has no value, and of one that does not end.
const NO_VALUE: i64 = -2;
const NO_END: i64 = -1;

pub fn expire<E: Engine>(
    view: &mut View<'_, E>,
    key: &[u8],
    expire: Expire,
    condition: ExpireIf,
) -> Answer<E> {
    needs_expiry(view)?;
    let Some(old) = view.ends(key)? else {
        return Ok(Reply::flag(false));
    };
    let new = absolute(expire, view.engine.now_ms());
    // What never ends ends later than anything.
    let holds = match condition {
        ExpireIf { absent: true, .. } if old.is_some() => false,
        ExpireIf { present: true, .. } if old.is_none() => false,
        ExpireIf { later: true, .. } => old.is_some_and(|old| new > old),
        ExpireIf { sooner: true, .. } => old.is_none_or(|old| new < old),
        _ => true,
    };
    if holds
        && old != Some(new)
        && let Some(found) = view.get(key)?
    {
        view.set_ending(key, found.into_vec(), Some(new))?;
    }
    Ok(Reply::flag(holds))
}

pub fn persist<E: Engine>(view: &mut View<'_, E>, key: &[u8]) -> Answer<E> {
    needs_expiry(view)?;
    let ends = matches!(view.ends(key)?, Some(Some(_)));
    if ends && let Some(found) = view.get(key)? {
        view.set_ending(key, found.into_vec(), None)?;
    }
    Ok(Reply::flag(ends))
}

pub fn ttl<E: Engine>(view: &mut View<'_, E>, key: &[u8], millis: bool) -> Answer<E> {
    needs_expiry(view)?;
    let now = view.engine.now_ms();
    let ends = view.ends(key)?;
    Ok(answer(
        ends.map(|ends| ends.map(|ms| ms.saturating_sub(now))),
        millis,
    ))
}

pub fn time<E: Engine>(view: &mut View<'_, E>, key: &[u8], millis: bool) -> Answer<E> {
    needs_expiry(view)?;
    Ok(answer(view.ends(key)?, millis))
}

/// Seconds are rounded to the nearest.
fn answer<V>(ms: Option<Option<u64>>, millis: bool) -> Reply<V> {
    let number = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    Reply::Integer(match ms {
        None => NO_VALUE,
        Some(None) => NO_END,
        Some(Some(ms)) if millis => number(ms),
        Some(Some(ms)) => number(ms.saturating_add(500) / 1000),
    })
}
