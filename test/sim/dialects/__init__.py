"""The dialects: what a correct request is, and what its answer looks like.

Each module has NAME, check(request, provider), answer(answer) and
error(status, message, ...); none of them knows the wire. check() fills in
request.model, prompt, words, key, max_tokens, stream, or raises Refused with
the behaviour that the vendor shows to a client that is wrong.
"""

import json


class Refused(Exception):
    """The client is wrong: a behaviour with the vendor's own error."""

    def __init__(self, why, behaviour):
        super().__init__(why)
        self.behaviour = behaviour


class BadJson(ValueError):
    """Not JSON, or JSON that no careful client writes."""


def _no_duplicates(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        raise BadJson("a key stands twice in one object")
    return value


def _no_constant(text):
    raise BadJson("%s is not JSON" % text)


def strict_json(body):
    """Parses a request's body; raises BadJson."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant,
                          object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadJson(str(error))


def dump(value, ascii_only=False):
    return json.dumps(value, ensure_ascii=ascii_only,
                      separators=(",", ":")).encode("utf-8", "surrogatepass")


def words(text):
    return len(text.split())


def is_text(value):
    return isinstance(value, str)


def is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Answer:
    """What a provider says, before a dialect spells it."""

    def __init__(self, provider, request, behaviour, number):
        self.number = number
        self.created = None
        self.model = behaviour.get("model", request.model)
        self.tool_calls = self._tools(behaviour.get("tool_calls"))
        self.refusal = behaviour.get("refusal")
        self.reasoning = behaviour.get("reasoning")
        self.cut = False
        if "text" in behaviour:
            self.text = behaviour["text"]
        elif self.tool_calls or self.refusal is not None:
            self.text = None
        else:
            self.text = self._echo(provider, request)
        self.has_finish = behaviour.get("finish", "") is not None
        self.finish = behaviour.get("finish")
        self.usage = self._usage(request, behaviour)

    def _echo(self, provider, request):
        text = "%s/%s: %s" % (provider, request.model, request.prompt)
        limit = request.max_tokens
        if limit is not None and words(text) > limit:
            self.cut = True
            text = " ".join(text.split()[:limit])
        return text

    @staticmethod
    def _tools(wanted):
        if wanted is True:
            return [{"name": "get_weather", "arguments": {"city": "Paris"}}]
        return wanted or []

    def _usage(self, request, behaviour):
        """Token counts in neutral words; None when they are not told."""
        told = behaviour.get("usage", {})
        if told is None:
            return None
        reasoning = words(self.reasoning or "")
        usage = {"input": request.words, "cached": 0, "cache_write": 0,
                 "output": words(self.text or "") + reasoning,
                 "reasoning": reasoning}
        usage.update(told)
        return usage


def recognise(request):
    """The dialect module that a path belongs to, or None."""
    from . import anthropic, azure, gemini, openai
    path = request.path
    if path.endswith("/chat/completions"):
        if "/openai/deployments/" in path or "api-key" in request.fields:
            return azure
        return openai
    if path.endswith("/v1/messages"):
        return anthropic
    if gemini.PATH.search(request.target):
        return gemini
    return None
