//! What Redis would answer, and what a transaction sees.

use std::io::{Read, Write};

use kvs::protocol::Reply;
use kvs::server::ServerOptions;
use kvs::{KvStore, KvsClient};
use tempfile::TempDir;

use crate::harness::{DRIVERS, Told, ask, everywhere, script, show, start, words};

#[test]
fn values_are_what_redis_makes_of_them() {
    let commands = "
        GET a => (nil)
        SET a 1 => OK
        GET a => \"1\"
        SET a 2 GET => \"1\"
        SET a 3 NX => (nil)
        SET b 3 NX => OK
        SET c 3 XX => (nil)
        SET b 4 XX GET => \"3\"
        SET b 5 IFEQ 3 => (nil)
        SET b 5 IFEQ 4 => OK
        SET b 6 KEEPTTL => OK
        SET n 1 NX GET => (nil)
        SETNX a 1 => :0
        SETNX d 1 => :1
        GETSET a x => \"2\"
        GETSET e x => (nil)
        GETDEL e => \"x\"
        GETDEL e => (nil)
        GETEX a => \"x\"
        MGET a b c => [\"x\" \"6\" (nil)]
        MSET a 1 b 2 a 3 => OK
        MGET a b => [\"3\" \"2\"]
        MSETNX b 1 z 1 => :0
        EXISTS z => :0
        MSETNX y 1 z 1 => :1
        APPEND s he => :2
        APPEND s llo => :5
        STRLEN s => :5
        STRLEN none => :0
        GETRANGE s 0 -1 => \"hello\"
        GETRANGE s 1 3 => \"ell\"
        GETRANGE s -3 -2 => \"ll\"
        GETRANGE s 3 1 => \"\"
        GETRANGE s 9 10 => \"\"
        GETRANGE s -100 100 => \"hello\"
        GETRANGE s -9223372036854775808 9223372036854775807 => \"hello\"
        SETRANGE s 1 ipp => :5
        GET s => \"hippo\"
        SETRANGE s 7 ! => :8
        GET s => \"hippo\\x00\\x00!\"
        SETRANGE none 5 '' => :0
        EXISTS none => :0
        SETRANGE s 67108864 x => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SETRANGE s 9223372036854775807 x => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        INCR i => :1
        INCRBY i 41 => :42
        DECR i => :41
        DECRBY i -1 => :42
        GET i => \"42\"
        SET i 9223372036854775807 => OK
        INCR i => -ERR increment or decrement would overflow
        GET i => \"9223372036854775807\"
        INCR s => -ERR value is not an integer or out of range
        INCRBYFLOAT f 0.1 => \"0.1\"
        INCRBYFLOAT f 0.2 => \"0.3\"
        INCRBYFLOAT f 5.0e3 => \"5000.3\"
        INCRBYFLOAT s 1 => -ERR value is not a valid float
        INCRBYFLOAT f inf => -ERR increment would produce NaN or Infinity
        KVS.CAS cas ABSENT SET 1 => :1
        KVS.CAS cas ABSENT SET 2 => :0
        KVS.CAS cas VALUE 2 SET 3 => :0
        KVS.CAS cas VALUE 1 SET 3 => :1
        KVS.CAS cas VALUE 3 DEL => :1
        EXISTS cas => :0
        SET '' empty => OK
        GET '' => \"empty\"
    ";
    everywhere(|running| script(running, commands));
}

#[test]
fn keys_are_what_redis_makes_of_them() {
    let commands = "
        SET a 1 => OK
        SET b 2 => OK
        EXISTS a b c a => :3
        TOUCH a c => :1
        TYPE a => string
        TYPE c => none
        DEL a c a => :1
        UNLINK b => :1
        DBSIZE => :0
        RANDOMKEY => (nil)
        SET k1 1 => OK
        RANDOMKEY => \"k1\"
        RENAME k1 k2 => OK
        RENAME k1 k2 => -ERR no such key
        RENAME k2 k2 => OK
        GET k2 => \"1\"
        SET k3 3 => OK
        RENAMENX k2 k3 => :0
        RENAMENX k2 k4 => :1
        COPY k3 k4 => :0
        COPY k3 k4 REPLACE => :1
        COPY k3 k3 => -ERR source and destination objects are the same
        COPY none k5 => :0
        COPY k3 k5 DB 0 => :1
        COPY k3 k5 DB 1 => -ERR DB index is out of range
        GET k4 => \"3\"
        DBSIZE => :3
        KEYS k3 => [\"k3\"]
        KEYS *[5-9] => [\"k5\"]
        KEYS x* => []
        DBSIZE extra => -ERR wrong number of arguments for 'dbsize' command
    ";
    everywhere(|running| script(running, commands));
}

#[test]
fn the_connection_is_told_about_in_the_words_of_redis() {
    let commands = "
        PING => PONG
        PING hi => \"hi\"
        ECHO hi => \"hi\"
        SELECT 0 => OK
        SELECT 1 => -ERR DB index is out of range
        CLIENT GETNAME => (nil)
        CLIENT SETNAME me => OK
        CLIENT GETNAME => \"me\"
        CLIENT SETINFO LIB-NAME x => OK
        CLIENT SETINFO LIB-COLOUR x => -ERR Unrecognized option 'LIB-COLOUR'
        CLIENT NO-EVICT on => OK
        CLIENT NO-TOUCH off => OK
        CLIENT MAINT_NOTIFICATIONS ON => -ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.
        CLIENT KILL 1.2.3.4:5 => -ERR No such client
        CLIENT KILL ID 999999 => :0
        AUTH x => -ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?
        AUTH default x => OK
        HELLO 4 => -NOPROTO unsupported protocol version
        CONFIG GET appendonly => [\"appendonly\" \"yes\"]
        CONFIG GET sav? => [\"save\" \"\"]
        CONFIG GET nothing => []
        CONFIG SET save x => -ERR CONFIG SET failed (possibly related to argument 'save') - can't set immutable config
        CONFIG SET foo x => -ERR Unknown option or number of arguments for CONFIG SET - 'foo'
        CONFIG RESETSTAT => OK
        COMMAND GETKEYS MSET a 1 b 2 => [\"a\" \"b\"]
        COMMAND GETKEYS PING hi => -ERR The command has no key arguments
        COMMAND INFO nothing => [(nil array)]
        LPUSH a b => -ERR unknown command 'LPUSH', with args beginning with: 'a' 'b'
        GET => -ERR wrong number of arguments for 'get' command
        EXEC => -ERR EXEC without MULTI
        DISCARD => -ERR DISCARD without MULTI
        RESET => RESET
    ";
    everywhere(|running| script(running, commands));
}

/// The words of `cmd=` in what a reply says of one client or more.
fn last_commands(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Bulk(text) => {
            let text = String::from_utf8(text.clone()).unwrap();
            let words = text.split_whitespace();
            let last = words.filter_map(|word| word.strip_prefix("cmd="));
            last.map(str::to_owned).collect()
        }
        Reply::Array(replies) => replies.iter().flat_map(last_commands).collect(),
        _ => Vec::new(),
    }
}

/// What stands here is what Redis 7.0 answers.
#[test]
fn clients_are_told_by_the_command_that_runs_or_ran_last() {
    let commands = [
        "SET a 1",
        "client info",
        "MULTI",
        "GET a",
        "CLIENT LIST",
        "CLIENT INFO",
        "EXEC",
        "CLIENT LIST",
        "GET a",
    ];
    let wanted = ["client|info", "exec", "exec", "client|list"];
    everywhere(|running| {
        let mut client = running.client();
        let replies = commands.map(|command| client.call(&words(command)).unwrap());
        let told: Vec<String> = replies.iter().flat_map(last_commands).collect();
        assert_eq!(told, wanted);
        let mut pipeline = client.pipeline();
        for command in commands {
            pipeline.push(&words(command));
        }
        let replies = pipeline.run().unwrap();
        let told: Vec<String> = replies.iter().flat_map(last_commands).collect();
        assert_eq!(told, wanted, "pipelined");
        // As another sees it.
        let mut other = running.client();
        let mut seen_after = |line: &str| {
            ask(&mut client, line);
            last_commands(&other.call(&["CLIENT", "LIST"]).unwrap())
        };
        for (line, wanted) in [
            ("Get a", "get"),
            ("MULTI", "multi"),
            ("SET a 1", "set"),
            ("CLIENT SETNAME x", "client|setname"),
            ("EXEC", "exec"),
            ("NONE x", "NULL"),
            ("CLIENT none", "NULL"),
            ("COMMAND", "command"),
            ("COMMAND COUNT", "command|count"),
        ] {
            assert_eq!(seen_after(line), [wanted, "client|list"], "{line}");
        }
    });
}

#[test]
fn scan_shows_every_key_and_begins_and_ends_with_0() {
    let commands = "
        SCAN 0 => [\"0\" []]
        SET a 1 => OK
        SCAN 0 => [\"0\" [\"a\"]]
        scan 0 count 1000 => [\"0\" [\"a\"]]
        SCAN 0 TYPE string => [\"0\" [\"a\"]]
        SCAN 0 TYPE HASH => [\"0\" []]
        SCAN 0 MATCH b* => [\"0\" []]
        SET b1 1 => OK
        SCAN 0 MATCH b* COUNT 1000 TYPE String => [\"0\" [\"b1\"]]
        SCAN 18446744073709551615 => [\"0\" []]
        SCAN 99999999999999999999 => -ERR invalid cursor
        SCAN 0 COUNT 0 => -ERR syntax error
        SCAN 0 COUNT x => -ERR value is not an integer or out of range
        SCAN 0 FOO 1 => -ERR syntax error
        SCAN 0 MATCH => -ERR syntax error
        DEL a b1 => :2
        RANDOMKEY => (nil)
        SET a 1 => OK
        RANDOMKEY => \"a\"
    ";
    everywhere(|running| {
        script(running, commands);
        let mut client = running.client();
        for i in 0..1000 {
            ask(&mut client, &format!("SET key-{i} 1"));
        }
        for options in ["", " COUNT 100", " COUNT 1", " COUNT 9223372036854775807"] {
            let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
            loop {
                let scan = format!("SCAN {cursor} MATCH key-*{options}");
                let reply = client.call(&words(&scan)).unwrap();
                let Reply::Array(parts) = reply else {
                    panic!("{reply:?}");
                };
                let [Reply::Bulk(next), Reply::Array(keys)] = &parts[..] else {
                    panic!("{parts:?}");
                };
                assert!(keys.len() <= 1030, "one reply has its bounds");
                seen.extend(keys.iter().map(show));
                cursor = String::from_utf8(next.clone()).unwrap();
                // Between the calls.
                ask(&mut client, &format!("SET key-{} 2", seen.len() % 1000));
                if cursor == "0" {
                    break;
                }
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 1000, "{options}");
        }
    });
}

#[test]
fn scan_sees_what_its_own_burst_and_transaction_have_changed() {
    everywhere(|running| {
        let mut client = running.client();
        ask(&mut client, "MSET old 1 gone 1 same 1");
        let changes = ["SET new 1", "DEL gone", "SET same 2", "SCAN 0 COUNT 1000"];
        let sorted = |reply: &str| {
            let mut found: Vec<String> = reply
                .split(['[', ']', ' ', '"'])
                .filter(|word| word.chars().any(char::is_alphabetic))
                .map(str::to_owned)
                .collect();
            found.sort();
            found.join(" ")
        };
        let mut burst = client.pipeline();
        changes
            .iter()
            .for_each(|command| burst.push(&words(command)));
        let replies = burst.run().unwrap();
        assert_eq!(sorted(&show(&replies[3])), "new old same");
        ask(&mut client, "DEL new");
        ask(&mut client, "SET gone 1");
        ask(&mut client, "MULTI");
        for command in changes {
            assert_eq!(ask(&mut client, command), "QUEUED");
        }
        let Reply::Array(replies) = client.call(&[b"EXEC"]).unwrap() else {
            panic!("EXEC has one reply for each command");
        };
        assert_eq!(sorted(&show(&replies[3])), "new old same");
    });
}

#[test]
fn what_an_engine_lacks_is_said_and_not_offered() {
    everywhere(|running| {
        let mut client = running.client();
        assert_eq!(
            ask(&mut client, "COMMAND INFO nothing lpush"),
            "[(nil array) (nil array)]"
        );
        let list = ask(&mut client, "COMMAND LIST");
        assert!(
            list.contains("\"kvs.compact\"") && list.contains("\"get\""),
            "{list}"
        );
        assert!(
            list.contains("\"expire\"") && list.contains("\"scan\""),
            "{list}"
        );
        let count: i64 = ask(&mut client, "COMMAND COUNT")[1..].parse().unwrap();
        assert_eq!(count, list.split(' ').count() as i64);
        let stats = ask(&mut client, "KVS.STATS");
        assert!(
            stats.starts_with("[\"keys\" :0 \"live_bytes\" :"),
            "{stats}"
        );
        let verified = ask(&mut client, "KVS.VERIFY");
        assert!(verified.ends_with("\"damage\" :0]"), "{verified}");
        assert!(ask(&mut client, "KVS.COMPACT").starts_with("[\"segments_before\""));
    });
}

// RESP3.

#[test]
fn hello_changes_the_protocol_from_its_own_reply_on() {
    everywhere(|running| {
        let mut client = running.client();
        let replies = client
            .pipeline()
            .arg(["CONFIG", "GET", "save"])
            .arg(["HELLO", "3", "SETNAME", "me"])
            .arg(["CONFIG", "GET", "save"])
            .arg(["GET", "none"])
            .run()
            .unwrap();
        assert!(matches!(replies[0], Reply::Array(_)), "{replies:?}");
        let Reply::Map(hello) = &replies[1] else {
            panic!("{replies:?}")
        };
        let proto = (Reply::bulk("proto"), Reply::Integer(3));
        assert!(hello.contains(&proto), "{hello:?}");
        assert!(matches!(replies[2], Reply::Map(_)), "{replies:?}");
        assert_eq!(replies[3], Reply::Null);
        let mut socket = running.socket();
        socket
            .write_all(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")
            .unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"_\r\n") {
            let mut piece = [0; 512];
            let len = socket.read(&mut piece).unwrap();
            assert!(len > 0, "{}", bytes.escape_ascii());
            bytes.extend(&piece[..len]);
        }
        assert!(bytes.starts_with(b"%7\r\n"), "{}", bytes.escape_ascii());
    });
}

// Transactions.

#[test]
fn a_transaction_is_whole_or_nothing() {
    let commands = "
        MULTI => OK
        MULTI => -ERR MULTI calls can not be nested
        WATCH a => -ERR WATCH inside MULTI is not allowed
        SET a 1 => QUEUED
        INCR a => QUEUED
        GET a => QUEUED
        DBSIZE => QUEUED
        KEYS * => QUEUED
        DEL a => QUEUED
        SET b 2 => QUEUED
        INCR c => QUEUED
        EXEC => [OK :2 \"2\" :1 [\"a\"] :1 OK :1]
        MGET a b c => [(nil) \"2\" \"1\"]
        MULTI => OK
        SET a 1 => QUEUED
        DISCARD => OK
        GET a => (nil)
        MULTI => OK
        SET a 1 => QUEUED
        FOO => -ERR unknown command 'FOO', with args beginning with:
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        GET a => (nil)
        MULTI => OK
        SET a x => QUEUED
        INCR a => QUEUED
        SET b y => QUEUED
        EXEC => [OK -ERR value is not an integer or out of range OK]
        MGET a b => [\"x\" \"y\"]
        WATCH a => OK
        UNWATCH => OK
        WATCH a => OK
        SET a changed => OK
        MULTI => OK
        SET a 1 => QUEUED
        EXEC => (nil array)
        GET a => \"changed\"
        SET a again => OK
        WATCH a => OK
        MULTI => OK
        SET a 1 => QUEUED
        EXEC => [OK]
        MULTI => OK
        RESET => RESET
        SET a 2 => OK
        MULTI => OK
        EXEC => []
    ";
    everywhere(|running| {
        let lines: Vec<(&str, &str)> = commands
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(" => ").expect(line))
            .collect();
        for pipelined in [false, true] {
            let mut client = running.client();
            client.call(&["DEL", "a", "b", "c"]).unwrap();
            let mut pipeline = client.pipeline();
            let replies = match pipelined {
                true => {
                    lines
                        .iter()
                        .for_each(|(command, _)| pipeline.push(&words(command)));
                    pipeline.run().unwrap()
                }
                false => lines
                    .iter()
                    .map(|(command, _)| client.call(&words(command)).unwrap())
                    .collect(),
            };
            for ((command, wanted), reply) in lines.iter().zip(replies) {
                assert_eq!(show(&reply), *wanted, "{command}, pipelined: {pipelined}");
            }
        }
    });
}

#[test]
fn a_watched_key_that_another_changes_stops_the_transaction() {
    everywhere(|running| {
        let (mut one, mut other) = (running.client(), running.client());
        for (change, stops) in [
            ("SET a x", true),
            ("DEL a", true),
            ("APPEND a x", true),
            ("MSET z 1 a 1", true),
            ("RENAME b a", true),
            ("GET a", false),
            ("SET unrelated 1", false),
            ("SET a x XX GET", true),
            ("SETNX a x", false),
        ] {
            ask(&mut other, "MSET a 0 b 0");
            assert_eq!(ask(&mut one, "WATCH a none"), "OK");
            assert_eq!(ask(&mut one, "MULTI"), "OK");
            assert_eq!(ask(&mut one, "SET done yes"), "QUEUED");
            ask(&mut other, change);
            let wanted = if stops { "(nil array)" } else { "[OK]" };
            assert_eq!(ask(&mut one, "EXEC"), wanted, "{change}");
        }
        // A connection that is gone watches nothing.
        ask(&mut one, "WATCH a");
        drop(one);
        assert_eq!(ask(&mut other, "SET a 1"), "OK");
    });
}

/// Transfers between accounts with WATCH; the sum never changes, and every increment counts.
#[test]
fn read_modify_write_is_atomic_among_clients() {
    everywhere(|running| {
        const CLIENTS: usize = 6;
        const ROUNDS: usize = 150;
        running
            .client()
            .call(&["MSET", "x", "1000", "y", "1000"])
            .unwrap();
        std::thread::scope(|scope| {
            for n in 0..CLIENTS {
                scope.spawn(move || {
                    let mut client = running.client();
                    for round in 0..ROUNDS {
                        client.call(&["INCR", "count"]).unwrap();
                        client.call(&["APPEND", "log", "x"]).unwrap();
                        // Optimistic transfer.
                        loop {
                            client.call(&["WATCH", "x", "y"]).unwrap();
                            let read = |client: &mut KvsClient, key| -> i64 {
                                let value = client.get(key).unwrap().unwrap();
                                String::from_utf8(value).unwrap().parse().unwrap()
                            };
                            let (x, y) = (read(&mut client, "x"), read(&mut client, "y"));
                            let by = if (n + round) % 2 == 0 { 1 } else { -1 };
                            let replies = client
                                .pipeline()
                                .arg(["MULTI"])
                                .arg(["SET", "x", &(x - by).to_string()])
                                .arg(["SET", "y", &(y + by).to_string()])
                                .arg(["EXEC"])
                                .run()
                                .unwrap();
                            match &replies[3] {
                                Reply::Array(_) => break,
                                Reply::NullArray => {}
                                other => panic!("{other:?}"),
                            }
                        }
                        let Reply::Array(both) = client.call(&["MGET", "x", "y"]).unwrap() else {
                            panic!("MGET")
                        };
                        assert_eq!(both.len(), 2);
                    }
                });
            }
        });
        let mut client = running.client();
        let total = (CLIENTS * ROUNDS).to_string();
        assert_eq!(ask(&mut client, "GET count"), format!("\"{total}\""));
        assert_eq!(ask(&mut client, "STRLEN log"), format!(":{total}"));
        let Reply::Array(both) = client.call(&["MGET", "x", "y"]).unwrap() else {
            panic!()
        };
        let sum: i64 = both
            .iter()
            .map(|value| match value {
                Reply::Bulk(bytes) => std::str::from_utf8(bytes).unwrap().parse::<i64>().unwrap(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(sum, 2000);
    });
}

#[test]
fn a_copy_is_made_under_a_name_where_the_server_may() {
    for driver in DRIVERS {
        let _told = Told(*driver);
        let dir = TempDir::new().unwrap();
        let options = ServerOptions::new().checkpoints(dir.path().join("copies"));
        let store = KvStore::open(dir.path().join("store")).unwrap();
        let running = start(*driver, store, options);
        let mut client = running.client();
        script(&running, "SET a 1 => OK");
        let made = ask(&mut client, "KVS.CHECKPOINT monday");
        assert!(made.contains("\"segments\" :1"), "{made}");
        script(&running, "SET a 2 => OK");
        let copy = kvs::Store::open(dir.path().join("copies/monday")).unwrap();
        assert_eq!(copy.get("a").unwrap().as_deref(), Some(&b"1"[..]));
        let taken = ask(&mut client, "KVS.CHECKPOINT monday");
        assert!(
            taken.contains("exists and is not an empty directory"),
            "{taken}"
        );
        let long = "a".repeat(65);
        for name in [
            "..", "../up", "/tmp/x", "a/b", ".hidden", "a.b", "\u{e4}", &long,
        ] {
            let refused = ask(&mut client, &format!("KVS.CHECKPOINT {name}"));
            assert!(
                refused.starts_with("-ERR the name of a checkpoint has"),
                "{name}: {refused}"
            );
        }
        let made = std::fs::read_dir(dir.path().join("copies")).unwrap();
        assert_eq!(made.count(), 1);
    }
    everywhere(|running| {
        let mut client = running.client();
        let wanted = "-ERR this server has no directory for checkpoints";
        assert_eq!(ask(&mut client, "KVS.CHECKPOINT monday"), wanted);
    });
}

/// Times far enough from now that it does not matter how long the test takes.
#[test]
fn keys_end_when_they_are_told_to() {
    let commands = "
        TTL k => :-2
        PTTL k => :-2
        EXPIRETIME k => :-2
        EXPIRE k 100 => :0
        PERSIST k => :0
        SET k 1 => OK
        TTL k => :-1
        PEXPIRETIME k => :-1
        PERSIST k => :0
        EXPIREAT k 4000000000 => :1
        EXPIRETIME k => :4000000000
        PEXPIRETIME k => :4000000000000
        INCR k => :2
        APPEND k 5 => :2
        SETRANGE k 0 3 => :2
        INCRBYFLOAT k 0.5 => \"35.5\"
        SET k 7 KEEPTTL => OK
        EXPIRETIME k => :4000000000
        RENAME k l => OK
        EXPIRETIME l => :4000000000
        COPY l k => :1
        EXPIRETIME k => :4000000000
        GETSET k 8 => \"7\"
        TTL k => :-1
        MSET l 9 => OK
        TTL l => :-1
        SET k 1 PXAT 4000000000001 => OK
        PEXPIRETIME k => :4000000000001
        EXPIRE k 0 NX => :0
        EXPIREAT k 3000000000 GT => :0
        EXPIREAT k 5000000000 LT => :0
        EXPIREAT k 5000000000 GT => :1
        EXPIREAT k 4500000000 LT => :1
        EXPIREAT k 4500000000 XX => :1
        EXPIRETIME k => :4500000000
        GETEX k => \"1\"
        EXPIRETIME k => :4500000000
        GETEX k EXAT 4600000000 => \"1\"
        EXPIRETIME k => :4600000000
        GETEX k PERSIST => \"1\"
        TTL k => :-1
        EXPIREAT k 5000000000 XX => :0
        EXPIREAT k 5000000000 GT => :0
        EXPIREAT k 5000000000 LT => :1
        PERSIST k => :1
        SETEX s 100 v => OK
        TTL s => :100
        PSETEX s 100000 v => OK
        TTL s => :100
        SET s v EX 100 XX => OK
        TTL s => :100
        EXPIRE s 50 => :1
        TTL s => :50
        EXPIRE s -1 => :1
        EXISTS s => :0
        SET s v => OK
        PEXPIREAT s 1 => :1
        GET s => (nil)
        SET s v PXAT 1 => OK
        EXISTS s => :0
        SET s v => OK
        GETEX s PXAT 1 => \"v\"
        EXISTS s => :0
        MULTI => OK
        SET m 1 EXAT 4000000000 => QUEUED
        EXPIRETIME m => QUEUED
        INCR m => QUEUED
        PERSIST m => QUEUED
        TTL m => QUEUED
        EXPIREAT m 1 => QUEUED
        EXISTS m => QUEUED
        EXEC => [OK :4000000000 :2 :1 :-1 :1 :0]
        EXPIRE k x => -ERR value is not an integer or out of range
        EXPIRE k 9223372036854775807 => -ERR invalid expire time in 'expire' command
        PEXPIRE k 9223372036854775807 => -ERR invalid expire time in 'pexpire' command
        SET k v EX 0 => -ERR invalid expire time in 'set' command
    ";
    everywhere(|running| script(running, commands));
}
