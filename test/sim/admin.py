"""The admin interface: JSON over HTTP on a port of its own."""

import asyncio
import json
import socket
from urllib.parse import parse_qsl

import templates
from provider import MODES
from rules import BadRule
from state import COUNTED
from wire import Malformed, RequestReader

DEFAULT_TIMEOUT = 30.0


class Problem(Exception):
    """An admin request that cannot be served."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def acknowledge(sock):
    """Acknowledges at once what has come: a client that writes head and body
    apart sends the second only then (Nagle), 40 ms later otherwise."""
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Admin:
    """Serves one simulator's rules, log, counters and listeners."""

    def __init__(self, state, listeners, describe):
        self.state = state
        self.listeners = listeners
        self.describe = describe

    async def serve(self, reader, writer):
        """Answers the requests of one connection."""
        requests = RequestReader()
        try:
            while True:
                request = await self.next_request(requests, reader, writer)
                if request is None:
                    break
                status, value = await self.reply(request)
                body = json.dumps(value).encode() + b"\n"
                writer.write(b"HTTP/1.1 %d Done\r\n"
                             b"Content-Type: application/json\r\n"
                             b"Content-Length: %d\r\n\r\n%s"
                             % (status, len(body), body))
                await writer.drain()
        except (Malformed, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def next_request(requests, reader, writer):
        request = None
        while True:
            if request is None:
                request = requests.head()
            if request is not None and requests.body(request):
                return request
            data = await reader.read(65536)
            if not data:
                return None
            acknowledge(writer.get_extra_info("socket"))
            requests.feed(data)

    async def reply(self, request):
        """The status and value that answer a request."""
        try:
            return 200, await self.dispatch(request)
        except Problem as problem:
            return problem.status, {"error": str(problem)}
        except (BadRule, ValueError, TypeError) as problem:
            return 400, {"error": str(problem)}
        except OSError as problem:
            return 500, {"error": str(problem)}

    async def dispatch(self, request):
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        _, name, *rest = request.path.split("/", 2)
        argument = rest[0] if rest else None
        body = json.loads(request.body) if request.body else None
        handler = getattr(self, "%s_%s" % (request.method.lower(),
                                           name or "index"), None)
        if handler is None:
            raise Problem(404, "no such thing: %s /%s" % (request.method,
                                                          name))
        value = handler(argument, query, body)
        return await value if asyncio.iscoroutine(value) else value

    # what there is

    def get_index(self, argument, query, body):
        return self.describe()

    def get_templates(self, argument, query, body):
        return {name: sorted(by) for name, by in templates.TEMPLATES.items()}

    # rules

    def get_rules(self, argument, query, body):
        return [rule.describe() for rule in self.state.rules.list]

    def post_rules(self, argument, query, body):
        added = self.state.rules.add(body if isinstance(body, list)
                                     else [body])
        return {"ids": [rule.id for rule in added]}

    def put_rules(self, argument, query, body):
        before = self.state.rules.list
        self.state.rules.clear()
        try:
            return self.post_rules(argument, query, body)
        except BadRule:
            self.state.rules.list = before
            raise

    def delete_rules(self, argument, query, body):
        if argument is None:
            self.state.rules.clear()
        elif not self.state.rules.remove(int(argument)):
            raise Problem(404, "there is no rule %s" % argument)
        return {}

    # log and counters

    def entries(self, query):
        """Entries, oldest first: ?listener= &model= &since=ID &limit=N."""
        self.known_listener(query)
        since = int(query.get("since", 0))
        found = [entry for entry in self.state.log if entry.id > since
                 and query.get("listener", entry.listener) == entry.listener
                 and query.get("model", entry.request.model)
                 == entry.request.model]
        if "limit" in query:
            found = found[-int(query["limit"]):]
        return found

    def get_log(self, argument, query, body):
        return [entry.describe() for entry in self.entries(query)]

    def get_times(self, argument, query, body):
        return [entry.received for entry in self.entries(query)]

    def get_counts(self, argument, query, body):
        self.known_listener(query)
        return self.state.report(query.get("listener"))

    def post_reset(self, argument, query, body):
        self.state.reset()
        for listener in self.listeners.values():
            listener.reset_options()
            listener.set_mode("up")
        return {}

    async def get_wait(self, argument, query, body):
        """Waits for counters: NAME=N is at least, max_NAME=N at most."""
        self.known_listener(query)
        listener, model = query.pop("listener", None), query.pop("model", None)
        timeout = float(query.pop("timeout", DEFAULT_TIMEOUT))
        bounds = [self.bound(name, int(value), model)
                  for name, value in query.items()]
        if not bounds:
            raise Problem(400, "name a counter: " + ", ".join(COUNTED))

        def holds():
            return all(low <= self.state.value(listener, model, what) <= high
                       for what, low, high in bounds)
        if await self.state.wait(holds, timeout):
            return self.state.report(listener)
        raise Problem(408, "still not so after %g s: %s" % (
            timeout, json.dumps(self.state.report(listener))))

    @staticmethod
    def bound(name, value, model):
        what = name[4:] if name.startswith("max_") else name
        if what not in COUNTED:
            raise Problem(400, "there is no counter \"%s\"" % what)
        if model is not None and what != "requests":
            raise Problem(400, "only requests are counted by model")
        if name != what or value == 0:
            return what, float("-inf"), value
        return what, value, float("inf")

    # listeners

    def post_listener(self, argument, query, body):
        """Sets mode and options of a listener: /listener/NAME."""
        listener = self.listeners.get(argument)
        if listener is None:
            raise Problem(404, "there is no listener \"%s\"" % argument)
        options = dict(body or {})
        mode = options.pop("mode", listener.mode)
        if mode not in MODES:
            raise Problem(400, "modes: " + ", ".join(MODES))
        listener.set_options(options)
        listener.set_mode(mode)
        return self.describe()["listeners"][argument]

    def post_hangup(self, argument, query, body):
        """Ends a listener's idle connections: {"reset": true}."""
        listener = self.listeners.get(argument)
        if listener is None:
            raise Problem(404, "there is no listener \"%s\"" % argument)
        return {"closed": listener.close_connections(
            "down", idle_only=True,
            politely=not (body or {}).get("reset"))}

    def known_listener(self, query):
        if query.get("listener") not in (None, *self.listeners):
            raise Problem(404, "there is no listener \"%s\""
                          % query["listener"])
