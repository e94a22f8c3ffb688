"""HTTP/1.x as bytes: requests are read strictly, responses laid out exactly.

Nothing here knows a socket. A RequestReader is fed what arrives; plan()
turns a response and a behaviour into steps, the only words that a connection
understands:

    ("send", bytes)   ("wait", seconds)   ("hang", None)
    and last, one of: ("keep", None) ("close", None) ("reset", None)
    ("abrupt", None), which closes without TLS's good-bye
"""

import gzip
import re
import zlib
from email.utils import formatdate
from urllib.parse import unquote

MAX_HEAD = 256 * 1024
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

REASONS = {
    100: "Continue", 102: "Processing", 103: "Early Hints", 200: "OK",
    204: "No Content", 301: "Moved Permanently", 302: "Found",
    307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
    401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout",
    409: "Conflict", 413: "Content Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Content",
    429: "Too Many Requests", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Malformed(Exception):
    """What the client sent is not HTTP as a careful client writes it."""


class Request:
    """One request; the fields after body are filled in by a dialect."""

    __slots__ = ("method", "target", "path", "query", "version", "headers",
                 "fields", "body", "dialect", "json", "model", "prompt",
                 "key", "words", "max_tokens", "stream")

    def __init__(self, method, target, version, headers):
        self.method = method
        self.target = target
        path, _, self.query = target.partition("?")
        self.path = unquote(path)
        self.version = version
        self.headers = headers
        self.fields = {}
        for name, value in headers:
            self.fields.setdefault(name.lower(), value)
        self.body = b""
        self.dialect = self.json = self.model = self.prompt = self.key = None
        self.words = 0
        self.max_tokens = None
        self.stream = False

    def wants_keep_alive(self):
        connection = self.fields.get("connection", "").lower()
        if self.version == "HTTP/1.0":
            return "keep-alive" in connection
        return "close" not in connection


def parse_head(head):
    """Parses a request's head, without its final empty line."""
    lines = head.split(b"\r\n")
    try:
        method, target, version = lines[0].decode("ascii").split(" ")
    except ValueError:
        raise Malformed("the request line is not METHOD TARGET VERSION")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise Malformed("the version is neither HTTP/1.1 nor HTTP/1.0")
    if not target.startswith("/") or CONTROL.search(target.encode()):
        raise Malformed("the target is not a path")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Malformed("a header's name is not a token")
        if CONTROL.search(value):
            raise Malformed("a header's value has a control character")
        headers.append((name.decode(), value.strip(b" \t").decode("latin-1")))
    request = Request(method, target, version, headers)
    check_framing(request)
    return request


def check_framing(request):
    """Refuses what would let two readers disagree on where a request ends."""
    names = [name.lower() for name, _ in request.headers]
    for name in ("host", "content-length", "transfer-encoding",
                 "content-type", "authorization", "x-api-key", "api-key",
                 "x-goog-api-key"):
        if names.count(name) > 1:
            raise Malformed("header %s is there more than once" % name)
    if request.version == "HTTP/1.1" and "host" not in names:
        raise Malformed("header host is missing")
    if "content-length" in names and "transfer-encoding" in names:
        raise Malformed("content-length and transfer-encoding are both there")
    if not request.fields.get("content-length", "0").isdecimal():
        raise Malformed("content-length is not a number")
    if request.fields.get("transfer-encoding", "chunked") != "chunked":
        raise Malformed("transfer-encoding is not chunked")


class RequestReader:
    """Takes bytes as they come; gives heads, then bodies."""

    def __init__(self):
        self.buffer = bytearray()
        self.chunks = None      # parts of a chunked body so far

    def feed(self, data):
        self.buffer += data

    def head(self):
        """The next request without its body, or None: not yet there."""
        while self.buffer.startswith(b"\r\n"):
            del self.buffer[:2]
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Malformed("the head is too large")
            return None
        head = bytes(self.buffer[:end])
        del self.buffer[:end + 4]
        return parse_head(head)

    def body(self, request):
        """Reads the body into the request; False: not yet all there."""
        if "transfer-encoding" in request.fields:
            return self._chunked(request)
        length = int(request.fields.get("content-length", "0"))
        if len(self.buffer) < length:
            return False
        request.body = bytes(self.buffer[:length])
        del self.buffer[:length]
        return True

    def _chunked(self, request):
        if self.chunks is None:
            self.chunks = []
        while True:
            end = self.buffer.find(b"\r\n")
            if end < 0:
                return False
            try:
                size = int(bytes(self.buffer[:end]).partition(b";")[0], 16)
            except ValueError:
                raise Malformed("a chunk's size is not a hexadecimal number")
            if len(self.buffer) < end + 2 + size + 2:
                return False
            part = bytes(self.buffer[end + 2:end + 2 + size])
            if self.buffer[end + 2 + size:end + 4 + size] != b"\r\n":
                raise Malformed("a chunk does not end where it said")
            del self.buffer[:end + 4 + size]
            if size == 0:
                request.body = b"".join(self.chunks)
                self.chunks = None
                return True
            self.chunks.append(part)


class Response:
    """Status, headers and body, before a behaviour spoils the wire."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers      # a list of (name, value)
        self.body = body


_date = (0, "")


def http_date(now):
    """The Date header, formatted once a second."""
    global _date
    if _date[0] != int(now):
        _date = (int(now), formatdate(now, usegmt=True))
    return _date[1]


def compress(body, encoding):
    if encoding == "gzip":
        return gzip.compress(body, 6, mtime=0)
    if encoding == "deflate":
        return zlib.compress(body)
    if encoding == "raw-deflate":   # what some servers call deflate
        raw = zlib.compressobj(6, zlib.DEFLATED, -15)
        return raw.compress(body) + raw.flush()
    return body


def chunked(parts, finished):
    """Frames parts as chunks; without the last one when not finished."""
    framed = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part]
    if finished:
        framed.append(b"0\r\n\r\n")
    return framed


def split(data, size):
    return [data[at:at + size] for at in range(0, len(data), size)]


def head_bytes(response, behaviour, length, closing):
    """The response's head. A length of None announces none."""
    version = "HTTP/" + behaviour.get("http", "1.1")
    reason = behaviour.get("reason", REASONS.get(response.status, "Unknown"))
    lines = ["%s %d %s" % (version, response.status, reason)]
    lines += ["%s: %s" % header for header in response.headers]
    encoding = behaviour.get("encoding")
    if encoding:
        lines.append("Content-Encoding: " + encoding.replace("raw-", ""))
    if behaviour.get("transfer") == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif length is not None:
        lines.append("Content-Length: %d" % length)
    if behaviour.get("close") in ("silent", "reset"):
        lines.append("Connection: keep-alive")
        lines.append("Keep-Alive: timeout=60")
    elif closing and version == "HTTP/1.1":
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def body_parts(body, behaviour):
    """The body as it is to be sent, framed, cut and in drips."""
    cut = behaviour.get("cut")
    sent = body if cut is None else body[:len(body) // 2 if cut is True
                                         else cut]
    drip = behaviour.get("drip")
    if drip:
        parts = split(sent, drip["bytes"])
    elif "chunk_size" in behaviour:
        parts = split(sent, behaviour["chunk_size"])
    else:
        parts = [sent]
    if behaviour.get("transfer") == "chunked":
        parts = chunked(parts, cut is None)
    if "trailing" in behaviour:
        parts.append(behaviour["trailing"].encode())
    return parts


def ending(behaviour, keep_alive):
    """How the connection goes on after a response that was not spoilt."""
    if behaviour.get("close") in ("reset", "abrupt"):
        return behaviour["close"]
    if "cut" in behaviour or not keep_alive:
        return "close"
    if (behaviour.get("close") or behaviour.get("http") == "1.0"
            or behaviour.get("transfer") == "close" or "raw" in behaviour):
        return "close"
    return "keep"


def limit(steps, count, last):
    """Lets the first count bytes through, then ends with another step."""
    kept = []
    for kind, value in steps:
        if kind == "send":
            if len(value) >= count:
                kept.append((kind, value[:count]))
                break
            count -= len(value)
        elif kind != "wait":
            break
        kept.append((kind, value))
    return kept + [(last, None)]


def interim_steps(behaviour):
    for status in behaviour.get("interim", ()):
        line = "HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, "Interim"))
        if status == 103:
            line += "Link: </style.css>; rel=preload\r\n"
        yield ("send", (line + "\r\n").encode())


def response_steps(response, behaviour, end):
    """The steps of a whole response; where the head ends, in bytes."""
    if "raw" in behaviour:
        return [("send", behaviour["raw"].encode("latin-1"))], 0
    body = compress(response.body, behaviour.get("encoding"))
    untold = behaviour.get("transfer") == "close" or (
        behaviour.get("http") == "1.0" and "cut" in behaviour)
    head = head_bytes(response, behaviour, None if untold else len(body),
                      end != "keep")
    parts = body_parts(body, behaviour)
    if len(parts) == 1 and "body_delay" not in behaviour:
        return [("send", head + parts[0])], len(head)
    steps = [("send", head)]
    if "body_delay" in behaviour:
        steps.append(("wait", behaviour["body_delay"]))
    every = behaviour.get("drip", {}).get("every", 0)
    for part in parts:
        steps.append(("send", part))
        if every:
            steps.append(("wait", every))
    return steps, len(head)


def plan(response, behaviour, keep_alive):
    """Lays out one answer as steps, the last of which ends it."""
    hang, reset = behaviour.get("hang"), behaviour.get("reset")
    steps = list(interim_steps(behaviour))
    if "delay" in behaviour:
        steps.append(("wait", behaviour["delay"]))
    if reset in ("early", "request"):
        return steps + [("reset", None)]
    if hang in (True, "early"):
        return steps + [("hang", None)]
    end = ending(behaviour, keep_alive)
    answer, head_length = response_steps(response, behaviour, end)
    for stop, last in ((hang, "hang"), (reset, "reset")):
        if stop is not None and stop is not False:
            count = head_length if stop == "head" else stop
            return steps + limit(answer, count, last)
    if end != "keep" and "close_after" in behaviour:
        answer.append(("wait", behaviour["close_after"]))
    return steps + answer + [(end, None)]
