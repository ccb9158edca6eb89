//! A listener, also where the last one has not quite gone.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// Listens at `addr`; an address in use is tried again for `patience`, for a server that was just
/// killed may not be gone yet.
///
/// # Errors
/// What the system says.
pub fn bind(addr: impl Into<SocketAddr>, patience: Duration) -> io::Result<TcpListener> {
    let addr = addr.into();
    let until = Instant::now() + patience;
    loop {
        match TcpListener::bind(addr) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}
