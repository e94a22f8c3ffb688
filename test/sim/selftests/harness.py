"""What the tests share: requests, a raw client, and a running simulator."""

import json
import os
import socket
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = [sys.executable, "-B", os.path.join(HERE, "llm_sim.py")]
PATIENCE = 20

# Not through the proxy of whoever runs this.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

OPENAI = {"path": "/v1/chat/completions",
          "headers": {"Authorization": "Bearer sk-test"},
          "json": {"model": "m1", "messages": [
              {"role": "user", "content": "Hello wide world"}]}}
AZURE = {"path": "/openai/deployments/m1/chat/completions"
                 "?api-version=2024-10-21",
         "headers": {"api-key": "sk-test"},
         "json": {"messages": OPENAI["json"]["messages"]}}
ANTHROPIC = {"path": "/v1/messages",
             "headers": {"x-api-key": "sk-test",
                         "anthropic-version": "2023-06-01"},
             "json": {"model": "m1", "max_tokens": 100,
                      "messages": OPENAI["json"]["messages"]}}
GEMINI = {"path": "/v1beta/models/m1:generateContent",
          "headers": {"x-goog-api-key": "sk-test"},
          "json": {"contents": [
              {"role": "user", "parts": [{"text": "Hello wide world"}]}]}}
REQUESTS = {"openai": OPENAI, "azure": AZURE, "anthropic": ANTHROPIC,
            "gemini": GEMINI}


def change(request, headers=(), **fields):
    """A request with other headers (None: without) and body fields."""
    changed = dict(request, headers=dict(request["headers"]),
                   json=dict(request["json"]))
    for name, value in dict(headers).items():
        changed["headers"].pop(name, None)
        if value is not None:
            changed["headers"][name] = value
    for name, value in fields.items():
        changed["json"].pop(name, None)
        if value is not None:
            changed["json"][name] = value
    return changed


def request_bytes(request, body=None, extra=""):
    body = json.dumps(request["json"]).encode() if body is None else body
    lines = ["POST %s HTTP/1.1" % request["path"], "Host: sim",
             "Content-Type: application/json",
             "Content-Length: %d" % len(body)]
    lines += ["%s: %s" % item for item in request["headers"].items()]
    return ("\r\n".join(lines) + "\r\n" + extra + "\r\n").encode() + body


class Reply:
    """A response as it came over a raw socket."""

    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.status = int(lines[0].split(" ")[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value
        self.body = body

    def json(self):
        return json.loads(self.body)


class Client:
    """A raw connection."""

    def __init__(self, port, context=None):
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if context is not None:
            self.sock = context.wrap_socket(self.sock,
                                            server_hostname="localhost")
        self.buffer = b""

    def send(self, data):
        self.sock.sendall(data)

    def more(self):
        data = self.sock.recv(1 << 16)
        self.buffer += data
        return bool(data)

    def to_end(self):
        """Everything until the server closes."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def reply(self):
        """One response with a length, or chunks, or until the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError("closed in the head: %r" % self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        reply = Reply(head, b"")
        if 100 <= reply.status < 200:
            return reply
        if "content-length" in reply.headers:
            length = int(reply.headers["content-length"])
            while len(self.buffer) < length:
                if not self.more():
                    raise EOFError("closed in the body")
            reply.body = self.buffer[:length]
            self.buffer = self.buffer[length:]
        elif reply.headers.get("transfer-encoding") == "chunked":
            reply.body = self.chunks()
        else:
            reply.body = self.to_end()
        return reply

    def chunks(self):
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                if not self.more():
                    raise EOFError("closed between chunks")
            size, _, rest = self.buffer.partition(b"\r\n")
            size = int(size, 16)
            while len(rest) < size + 2:
                if not self.more():
                    raise EOFError("closed in a chunk")
                rest = self.buffer.partition(b"\r\n")[2]
            body += rest[:size]
            self.buffer = rest[size + 2:]
            if size == 0:
                return body

    def ask(self, request=OPENAI):
        self.send(request_bytes(request))
        return self.reply()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class SimTest(unittest.TestCase):
    """Starts one simulator for all tests of a class."""

    LISTEN = ["a=0", "b=0", "s=0:https"]

    @classmethod
    def setUpClass(cls):
        arguments = []
        for spec in cls.LISTEN:
            arguments += ["--listen", spec]
        cls.process = subprocess.Popen(PROGRAM + arguments,
                                       stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        cls.ready = json.loads(cls.process.stdout.readline())

    @classmethod
    def tearDownClass(cls):
        cls.process.stdin.close()
        cls.process.stdout.close()
        cls.process.wait(PATIENCE)

    def setUp(self):
        self.admin("POST", "/reset")

    def admin(self, method, path, value=None):
        request = urllib.request.Request(
            self.ready["admin"] + path, method=method,
            data=None if value is None else json.dumps(value).encode())
        with OPENER.open(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def refused(self, method, path, value=None):
        """The admin interface's error."""
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.admin(method, path, value)
        with caught.exception as error:
            return json.load(error)["error"]

    def behave(self, behaviour, match=None, **more):
        return self.admin("POST", "/rules", dict(
            more, behaviour=behaviour, match=match or {}))["ids"][0]

    def port(self, name="a"):
        return self.ready["listeners"][name]["port"]

    def client(self, name="a"):
        return Client(self.port(name))

    def ask(self, request=OPENAI, name="a"):
        with self.client(name) as client:
            return client.ask(request)

    def spoilt(self, behaviour, request=OPENAI):
        """What comes back until the end, under one behaviour."""
        self.behave(behaviour, times=1)
        with self.client() as client:
            client.send(request_bytes(request))
            return client.to_end()

    def counts(self, name="a"):
        return self.admin("GET", "/counts?listener=" + name)

    def log(self, **query):
        return self.admin("GET", "/log?" + "&".join(
            "%s=%s" % item for item in query.items()))

    def curl(self, *arguments, name="a", body=None, request=OPENAI):
        """Runs curl; its exit status and output."""
        command = ["curl", "-s", "--noproxy", "*", "-m", str(PATIENCE),
                   "-H", "Content-Type: application/json", "-d", "@-"]
        for item in request["headers"].items():
            command += ["-H", "%s: %s" % item]
        done = subprocess.run(
            command + list(arguments)
            + [self.ready["listeners"][name]["url"] + request["path"]],
            input=body or json.dumps(request["json"]).encode(),
            stdout=subprocess.PIPE, check=False)
        return done.returncode, done.stdout
