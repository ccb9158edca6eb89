//! Replies that a client leaves unread: how many, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engines::Engine;
use crate::protocol::Output;
use crate::server::session::Session;
use crate::server::shared::Shared;

/// The least limit. A burst breaks off there.
const LEAST_BYTES: usize = 1 << 20;

/// How fast a reply above the limit is to be read, in bytes a second.
const LEAST_PACE: usize = 1 << 20;

/// What is to be done with replies that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// They are within the limit: what they hold of the store is copied.
    Copy,
    /// One reply is above the limit: it is kept as it is, for a while.
    Keep,
    /// They are too many, or wait for too long.
    Cut,
}

/// What is known of the replies of one connection that wait. A driver keeps it.
pub struct Unread<E> {
    shared: Arc<Shared<E>>,
    /// Until when more than the limit may wait.
    until: Option<Instant>,
    /// Bytes of it that the server knows to wait in memory.
    counted: usize,
}

impl<E> Drop for Unread<E> {
    fn drop(&mut self) {
        self.shared.buffers(self.counted, 0);
    }
}

impl<E> Unread<E> {
    pub fn new(shared: Arc<Shared<E>>) -> Self {
        Self {
            shared,
            until: None,
            counted: 0,
        }
    }

    /// All of it was taken.
    pub fn nothing(&mut self) {
        self.until = None;
        self.count(0);
    }

    fn count(&mut self, bytes: usize) {
        if self.counted != bytes {
            self.shared.buffers(self.counted, bytes);
            self.counted = bytes;
        }
    }

    fn verdict<V: AsRef<[u8]>>(&mut self, output: &Output<V>, now: Instant) -> Verdict {
        let options = &self.shared.options;
        let most = options.output_bytes_max.max(LEAST_BYTES);
        // As much again for what frames the replies of a burst.
        if output.len_before_last() > most.max(2 * LEAST_BYTES) {
            return Verdict::Cut;
        }
        let Some(above) = output.len().checked_sub(most).filter(|above| *above > 0) else {
            self.nothing();
            return Verdict::Copy;
        };
        let time = options.write_max + Duration::from_secs((above / LEAST_PACE) as u64);
        // A moment that cannot be said is never reached.
        let until = self.until.or_else(|| now.checked_add(time));
        self.until = until;
        let own = output.own_len();
        if until.is_some_and(|until| now > until)
            || !self.shared.has_room(own.saturating_sub(self.counted))
        {
            return Verdict::Cut;
        }
        self.count(own);
        Verdict::Keep
    }
}

impl<E: Engine> Unread<E> {
    /// The socket takes no more of the output for now. False if that is too much or lasts too long.
    ///
    /// A slow reader holds none of the store: its replies are copied, up to the limit. More, which is one
    /// reply, is not; then the reader has a time that depends on its length.
    pub fn may_wait(&mut self, session: &mut Session<E>, now: Instant) -> bool {
        match self.verdict(session.output(), now) {
            Verdict::Copy => session.hold_output(),
            Verdict::Keep => true,
            Verdict::Cut => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Reply, Version};
    use crate::server::ServerOptions;

    fn unread() -> Unread<()> {
        let options = ServerOptions::new()
            .output_bytes_max(4 << 20)
            .buffered_bytes_max(100 << 20);
        Unread::new(Arc::new(Shared::new((), options)))
    }

    fn waiting(replies: &[usize]) -> Output<Vec<u8>> {
        let mut output = Output::new();
        for len in replies {
            output.encode(Reply::Value(vec![0; *len]), Version::Resp2);
        }
        output
    }

    #[test]
    fn only_the_last_reply_may_go_beyond_the_limit() {
        for (replies, wanted) in [
            (&[1 << 20, 2 << 20][..], Verdict::Copy),
            (&[64 << 20], Verdict::Keep),
            (&[3 << 20, 64 << 20], Verdict::Keep),
            (&[5 << 20, 10], Verdict::Cut),
            (&[64 << 20, 10], Verdict::Cut),
        ] {
            let verdict = unread().verdict(&waiting(replies), Instant::now());
            assert_eq!(verdict, wanted, "{replies:?}");
        }
    }

    #[test]
    fn more_than_the_limit_is_waited_for_as_long_as_it_takes_at_the_least_pace() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut output = waiting(&[104 << 20]);
        let mut unread = unread();
        // 30 s, and 100 s for 100 MiB.
        assert_eq!(unread.verdict(&output, start), Verdict::Keep);
        output.advance(1 << 20);
        assert_eq!(unread.verdict(&output, after(129)), Verdict::Keep);
        assert_eq!(unread.verdict(&output, after(131)), Verdict::Cut);
        // Within the limit nothing is held: the time between two writes alone counts.
        output.advance((99 << 20) + 64);
        assert_eq!(unread.verdict(&output, after(131)), Verdict::Copy);
        assert_eq!(unread.verdict(&output, after(1 << 20)), Verdict::Copy);
        // The next one has its own time.
        let output = waiting(&[104 << 20]);
        assert_eq!(unread.verdict(&output, after(1 << 20)), Verdict::Keep);
        unread.nothing();
        assert_eq!(unread.verdict(&output, after(2 << 20)), Verdict::Keep);
        assert_eq!(unread.verdict(&output, after(3 << 20)), Verdict::Cut);
    }

    #[test]
    fn what_is_kept_counts_for_all_if_it_is_not_the_store_s() {
        let mut output: Output<Vec<u8>> = Output::new();
        output.encode(Reply::Bulk(vec![0; 60 << 20]), Version::Resp2);
        let mut first = unread();
        let mut second = Unread::new(Arc::clone(&first.shared));
        let now = Instant::now();
        assert_eq!(first.verdict(&output, now), Verdict::Keep);
        assert_eq!(first.verdict(&output, now), Verdict::Keep);
        assert_eq!(second.verdict(&output, now), Verdict::Cut);
        first.nothing();
        assert_eq!(second.verdict(&output, now), Verdict::Keep);
        drop(second);
        assert_eq!(first.verdict(&output, now), Verdict::Keep);
    }
}
