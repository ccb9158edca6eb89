//! One connection, without its socket: bytes in, commands run in bursts, bytes out.
//!
//! A driver reads into [`Session::space`], tells how much with [`Session::filled`], calls
//! [`Session::turn`] until it says [`Turn::Idle`], and writes what waits in [`Session::output`].
//!
//! A burst is what was pipelined: up to 128 commands or 256 KiB. If it may write it runs under the
//! stripes of all keys that it names, over one [`View`], and is appended as one batch; then the stripes
//! are let go, and it is answered when the batch, and whatever of others it has read, is durable. If
//! either fails, every reply that rests on it becomes the error.
//!
//! Invariants
//! - Replies stand in the order of their commands.
//! - Nothing is answered before it, and all that it rests on, is as durable as the engine makes it.
//! - No stripe is held while a sync is waited for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::engines::{Engine, EngineError, Operation, Ticket};
use crate::protocol::command::{Command, ReplyMode, Spec, lookup};
use crate::protocol::{CommandError, Limits, Output, Reply, RequestParser, Step, Text, Version};
use crate::server::admin;
use crate::server::execute::{ReplyOf, engine_error, execute, needs, unsupported};
use crate::server::guesses::Looked;
use crate::server::locks::{Held, Watch};
use crate::server::shared::{Client, Shared};
use crate::server::view::{Rests, View};

/// Most commands of one burst, and about the most bytes of their requests.
const BURST_COMMANDS_MAX: usize = 128;
const BURST_BYTES_MAX: usize = 256 << 10;

/// The least room offered to a read.
const READ_BYTES: usize = 16 << 10;

/// An input buffer above this is given back when it is empty.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Bytes of replies at which a burst is broken off, for the rest to wait until they are written.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// Wrong passwords that a connection may give.
const AUTH_TRIES_MAX: u32 = 10;

/// Bytes that a transaction may queue.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// A request, and what is known of its command: looked up once.
#[derive(Clone, Copy)]
struct Request<'a> {
    args: &'a [&'a [u8]],
    /// `None`: nobody knows the command.
    spec: Option<&'static Spec>,
    /// See [`is_long`].
    is_long: bool,
}

impl<'a> Request<'a> {
    fn new(args: &'a [&'a [u8]]) -> Self {
        let spec = lookup(args[0]);
        Self {
            args,
            spec,
            is_long: spec.is_some_and(|spec| is_long(spec.name)),
        }
    }

    fn name(&self) -> &'static str {
        self.spec.map_or("unknown", |spec| spec.name)
    }

    /// What `CLIENT LIST` calls it.
    fn full_name(&self) -> &'static str {
        let part = self.args.get(1).copied();
        let name = self.spec.and_then(|spec| spec.full_name(part));
        name.unwrap_or("NULL")
    }

    /// Its keys.
    fn keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let args = self.args;
        let positions = self.spec.map(|spec| spec.key_positions(args.len()));
        positions.into_iter().flatten().map(move |at| args[at])
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Whole requests wait: call again, when others had their turn.
    More,
    /// More bytes are needed.
    Idle,
    /// Wait for [`Session::waits_for`], then tell [`Session::settle`]: only of a session that
    /// [defers](Session::defer_waits).
    Wait,
    /// Write what waits, then close.
    Close,
}

/// What `MULTI` collects.
#[derive(Default)]
struct Queue {
    requests: Vec<Vec<Vec<u8>>>,
    bytes: usize,
    /// A command was refused: `EXEC` will do nothing.
    spoiled: bool,
}

/// What commands about the connection change.
pub struct State {
    pub client: Arc<Client>,
    pub version: Version,
    pub trusted: bool,
    tries: u32,
    queue: Option<Queue>,
    watch: Option<Arc<Watch>>,
    watched: Vec<Vec<u8>>,
    mode: ReplyMode,
    /// No more requests are read.
    pub closing: bool,
}

/// See the head of this file.
pub struct Session<E: Engine> {
    shared: Arc<Shared<E>>,
    state: State,
    parser: RequestParser,
    /// Bytes that were read stand in `start..end`; the rest is room.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Arguments and requests of the last burst: the next one is often as large.
    burst_before: (usize, usize),
    output: Output<E::Value>,
    /// Bytes that the server knows to wait in memory for this connection.
    buffered: usize,
    /// Runs what may wait for a disk or another connection.
    wait: Wait,
    /// The driver waits for tickets.
    defers: bool,
    /// Replies that may be sent when the ticket is durable.
    waiting: Option<(Ticket, Replies<E>)>,
}

/// Runs a piece of work, once.
pub type Wait = fn(&mut dyn FnMut());

impl<E: Engine> Drop for Session<E> {
    fn drop(&mut self) {
        self.shared.buffers(self.buffered, 0);
        self.shared.leave(&self.state.client);
    }
}

impl<E: Engine> Session<E> {
    pub fn new(shared: Arc<Shared<E>>, client: Arc<Client>) -> Self {
        let trusted = shared.options.password.is_none();
        let limits = match trusted {
            true => shared.options.limits,
            false => Limits::BEFORE_AUTH,
        };
        Self {
            state: State {
                client,
                version: Version::Resp2,
                trusted,
                tries: 0,
                queue: None,
                watch: None,
                watched: Vec::new(),
                mode: ReplyMode::On,
                closing: false,
            },
            shared,
            parser: RequestParser::new(limits),
            input: Vec::new(),
            start: 0,
            end: 0,
            burst_before: (0, 0),
            output: Output::new(),
            buffered: 0,
            wait: |work| work(),
            defers: false,
            waiting: None,
        }
    }

    /// From now on the driver waits for the disk: see [`Turn::Wait`]. Without effect if the engine
    /// waits by itself.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "a thread may wait"))]
    pub fn defer_waits(&mut self) {
        self.defers = self.shared.engine.supports(Operation::Append);
    }

    /// What must be durable before the replies at hand are sent.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "a thread may wait"))]
    pub fn waits_for(&self) -> Option<Ticket> {
        self.waiting.as_ref().map(|(ticket, _)| *ticket)
    }

    /// What [`Session::waits_for`] named is durable, or will not be.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "a thread may wait"))]
    pub fn settle(&mut self, failed: Option<&EngineError>) {
        if let Some((_, replies)) = self.waiting.take() {
            self.send(replies, failed);
        }
    }

    /// How work that may wait is to be run; if nobody says, like any other.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "a thread may wait"))]
    pub fn on_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Whether it has said the password, if there is one.
    pub fn is_trusted(&self) -> bool {
        self.state.trusted
    }

    /// Room for bytes to be read.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.input.len() > KEPT_BYTES_MAX {
                self.input = Vec::new();
            }
        }
        if self.input.len() - self.end < READ_BYTES && self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.input.len() - self.end < READ_BYTES {
            // Grows by what has come, never by what was announced.
            self.input.resize(READ_BYTES.max(2 * self.input.len()), 0);
        }
        self.account(0);
        &mut self.input[self.end..]
    }

    /// Tells the server how much waits here: the input, and so many bytes of replies.
    fn account(&mut self, replies: usize) {
        let now = self.input.len() + replies;
        if now != self.buffered {
            self.shared.buffers(self.buffered, now);
            self.buffered = now;
        }
    }

    /// Replies have to wait until the client reads: copies what of the store they hold, so that a slow
    /// reader holds none of it. False if they are too many, for one client or for all.
    pub fn hold_output(&mut self) -> bool {
        let len = self.output.len();
        // One reply may always be larger.
        let most = self.shared.options.output_bytes_max.max(REPLY_BYTES_MAX);
        let more = (self.input.len() + len).saturating_sub(self.buffered);
        if len > most || !self.shared.has_room(more) {
            return false;
        }
        self.output.detach();
        self.account(len);
        true
    }

    /// Whether a part of a request has come.
    pub fn is_midway(&self) -> bool {
        self.start < self.end
    }

    /// So many bytes were read into the room.
    pub fn filled(&mut self, len: usize) {
        self.shared.counters.add(|c| &c.read_bytes, len as u64);
        self.end += len;
        debug_assert!(self.end <= self.input.len());
    }

    /// Replies that wait to be written.
    pub fn output(&mut self) -> &mut Output<E::Value> {
        &mut self.output
    }

    /// So many bytes of the output were written.
    pub fn written(&mut self, len: usize) {
        self.shared.counters.add(|c| &c.written_bytes, len as u64);
        self.output.advance(len);
    }

    /// Runs the next burst, if a whole request is there.
    pub fn turn(&mut self) -> Turn {
        if self.waiting.is_some() {
            return Turn::Wait;
        }
        if self.state.closing || self.state.client.is_killed() {
            return Turn::Close;
        }
        let input = std::mem::take(&mut self.input);
        let turn = self.burst(&input);
        self.input = input;
        turn
    }

    fn burst(&mut self, input: &[u8]) -> Turn {
        // Before AUTH one by one, for the limits that the next request is read with.
        let most = match self.state.trusted {
            true => BURST_COMMANDS_MAX,
            false => 1,
        };
        let first = self.start;
        let (args_before, requests_before) = self.burst_before;
        let mut args: Vec<&[u8]> = Vec::with_capacity(args_before);
        // Their arguments, and where the next one begins.
        let mut requests: Vec<(Range<usize>, usize)> = Vec::with_capacity(requests_before);
        let mut end = Turn::More;
        let mut refused = None;
        while requests.len() < most && self.start - first < BURST_BYTES_MAX {
            let rest = &input[self.start..self.end];
            match self.parser.step(rest) {
                Ok(Step::NeedMore) => {
                    end = Turn::Idle;
                    break;
                }
                Ok(Step::Request { args: found, used }) => {
                    self.start += used;
                    if !found.is_empty() {
                        let first = args.len();
                        args.extend(found.iter().map(|range| &rest[range.clone()]));
                        requests.push((first..args.len(), self.start));
                    }
                }
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        self.burst_before = (args.len(), requests.len());
        let request = |(at, _): &(Range<usize>, usize)| Request::new(&args[at.clone()]);
        let whole: Vec<Request<'_>> = requests.iter().map(request).collect();
        let mut ran = 0;
        // A command that takes long runs alone: it holds up nobody who waits for a key of its
        // neighbours.
        for run in whole.chunk_by(|a, b| !a.is_long && !b.is_long) {
            let done = self.run(run);
            ran += done;
            if self.state.closing || done < run.len() || self.waiting.is_some() {
                break;
            }
        }
        if self.waiting.is_some() {
            // What stands behind is looked at again when this is answered.
            self.start = requests[ran - 1].1;
            self.parser = RequestParser::new(self.limits());
            return Turn::Wait;
        }
        if ran < whole.len() && !self.state.closing {
            // The replies so far are large: the rest waits until they are written. What the parser
            // knows of a request behind them is found again.
            self.start = requests[ran - 1].1;
            self.parser = RequestParser::new(self.limits());
            return Turn::More;
        }
        let waits = self.end - self.start;
        if let Some(error) = refused
            && !self.state.closing
        {
            self.close_with(&format!("ERR {error}"));
        } else if end == Turn::Idle && waits > KEPT_BYTES_MAX && !self.shared.has_room(waits) {
            // As much again as there is: that is how the buffer grows.
            self.close_with("ERR out of memory for requests");
        }
        match self.state.closing {
            true => Turn::Close,
            false => end,
        }
    }

    /// Says why nothing more is read.
    fn close_with(&mut self, text: &str) {
        self.output.encode(Reply::error(text), self.state.version);
        self.state.closing = true;
    }

    fn limits(&self) -> Limits {
        match self.state.trusted {
            true => self.shared.options.limits,
            false => Limits::BEFORE_AUTH,
        }
    }

    /// Runs `requests` until the replies are large, at least one; appends what they change, puts their
    /// replies into the output as soon as they may be told, and returns how many it were.
    fn run(&mut self, requests: &[Request<'_>]) -> usize {
        let mut stripes = self.stripes(requests);
        let writes = self.shared.options.writes_wait && !stripes.is_empty() && !self.defers;
        if !writes && !requests.iter().any(|request| request.is_long) {
            return self.run_here(requests, &mut stripes);
        }
        let mut ran = 0;
        (self.wait)(&mut || ran = self.run_here(requests, &mut stripes));
        ran
    }

    fn run_here(&mut self, requests: &[Request<'_>], stripes: &mut Vec<usize>) -> usize {
        let shared = Arc::clone(&self.shared);
        let engine = &shared.engine;
        let batches = engine.supports(Operation::Batch);
        if self.state.trusted {
            prefetch(engine, requests);
        }
        let deep = !stripes.is_empty();
        let mut held = shared.locks.lock(stripes);
        let bytes = requests.iter().flat_map(|request| request.args);
        let mut view = View::new(engine, deep, &shared.over);
        if deep {
            let bytes: usize = bytes.map(|arg| arg.len()).sum();
            view.expect(requests.len(), bytes.min(BURST_BYTES_MAX));
        }
        let mut replies = Replies::with_capacity(requests.len(), deep);
        let mut reply_bytes = 0;
        // Whoever lists the clients is told the first, then the last of a run, and himself the truth.
        let client = Arc::clone(&self.state.client);
        let tell = |request: &Request<'_>| *client.last.lock() = request.full_name();
        requests.first().inspect(|first| tell(first));
        for request in requests {
            // What `EXEC` runs is told `exec`, as Redis has it.
            if matches!(request.name(), "client" | "exec") {
                tell(request);
            }
            if request.name() == "watch" && view.changed() > 0 {
                // What was changed before is no change of what is watched from here on.
                append(&mut view, &mut held, &mut replies);
            }
            let reply = self.state.answer(request, &shared, &mut view, &mut held);
            let mode = self.state.mode;
            if mode == ReplyMode::Skip && !is_reply_skip(request.args) {
                self.state.mode = ReplyMode::On;
            }
            reply_bytes += size(&reply);
            replies.push(
                Pending {
                    reply: (mode == ReplyMode::On).then_some(reply),
                    version: self.state.version,
                },
                view.take_rests(),
            );
            if !batches {
                append(&mut view, &mut held, &mut replies);
            }
            if self.state.closing || reply_bytes > REPLY_BYTES_MAX {
                break;
            }
        }
        append(&mut view, &mut held, &mut replies);
        drop(held);
        self.parser.set_limits(self.limits());
        let ran = replies.list.len();
        requests
            .get(1..ran)
            .and_then(<[_]>::last)
            .inspect(|last| tell(last));
        shared.counters.add(|c| &c.commands, ran as u64);
        match view.ticket() {
            None => self.send(replies, None),
            Some(ticket) if self.defers => self.waiting = Some((ticket, replies)),
            Some(ticket) => self.send(replies, engine.wait(ticket).err().as_ref()),
        }
        ran
    }

    /// Puts replies into the output; what was appended is durable, or has failed.
    fn send(&mut self, mut replies: Replies<E>, failed: Option<&EngineError>) {
        if let Some(error) = failed {
            replies.fail_appended(&self.shared.engine, error);
        }
        for Pending { reply, version } in replies.list {
            let Some(reply) = reply else { continue };
            if matches!(reply, Reply::Error(_)) {
                self.shared.counters.add(|c| &c.errors, 1);
            }
            self.output.encode(reply, version);
        }
    }

    /// The stripes of all keys that the burst names, if it may write or must see several keys at one
    /// moment; else none.
    ///
    /// Also of those that it only reads: whoever writes and then reads must not miss what another, who
    /// does the same the other way round, has written.
    fn stripes(&self, requests: &[Request<'_>]) -> Vec<usize> {
        let locks = &self.shared.locks;
        let mut stripes = Vec::new();
        let mut transaction = self.state.queue.is_some();
        let mut alone = true;
        for request in requests {
            let Some(spec) = request.spec else {
                continue;
            };
            transaction |= spec.name == "multi";
            let several = request.keys().nth(1).is_some();
            alone &= !(spec.writes || several || spec.name == "watch");
        }
        if alone && !transaction {
            return stripes;
        }
        stripes.reserve(requests.len());
        let of = |request: Request<'_>, stripes: &mut Vec<usize>| {
            stripes.extend(request.keys().map(|key| locks.stripe(key)));
        };
        for request in requests {
            of(*request, &mut stripes);
        }
        if transaction {
            for request in self.state.queue.iter().flat_map(|queue| &queue.requests) {
                let request: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
                of(Request::new(&request), &mut stripes);
            }
            let watched = self.state.watched.iter();
            stripes.extend(watched.map(|key| locks.stripe(key)));
        }
        stripes
    }
}

/// Lets the engine ask for the memory that the reads of a burst will wait for, all at once. What is only
/// set is given to it together anyway.
fn prefetch<E: Engine>(engine: &E, requests: &[Request<'_>]) {
    let reads = |request: &&Request<'_>| request.spec.is_some_and(|spec| !spec.writes);
    let keys = || requests.iter().filter(reads).flat_map(Request::keys);
    if keys().nth(1).is_some() {
        let keys: Vec<&[u8]> = keys().take(BURST_COMMANDS_MAX).collect();
        engine.prefetch(&keys);
    }
}

/// A reply that may still become an error.
struct Pending<E: Engine> {
    /// `None`: the client wants none.
    reply: Option<ReplyOf<E>>,
    version: Version,
}

/// The replies of a burst, and which of them may still become an error.
struct Replies<E: Engine> {
    list: Vec<Pending<E>>,
    /// Those that rest on changes that are not appended yet.
    on_changes: Vec<usize>,
    /// Those that rest on what is appended and not durable yet.
    on_appended: Vec<usize>,
}

impl<E: Engine> Replies<E> {
    fn with_capacity(count: usize, changes: bool) -> Self {
        Self {
            list: Vec::with_capacity(count),
            on_changes: Vec::with_capacity(if changes { count } else { 0 }),
            on_appended: Vec::new(),
        }
    }

    fn push(&mut self, reply: Pending<E>, rests: Rests) {
        let at = self.list.len();
        self.on_changes.extend(rests.on_changes.then_some(at));
        self.on_appended.extend(rests.on_appended.then_some(at));
        self.list.push(reply);
    }

    /// The changes so far are appended, and are to be waited for or not.
    fn appended(&mut self, waits: bool) {
        if waits {
            self.on_appended.append(&mut self.on_changes);
        }
        self.on_changes.clear();
    }

    /// The changes so far could not be appended.
    fn fail_changes(&mut self, engine: &E, error: &EngineError) {
        for at in std::mem::take(&mut self.on_changes) {
            self.fail(at, engine, error);
        }
    }

    /// What was appended has not become durable.
    fn fail_appended(&mut self, engine: &E, error: &EngineError) {
        for at in std::mem::take(&mut self.on_appended) {
            self.fail(at, engine, error);
        }
    }

    fn fail(&mut self, at: usize, engine: &E, error: &EngineError) {
        if let Some(reply) = &mut self.list[at].reply {
            *reply = engine_error(engine, error);
        }
    }
}

/// Whether the command of this name may take long on a large store.
fn is_long(name: &str) -> bool {
    name.starts_with("kvs.") && name != "kvs.cas" || matches!(name, "keys" | "randomkey" | "scan")
}

/// About how many bytes `reply` takes.
fn size<V: AsRef<[u8]>>(reply: &Reply<V>) -> usize {
    match reply {
        Reply::Bulk(bytes) => bytes.len(),
        Reply::Value(value) => value.as_ref().len(),
        Reply::Array(items) => items.iter().map(size).sum(),
        _ => 0,
    }
}

/// Gives the changes to the engine and tells those who watch; a failure becomes the answer of all
/// that rest on it.
fn append<E: Engine>(view: &mut View<'_, E>, held: &mut Held<'_>, replies: &mut Replies<E>) {
    let outcome = view.append();
    // Also after a failure: what became of them is not known for every error.
    view.changed_keys().for_each(|key| held.changed(key));
    view.clear();
    match outcome {
        Ok(waits) => replies.appended(waits),
        Err(error) => replies.fail_changes(view.engine, &error),
    }
}

fn is_reply_skip(request: &[&[u8]]) -> bool {
    let is = |at: usize, word: &[u8]| {
        let arg = request.get(at);
        arg.is_some_and(|arg| arg.eq_ignore_ascii_case(word))
    };
    is(0, b"client") && is(1, b"reply") && is(2, b"skip")
}

/// What Redis says in front of whatever needs a password.
const NO_AUTH: &[u8] = b"NOAUTH Authentication required.";

impl State {
    /// The answer to one request.
    fn answer<E: Engine>(
        &mut self,
        request: &Request<'_>,
        shared: &Shared<E>,
        view: &mut View<'_, E>,
        held: &mut Held<'_>,
    ) -> ReplyOf<E> {
        let (spec, name) = (request.spec, request.name());
        let request = request.args;
        if !self.trusted && !matches!(name, "auth" | "hello" | "quit" | "reset") {
            return Reply::Error(NO_AUTH.into());
        }
        let lacks = needs(name).filter(|needed| !view.engine.supports(*needed));
        if let Some(operation) = lacks {
            self.spoil();
            return unsupported(view.engine, operation);
        }
        let command = match Command::parse_as(spec, request) {
            Ok(command) => command,
            // Redis looks at names and numbers of arguments when it queues, at the rest when it runs.
            Err(error) => {
                let counted = spec.is_some_and(|spec| spec.takes(request.len()));
                let refused = match &error {
                    CommandError::Unknown { .. } | CommandError::UnknownSubcommand { .. } => true,
                    CommandError::Arity { command } => !counted || command.contains('|'),
                    _ => false,
                };
                if refused && name == "exec" {
                    self.queue = None;
                    self.unwatch();
                    let error = error.to_string();
                    let error = error.strip_prefix("ERR ").unwrap_or(&error);
                    let text = "EXECABORT Transaction discarded because of: ";
                    return Reply::error(format_args!("{text}{error}"));
                } else if refused {
                    self.spoil();
                } else if let Some(reply) = self.queue(request) {
                    return reply;
                }
                return Reply::error(error);
            }
        };
        if let Some(reply) = self.transaction(&command, request, shared, view, held) {
            return reply;
        }
        self.one(&command, shared, view)
    }

    /// Runs a command that is not about transactions.
    fn one<E: Engine>(
        &mut self,
        command: &Command<'_>,
        shared: &Shared<E>,
        view: &mut View<'_, E>,
    ) -> ReplyOf<E> {
        match execute(command, view) {
            Some(reply) => {
                if let Command::Get(_) = command {
                    match reply {
                        Reply::Null => shared.counters.add(|c| &c.misses, 1),
                        Reply::Error(_) => {}
                        _ => shared.counters.add(|c| &c.hits, 1),
                    }
                }
                reply
            }
            None => self.connection(command, shared),
        }
    }

    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`, and what is queued for `EXEC`.
    fn transaction<E: Engine>(
        &mut self,
        command: &Command<'_>,
        request: &[&[u8]],
        shared: &Shared<E>,
        view: &mut View<'_, E>,
        held: &mut Held<'_>,
    ) -> Option<ReplyOf<E>> {
        let refuse = |text: &'static str| Some(Reply::error(CommandError::Other(text)));
        match (command, &self.queue) {
            (Command::Multi, None) => {
                self.queue = Some(Queue::default());
                Some(Reply::OK)
            }
            (Command::Multi, Some(_)) => refuse("MULTI calls can not be nested"),
            (Command::Exec, None) => refuse("EXEC without MULTI"),
            (Command::Discard, None) => refuse("DISCARD without MULTI"),
            (Command::Exec, Some(_)) => {
                let queue = self.queue.take().unwrap_or_default();
                Some(self.exec(queue, shared, view, held))
            }
            (Command::Discard, Some(_)) => {
                self.queue = None;
                self.unwatch();
                Some(Reply::OK)
            }
            (Command::Watch(_), Some(_)) => refuse("WATCH inside MULTI is not allowed"),
            (Command::Watch(keys), None) => {
                let watch = self.watch.get_or_insert_default();
                for key in keys {
                    held.watch(key, watch);
                    // Who has been told that it is watched must not read what was there before a
                    // change that the watch did not see. What cannot be read is said by who reads it.
                    let _ = view.contains(key);
                }
                self.watched.extend(keys.iter().map(|key| key.to_vec()));
                Some(Reply::OK)
            }
            (Command::Quit | Command::Reset, _) => None,
            (Command::Unwatch, None) => {
                self.unwatch();
                Some(Reply::OK)
            }
            (_, Some(_)) => self.queue(request),
            (_, None) => None,
        }
    }

    /// `EXEC` will do nothing.
    fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.spoiled = true;
        }
    }

    /// Keeps a request for `EXEC`, inside a transaction.
    fn queue<V>(&mut self, request: &[&[u8]]) -> Option<Reply<V>> {
        let queue = self.queue.as_mut()?;
        let bytes: usize = request.iter().map(|arg| arg.len() + 64).sum();
        if queue.bytes + bytes > QUEUE_BYTES_MAX {
            queue.spoiled = true;
            let text = "transaction too large";
            return Some(Reply::error(CommandError::Other(text)));
        }
        queue.bytes += bytes;
        let own = |arg: &&[u8]| arg.to_vec();
        queue.requests.push(request.iter().map(own).collect());
        Some(Reply::Simple(b"QUEUED".into()))
    }

    fn unwatch(&mut self) {
        self.watch = None;
        self.watched.clear();
    }

    fn exec<E: Engine>(
        &mut self,
        queue: Queue,
        shared: &Shared<E>,
        view: &mut View<'_, E>,
        held: &mut Held<'_>,
    ) -> ReplyOf<E> {
        let watch = self.watch.take();
        let watched = std::mem::take(&mut self.watched);
        if queue.spoiled {
            let text = b"EXECABORT Transaction discarded because of previous errors.";
            return Reply::Error(text[..].into());
        }
        // What this burst changed before counts like any other change.
        if watch.is_some() {
            view.changed_keys().for_each(|key| held.changed(key));
        }
        if watch.is_some_and(|watch| watch.has_changed()) {
            // Who has been told that they changed must not read what was there before.
            for key in &watched {
                let _ = view.contains(key);
            }
            return Reply::NullArray;
        }
        let mut replies = Vec::with_capacity(queue.requests.len());
        for request in &queue.requests {
            let request: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
            // It was parsed when it was queued.
            let reply = match Command::parse(&request) {
                Err(error) => Reply::error(error),
                Ok(Command::Unwatch) => Reply::OK,
                Ok(command) => self.one(&command, shared, view),
            };
            replies.push(reply);
        }
        if view.changed() > 1 && !view.engine.supports(Operation::Batch) {
            let operation = Operation::Batch;
            view.clear();
            return engine_error(view.engine, &EngineError::Unsupported { operation });
        }
        Reply::Array(replies)
    }

    /// A command about the connection or the server.
    fn connection<E: Engine>(&mut self, command: &Command<'_>, shared: &Shared<E>) -> ReplyOf<E> {
        match command {
            Command::Quit => {
                self.closing = true;
                Reply::OK
            }
            Command::Reset => {
                self.queue = None;
                self.unwatch();
                self.mode = ReplyMode::On;
                self.version = Version::Resp2;
                self.trusted = shared.options.password.is_none();
                self.client.name.lock().clear();
                Reply::Simple(b"RESET".into())
            }
            Command::Auth { user, password } => match self.auth(*user, password, shared) {
                Ok(()) => Reply::OK,
                Err(text) => Reply::Error(text),
            },
            Command::Hello(hello) => {
                let version = match hello.version {
                    None => self.version,
                    Some(2) => Version::Resp2,
                    Some(3) => Version::Resp3,
                    Some(_) => {
                        return Reply::Error(b"NOPROTO unsupported protocol version"[..].into());
                    }
                };
                if let Some((user, password)) = hello.auth
                    && let Err(text) = self.auth(Some(user), password, shared)
                {
                    return Reply::Error(text);
                }
                if !self.trusted {
                    let text =
                        b"NOAUTH HELLO must be called with the client already authenticated, \
                        otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
                        authenticate the client and select the RESP protocol version at the same \
                        time";
                    return Reply::Error(text[..].into());
                }
                if let Some(name) = hello.name {
                    if !admin::is_name(name) {
                        return Reply::error(CommandError::Other(admin::BAD_NAME));
                    }
                    *self.client.name.lock() = name.to_vec();
                }
                self.version = version;
                admin::hello(&self.client, version)
            }
            Command::Client(crate::protocol::command::Client::Reply(mode)) => {
                self.mode = *mode;
                Reply::OK
            }
            other => admin::answer(other, &self.client, shared),
        }
    }

    fn auth<E>(
        &mut self,
        user: Option<&[u8]>,
        password: &[u8],
        shared: &Shared<E>,
    ) -> Result<(), Text> {
        let Some(wanted) = &shared.options.password else {
            // Redis takes any password for a user that has none, but not without the user's name.
            return match user {
                Some(b"default") => Ok(()),
                Some(_) => Err(admin::WRONG_PASSWORD.into()),
                None => Err(admin::NO_PASSWORD.into()),
            };
        };
        let (peer, now) = (self.client.addr, Instant::now());
        let user = user.is_none_or(|user| user == b"default");
        let is_right = same(wanted, password) && user;
        let looked = shared.peers.look(peer, password, is_right, now);
        if looked == Looked::Right {
            self.trusted = true;
            self.tries = 0;
            return Ok(());
        }
        self.tries += 1;
        self.closing |= self.tries >= AUTH_TRIES_MAX;
        if let Looked::Not(wait) = looked {
            // Not looked at, so it says nothing about the password.
            let text = format!(
                "ERR too many wrong passwords: wait {} ms",
                wait.as_millis() + 1
            );
            return Err(text.into_bytes().into());
        }
        Err(admin::WRONG_PASSWORD.into())
    }
}

/// Compares in a time that depends on the length of `given` alone.
fn same(wanted: &[u8], given: &[u8]) -> bool {
    let mut different = usize::from(wanted.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        let other = wanted.get(at).copied().unwrap_or(0);
        different |= usize::from(std::hint::black_box(byte ^ other));
    }
    std::hint::black_box(different) == 0
}
