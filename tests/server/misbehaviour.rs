//! What becomes of clients that misbehave, and of the others meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvs::protocol::{Limits, Reply};
use kvs::server::ServerOptions;

use crate::harness::{DRIVERS, PATIENCE, Told, ask, everywhere, in_memory, start, until_alone};

/// Everything the server sends until it closes.
fn until_closed(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {}", bytes.escape_ascii()),
    }
    bytes
}

#[test]
fn what_is_not_the_protocol_is_answered_once_and_closed() {
    everywhere(|running| {
        for (sent, wanted) in [
            (
                &b"*1\r\n*1\r\n"[..],
                "ERR Protocol error: expected '$', got '*'",
            ),
            (b"*2000\r\n", "ERR Protocol error: invalid multibulk length"),
            (
                b"*1\r\n$99999999999\r\n",
                "ERR Protocol error: invalid bulk length",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                "inline commands other than PING",
            ),
        ] {
            let mut socket = running.socket();
            socket.write_all(b"PING\r\n\r\n").unwrap();
            socket.write_all(sent).unwrap();
            let got = until_closed(socket);
            let got = String::from_utf8(got).unwrap();
            assert!(got.starts_with("+PONG\r\n-"), "{got}");
            assert!(got.contains(wanted) && got.ends_with("\r\n"), "{got}");
            assert_eq!(got.matches("\r\n").count(), 2, "{got}");
        }
        assert_eq!(ask(&mut running.client(), "PING"), "PONG");
    });
}

#[test]
fn nothing_is_done_without_the_password() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().password("secret");
        let running = start(*driver, in_memory(), options);
        let mut client = running.client();
        let no = "-NOAUTH Authentication required.";
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
        for (command, wanted) in [
            ("PING", no),
            ("GET a", no),
            ("SET a 1", no),
            ("COMMAND", no),
            ("FOO", no),
            ("AUTH wrong", wrong),
            ("AUTH secre", wrong),
            ("AUTH secrets", wrong),
            ("AUTH other secret", wrong),
            ("AUTH secret", "OK"),
            ("SET a 1", "OK"),
            ("RESET", "RESET"),
            ("GET a", no),
            ("AUTH default secret", "OK"),
            ("GET a", "\"1\""),
        ] {
            assert_eq!(ask(&mut client, command), wanted, "{command}");
        }
        let mut client = running.client();
        assert!(ask(&mut client, "HELLO 3").starts_with("-NOAUTH HELLO must be called"));
        let hello = ask(&mut client, "HELLO 3 AUTH default secret");
        assert!(hello.starts_with("Map("), "{hello}");
        // More than is allowed before, directly behind the password.
        let mut client = running.client();
        let large = "v".repeat(20_000);
        let replies = client
            .pipeline()
            .arg(["AUTH", "secret"])
            .arg(["SET", "a", &large])
            .run()
            .unwrap();
        assert_eq!(replies[1], Reply::OK);
        for sent in [&b"*11\r\n"[..], b"*1\r\n$16385\r\n"] {
            let mut socket = running.socket();
            socket.write_all(sent).unwrap();
            let got = String::from_utf8(until_closed(socket)).unwrap();
            assert!(got.contains("unauthenticated"), "{got}");
        }
        let mut client = running.client();
        for _ in 0..9 {
            assert_eq!(ask(&mut client, "AUTH guess"), wrong);
        }
        assert_eq!(ask(&mut client, "AUTH guess"), wrong);
        assert!(
            client.call(&["AUTH", "secret"]).is_err(),
            "cut off after ten"
        );
    }
}

#[test]
fn who_guesses_passwords_has_to_wait_on_every_connection() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().password("secret");
        let running = start(*driver, in_memory(), options);
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
        // A client that was not told of a new one keeps nobody waiting.
        for _ in 0..20 {
            assert_eq!(ask(&mut running.client(), "AUTH old"), wrong);
        }
        for connection in 0..2 {
            let mut client = running.client();
            for n in 0..4 {
                let guess = format!("AUTH {connection}-{n}");
                assert_eq!(ask(&mut client, &guess), wrong);
            }
        }
        // The right one ends it.
        assert_eq!(ask(&mut running.client(), "AUTH secret"), "OK");
        for n in 0..11 {
            let guess = format!("AUTH guess-{n}");
            assert_eq!(ask(&mut running.client(), &guess), wrong);
        }
        let begun = Instant::now();
        let mut client = running.client();
        for command in ["AUTH guess", "AUTH secret", "HELLO 3 AUTH default secret"] {
            let got = ask(&mut client, command);
            assert!(
                got.starts_with("-ERR too many wrong passwords: wait ")
                    || begun.elapsed() > Duration::from_millis(250),
                "{command}: {got}"
            );
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ask(&mut client, "AUTH secret"), "OK");
        assert_eq!(ask(&mut client, "PING"), "PONG");
    }
}

#[test]
fn silent_clients_hold_up_nobody() {
    // More than the pool has threads.
    everywhere(|running| {
        let _silent: Vec<TcpStream> = (0..20).map(|_| running.socket()).collect();
        let mut half = running.socket();
        half.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nab").unwrap();
        assert_eq!(ask(&mut running.client(), "SET abcde 1"), "OK");
        half.write_all(b"cde\r\n").unwrap();
        let mut reply = [0; 7];
        half.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"$1\r\n1\r\n");
    });
}

#[test]
fn who_sends_without_end_holds_up_nobody() {
    everywhere(|running| {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = running.client();
                    while !stop.load(Ordering::SeqCst) {
                        let mut pipeline = client.pipeline();
                        (0..2000).for_each(|_| pipeline.push(&["SET", "flood", "x"]));
                        pipeline.run().unwrap();
                    }
                });
            }
            let mut client = running.client();
            let started = Instant::now();
            for _ in 0..50 {
                assert_eq!(ask(&mut client, "PING"), "PONG");
            }
            let took = started.elapsed();
            stop.store(true, Ordering::SeqCst);
            assert!(took < Duration::from_secs(20), "50 pings took {took:?}");
        });
    });
}

#[test]
fn a_reader_that_stops_reading_is_cut_off_and_holds_no_memory() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new()
            .output_bytes_max(1 << 20)
            .write_max(Duration::from_millis(300));
        let store = in_memory();
        store.store().set("large", vec![b'x'; 8 << 20]).unwrap();
        let running = start(*driver, store, options);
        let mut socket = running.socket();
        socket
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let request = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(64);
        let _ = socket.write_all(&request);
        until_alone(&running);
        // The rest is gone: less than was asked for arrives.
        let got = until_closed(socket).len();
        assert!(got < 60 * (8 << 20), "{got} bytes");
        assert_eq!(ask(&mut running.client(), "PING"), "PONG");
    }
}

#[test]
fn too_many_clients_are_told_so() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let running = start(*driver, in_memory(), ServerOptions::new().clients_max(2));
        let (mut one, mut two) = (running.client(), running.client());
        assert_eq!(ask(&mut one, "PING"), "PONG");
        assert_eq!(ask(&mut two, "PING"), "PONG");
        assert_eq!(
            until_closed(running.socket()),
            b"-ERR max number of clients reached\r\n"
        );
        drop(two);
        // Its place is free as soon as the server has seen it go.
        let until = Instant::now() + PATIENCE;
        loop {
            let mut third = running.client();
            if third
                .call(&["PING"])
                .is_ok_and(|reply| reply == Reply::Simple(b"PONG".into()))
            {
                break;
            }
            assert!(Instant::now() < until, "the place was never free");
        }
    }
}

#[test]
fn clients_are_listed_and_killed() {
    everywhere(|running| {
        let (mut one, mut two) = (running.client(), running.client());
        assert_eq!(ask(&mut one, "CLIENT SETNAME first"), "OK");
        assert_eq!(ask(&mut two, "CLIENT SETNAME second"), "OK");
        let id = ask(&mut two, "CLIENT ID")[1..].to_owned();
        let list = ask(&mut one, "CLIENT LIST");
        assert!(
            list.contains("name=first") && list.contains("name=second"),
            "{list}"
        );
        assert_eq!(ask(&mut one, &format!("CLIENT KILL ID {id}")), ":1");
        assert!(two.call(&["PING"]).is_err(), "killed");
        // It is off the list as soon as the server is done with it.
        let until = Instant::now() + PATIENCE;
        while ask(&mut one, "CLIENT LIST").contains("name=second") {
            assert!(Instant::now() < until, "listed for ever");
        }
        let addr = one.stream().local_addr().unwrap().to_string();
        assert_eq!(
            ask(&mut one, &format!("CLIENT KILL ADDR {addr}")),
            ":0",
            "not oneself"
        );
        let mut client = running.client();
        client
            .stream()
            .write_all(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")
            .unwrap();
        client
            .stream()
            .write_all(b"PING\r\n*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$2\r\nON\r\n")
            .unwrap();
        client
            .stream()
            .write_all(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n")
            .unwrap();
        client.stream().write_all(b"PING\r\n").unwrap();
        // Of all these only `ON` was answered.
        assert_eq!(ask(&mut client, "ECHO x"), "OK");
    });
}

/// A killed connection may end in the thread that kills it.
#[test]
fn killing_many_clients_hangs_nobody() {
    everywhere(|running| {
        let mut killer = running.client();
        for _ in 0..300 {
            let mut victim = running.client();
            let id = ask(&mut victim, "CLIENT ID")[1..].to_owned();
            assert_eq!(ask(&mut killer, &format!("CLIENT KILL ID {id}")), ":1");
            assert!(victim.call(&["PING"]).is_err(), "killed");
        }
        let until = Instant::now() + PATIENCE;
        while ask(&mut killer, "CLIENT LIST").matches("id=").count() > 1 {
            assert!(Instant::now() < until, "listed for ever");
        }
    });
}

#[test]
fn clients_that_say_nothing_are_closed_if_asked_for() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().idle_max(Some(Duration::from_millis(100)));
        let running = start(*driver, in_memory(), options);
        assert_eq!(until_closed(running.socket()), b"");
    }
}

#[test]
fn a_limit_of_the_options_is_the_limit() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let limits = Limits {
            args: 3,
            ..Limits::default()
        };
        let running = start(*driver, in_memory(), ServerOptions::new().limits(limits));
        assert_eq!(ask(&mut running.client(), "SET a 1"), "OK");
        assert!(ask(&mut running.client(), "MGET a b c").contains("invalid multibulk length"));
    }
}

/// Sends a byte now and then until the server closes; how long that took.
fn drip(mut socket: TcpStream, bytes: &[u8]) -> Duration {
    let started = Instant::now();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    for byte in bytes {
        if socket.write_all(&[*byte]).is_err() {
            break;
        }
        match socket.read(&mut [0; 64]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    started.elapsed()
}

#[test]
fn nobody_gains_time_for_the_password_by_sending_slowly() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new()
            .password("secret")
            .auth_max(Duration::from_millis(300));
        let running = start(*driver, in_memory(), options);
        // Forty seconds of it, if it were let.
        let took = drip(running.socket(), &b"*1\r\n$4\r\nPING\r\n".repeat(140));
        assert!(took < Duration::from_secs(10), "{took:?}");
        // Who is in stays in, and out again must hurry again.
        let mut client = running.client();
        assert_eq!(ask(&mut client, "AUTH secret"), "OK");
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(ask(&mut client, "PING"), "PONG");
        assert_eq!(ask(&mut client, "RESET"), "RESET");
        assert_eq!(ask(&mut client, "AUTH secret"), "OK");
    }
}

#[test]
fn half_a_request_is_not_waited_for_without_end() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().request_max(Duration::from_millis(100));
        let running = start(*driver, in_memory(), options);
        let mut idle = running.client();
        let mut socket = running.socket();
        socket.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nab").unwrap();
        let started = Instant::now();
        assert_eq!(until_closed(socket), b"");
        assert!(started.elapsed() < PATIENCE / 2);
        assert_eq!(
            ask(&mut idle, "PING"),
            "PONG",
            "between requests there is time"
        );
    }
}

#[test]
fn all_connections_together_have_a_limit_of_memory() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let options = ServerOptions::new().buffered_bytes_max(3 << 20);
        let running = start(*driver, in_memory(), options);
        let mut other = running.client();
        let mut halves = Vec::new();
        let mut refused = 0;
        for _ in 0..8 {
            let mut socket = running.socket();
            let _ = socket.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000\r\n");
            let _ = socket.write_all(&vec![b'x'; 1_000_000]);
            halves.push(socket);
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ask(&mut other, "SET a 1"), "OK", "small ones go on");
        for mut socket in halves {
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            let mut said = [0; 64];
            match socket.read(&mut said) {
                Ok(len) => {
                    let said = &said[..len];
                    assert!(
                        said.is_empty() || said == b"-ERR out of memory for requests\r\n",
                        "{}",
                        said.escape_ascii()
                    );
                    refused += 1;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => refused += 1,
                Err(_) => {}
            }
        }
        assert!((1..8).contains(&refused), "{refused} of 8 were refused");
        // All of it is free again.
        let until = Instant::now() + PATIENCE;
        let large = "v".repeat(1_000_000);
        while other.call(&["SET", "a", &large]).is_err() {
            assert!(Instant::now() < until, "what was cut off still counts");
            other = running.client();
        }
    }
}

/// What a client sends comes back in many errors: it must not become a reply of its own.
#[test]
fn nothing_that_is_said_back_ends_its_line() {
    everywhere(|running| {
        let evil: [&[u8]; 6] = [
            b"x\r\n+OK\r\n",
            b"\r\n$5\r\nhello\r\n",
            b"a\0b\r\n",
            b"\n-ERR no\n",
            b"\r\r\n\n",
            b"+\r\n:1\r\n*0\r\n",
        ];
        let forms = "? | ? ? | GET ? ? | CLIENT ? | CLIENT SETNAME ? | CLIENT KILL ? | CLIENT REPLY ? | CONFIG ? \
            | CONFIG GET ? | COMMAND ? | COMMAND GETKEYS ? | COMMAND INFO ? | HELLO ? | HELLO 3 SETNAME ? \
            | HELLO 3 AUTH ? ? | AUTH ? | SELECT ? | INCRBY k ? | SET k v ? | SETRANGE k ? v | ECHO ? | PING ? \
            | CLIENT SETINFO LIB-NAME ? | CLIENT SETINFO ? x | INFO ? | KEYS ? | SCAN ? | KVS.CAS k ? x \
            | TTL ? | EXPIRE k 1 ? | MULTI ?";
        for form in forms.split('|') {
            for evil in evil {
                let word = |word: &'static str| match word {
                    "?" => evil.to_vec(),
                    word => word.as_bytes().to_vec(),
                };
                let request: Vec<Vec<u8>> = form.split_ascii_whitespace().map(word).collect();
                let mut client = running.client();
                let pipeline = client.pipeline().arg(&request[..]).arg(["ECHO", "end"]);
                // `CLIENT REPLY` alone may take a reply away.
                let replies = pipeline.run().unwrap();
                let shown: Vec<String> = request
                    .iter()
                    .map(|a| a.escape_ascii().to_string())
                    .collect();
                assert_eq!(replies[1], Reply::bulk("end"), "{shown:?}: {replies:?}");
                let mut list = running.client();
                let Reply::Bulk(list) = list.call(&["CLIENT", "LIST"]).unwrap() else {
                    panic!("a list of clients");
                };
                let lines = String::from_utf8_lossy(&list).into_owned();
                assert!(
                    lines.lines().all(|line| line.starts_with("id=")),
                    "{shown:?}: {lines}"
                );
            }
        }
    });
}

#[test]
fn a_pattern_has_a_limit() {
    everywhere(|running| {
        let mut client = running.client();
        client.set("k".repeat(60_000), "1").unwrap();
        let pattern = format!("*{}", "a*".repeat(511));
        let started = Instant::now();
        assert_eq!(
            client.call(&["KEYS", &pattern]).unwrap(),
            Reply::Array(vec![])
        );
        assert!(started.elapsed() < PATIENCE);
        let pattern = format!("[{}]*", "x".repeat(10_000));
        let reply = client.call(&["KEYS", &pattern]).unwrap();
        assert_eq!(reply, Reply::Error(b"ERR pattern is too long"[..].into()));
    });
}
