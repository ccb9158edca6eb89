//! Wrong passwords by peer: whoever keeps guessing has to wait, on however many connections.
//!
//! A connection is closed after its tenth wrong password; a peer that comes back goes on where it
//! stopped. After [`FREE`] wrong ones in a row each further one doubles the time in which no password
//! of that peer is looked at, up to [`WAIT_MAX`]. The right one forgets them all, and so does time. A
//! wrong one that was among the last [`SAME`] is no new guess: a client that was not told of a new password
//! comes again and again, and keeps nobody waiting.
//!
//! A peer is an address, of IPv6 the network of 64 bits that one host has to itself. Hosts behind one
//! address wait together: each wait has a bound, but one that guesses without end lets the others in only
//! between two waits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Wrong passwords in a row that cost nothing: as many as one connection has.
const FREE: u32 = 10;

/// Wrong passwords of a peer that are remembered.
const SAME: usize = 4;

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
    /// Keyed hashes of the last ones, by their number.
    tried: [Option<u64>; SAME],
}

impl Guesses {
    /// Until when no password is looked at.
    fn until(&self) -> Option<Instant> {
        let doublings = self.wrong.checked_sub(FREE + 1)?.min(16);
        let wait = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX);
        self.last.checked_add(wait)
    }
}

/// What came of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is the right one.
    Right,
    /// It is not.
    Wrong,
    /// It was not looked at: so long is still to be waited.
    Not(Duration),
}

/// See the head of this file.
#[derive(Default)]
pub struct Peers {
    known: Mutex<HashMap<IpAddr, Guesses>>,
    hasher: RandomState,
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
    /// A peer gives a password, which `is_right` or not. What has no address never waits.
    pub fn look(
        &self,
        addr: Option<SocketAddr>,
        password: &[u8],
        is_right: bool,
        now: Instant,
    ) -> Looked {
        let outcome = match is_right {
            true => Looked::Right,
            false => Looked::Wrong,
        };
        let Some(peer) = addr.map(peer) else {
            return outcome;
        };
        let hash = self.hasher.hash_one(password);
        // Looked up and counted at once: many connections have one look together.
        let mut known = self.known.lock();
        let until = known.get(&peer).and_then(Guesses::until);
        let wait = until.and_then(|until| until.checked_duration_since(now));
        match wait.filter(|wait| !wait.is_zero()) {
            Some(wait) => return Looked::Not(wait),
            None if is_right => _ = known.remove(&peer),
            None => Self::count(&mut known, peer, hash, now),
        }
        outcome
    }

    fn count(known: &mut HashMap<IpAddr, Guesses>, peer: IpAddr, hash: u64, now: Instant) {
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
            tried: [None; SAME],
        });
        if !kept(guesses) {
            guesses.wrong = 0;
            guesses.tried = [None; SAME];
        }
        if guesses.tried.contains(&Some(hash)) {
            return;
        }
        guesses.tried[guesses.wrong as usize % SAME] = Some(hash);
        guesses.wrong = guesses.wrong.saturating_add(1);
        guesses.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(text.parse().unwrap(), 1))
    }

    /// So many different ones.
    fn guess(peers: &Peers, addr: Option<SocketAddr>, now: Instant) -> Looked {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let password = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        peers.look(addr, &password.to_le_bytes(), false, now)
    }

    /// What the right password would be told, on a copy.
    fn wait(peers: &Peers, addr: Option<SocketAddr>, now: Instant) -> Option<Duration> {
        let copy = Peers {
            known: Mutex::new(peers.known.lock().clone()),
            hasher: RandomState::new(),
        };
        match copy.look(addr, b"right", true, now) {
            Looked::Not(wait) => Some(wait),
            Looked::Right => None,
            Looked::Wrong => panic!("it is right"),
        }
    }

    #[test]
    fn the_same_wrong_password_is_one_guess() {
        let (peers, now) = (Peers::default(), Instant::now());
        let one = at("192.0.2.1");
        for _ in 0..1_000 {
            assert_eq!(peers.look(one, b"of last year", false, now), Looked::Wrong);
            assert_eq!(peers.look(one, b"", false, now), Looked::Wrong);
        }
        assert_eq!(wait(&peers, one, now), None);
        (0..FREE - 1).for_each(|_| _ = guess(&peers, one, now));
        assert_eq!(wait(&peers, one, now), Some(WAIT_MIN));
        assert_eq!(
            peers.look(one, b"another", false, now),
            Looked::Not(WAIT_MIN)
        );
        let then = now + WAIT_MIN;
        assert_eq!(peers.look(one, b"another", false, then), Looked::Wrong);
        assert_eq!(wait(&peers, one, then), Some(2 * WAIT_MIN));
    }

    #[test]
    fn waits_double_up_to_a_bound_and_the_right_password_ends_them() {
        let peers = Peers::default();
        let one = at("192.0.2.1");
        let mut now = Instant::now();
        for _ in 0..FREE {
            guess(&peers, one, now);
            assert_eq!(wait(&peers, one, now), None);
        }
        for wanted in [250, 500, 1000, 2000, 4000, 8000, 16_000, 16_000] {
            guess(&peers, one, now);
            let wanted = Duration::from_millis(wanted);
            assert_eq!(wait(&peers, one, now), Some(wanted));
            assert_eq!(wait(&peers, at("192.0.2.2"), now), None, "another peer");
            now += wanted;
            assert_eq!(wait(&peers, one, now), None);
        }
        for n in 0..100 {
            let not = guess(&peers, one, now) != Looked::Wrong;
            assert_eq!(not, n > 0, "what is not looked at does not count");
        }
        assert_eq!(wait(&peers, one, now), Some(WAIT_MAX));
        assert_eq!(peers.look(one, b"right", true, now), Looked::Not(WAIT_MAX));
        now += WAIT_MAX;
        assert_eq!(peers.look(one, b"right", true, now), Looked::Right);
        assert_eq!(wait(&peers, one, now), None);
        guess(&peers, one, now);
        assert_eq!(wait(&peers, one, now), None, "it begins anew");
    }

    #[test]
    fn a_host_is_one_peer_however_it_writes_its_address() {
        let (peers, now) = (Peers::default(), Instant::now());
        for _ in 0..=FREE {
            guess(&peers, at("2001:db8::1"), now);
            guess(&peers, at("::ffff:192.0.2.1"), now);
        }
        for same in ["2001:db8::ffff:1", "192.0.2.1"] {
            assert_eq!(wait(&peers, at(same), now), Some(WAIT_MIN), "{same}");
        }
        assert_eq!(wait(&peers, at("2001:db8:0:1::1"), now), None);
        assert_eq!(wait(&peers, None, now), None);
    }

    #[test]
    fn old_guesses_are_forgotten_and_never_too_many_are_kept() {
        let (peers, start) = (Peers::default(), Instant::now());
        let one = at("192.0.2.1");
        for _ in 0..=FREE {
            guess(&peers, one, start);
        }
        guess(&peers, one, start + KEPT);
        assert_eq!(wait(&peers, one, start + KEPT), None, "the first again");
        for n in 0..2 * PEERS_MAX as u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            let now = start + KEPT + Duration::from_millis(u64::from(n));
            guess(&peers, Some(SocketAddr::new(ip, 1)), now);
        }
        let known = peers.known.lock();
        assert_eq!(known.len(), PEERS_MAX);
        let last = 2 * PEERS_MAX as u32 - 1;
        assert!(known.contains_key(&IpAddr::from(last.to_be_bytes())));
        assert!(!known.contains_key(&IpAddr::from([192, 0, 2, 1])));
    }
}
