//! The verbs about when keys expire. As in `verbs`: what reads gives the store up before it prints,
//! what writes is on disk when it exits with 0.

use std::time::Duration;

use kvs::{Durability, Expiry};

use crate::exit::{Answer, Failure};
use crate::open::{Place, Whole};
use crate::output::Output;
use crate::verbs::NOT_FOUND;

/// When a key is to expire.
pub enum Time {
    After(Duration),
    /// Milliseconds since 1970.
    At(u64),
}

impl Time {
    /// So long after 1970 began.
    pub fn of(since: Duration) -> Self {
        Self::At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

pub fn ttl(place: &Place, key: &[u8], out: &mut Output) -> Result<Answer, Failure> {
    let store = place.read()?;
    let expiry = store.expires_at(key)?;
    let now = store.now_ms();
    let whole = Whole::of(&store);
    store.close()?;
    // Before any word of "not found": the key may be in the damaged part.
    whole.answer(Answer::Yes)?;
    let at = match expiry {
        Some(Expiry::At(ms)) => Some(ms),
        Some(Expiry::Never) | None => None,
    };
    let left = at.map(|at| at.saturating_sub(now));
    if out.json {
        out.object(|o| {
            o.bytes("key", key).plain("exists", expiry.is_some());
            o.plain("expires_at", or_null(at))
                .plain("ttl_ms", or_null(left));
        })?;
    } else {
        match (expiry, left) {
            (None, _) => out.line(NOT_FOUND)?,
            (_, None) => out.line("never")?,
            (_, Some(left)) => out.line(format_args!("{}.{:03}", left / 1000, left % 1000))?,
        }
    }
    Ok(Answer::of(expiry.is_some()))
}

fn or_null(number: Option<u64>) -> String {
    number.map_or_else(|| "null".to_owned(), |number| number.to_string())
}

pub fn expire(place: &Place, key: &[u8], time: Time, out: &mut Output) -> Result<Answer, Failure> {
    let found = if place.has_store()? {
        let store = place.write(Durability::Sync)?;
        let found = match time {
            Time::After(ttl) => store.expire_in(key, ttl)?,
            Time::At(ms) => store.expire_at(key, ms)?,
        };
        store.close()?;
        found
    } else {
        false
    };
    if out.json {
        out.object(|o| {
            o.bytes("key", key).plain("exists", found);
        })?;
    } else if !found {
        out.line(NOT_FOUND)?;
    }
    Ok(Answer::of(found))
}

pub fn persist(place: &Place, key: &[u8], out: &mut Output) -> Result<Answer, Failure> {
    let (mut persisted, mut there) = (false, false);
    if place.has_store()? {
        let store = place.write(Durability::Sync)?;
        persisted = store.persist(key)?;
        there = persisted || store.contains_key(key)?;
        store.close()?;
    }
    if out.json {
        out.object(|o| {
            o.bytes("key", key)
                .plain("exists", there)
                .plain("persisted", persisted);
        })?;
    } else if !there {
        out.line(NOT_FOUND)?;
    } else if !persisted {
        out.line("Key does not expire")?;
    }
    Ok(Answer::of(persisted))
}
