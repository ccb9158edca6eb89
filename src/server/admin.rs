//! Commands about the server and its connections.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::engines::{Engine, Operation};
use crate::protocol::command::{Client as ClientCommand, Command, Kill, Spec, TABLE, lookup};
use crate::protocol::{CommandError, Reply, Version};
use crate::server::execute::{ReplyOf, engine_error, needs};
use crate::server::glob::Pattern;
use crate::server::shared::{Client, Shared};

/// The Redis whose commands and texts these are.
const REDIS_VERSION: &str = "7.0.15";

pub const WRONG_PASSWORD: &[u8] = b"WRONGPASS invalid username-password pair or user is disabled.";
pub const NO_PASSWORD: &[u8] = b"ERR AUTH <password> called without any password configured for \
    the default user. Are you sure your configuration is correct?";
pub const BAD_NAME: &str = "Client names cannot contain spaces, newlines or special characters.";

/// Most bytes of a name that a client gives itself.
const NAME_BYTES_MAX: usize = 256;

/// Whether a client may call itself so.
pub fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX && name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn bulk<V>(text: impl Into<Vec<u8>>) -> Reply<V> {
    Reply::Bulk(text.into())
}

pub fn hello<V>(client: &Client, version: Version) -> Reply<V> {
    let version = match version {
        Version::Resp2 => 2,
        Version::Resp3 => 3,
    };
    Reply::Map(vec![
        (bulk("server"), bulk("kvs")),
        (bulk("version"), bulk(REDIS_VERSION)),
        (bulk("proto"), Reply::Integer(version)),
        (bulk("id"), Reply::count(client.id)),
        (bulk("mode"), bulk("standalone")),
        (bulk("role"), bulk("master")),
        (bulk("modules"), Reply::Array(Vec::new())),
    ])
}

/// Whatever `session` does not do itself.
pub fn answer<E: Engine>(command: &Command<'_>, me: &Client, shared: &Shared<E>) -> ReplyOf<E> {
    match command {
        Command::Ping(None) => Reply::Simple(b"PONG".into()),
        Command::Ping(Some(text)) | Command::Echo(text) => bulk(*text),
        Command::Select(0) => Reply::OK,
        Command::Select(_) => Reply::error(CommandError::Other("DB index is out of range")),
        Command::Client(command) => client(command, me, shared),
        Command::Commands => Reply::Array(offered(shared).map(info).collect()),
        Command::CommandCount => Reply::count(offered(shared).count() as u64),
        Command::CommandList => Reply::Array(offered(shared).map(|s| bulk(s.name)).collect()),
        Command::CommandInfo(names) if names.is_empty() => {
            Reply::Array(offered(shared).map(info).collect())
        }
        Command::CommandInfo(names) => {
            let one = |name: &&[u8]| named(shared, name).map_or(Reply::NullArray, info);
            Reply::Array(names.iter().map(one).collect())
        }
        Command::CommandDocs(names) if names.is_empty() => {
            Reply::Map(offered(shared).map(docs).collect())
        }
        Command::CommandDocs(names) => {
            let found = names.iter().filter_map(|name| named(shared, name));
            Reply::Map(found.map(docs).collect())
        }
        Command::CommandGetKeys(args) => get_keys(args),
        Command::Info(sections) => Reply::Verbatim(*b"txt", info_text(sections, shared)),
        Command::ConfigGet(patterns) => config_get(patterns, shared),
        Command::ConfigSet(pairs) => Reply::error(match setting(pairs[0], shared) {
            Some(name) => format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - can't set \
                 immutable config"
            ),
            None => format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{}'",
                String::from_utf8_lossy(&pairs[0][..pairs[0].len().min(128)])
            ),
        }),
        Command::ConfigResetStat => {
            shared.counters.reset();
            Reply::OK
        }
        Command::KvsCheckpoint(name) => checkpoint(name, shared),
        Command::Time => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let seconds = now.as_secs().to_string();
            Reply::Array(vec![bulk(seconds), bulk(now.subsec_micros().to_string())])
        }
        // Everything else was run before it came here.
        _ => Reply::error(CommandError::Syntax),
    }
}

/// Most bytes of a copy's name.
const COPY_NAME_BYTES_MAX: usize = 64;

/// Names never lead out of the directory for copies, nor to what is hidden there.
fn is_copy_name(name: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=COPY_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(plain)
}

fn checkpoint<E: Engine>(name: &[u8], shared: &Shared<E>) -> ReplyOf<E> {
    let Some(dir) = &shared.options.checkpoints else {
        return Reply::error("ERR this server has no directory for checkpoints");
    };
    let name = match std::str::from_utf8(name) {
        Ok(text) if is_copy_name(name) => text,
        _ => {
            let max = COPY_NAME_BYTES_MAX;
            return Reply::error(format_args!(
                "ERR the name of a checkpoint has 1 to {max} letters, digits, '_' and '-'"
            ));
        }
    };
    match shared.engine.checkpoint(&dir.join(name)) {
        Err(error) => engine_error(&shared.engine, &error),
        Ok(figures) => {
            let pair = |(name, number): (&str, u64)| (bulk(name), Reply::count(number));
            Reply::Map(figures.into_iter().map(pair).collect())
        }
    }
}

// Commands.

/// The commands that this engine can do.
fn offered<E: Engine>(shared: &Shared<E>) -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().filter(|spec| can(shared, spec))
}

fn named<E: Engine>(shared: &Shared<E>, name: &[u8]) -> Option<&'static Spec> {
    lookup(name).filter(|spec| can(shared, spec))
}

fn can<E: Engine>(shared: &Shared<E>, spec: &Spec) -> bool {
    needs(spec.name).is_none_or(|operation| shared.engine.supports(operation))
}

fn info<V>(spec: &'static Spec) -> Reply<V> {
    let (first, last, step) = spec.keys;
    let flag = |word: &'static str| Reply::Simple(word.as_bytes().into());
    let flags = match (spec.writes, spec.keys) {
        (true, _) => vec![flag("write")],
        (false, (0, 0, 0)) => vec![flag("fast")],
        (false, _) => vec![flag("readonly")],
    };
    let category = match (spec.group, spec.writes) {
        (_, true) => "@write",
        ("connection", _) => "@connection",
        ("transactions", _) => "@transaction",
        ("server", _) => "@admin",
        _ => "@read",
    };
    Reply::Array(vec![
        bulk(spec.name),
        Reply::Integer(spec.arity.into()),
        Reply::Set(flags),
        Reply::Integer(first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(step.into()),
        Reply::Set(vec![flag(category)]),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

fn docs<V>(spec: &'static Spec) -> (Reply<V>, Reply<V>) {
    let about = Reply::Map(vec![
        (bulk("summary"), bulk(spec.summary)),
        (bulk("group"), bulk(spec.group)),
    ]);
    (bulk(spec.name), about)
}

fn get_keys<V>(args: &[&[u8]]) -> Reply<V> {
    let Some(spec) = lookup(args[0]) else {
        return Reply::error(CommandError::Other("Invalid command specified"));
    };
    if !spec.takes(args.len()) {
        let text = "Invalid number of arguments specified for command";
        return Reply::error(CommandError::Other(text));
    }
    let keys: Vec<Reply<V>> = spec
        .key_positions(args.len())
        .map(|at| bulk(args[at]))
        .collect();
    match keys.is_empty() {
        true => Reply::error(CommandError::Other("The command has no key arguments")),
        false => Reply::Array(keys),
    }
}

// Settings.

fn settings<E: Engine>(shared: &Shared<E>) -> Vec<(&'static str, String)> {
    let options = &shared.options;
    let idle = options.idle_max.map_or(0, |idle| idle.as_secs());
    vec![
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", options.clients_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("proto-max-bulk-len", options.limits.arg_bytes.to_string()),
        ("save", String::new()),
        ("timeout", idle.to_string()),
    ]
}

fn setting<E: Engine>(name: &[u8], shared: &Shared<E>) -> Option<&'static str> {
    let known = settings(shared).into_iter().map(|(known, _)| known);
    known
        .into_iter()
        .find(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

fn config_get<E: Engine>(patterns: &[&[u8]], shared: &Shared<E>) -> ReplyOf<E> {
    let lower: Vec<Vec<u8>> = patterns.iter().map(|p| p.to_ascii_lowercase()).collect();
    let patterns: Result<Vec<_>, _> = lower.iter().map(|p| Pattern::new(p)).collect();
    let patterns = match patterns {
        Ok(patterns) => patterns,
        Err(error) => return Reply::error(error),
    };
    let like = |name: &str| patterns.iter().any(|p| p.matches(name.as_bytes()));
    let found = settings(shared).into_iter().filter(|(name, _)| like(name));
    Reply::Map(
        found
            .map(|(name, value)| (bulk(name), bulk(value)))
            .collect(),
    )
}

// INFO.

fn info_text<E: Engine>(sections: &[&[u8]], shared: &Shared<E>) -> Vec<u8> {
    let wanted = |section: &str| {
        sections.is_empty()
            || sections.iter().any(|s| {
                [section, "all", "default", "everything"]
                    .iter()
                    .any(|word| s.eq_ignore_ascii_case(word.as_bytes()))
            })
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &shared.counters;
    let uptime = shared.since.elapsed().as_secs();
    let port = shared.addr.lock().map_or(0, |addr| addr.port());
    let mut text = String::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        if !wanted(name) {
            return;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        let (first, rest) = name.split_at(1);
        // Writing into a String cannot fail.
        let _ = write!(text, "# {}{rest}\r\n", first.to_uppercase());
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    };
    section(
        "server",
        &[
            ("redis_version", REDIS_VERSION.to_owned()),
            ("redis_mode", "standalone".to_owned()),
            ("kvs_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kvs_engine", shared.engine.name().to_owned()),
            ("process_id", std::process::id().to_string()),
            ("tcp_port", port.to_string()),
            ("uptime_in_seconds", uptime.to_string()),
            ("uptime_in_days", (uptime / 86_400).to_string()),
        ],
    );
    let clients = shared.clients().len();
    section(
        "clients",
        &[
            ("connected_clients", clients.to_string()),
            ("maxclients", shared.options.clients_max.to_string()),
        ],
    );
    section("persistence", &[("loading", "0".to_owned())]);
    section(
        "stats",
        &[
            (
                "total_connections_received",
                count(&counters.connections).to_string(),
            ),
            (
                "total_commands_processed",
                count(&counters.commands).to_string(),
            ),
            (
                "rejected_connections",
                count(&counters.rejected).to_string(),
            ),
            (
                "total_net_input_bytes",
                count(&counters.read_bytes).to_string(),
            ),
            (
                "total_net_output_bytes",
                count(&counters.written_bytes).to_string(),
            ),
            ("keyspace_hits", count(&counters.hits).to_string()),
            ("keyspace_misses", count(&counters.misses).to_string()),
            ("total_error_replies", count(&counters.errors).to_string()),
        ],
    );
    section(
        "replication",
        &[
            ("role", "master".to_owned()),
            ("connected_slaves", "0".to_owned()),
        ],
    );
    section("cluster", &[("cluster_enabled", "0".to_owned())]);
    let keys = match shared.engine.supports(Operation::Len) {
        true => shared.engine.len().unwrap_or(0),
        false => 0,
    };
    let db = format!("keys={keys},expires=0,avg_ttl=0");
    let db0 = [("db0", db)];
    section("keyspace", if keys > 0 { &db0 } else { &[] });
    text.into_bytes()
}

// CLIENT.

fn client<E: Engine>(command: &ClientCommand<'_>, me: &Client, shared: &Shared<E>) -> ReplyOf<E> {
    match command {
        ClientCommand::Id => Reply::count(me.id),
        ClientCommand::Info => bulk(format!("{}\n", line(me))),
        ClientCommand::List => {
            let lines = shared
                .clients()
                .into_iter()
                .map(|c| format!("{}\n", line(&c)));
            Reply::Verbatim(*b"txt", lines.collect::<String>().into_bytes())
        }
        ClientCommand::GetName => {
            let name = me.name.lock().clone();
            if name.is_empty() {
                Reply::Null
            } else {
                bulk(name)
            }
        }
        ClientCommand::SetName(name) if is_name(name) => {
            *me.name.lock() = name.to_vec();
            Reply::OK
        }
        ClientCommand::SetName(_) => Reply::error(CommandError::Other(BAD_NAME)),
        ClientCommand::SetInfo { attribute, value } => {
            let (field, known) = match attribute {
                name if name.eq_ignore_ascii_case(b"LIB-NAME") => (&me.lib_name, "lib-name"),
                name if name.eq_ignore_ascii_case(b"LIB-VER") => (&me.lib_version, "lib-ver"),
                name => {
                    let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
                    return Reply::error(format_args!("ERR Unrecognized option '{name}'"));
                }
            };
            if !is_name(value) {
                return Reply::error(format_args!(
                    "ERR {known} cannot contain spaces, newlines or special characters."
                ));
            }
            *field.lock() = value.to_vec();
            Reply::OK
        }
        ClientCommand::Kill(who) => kill(who, me, shared),
        // `CLIENT REPLY` is the session's.
        ClientCommand::Reply(_) | ClientCommand::Nothing => Reply::OK,
    }
}

fn kill<E: Engine>(who: &Kill<'_>, me: &Client, shared: &Shared<E>) -> ReplyOf<E> {
    let at = |addr: Option<std::net::SocketAddr>| addr.map(|a| a.to_string().into_bytes());
    let meant = |client: &&std::sync::Arc<Client>| {
        who.id.is_none_or(|id| id == client.id)
            && who
                .addr
                .is_none_or(|addr| at(client.addr).as_deref() == Some(addr))
            && who
                .laddr
                .is_none_or(|addr| at(client.laddr).as_deref() == Some(addr))
            && (who.me || client.id != me.id)
    };
    let clients = shared.clients();
    let mut killed = 0;
    for client in clients.iter().filter(meant) {
        client.kill();
        killed += 1;
    }
    match (who.one, killed) {
        (false, _) => Reply::count(killed),
        (true, 0) => Reply::error(CommandError::Other("No such client")),
        (true, _) => Reply::OK,
    }
}

fn line(client: &Client) -> String {
    let at = |addr: Option<std::net::SocketAddr>| addr.map_or(String::new(), |a| a.to_string());
    // Names were checked: ASCII without blanks.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "id={} addr={} laddr={} name={} age={} db=0 cmd={} lib-name={} lib-ver={}",
        client.id,
        at(client.addr),
        at(client.laddr),
        text(&client.name.lock()),
        client.since.elapsed().as_secs(),
        *client.last.lock(),
        text(&client.lib_name.lock()),
        text(&client.lib_version.lock()),
    )
}
