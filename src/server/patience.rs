//! How long a connection may send nothing, or too little: for the password, for a request, in between.

use std::time::{Duration, Instant};

use crate::server::options::ServerOptions;

/// How fast a request is to come, in bytes a second, after the time that every one has.
const LEAST_PACE: u64 = 16 << 10;

/// What is known of the requests of one connection. A driver keeps it.
#[derive(Debug)]
pub struct Patience {
    /// Since when the password is waited for.
    asked: Option<Instant>,
    /// Since when a request is there in part.
    begun: Option<Instant>,
    /// Bytes that have come since then.
    bytes: u64,
}

impl Patience {
    /// Of a connection that begins `now`.
    pub fn new(trusted: bool, now: Instant) -> Self {
        Self {
            asked: (!trusted).then_some(now),
            begun: None,
            bytes: 0,
        }
    }

    /// So many bytes have come.
    pub fn read(&mut self, len: usize) {
        self.bytes += len as u64;
    }

    /// What is whole of them has been run, `ran` if it was anything; `midway` if a part is left.
    pub fn turned(&mut self, trusted: bool, ran: bool, midway: bool, now: Instant) {
        self.asked = match trusted {
            true => None,
            // Who has taken leave may give the password anew.
            false => self.asked.or(Some(now)),
        };
        if ran || !midway {
            self.bytes = 0;
            self.begun = None;
        }
        if midway {
            self.begun.get_or_insert(now);
        }
    }

    /// Until when something must be sent, from `now` on; `None` if there is time without end.
    pub fn until_read(&self, options: &ServerOptions, now: Instant) -> Option<Instant> {
        // What is sent now and then gains no time, neither for the password nor for a request.
        let time = options.request_max + Duration::from_secs(self.bytes / LEAST_PACE);
        let request = self.begun.and_then(|begun| begun.checked_add(time));
        let silence = match self.begun {
            Some(_) => Some(options.silence_max()),
            None => options.idle_max,
        };
        let silence = silence.and_then(|silence| now.checked_add(silence));
        earliest([self.until_known(options), request, silence])
    }

    /// Until when something of the replies must be taken.
    pub fn until_written(&self, options: &ServerOptions, now: Instant) -> Option<Instant> {
        let written = now.checked_add(options.write_max);
        earliest([self.until_known(options), written, None])
    }

    fn until_known(&self, options: &ServerOptions) -> Option<Instant> {
        self.asked
            .and_then(|asked| asked.checked_add(options.auth_max))
    }
}

fn earliest(moments: [Option<Instant>; 3]) -> Option<Instant> {
    moments.into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_now_and_then_gain_no_time_and_many_do() {
        let options = ServerOptions::new();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(true, start);
        assert_eq!(patience.until_read(&options, start), None);
        for second in 1..20 {
            patience.read(1);
            patience.turned(true, false, true, after(second));
        }
        assert_eq!(patience.until_read(&options, after(20)), Some(after(31)));
        patience.read(160 << 10);
        patience.turned(true, false, true, after(20));
        assert_eq!(patience.until_read(&options, after(1)), Some(after(31)));
        assert_eq!(patience.until_read(&options, after(20)), Some(after(41)));
        // The next one has its own time, and between them there is no end.
        patience.turned(true, true, true, after(21));
        assert_eq!(patience.until_read(&options, after(50)), Some(after(51)));
        patience.turned(true, true, false, after(22));
        assert_eq!(patience.until_read(&options, after(50)), None);
    }

    #[test]
    fn the_password_has_its_time_whatever_is_sent() {
        let options = ServerOptions::new();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(false, start);
        for second in 1..9 {
            patience.turned(false, true, false, after(second));
        }
        assert_eq!(patience.until_read(&options, after(9)), Some(after(10)));
        assert_eq!(patience.until_written(&options, after(9)), Some(after(10)));
        patience.turned(true, true, false, after(9));
        assert_eq!(patience.until_read(&options, after(9)), None);
        assert_eq!(patience.until_written(&options, after(9)), Some(after(39)));
        // Out again.
        patience.turned(false, true, false, after(50));
        assert_eq!(patience.until_read(&options, after(51)), Some(after(60)));
    }
}
