"""Rules: which requests get which behaviour, and what a behaviour may hold.

A rule is checked when it comes in, so that a misspelt key in a test is an
error and not a test that proves nothing.
"""

import itertools
import re

import templates


class BadRule(Exception):
    """A rule that cannot be; the message says why."""


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) \
        and value >= 0


def _seconds(value):
    return _is_number(value) and value >= 0


def _text(value):
    return isinstance(value, str)


def _one_of(*values):
    return lambda value: any(value is v if isinstance(v, bool) else value == v
                             for v in values)


def _either(*checks):
    return lambda value: any(check(value) for check in checks)


def _headers(value):
    def good(item):
        return item is None or _text(item) or (
            isinstance(item, list) and all(map(_text, item)))
    return isinstance(value, dict) and all(map(good, value.values()))


def _drip(value):
    return isinstance(value, dict) and set(value) == {"bytes", "every"} \
        and _is_count(value["bytes"]) and value["bytes"] > 0 \
        and _seconds(value["every"])


def _interim(value):
    return isinstance(value, list) and all(
        _is_count(s) and 100 <= s <= 199 and s != 101 for s in value)


def _any(value):
    return True


# What a behaviour may hold; README.md says what each does.
BEHAVIOUR = {
    # what is said
    "template": _text,
    "status": lambda v: _is_count(v) and 200 <= v <= 999,
    "reason": _text,
    "headers": _headers,
    "content_type": _either(_text, lambda v: v is None),
    "body": _text,
    "body_base64": _text,
    "json": _any,
    "garbage": _one_of("not_json", "invalid_utf8", "nul", "surrogate",
                       "deep", "huge", "html", "empty", "number"),
    "size": _is_count,
    "retry_after": _seconds,
    "redirect": _text,
    "raw": _text,
    # an answer that is not quite the usual one
    "text": _either(_text, lambda v: v is None),
    "finish": _either(_text, lambda v: v is None),
    "model": _text,
    "usage": lambda v: v is None or (isinstance(v, dict) and set(v) <= {
        "input", "output", "cached", "cache_write", "reasoning"}),
    "reasoning": _text,
    "refusal": _text,
    "tool_calls": _either(_one_of(True), lambda v: isinstance(v, list)),
    "set": lambda v: isinstance(v, dict),
    "omit": lambda v: isinstance(v, list) and all(map(_text, v)),
    "ascii": _one_of(True, False),
    "stream": _one_of(True, False, "error", "cut"),
    # how it goes over the wire
    "delay": _seconds,
    "body_delay": _seconds,
    "drip": _drip,
    "hang": _either(_one_of(True, "early", "head"), _is_count),
    "reset": _either(_one_of("early", "request", "head"), _is_count),
    "cut": _either(_one_of(True), _is_count),
    "early": _one_of(True, False),
    "encoding": _one_of("gzip", "deflate", "raw-deflate"),
    "transfer": _one_of("length", "chunked", "close"),
    "chunk_size": lambda v: _is_count(v) and v > 0,
    "http": _one_of("1.0", "1.1"),
    "interim": _interim,
    "trailing": _text,
    "close": _one_of("header", "silent", "reset", "abrupt"),
    "close_after": _seconds,
}

MATCH = {"listener", "method", "path", "dialect", "model", "prompt", "header",
         "reused"}


def check_behaviour(behaviour):
    if not isinstance(behaviour, dict):
        raise BadRule("behaviour must be an object")
    for key, value in behaviour.items():
        if key not in BEHAVIOUR:
            raise BadRule("a behaviour has no key \"%s\"" % key)
        if not BEHAVIOUR[key](value):
            raise BadRule("behaviour.%s must not be %r" % (key, value))
    name = behaviour.get("template")
    if name is not None and name not in templates.TEMPLATES:
        raise BadRule("there is no template \"%s\"" % name)


def _pattern(text):
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, TypeError):
        raise BadRule("%r is not a regular expression" % (text,))


class Rule:
    """One rule. uses counts the requests that it was applied to."""

    ids = itertools.count(1)

    def __init__(self, spec):
        if not isinstance(spec, dict):
            raise BadRule("a rule must be an object")
        unknown = set(spec) - {"match", "behaviour", "times", "after",
                               "every", "probability"}
        if unknown:
            raise BadRule("a rule has no key \"%s\"" % unknown.pop())
        self.spec = spec
        self.behaviour = spec.get("behaviour", {})
        check_behaviour(self.behaviour)
        self.early = bool(self.behaviour.get("early")) or "early" in (
            self.behaviour.get("hang"), self.behaviour.get("reset"))
        self._take_match(spec.get("match", {}))
        self._take_limits(spec)
        self.id = next(Rule.ids)
        self.seen = self.uses = 0

    def _take_match(self, match):
        if not isinstance(match, dict) or set(match) - MATCH:
            raise BadRule("match must be an object of %s"
                          % ", ".join(sorted(MATCH)))
        if self.early and {"model", "prompt"} & set(match):
            raise BadRule("an early behaviour comes before the body is read: "
                          "match neither model nor prompt")
        self.exact = {k: match[k] for k in ("listener", "method", "model",
                                            "dialect") if k in match}
        self.reused = match.get("reused")
        self.path = _pattern(match["path"]) if "path" in match else None
        self.prompt = _pattern(match["prompt"]) if "prompt" in match else None
        header = match.get("header", {})
        if not isinstance(header, dict):
            raise BadRule("match.header must be an object")
        self.header = {name.lower(): _pattern(value)
                       for name, value in header.items()}

    def _take_limits(self, spec):
        self.times = spec.get("times")
        self.after = spec.get("after", 0)
        self.every = spec.get("every", 1)
        self.probability = spec.get("probability", 1)
        if self.times is not None and not _is_count(self.times):
            raise BadRule("times must be a count or null")
        if not _is_count(self.after):
            raise BadRule("after must be a count")
        if not _is_count(self.every) or self.every == 0:
            raise BadRule("every must be a count from 1")
        if not _is_number(self.probability):
            raise BadRule("probability must be a number")

    def matches(self, listener, request, reused):
        """Whether the rule speaks of this request."""
        for key, value in self.exact.items():
            actual = listener if key == "listener" else (
                request.dialect.NAME if request.dialect else None
            ) if key == "dialect" else getattr(request, key)
            if actual != value:
                return False
        if self.reused is not None and self.reused != reused:
            return False
        if self.path and not self.path.search(request.target):
            return False
        if self.prompt and not self.prompt.search(request.prompt or ""):
            return False
        return all(pattern.search(request.fields.get(name, ""))
                   for name, pattern in self.header.items())

    def take(self, rng):
        """Counts a matching request; whether the rule is to be applied."""
        if self.times is not None and self.uses >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.after or (self.seen - self.after) % self.every:
            return False
        if self.probability < 1 and rng.random() >= self.probability:
            return False
        self.uses += 1
        return True

    def describe(self):
        return dict(self.spec, id=self.id, uses=self.uses)


class Rules:
    """The rules in force, in order."""

    def __init__(self, rng):
        self.rng = rng
        self.list = []

    def add(self, specs):
        added = [Rule(spec) for spec in specs]
        self.list += added
        return added

    def remove(self, rule_id):
        before = len(self.list)
        self.list = [rule for rule in self.list if rule.id != rule_id]
        return len(self.list) < before

    def clear(self):
        self.list = []

    def find(self, listener, request, reused, early):
        """The first rule that applies, of those that look at this moment."""
        for rule in self.list:
            if rule.early == early \
                    and rule.matches(listener, request, reused) \
                    and rule.take(self.rng):
                return rule
        return None
