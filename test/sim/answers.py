"""From a request and a behaviour to a response: what is said, not how.

The steps: the client's mistakes first, then the behaviour's own body, error
template or status, and else the dialect's answer, with its alterations.
"""

import base64
import time

import templates
from dialects import Answer, dump
from wire import Request, Response, http_date

GARBAGE = {
    "not_json": b"Internal hiccup, no JSON today",
    "invalid_utf8": b"\xff\xfe\x80",
    "nul": "\\u0000",
    "surrogate": "\\ud800",
    "number": b"42",
    "empty": b"",
}


def expand(request, behaviour, request_id):
    """A behaviour with its template laid under it, and that filled in."""
    if "template" not in behaviour:
        return behaviour
    dialect = request.dialect.NAME if request.dialect else "openai"
    base = templates.apply(behaviour["template"], dialect)
    words = templates.words_for(request, behaviour, request_id)
    merged = dict(templates.fill(base, words), **behaviour)
    for key in ("headers", "set"):
        if key in base and key in behaviour:
            merged[key] = dict(templates.fill(base[key], words),
                               **behaviour[key])
    return merged


def respond(listener, request, behaviour, number):
    """The response that a behaviour (expanded) makes of a request."""
    status = behaviour.get("status", 302 if "redirect" in behaviour else 200)
    body, kind = body_of(listener, request, behaviour, status, number)
    kind = behaviour.get("content_type", kind)
    headers = [("Date", http_date(time.time()))]
    if kind is not None:
        headers.append(("Content-Type", kind))
    if request.dialect:
        headers += request.dialect.limit_headers(number)
    if "redirect" in behaviour:
        headers.append(("Location", behaviour["redirect"]))
    if "retry_after" in behaviour and "template" not in behaviour:
        headers.append(("Retry-After",
                        templates.number(behaviour["retry_after"])))
    return Response(status, with_headers(headers, behaviour), body)


def with_headers(headers, behaviour):
    """Replaces (or, with null, removes) headers by the behaviour's."""
    wanted = behaviour.get("headers")
    if not wanted:
        return headers
    names = {name.lower() for name in wanted}
    kept = [header for header in headers if header[0].lower() not in names]
    for name, value in wanted.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                kept.append((name, each))
    return kept


def body_of(listener, request, behaviour, status, number):
    """The body and its content type."""
    if "body_base64" in behaviour:
        return base64.b64decode(behaviour["body_base64"]), "application/json"
    if "body" in behaviour:
        return behaviour["body"].encode("utf-8", "surrogatepass"), \
            "application/json"
    if "json" in behaviour:
        return dump(behaviour["json"], behaviour.get("ascii", False)), \
            "application/json"
    if "garbage" in behaviour:
        return garbage(listener, request, behaviour, number)
    if status >= 300:
        return plain_error(request, status, number), "application/json"
    answer = Answer(listener, request, behaviour, number)
    if behaviour.get("stream") or request.stream:
        return stream(request, answer, behaviour.get("stream")), \
            "text/event-stream; charset=utf-8"
    return answer_body(request, answer, behaviour), "application/json"


def plain_error(request, status, number):
    """An error of a status alone, in the shape of the dialect."""
    dialect = request.dialect.NAME if request.dialect else "openai"
    name = {400: "bad_request", 401: "unauthenticated",
            402: "payment_required", 403: "forbidden",
            404: "model_not_found", 409: "conflict",
            429: "rate_limit_silent", 503: "overloaded"}.get(
                status, "server_error")
    behaviour = expand(request, {"template": name}, "req_sim%06d" % number)
    if dialect == "gemini":
        behaviour["json"]["error"]["code"] = status
    return dump(behaviour["json"])


def answer_body(request, answer, behaviour):
    value = request.dialect.answer(answer)
    for path, new in behaviour.get("set", {}).items():
        alter(value, path, new)
    for path in behaviour.get("omit", ()):
        alter(value, path, None, remove=True)
    return dump(value, behaviour.get("ascii", False))


def alter(value, path, new, remove=False):
    """Sets or removes what stands at a dotted path, "choices.0.message"."""
    steps = [int(step) if step.isdecimal() else step
             for step in path.split(".")]
    for step in steps[:-1]:
        value = value[step]
    if remove:
        del value[steps[-1]]
    else:
        value[steps[-1]] = new


def stream(request, answer, how):
    """An answer as server-sent events; how is true, "error" or "cut"."""
    events = list(request.dialect.events(answer))
    if how == "error":
        events = events[:1] + [request.dialect.stream_error()]
    elif how == "cut":
        events = events[:max(1, len(events) // 2)]
    text = b""
    for name, data in events:
        if name:
            text += b"event: " + name.encode() + b"\n"
        text += b"data: " + (data.encode() if isinstance(data, str)
                             else dump(data)) + b"\n\n"
    return text


def garbage(listener, request, behaviour, number):
    """Bodies that a parser may choke on."""
    kind = behaviour["garbage"]
    size = behaviour.get("size", 0)
    if kind == "html":
        return templates.HTML.format("200 It works").encode(), "text/html"
    if kind == "deep":
        depth = size or 100000
        return b"[" * depth + b"]" * depth, "application/json"
    if kind == "huge":      # a right answer, but for its length
        behaviour = dict(behaviour, text="x" * (size or 64 << 20))
        answer = Answer(listener, request, behaviour, number)
        return answer_body(request, answer, behaviour), "application/json"
    if kind in ("nul", "surrogate", "invalid_utf8"):
        # inside the text of an answer that is else in order
        answer = Answer(listener, request, dict(behaviour, text="a\x01z"),
                        number)
        planted = GARBAGE[kind]
        if isinstance(planted, str):
            planted = planted.encode()
        return answer_body(request, answer, behaviour).replace(
            b"\\u0001", planted), "application/json"
    return GARBAGE[kind], "application/json"


def refusal(request, behaviour, request_id):
    """The behaviour of a dialect's own error, with its words filled in."""
    return templates.fill(behaviour, templates.words_for(request, behaviour,
                                                         request_id))


def no_request():
    """Stands in the log for bytes that are no request."""
    return Request("", "", "", [])
