"""A virtual provider: a listening socket, and the connections it accepted.

Modes of a listener:
    up          answers
    down        the socket is closed (connection refused) and every
                connection is reset, as when a process is killed
    blackhole   the backlog is full: a SYN gets no answer; open connections
                stand still
    silent      accepts, reads, never says a word (also a stalled handshake)
    reset       accepts, then resets
    close       accepts, then closes
    garbage     accepts, then speaks another protocol (also instead of TLS)
"""

import asyncio
import collections
import errno
import random
import socket
import ssl
import struct
import time

import answers
import certs
import dialects
from wire import Malformed, RequestReader, Response, http_date, plan

BACKLOG = 4096
PORTS = range(20000, 32000)     # below the range of outgoing connections
LINGER = 1.0                    # seconds for a client to stop sending
RESET = struct.pack("ii", 1, 0)
MODES = ("up", "down", "blackhole", "silent", "reset", "close", "garbage")


def bind(port):
    """A bound socket on loopback; port 0 chooses one.

    The port is not the kernel's choice: one from its range might be taken by
    an outgoing connection while the listener is down.
    """
    for candidate in [port] if port else random.sample(PORTS, 1000):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        try:
            sock.bind(("127.0.0.1", candidate))
            sock.listen(BACKLOG)
            return sock
        except OSError as error:
            sock.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port")


class Connection(asyncio.Protocol):
    """One connection; at most one request of it is in progress."""

    def __init__(self, listener):
        self.listener = listener
        self.state = listener.state
        self.reader = RequestReader()
        self.number = 0
        self.nth = 0                # requests so far
        self.entry = None           # the request in progress
        self.behaviour = {}
        self.steps = None           # what is left to do of the answer
        self.swallowing = False     # answered early, the body still comes
        self.blocked = False        # the socket takes no more for now
        self.frozen = False
        self.timer = None
        self.transport = None
        self.over = False           # nothing is read any more

    # from asyncio

    def connection_made(self, transport):
        self.transport = transport
        # Any byte that waits blocks. (TLS transports take 0 for "always".)
        transport.set_write_buffer_limits(
            high=0 if self.listener.tls is None else 1, low=0)
        self.number = self.state.next_connection()
        self.listener.connections.add(self)
        self.listener.watch_idle(self)
        self.state.count(self.listener.name, "connections_open")

    def connection_lost(self, error):
        self.over = True
        self.cancel_timer()
        self.listener.connections.discard(self)
        if self.entry is not None:
            self.leave("gone")
        self.state.count(self.listener.name, "connections_open", -1)

    def eof_received(self):
        return None                 # closes the transport

    def pause_writing(self):
        self.blocked = True

    def resume_writing(self):
        self.blocked = False
        if self.steps is not None:
            self.run()

    def data_received(self, data):
        if self.over:
            return
        self.reader.feed(data)
        if self.entry is None:
            self.cancel_timer()
        self.read()

    # requests

    def read(self):
        """Goes on with what has arrived, request by request."""
        try:
            while not self.over:
                if self.swallowing:
                    if not self.take_body():
                        return
                    self.swallowing = False
                    self.finish()
                elif self.steps is not None:
                    return
                elif self.entry is None:
                    request = self.reader.head()
                    if request is None:
                        return
                    self.begin(request)
                elif self.take_body():
                    self.answer()
                else:
                    return
        except Malformed as problem:
            self.malformed(str(problem))

    def begin(self, request):
        """Takes up a request whose head is there."""
        self.nth += 1
        request.dialect = dialects.recognise(request)
        self.entry = self.state.enter(self.listener.name, self.number,
                                      self.nth, request)
        rule = self.state.rules.find(self.listener.name, request,
                                     self.nth > 1, early=True)
        if rule is not None:
            if rule.behaviour.get("hang") == "early":
                self.transport.pause_reading()
            self.swallowing = True
            self.follow(rule, rule.behaviour)
        elif request.fields.get("expect", "").lower() == "100-continue" \
                and not self.listener.ignore_expect:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self):
        if not self.reader.body(self.entry.request):
            return False
        self.entry.read = time.time()
        return True

    def answer(self):
        """Answers the request in progress, which has been read."""
        request, entry = self.entry.request, self.entry
        try:
            if request.dialect is None:
                raise dialects.Refused("unknown path", {
                    "status": 404, "json": {"error": {
                        "message": "Invalid URL (%s %s)" % (request.method,
                                                            request.path),
                        "type": "invalid_request_error", "param": None,
                        "code": None}}})
            try:
                request.dialect.check(request, self.listener)
            finally:
                self.state.learned_model(entry)
        except dialects.Refused as refused:
            entry.refused = str(refused)
            self.state.count(self.listener.name, "refused")
            self.follow(None, refused.behaviour)
            return
        rule = self.state.rules.find(self.listener.name, request,
                                     self.nth > 1, early=False)
        self.follow(rule, rule.behaviour if rule else {})

    def follow(self, rule, behaviour):
        """Starts to do what a behaviour says."""
        entry = self.entry
        entry.rule = rule
        request_id = "req_sim%06d" % entry.id
        if behaviour:
            behaviour = answers.expand(entry.request, behaviour, request_id)
            if rule is None:
                behaviour = answers.refusal(entry.request, behaviour,
                                            request_id)
        response = answers.respond(self.listener.name, entry.request,
                                   behaviour, entry.id)
        entry.status = response.status
        self.behaviour = behaviour
        keep = entry.request.wants_keep_alive() and (
            self.nth != self.listener.max_requests
            or self.listener.max_requests_silent)
        self.start(plan(response, behaviour, keep))

    def malformed(self, why):
        """Answers what is not a request with 400, and closes."""
        if self.entry is None:
            self.entry = self.state.enter(
                self.listener.name, self.number, self.nth + 1,
                answers.no_request())
        self.entry.refused = why
        self.entry.status = 400
        self.state.count(self.listener.name, "refused")
        self.swallowing = False
        text = why.encode()
        response = Response(400, [("Date", http_date(time.time())),
                                  ("Content-Type", "text/plain")], text)
        self.start(plan(response, {}, False))

    # answers

    def start(self, steps):
        self.steps = collections.deque(steps)
        self.run()

    def run(self):
        """Does steps until one takes time."""
        while self.steps and not self.blocked and not self.frozen \
                and not self.over and self.timer is None:
            kind, value = self.steps.popleft()
            if kind == "send":
                self.transport.write(value)
            elif kind == "wait":
                self.set_timer(value, self.run)
            elif kind != "hang":
                self.end(kind)

    def end(self, how):
        """Does the last step of an answer."""
        if how == "keep":
            self.steps = None
            if not self.swallowing:
                self.finish()
            return
        self.over = True
        if how == "reset":
            self.leave("reset" if self.behaviour.get("reset") is not None
                       else "answered")
            self.reset()
        elif self.swallowing:
            self.linger()
        elif how == "abrupt":
            self.leave("answered")
            self.transport.abort()
        else:
            self.leave("answered")
            self.transport.close()

    def finish(self):
        """Ends a request whose connection is kept."""
        if self.steps is not None:
            return              # the body is in, the answer not yet out
        self.leave("answered")
        if self.nth == self.listener.max_requests:
            self.over = True
            self.transport.close()
            return
        self.listener.watch_idle(self)
        if self.reader.buffer:
            asyncio.get_running_loop().call_soon(self.read)

    def linger(self):
        """Says that there is no more to come, and reads on for a while."""
        self.leave("answered")
        if self.listener.tls is None:
            self.transport.write_eof()
            self.set_timer(LINGER, self.transport.close)
        else:
            self.transport.close()

    def leave(self, outcome):
        entry, self.entry = self.entry, None
        if entry is not None:
            self.state.leave(entry, outcome)

    def reset(self):
        """Ends the connection with an RST."""
        self.over = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            except OSError:
                pass            # the client was faster
        self.transport.abort()

    # time

    def set_timer(self, seconds, action):
        def fire():
            self.timer = None
            action()
        self.timer = asyncio.get_running_loop().call_later(seconds, fire)

    def cancel_timer(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def freeze(self):
        self.frozen = True
        self.transport.pause_reading()

    def thaw(self):
        self.frozen = False
        self.transport.resume_reading()
        if self.steps is not None:
            self.run()


class Rude(asyncio.Protocol):
    """A connection of a listener that is not up; it answers nothing."""

    def __init__(self, listener, mode):
        self.listener = listener
        self.mode = mode
        self.entry = None

    def connection_made(self, transport):
        self.transport = transport
        self.listener.connections.add(self)
        self.listener.state.count(self.listener.name, "connections_open")
        if self.mode == "garbage":
            transport.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif self.mode == "close":
            transport.close()
        elif self.mode == "reset":
            self.reset()

    def connection_lost(self, error):
        self.listener.connections.discard(self)
        self.listener.state.count(self.listener.name, "connections_open", -1)

    reset = Connection.reset

    def leave(self, outcome):
        pass

    def freeze(self):
        self.transport.pause_reading()

    def thaw(self):
        self.transport.resume_reading()


class Listener:
    """One virtual provider."""

    # What each option may be; keys are looked at by set_keys().
    OPTIONS = {
        "keys": lambda value: True,
        "lenient": lambda value: isinstance(value, bool),
        "max_requests": lambda value: value is None or type(value) is int,
        "max_requests_silent": lambda value: isinstance(value, bool),
        "idle_timeout": lambda value: value is None
        or type(value) in (int, float),
        "ignore_expect": lambda value: isinstance(value, bool),
    }

    def __init__(self, name, port, state, context=None):
        self.name = name
        self.state = state
        self.tls = context
        self.mode = "down"
        self.connections = set()
        self.tasks = set()
        self.fillers = []
        self.sock = None
        self.reset_options()
        state.add_listener(name)
        self.port = port
        self.set_mode("up")

    @property
    def url(self):
        return "%s://127.0.0.1:%d" % ("https" if self.tls else "http",
                                      self.port)

    def accepts_key(self, key):
        return self.keys is None or key in self.keys

    def reset_options(self):
        self.key_optional = False
        self.keys = None            # None: any key will do
        self.lenient = False        # unknown parameters are ignored
        self.max_requests = None    # of a connection, then it is closed
        self.max_requests_silent = False    # ... without telling before
        self.idle_timeout = None    # seconds
        self.ignore_expect = False  # no 100 Continue

    def set_options(self, options):
        """Changes options; raises ValueError with a message."""
        for name, value in options.items():
            if name not in self.OPTIONS:
                raise ValueError("a listener has no option \"%s\"" % name)
            if not self.OPTIONS[name](value):
                raise ValueError("option %s must not be %r" % (name, value))
        for name, value in options.items():
            if name == "keys":
                self.set_keys(value)
            else:
                setattr(self, name, value)

    def set_keys(self, keys):
        """"required" (any), "optional" (any or none), or a list of keys."""
        if keys not in ("required", "optional") \
                and not isinstance(keys, list):
            raise ValueError("keys must be \"required\", \"optional\" or a "
                             "list")
        self.key_optional = keys == "optional"
        self.keys = set(keys) if isinstance(keys, list) else None

    def set_mode(self, mode):
        if mode not in MODES:
            raise ValueError("a listener has no mode \"%s\"" % mode)
        if mode == self.mode:
            return
        if self.mode == "blackhole":
            self.end_blackhole()
        if mode == "down":
            self.go_down()
        elif self.sock is None:
            self.sock = bind(self.port)
            self.port = self.sock.getsockname()[1]
            self.listen()
        self.mode = mode
        if mode == "blackhole":
            self.begin_blackhole()

    def listen(self):
        asyncio.get_running_loop().add_reader(self.sock.fileno(), self.accept)

    def unlisten(self):
        asyncio.get_running_loop().remove_reader(self.sock.fileno())

    def go_down(self):
        if self.sock is not None:
            self.unlisten()
            self.sock.close()
            self.sock = None
        self.close_connections("down")

    def close_connections(self, outcome, idle_only=False, politely=False):
        """Ends connections, by RST or politely; how many there were."""
        chosen = [c for c in self.connections
                  if not (idle_only and c.entry is not None)]
        for connection in chosen:
            connection.leave(outcome)
            if politely:
                connection.transport.close()
            else:
                connection.reset()
        return len(chosen)

    def begin_blackhole(self):
        """Fills the backlog, so that the kernel drops what comes next."""
        self.unlisten()
        self.sock.listen(0)
        for _ in range(4):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)
        for connection in self.connections:
            connection.freeze()

    def end_blackhole(self):
        for filler in self.fillers:
            filler.close()
        self.fillers = []
        for connection in list(self.connections):
            connection.thaw()
        self.sock.listen(BACKLOG)
        self.listen()

    def accept(self):
        """Takes what the kernel has accepted."""
        for _ in range(64):
            try:
                sock, _ = self.sock.accept()
            except OSError:     # no more, or no descriptor left for now
                return
            sock.setblocking(False)
            self.state.count(self.name, "connections_opened")
            task = asyncio.get_running_loop().create_task(self.adopt(sock))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def adopt(self, sock):
        """Makes an accepted socket a Connection, with TLS where due."""
        loop = asyncio.get_running_loop()
        if self.mode != "up":
            mode = self.mode
            await loop.connect_accepted_socket(lambda: Rude(self, mode), sock)
            return
        try:
            await loop.connect_accepted_socket(lambda: Connection(self), sock,
                                               ssl=self.tls)
        except (OSError, ssl.SSLError):
            self.state.count(self.name, "tls_failed")
            sock.close()

    def watch_idle(self, connection):
        """Closes a kept connection after idle_timeout, without notice."""
        if self.idle_timeout is not None:
            connection.set_timer(self.idle_timeout,
                                 connection.transport.close)


def tls_context(directory, kind):
    cert, key = certs.make(directory, kind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    return context
