//! Wrong passwords by peer: whoever keeps guessing has to wait, on however many connections.
//!
//! A connection is closed after its tenth wrong password; a peer that comes back goes on where it
//! stopped. After [`FREE`] wrong ones in a row each further one doubles the time in which no password
//! of that peer is looked at, up to [`WAIT_MAX`]. The right one forgets them all, and so does time.
//!
//! A peer is an address, of IPv6 the network of 64 bits that one host has to itself. Hosts behind one
//! address wait together: the wait has a bound so that nobody locks out the others for long.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Wrong passwords in a row that cost nothing: as many as one connection has.
const FREE: u32 = 10;

/// The first wait.
const WAIT_MIN: Duration = Duration::from_millis(250);

/// The longest.
const WAIT_MAX: Duration = Duration::from_secs(16);

/// A peer that has not guessed for so long is forgotten.
const KEPT: Duration = Duration::from_secs(600);

/// Most peers that are remembered. Of more, those whose last guess is the oldest are forgotten.
const PEERS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Guesses {
    wrong: u32,
    last: Instant,
}

impl Guesses {
    /// Until when no password is looked at.
    fn until(&self) -> Option<Instant> {
        let doublings = self.wrong.checked_sub(FREE + 1)?.min(16);
        let wait = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX);
        self.last.checked_add(wait)
    }
}

/// See the head of this file.
#[derive(Default)]
pub struct Peers {
    known: Mutex<HashMap<IpAddr, Guesses>>,
}

/// Who is counted as one.
fn peer(addr: SocketAddr) -> IpAddr {
    match addr.ip().to_canonical() {
        IpAddr::V6(ip) => {
            let network = ip.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
        ip => ip,
    }
}

impl Peers {
    /// How long the peer has still to wait; `None`: not at all. What has no address is never asked to.
    pub fn wait(&self, addr: Option<SocketAddr>, now: Instant) -> Option<Duration> {
        let known = self.known.lock();
        let until = known.get(&peer(addr?))?.until()?;
        until
            .checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
    }

    /// It gave a wrong password, which was looked at.
    pub fn wrong(&self, addr: Option<SocketAddr>, now: Instant) {
        let Some(peer) = addr.map(peer) else { return };
        let mut known = self.known.lock();
        let kept = |guesses: &Guesses| now.saturating_duration_since(guesses.last) < KEPT;
        if known.len() >= PEERS_MAX && !known.contains_key(&peer) {
            known.retain(|_, guesses| kept(guesses));
            while known.len() >= PEERS_MAX {
                let oldest = known.iter().min_by_key(|(_, guesses)| guesses.last);
                let Some(oldest) = oldest.map(|(peer, _)| *peer) else {
                    break;
                };
                known.remove(&oldest);
            }
        }
        let guesses = known.entry(peer).or_insert(Guesses {
            wrong: 0,
            last: now,
        });
        if !kept(guesses) {
            guesses.wrong = 0;
        }
        guesses.wrong = guesses.wrong.saturating_add(1);
        guesses.last = now;
    }

    /// It gave the right one.
    pub fn right(&self, addr: Option<SocketAddr>) {
        if let Some(peer) = addr.map(peer) {
            self.known.lock().remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(text.parse().unwrap(), 1))
    }

    #[test]
    fn waits_double_up_to_a_bound_and_the_right_password_ends_them() {
        let peers = Peers::default();
        let one = at("192.0.2.1");
        let mut now = Instant::now();
        for _ in 0..FREE {
            peers.wrong(one, now);
            assert_eq!(peers.wait(one, now), None);
        }
        for wanted in [250, 500, 1000, 2000, 4000, 8000, 16_000, 16_000] {
            peers.wrong(one, now);
            let wanted = Duration::from_millis(wanted);
            assert_eq!(peers.wait(one, now), Some(wanted));
            assert_eq!(peers.wait(at("192.0.2.2"), now), None, "another peer");
            now += wanted;
            assert_eq!(peers.wait(one, now), None);
        }
        for _ in 0..100 {
            peers.wrong(one, now);
        }
        assert_eq!(peers.wait(one, now), Some(WAIT_MAX));
        peers.right(one);
        assert_eq!(peers.wait(one, now), None);
        peers.wrong(one, now);
        assert_eq!(peers.wait(one, now), None, "it begins anew");
    }

    #[test]
    fn a_host_is_one_peer_however_it_writes_its_address() {
        let (peers, now) = (Peers::default(), Instant::now());
        for _ in 0..=FREE {
            peers.wrong(at("2001:db8::1"), now);
            peers.wrong(at("::ffff:192.0.2.1"), now);
        }
        for same in ["2001:db8::ffff:1", "192.0.2.1"] {
            assert_eq!(peers.wait(at(same), now), Some(WAIT_MIN), "{same}");
        }
        assert_eq!(peers.wait(at("2001:db8:0:1::1"), now), None);
        assert_eq!(peers.wait(None, now), None);
    }

    #[test]
    fn old_guesses_are_forgotten_and_never_too_many_are_kept() {
        let (peers, start) = (Peers::default(), Instant::now());
        let one = at("192.0.2.1");
        for _ in 0..=FREE {
            peers.wrong(one, start);
        }
        peers.wrong(one, start + KEPT);
        assert_eq!(peers.wait(one, start + KEPT), None, "the first again");
        for n in 0..2 * PEERS_MAX as u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            let now = start + KEPT + Duration::from_millis(u64::from(n));
            peers.wrong(Some(SocketAddr::new(ip, 1)), now);
        }
        let known = peers.known.lock();
        assert_eq!(known.len(), PEERS_MAX);
        let last = 2 * PEERS_MAX as u32 - 1;
        assert!(known.contains_key(&IpAddr::from(last.to_be_bytes())));
        assert!(!known.contains_key(&IpAddr::from([192, 0, 2, 1])));
    }
}
