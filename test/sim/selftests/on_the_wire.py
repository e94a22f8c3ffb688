"""How it is said: framing, spoilt responses, delays."""

import gzip
import json
import select
import socket
import time
import zlib

from .harness import OPENAI, Reply, SimTest, change, request_bytes


class Wire(SimTest):

    def test_keep_alive(self):
        with self.client() as client:
            for _ in range(3):
                self.assertEqual(client.ask().status, 200)
        self.assertEqual([entry["nth"] for entry in self.log()], [1, 2, 3])
        self.assertEqual(self.counts()["connections_opened"], 1)

    def test_pipelined(self):
        with self.client() as client:
            client.send(request_bytes(OPENAI) * 50)
            for _ in range(50):
                self.assertEqual(client.reply().status, 200)

    def test_byte_by_byte(self):
        with self.client() as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request_bytes(OPENAI):
                client.send(bytes([byte]))
            self.assertEqual(client.reply().status, 200)

    def test_chunked_request(self):
        body = json.dumps(OPENAI["json"]).encode()
        head = request_bytes(OPENAI, body=b"").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked")
        with self.client() as client:
            client.send(head + b"5\r\n" + body[:5] + b"\r\n"
                        + b"%x;ext=1\r\n" % len(body[5:]) + body[5:]
                        + b"\r\n0\r\n\r\n")
            self.assertEqual(client.reply().status, 200)

    def test_client_says_close(self):
        with self.client() as client:
            client.send(request_bytes(OPENAI, extra="Connection: close\r\n"))
            self.assertEqual(client.reply().headers["connection"], "close")
            self.assertEqual(client.to_end(), b"")

    def test_expect_continue(self):
        data = request_bytes(OPENAI, extra="Expect: 100-continue\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        with self.client() as client:
            client.send(head + b"\r\n\r\n")
            self.assertEqual(client.reply().status, 100)
            client.send(body)
            self.assertEqual(client.reply().status, 200)

    def test_encodings(self):
        for encoding, unpack in (
                ("gzip", gzip.decompress), ("deflate", zlib.decompress),
                ("raw-deflate", lambda b: zlib.decompress(b, -15))):
            self.behave({"encoding": encoding})
            reply = self.ask()
            self.admin("DELETE", "/rules")
            self.assertEqual(reply.headers["content-encoding"],
                             encoding.replace("raw-", ""))
            self.assertIn("choices", json.loads(unpack(reply.body)))

    def test_chunked(self):
        self.behave({"transfer": "chunked", "chunk_size": 7,
                     "encoding": "gzip"})
        with self.client() as client:
            reply = client.ask()
            self.assertIn("choices", json.loads(gzip.decompress(reply.body)))
            self.assertEqual(client.ask().status, 200)

    def test_until_close(self):
        self.behave({"transfer": "close"})
        reply = self.ask()
        self.assertNotIn("content-length", reply.headers)
        self.assertIn("choices", reply.json())

    def test_http_1_0(self):
        self.behave({"http": "1.0"})
        with self.client() as client:
            reply = client.ask()
            self.assertEqual(reply.line, "HTTP/1.0 200 OK")
            self.assertEqual(client.to_end(), b"")

    def test_interim(self):
        self.behave({"interim": [100, 103]})
        with self.client() as client:
            client.send(request_bytes(OPENAI))
            self.assertEqual([client.reply().status for _ in range(3)],
                             [100, 103, 200])

    def test_reason_and_headers(self):
        self.behave({"reason": "Fine", "content_type": None,
                     "headers": {"X-Long": "x" * 100000,
                                 "Set-Cookie": ["a", "b"]}})
        reply = self.ask()
        self.assertEqual(reply.line, "HTTP/1.1 200 Fine")
        self.assertNotIn("content-type", reply.headers)
        self.assertEqual(len(reply.headers["x-long"]), 100000)

    def test_redirect(self):
        self.behave({"redirect": "http://example.invalid/"})
        reply = self.ask()
        self.assertEqual(reply.status, 302)
        self.assertEqual(reply.headers["location"], "http://example.invalid/")

    def test_cut(self):
        data = self.spoilt({"cut": 10})
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertEqual(len(body), 10)
        self.assertGreater(int(Reply(head, body).headers["content-length"]),
                           10)
        data = self.spoilt({"cut": True, "transfer": "chunked",
                            "chunk_size": 10})
        self.assertFalse(data.endswith(b"0\r\n\r\n"))
        data = self.spoilt({"cut": 10, "http": "1.0"})
        self.assertNotIn(b"Content-Length", data)

    def test_trailing(self):
        self.behave({"trailing": "GARBAGE"}, times=1)
        with self.client() as client:
            self.assertIn("choices", client.ask().json())
            client.send(request_bytes(OPENAI))
            while client.buffer.count(b"choices") < 1:
                client.more()
            self.assertTrue(client.buffer.startswith(b"GARBAGE"))

    def test_raw(self):
        self.assertEqual(self.spoilt({"raw": "\x00\xffno"}), b"\x00\xffno")
        self.assertEqual(self.spoilt({"raw": ""}), b"")

    def test_garbage(self):
        def body(kind, **more):
            self.behave(dict(more, garbage=kind), times=1)
            return self.ask().body
        for kind in ("not_json", "empty", "html"):
            with self.assertRaises(ValueError):
                json.loads(body(kind))
        self.assertEqual(body("number"), b"42")
        self.assertEqual(body("deep", size=50), b"[" * 50 + b"]" * 50)
        self.assertIn(b'"a\xff\xfe\x80z"', body("invalid_utf8"))
        self.assertIn(b'"a\\u0000z"', body("nul"))
        self.assertIn(b'"a\\ud800z"', body("surrogate"))
        self.assertGreater(len(body("huge", size=3 << 20)), 3 << 20)

    def test_bodies(self):
        self.behave({"body": "text", "content_type": "text/x"}, times=1)
        reply = self.ask()
        self.assertEqual((reply.body, reply.headers["content-type"]),
                         (b"text", "text/x"))
        self.behave({"body_base64": "/wA="}, times=1)
        self.assertEqual(self.ask().body, b"\xff\x00")
        self.behave({"json": [1, None]}, times=1)
        self.assertEqual(self.ask().json(), [1, None])

    def test_close(self):
        self.behave({"close": "header"}, times=1)
        with self.client() as client:
            self.assertEqual(client.ask().headers["connection"], "close")
            self.assertEqual(client.to_end(), b"")
        self.behave({"close": "silent"}, times=1)
        with self.client() as client:
            self.assertEqual(client.ask().headers["connection"],
                             "keep-alive")
            self.assertEqual(client.to_end(), b"")
        self.behave({"close": "reset"}, times=1)
        with self.client() as client:
            self.assertEqual(client.ask().status, 200)
            with self.assertRaises(ConnectionResetError):
                client.to_end()

    def test_early(self):
        self.behave({"early": True, "template": "too_large"}, times=1)
        head, _, body = request_bytes(OPENAI).partition(b"\r\n\r\n")
        with self.client() as client:
            client.send(head + b"\r\n\r\n" + body[:5])
            self.assertEqual(client.reply().status, 413)
            self.assertEqual(self.counts()["in_progress"], 1)
            client.send(body[5:])
            self.assertEqual(client.ask().status, 200)
        self.assertEqual([entry["outcome"] for entry in self.log()],
                         ["answered"] * 2)

    def test_early_and_close(self):
        self.behave({"early": True, "status": 413, "close": "header"})
        with self.client() as client:
            client.send(request_bytes(OPENAI)[:-5])
            self.assertEqual(client.reply().status, 413)
            self.assertEqual(client.to_end(), b"")
            client.send(b"12345")
        self.assertEqual(self.log()[0]["outcome"], "answered")

    def test_reset(self):
        for where in ("early", "request"):
            self.behave({"reset": where}, times=1)
            with self.client() as client:
                client.send(request_bytes(OPENAI))
                with self.assertRaises(ConnectionResetError):
                    client.reply()
        for where in (20, "head"):
            self.behave({"reset": where}, times=1)
            with self.client() as client:
                client.send(request_bytes(OPENAI))
                with self.assertRaises(ConnectionResetError):
                    client.to_end()
                if where == 20:
                    self.assertEqual(len(client.buffer), 20)
                else:
                    self.assertTrue(client.buffer.endswith(b"\r\n\r\n"))
        self.assertEqual({entry["outcome"] for entry in self.log()},
                         {"reset"})

    def test_hang(self):
        for how, length in ((True, 0), (20, 20), ("head", None)):
            self.behave({"hang": how}, times=1)
            with self.client() as client:
                client.send(request_bytes(OPENAI))
                self.admin("GET", "/wait?in_progress=1&listener=a")
                while length != len(client.buffer) and not (
                        length is None
                        and client.buffer.endswith(b"\r\n\r\n")):
                    self.assertTrue(client.more())
                self.assertEqual(select.select([client.sock], [], [], 0.1)[0],
                                 [])
            self.admin("GET", "/wait?in_progress=0&listener=a")
            self.assertEqual(self.log()[-1]["outcome"], "gone")
        self.assertEqual(self.counts()["gone"], 3)

    def test_hang_before_the_body_is_read(self):
        self.behave({"hang": "early"})
        with self.client() as client:
            client.sock.settimeout(0.5)
            with self.assertRaises(socket.timeout):
                client.send(request_bytes(OPENAI, body=b" " * (64 << 20)))

    def test_delays(self):
        self.behave({"delay": 0.2, "body_delay": 0.2,
                     "drip": {"bytes": 200, "every": 0.05}})
        began = time.monotonic()
        self.assertEqual(self.ask().status, 200)
        self.assertGreater(time.monotonic() - began, 0.5)

    def test_big_request(self):
        body = json.dumps(change(OPENAI, messages=[
            {"role": "user", "content": "x" * (12 << 20)}])["json"])
        status, output = self.curl(body=body.encode())
        self.assertEqual(status, 0)
        self.assertGreater(len(output), 12 << 20)
        entry = self.log()[0]
        self.assertEqual(entry["body_size"], len(body))
        self.assertLess(len(entry["body"]), 1 << 20)

    def test_curl(self):
        """A real client makes of it what we mean."""
        for behaviour, wanted in (
                ({}, 0), ({"encoding": "gzip", "transfer": "chunked"}, 0),
                ({"interim": [103]}, 0), ({"http": "1.0"}, 0),
                ({"trailing": "x" * 10}, 0), ({"close": "silent"}, 0),
                ({"cut": True}, 18), ({"raw": ""}, 52),
                ({"cut": True, "transfer": "chunked"}, 18),
                ({"reset": "request"}, 56), ({"reset": 600}, 56),
                ({"raw": "SSH-2.0\r\n"}, 1)):
            self.behave(behaviour, times=1)
            self.assertEqual(self.curl("--compressed")[0], wanted, behaviour)
