"""Listeners: modes, options, TLS."""

import select
import socket
import ssl

from .harness import ANTHROPIC, OPENAI, Client, SimTest, request_bytes


class Listeners(SimTest):

    LISTEN = ["a=0", "b=0", "s=0:https", "x=0:https:expired",
              "h=0:https:wrong_host", "u=0:https:unknown_ca"]

    def mode(self, name, mode):
        self.admin("POST", "/listener/" + name, {"mode": mode})

    def test_down_and_up(self):
        with self.client() as client:
            client.ask()
            self.mode("a", "down")
            with self.assertRaises(ConnectionResetError):
                client.to_end()
        for _ in range(3):
            with self.assertRaises(ConnectionRefusedError):
                self.client()
        self.assertEqual(self.ask(name="b").status, 200)
        self.mode("a", "up")
        self.assertEqual(self.ask().status, 200)

    def test_down_in_mid_answer(self):
        self.behave({"hang": True})
        with self.client() as client:
            client.send(request_bytes(OPENAI))
            self.admin("GET", "/wait?in_progress=1")
            self.mode("a", "down")
            with self.assertRaises(ConnectionResetError):
                client.to_end()
        self.assertEqual(self.log()[0]["outcome"], "down")

    def test_blackhole(self):
        with self.client() as client:
            client.ask()
            self.mode("a", "blackhole")
            with self.assertRaises(socket.timeout):
                socket.create_connection(("127.0.0.1", self.port()), 0.3)
            client.send(request_bytes(OPENAI))
            self.assertEqual(select.select([client.sock], [], [], 0.1)[0], [])
            self.mode("a", "up")
            self.assertEqual(client.reply().status, 200)
        self.assertEqual(self.ask().status, 200)

    def test_rude_modes(self):
        self.mode("a", "silent")
        with self.client() as client:
            client.send(request_bytes(OPENAI))
            self.assertEqual(select.select([client.sock], [], [], 0.1)[0], [])
            self.admin("GET", "/wait?connections_open=1&listener=a")
        self.admin("GET", "/wait?connections_open=0&listener=a")
        self.mode("a", "close")
        with self.client() as client:
            self.assertEqual(client.to_end(), b"")
        self.mode("a", "reset")
        with self.assertRaises(ConnectionError), self.client() as client:
            client.to_end()
        self.mode("a", "garbage")
        with self.client() as client:
            client.more()
            self.assertTrue(client.buffer.startswith(b"SSH-"))
        self.assertEqual(self.counts()["requests"], 0)

    def test_options(self):
        self.admin("POST", "/listener/a", {"max_requests": 2})
        with self.client() as client:
            self.assertNotIn("connection", client.ask().headers)
            self.assertEqual(client.ask().headers["connection"], "close")
            self.assertEqual(client.to_end(), b"")
        self.admin("POST", "/listener/a", {"max_requests_silent": True})
        with self.client() as client:
            client.ask()
            self.assertNotIn("connection", client.ask().headers)
            self.assertEqual(client.to_end(), b"")
        self.admin("POST", "/listener/a", {"max_requests": None,
                                           "idle_timeout": 0.1})
        with self.client() as client:
            client.ask()
            self.assertEqual(client.to_end(), b"")
        self.admin("POST", "/reset")
        with self.client() as client:
            for _ in range(3):
                client.ask()

    def test_hangup(self):
        with self.client() as client:
            client.ask()
            self.assertEqual(self.admin("POST", "/hangup/a"), {"closed": 1})
            self.assertEqual(client.to_end(), b"")
        with self.client() as client:
            client.ask()
            self.admin("POST", "/hangup/a", {"reset": True})
            with self.assertRaises(ConnectionResetError):
                client.to_end()

    def test_tls(self):
        context = ssl.create_default_context(cafile=self.ready["ca_file"])
        with Client(self.port("s"), context) as client:
            self.assertEqual(client.ask().status, 200)
            self.assertEqual(client.ask(ANTHROPIC).status, 200)
        self.behave({"garbage": "huge", "size": 5 << 20}, times=1)
        with Client(self.port("s"), context) as client:
            self.assertGreater(len(client.ask().body), 5 << 20)
        context.options &= ~0x80    # do not ignore an unexpected end
        for close, politely in (("header", True), ("abrupt", False)):
            self.behave({"transfer": "close", "close": close}, times=1)
            with Client(self.port("s"), context) as client:
                client.sock.suppress_ragged_eofs = False
                client.send(request_bytes(OPENAI))
                try:
                    client.to_end()
                    self.assertTrue(politely)
                except ssl.SSLError:
                    self.assertFalse(politely)

    def test_bad_certificates(self):
        for name in ("x", "h", "u"):
            context = ssl.create_default_context(cafile=self.ready["ca_file"])
            with self.assertRaises(ssl.SSLCertVerificationError):
                Client(self.port(name), context)
            self.admin("GET", "/wait?tls_failed=1&listener=" + name)

    def test_curl_over_tls(self):
        arguments = ["--cacert", self.ready["ca_file"]]
        for name, wanted in (("s", 0), ("x", 60), ("h", 60), ("u", 60)):
            self.assertEqual(self.curl(*arguments, name=name)[0], wanted)
        for behaviour, wanted in (({"reset": "request"}, 56),
                                  ({"reset": 600}, 56), ({"cut": 9}, 18),
                                  ({"transfer": "close"}, 0)):
            self.behave(behaviour, times=1)
            self.assertEqual(self.curl(*arguments, name="s")[0], wanted,
                             behaviour)
        self.mode("s", "garbage")
        self.assertEqual(self.curl(*arguments, name="s")[0], 35)
        self.mode("s", "silent")
        self.assertEqual(self.curl(*arguments, "-m", "0.3", name="s")[0], 28)

    def test_curl_refused(self):
        self.mode("a", "down")
        self.assertEqual(self.curl()[0], 7)
        self.mode("a", "up")
        self.mode("a", "blackhole")
        self.assertEqual(self.curl("--connect-timeout", "0.3")[0], 28)
