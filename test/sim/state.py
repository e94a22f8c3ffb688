"""What tests read: the log of requests, the counters, and waiting for them."""

import asyncio
import base64
import collections
import random
import time

from rules import Rules

LOG_ENTRIES = 20000
LOG_BODY = 256 * 1024       # bytes of a body that the log keeps

COUNTED = ("requests", "refused", "answered", "gone", "connections_opened",
           "tls_failed", "connections_open", "in_progress")
GAUGES = ("connections_open", "in_progress")


class Entry:
    """One request in the log."""

    __slots__ = ("id", "listener", "connection", "nth", "request", "received",
                 "read", "ended", "outcome", "rule", "refused", "status",
                 "body_size")

    def __init__(self, number, listener, connection, nth, request):
        self.id = number
        self.listener = listener
        self.connection = connection
        self.nth = nth                  # of its connection, from 1
        self.request = request
        self.received = time.time()
        self.read = self.ended = self.outcome = None
        self.rule = self.refused = self.status = self.body_size = None

    def close(self, outcome):
        """Ends the request, and keeps no more of it than the log shows."""
        request = self.request
        self.ended = time.time()
        self.outcome = outcome
        self.body_size = len(request.body)
        request.json = None
        if self.body_size > LOG_BODY:
            request.body = request.body[:LOG_BODY]
            request.prompt = (request.prompt or "")[:LOG_BODY]

    def describe(self):
        request = self.request
        body = request.body[:LOG_BODY]
        size = len(request.body) if self.body_size is None else self.body_size
        told = {
            "id": self.id, "listener": self.listener,
            "connection": self.connection, "nth": self.nth,
            "method": request.method, "target": request.target,
            "path": request.path, "query": request.query,
            "version": request.version, "headers": request.fields,
            "header_list": request.headers, "body_size": size,
            "dialect": request.dialect.NAME if request.dialect else None,
            "model": request.model, "prompt": request.prompt,
            "received": self.received, "read": self.read, "ended": self.ended,
            "outcome": self.outcome, "status": self.status,
            "refused": self.refused, "rule": self.rule.id if self.rule
            else None,
            "behaviour": self.rule.behaviour if self.rule else {},
        }
        try:
            told["body"] = body.decode()
        except UnicodeDecodeError:
            told["body_base64"] = base64.b64encode(body).decode()
        return told


class State:
    """Rules, log and counters of one simulator."""

    def __init__(self, seed=0):
        self.rules = Rules(random.Random(seed))
        self.log = collections.deque(maxlen=LOG_ENTRIES)
        self.counts = {}        # by listener
        self.models = {}        # requests by listener and model
        self.waiters = []
        self.numbers = 0
        self.connections = 0

    def add_listener(self, name):
        self.counts[name] = dict.fromkeys(COUNTED, 0)
        self.models[name] = {}

    def count(self, listener, what, by=1):
        self.counts[listener][what] += by
        if self.waiters:
            self.wake()

    def next_connection(self):
        self.connections += 1
        return self.connections

    def enter(self, listener, connection, nth, request):
        """Logs a request whose head has come."""
        self.numbers += 1
        entry = Entry(self.numbers, listener, connection, nth, request)
        self.log.append(entry)
        self.counts[listener]["in_progress"] += 1
        self.count(listener, "requests")
        return entry

    def learned_model(self, entry):
        """Counts a request by its model, once it is known."""
        models = self.models[entry.listener]
        model = entry.request.model
        if model is not None:
            models[model] = models.get(model, 0) + 1
            if self.waiters:
                self.wake()

    def leave(self, entry, outcome):
        """Logs how a request ended: answered, gone, reset, down."""
        entry.close(outcome)
        counts = self.counts[entry.listener]
        counts["in_progress"] -= 1
        if outcome in ("answered", "gone"):
            counts[outcome] += 1
        if self.waiters:
            self.wake()

    def reset(self):
        """Forgets everything but what is open right now."""
        self.rules.clear()
        self.log.clear()
        for name, counts in self.counts.items():
            for what in counts:
                if what not in GAUGES:
                    counts[what] = 0
            self.models[name] = {}

    def report(self, listener=None):
        """The counters, of one listener or of each and in sum."""
        if listener is not None:
            return dict(self.counts[listener],
                        models=dict(self.models[listener]))
        total = {what: sum(counts[what] for counts in self.counts.values())
                 for what in COUNTED}
        return {"total": total,
                "listeners": {name: self.report(name)
                              for name in self.counts}}

    def value(self, listener, model, what):
        """One counter."""
        if model is not None:
            per_listener = self.models.values() if listener is None \
                else [self.models[listener]]
            return sum(models.get(model, 0) for models in per_listener)
        chosen = self.counts.values() if listener is None \
            else [self.counts[listener]]
        return sum(counts[what] for counts in chosen)

    def wake(self):
        still = []
        for condition, future in self.waiters:
            if future.done():
                continue
            if condition():
                future.set_result(True)
            else:
                still.append((condition, future))
        self.waiters = still

    async def wait(self, condition, timeout):
        """Waits until a condition on the counters holds; False: timeout."""
        if condition():
            return True
        future = asyncio.get_running_loop().create_future()
        self.waiters.append((condition, future))
        try:
            return await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:
            return False
