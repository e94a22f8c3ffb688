"""Rules, log and counters, and the life of the process."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from .harness import (ANTHROPIC, OPENAI, PATIENCE, PROGRAM, Client, SimTest,
                      change, request_bytes)


class Rules(SimTest):

    def test_first_match_wins(self):
        self.behave({"text": "one"}, {"model": "m1"}, times=1)
        self.behave({"text": "two"}, {"prompt": "wide"})
        self.behave({"text": "three"})
        texts = [self.ask().json()["choices"][0]["message"]["content"]
                 for _ in range(2)]
        self.assertEqual(texts, ["one", "two"])
        other = change(OPENAI, messages=[{"role": "user", "content": "x"}])
        self.assertIn(b"three", self.ask(other).body)

    def test_each_match_key(self):
        for match, hit in (
                ({"listener": "a"}, True), ({"listener": "b"}, False),
                ({"model": "m1"}, True), ({"model": "m"}, False),
                ({"path": "chat"}, True), ({"path": "^/chat"}, False),
                ({"prompt": "^Hello"}, True), ({"prompt": "bye"}, False),
                ({"dialect": "openai"}, True), ({"dialect": "azure"}, False),
                ({"method": "POST"}, True), ({"method": "GET"}, False),
                ({"header": {"Authorization": "sk-t"}}, True),
                ({"header": {"Authorization": "sk-x"}}, False),
                ({"reused": False}, True), ({"reused": True}, False)):
            self.behave({"status": 500}, match)
            self.assertEqual(self.ask().status == 500, hit, match)
            self.admin("DELETE", "/rules")

    def test_reused(self):
        self.behave({"status": 500}, {"reused": True})
        with self.client() as client:
            self.assertEqual(client.ask().status, 200)
            self.assertEqual(client.ask().status, 500)

    def test_after_and_times(self):
        self.behave({"status": 500}, after=1, times=2)
        self.assertEqual([self.ask().status for _ in range(4)],
                         [200, 500, 500, 200])
        self.assertEqual(self.admin("GET", "/rules")[0]["uses"], 2)

    def test_every(self):
        self.behave({"status": 500}, after=1, every=3)
        self.assertEqual([self.ask().status for _ in range(8)],
                         [200, 200, 200, 500, 200, 200, 500, 200])

    def test_probability(self):
        self.behave({"status": 500}, probability=0.5)
        with self.client() as client:
            hits = sum(client.ask().status == 500 for _ in range(200))
        self.assertTrue(60 < hits < 140, hits)

    def test_removed(self):
        rule = self.behave({"status": 500})
        self.admin("DELETE", "/rules/%d" % rule)
        self.assertEqual(self.ask().status, 200)
        self.assertIn("no rule", self.refused("DELETE", "/rules/%d" % rule))

    def test_put_replaces_all_or_nothing(self):
        self.behave({"status": 500})
        self.refused("PUT", "/rules", [{"behaviour": {"status": "x"}}])
        self.assertEqual(self.ask().status, 500)
        self.admin("PUT", "/rules", [{"behaviour": {"status": 501}}])
        self.assertEqual(self.ask().status, 501)

    def test_wrong_rules_are_refused(self):
        for behaviour in ({"statsu": 500}, {"status": "500"}, {"delay": -1},
                          {"template": "nonesuch"}, {"drip": 3},
                          {"hang": "x"}, {"interim": [101]},
                          {"headers": {"a": 1}}, {"body_base64": 1}):
            self.assertIn("behaviour", self.refused(
                "POST", "/rules", {"behaviour": behaviour})
                + " behaviour" * ("template" in behaviour))
        for rule in ({"match": {"modle": "x"}}, {"times": -1}, {"every": 0}, 7,
                     {"x": 1}, {"match": {"prompt": "("}},
                     {"match": {"model": "m"}, "behaviour": {"early": True}}):
            self.refused("POST", "/rules", rule)
        self.refused("POST", "/listener/a", {"mode": "sideways"})
        self.refused("POST", "/listener/a", {"option": 1})
        self.refused("POST", "/listener/a", {"max_requests": "2"})
        self.refused("POST", "/listener/a", {"keys": "some"})
        self.refused("POST", "/listener/z", {"mode": "up"})
        self.refused("GET", "/nowhere")
        self.assertEqual(self.admin("GET", "/rules"), [])


class Records(SimTest):

    def test_log(self):
        self.behave({"status": 500}, {"listener": "b"})
        self.ask()
        self.ask(ANTHROPIC, "b")
        a, b = self.log()
        self.assertEqual((a["listener"], a["dialect"], a["model"]),
                         ("a", "openai", "m1"))
        self.assertEqual(a["headers"]["authorization"], "Bearer sk-test")
        self.assertEqual(json.loads(a["body"]), OPENAI["json"])
        self.assertLessEqual(a["received"], a["read"])
        self.assertLessEqual(a["read"], a["ended"])
        self.assertEqual((b["status"], b["behaviour"]),
                         (500, {"status": 500}))
        self.assertEqual(self.log(since=a["id"]), [b])
        self.assertEqual(self.log(listener="a"), [a])
        self.assertEqual(self.log(limit=1), [b])
        self.assertEqual(self.log(model="m9"), [])

    def test_times(self):
        self.ask()
        self.ask(name="b")
        self.assertEqual(self.admin("GET", "/times"),
                         [entry["received"] for entry in self.log()])
        self.assertEqual(self.admin("GET", "/times?listener=b"),
                         [self.log()[1]["received"]])

    def test_counts(self):
        self.ask()
        self.ask(change(OPENAI, model="m2"))
        self.ask(name="b")
        self.assertEqual(self.counts()["models"], {"m1": 1, "m2": 1})
        self.assertEqual(self.counts()["answered"], 2)
        everything = self.admin("GET", "/counts")
        self.assertEqual(everything["total"]["requests"], 3)
        self.assertEqual(everything["listeners"]["b"]["requests"], 1)
        self.admin("POST", "/reset")
        self.assertEqual(self.counts()["requests"], 0)

    def test_wait(self):
        timer = threading.Timer(0.2, self.ask)
        timer.start()
        began = time.monotonic()
        self.admin("GET", "/wait?requests=1&listener=a&model=m1")
        self.assertGreater(time.monotonic() - began, 0.1)
        timer.join()
        self.admin("GET", "/wait?in_progress=0&max_requests=1")
        self.assertIn("still not so",
                      self.refused("GET", "/wait?requests=2&timeout=0.1"))
        self.refused("GET", "/wait?reqests=2")
        self.refused("GET", "/wait?requests=2&listener=z")
        self.refused("GET", "/wait")

    def test_many_connections(self):
        clients = [self.client() for _ in range(2000)]
        self.admin("GET", "/wait?connections_open=2000&listener=a")
        for client in clients:
            client.send(request_bytes(OPENAI))
        for client in clients:
            self.assertEqual(client.reply().status, 200)
            client.close()
        self.admin("GET", "/wait?connections_open=0&listener=a")


class Process(unittest.TestCase):

    def start(self, *arguments, stdin=subprocess.PIPE):
        return subprocess.Popen(PROGRAM + ["--listen", "a=0"]
                                + list(arguments), stdin=stdin,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def finish(self, process):
        process.wait(PATIENCE)
        errors = process.stderr.read()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return process.returncode, errors

    def test_ends_with_its_stdin(self):
        """... without a word, also while clients are connected."""
        process = self.start()
        ready = json.loads(process.stdout.readline())
        with Client(int(ready["admin"].rpartition(":")[2])) as admin, \
                Client(ready["listeners"]["a"]["port"]) as client:
            admin.send(b"GET /counts HTTP/1.1\r\nHost: sim\r\n\r\n")
            self.assertEqual(admin.reply().status, 200)
            self.assertEqual(client.ask().status, 200)
            process.stdin.close()
            self.assertEqual(self.finish(process), (0, b""))

    def test_ends_on_sigterm(self):
        process = self.start(stdin=subprocess.DEVNULL)
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(process), (0, b""))

    def test_ready_file_and_certificates(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "ready")
            certs = os.path.join(directory, "certs")
            process = self.start("--listen", "s=0:https", "--ready-file",
                                 path, "--certs", certs)
            until = time.monotonic() + PATIENCE
            while not os.path.exists(path) and time.monotonic() < until:
                time.sleep(0.02)
            with open(path) as ready:
                described = json.load(ready)
            self.assertEqual(described["pid"], process.pid)
            self.assertTrue(os.path.exists(described["ca_file"]))
            process.stdin.close()
            self.assertEqual(self.finish(process), (0, b""))

    def test_wrong_arguments(self):
        for arguments in (["--listen", "a"], ["--listen", "a=1"],
                          ["--listen", "b=0:ftp"],
                          ["--listen", "b=0:https:best"]):
            process = self.start(*arguments)
            self.assertEqual(self.finish(process)[0], 2, arguments)

    def test_help(self):
        done = subprocess.run(PROGRAM + ["--help"], stdout=subprocess.PIPE,
                              check=True)
        self.assertIn(b"--listen", done.stdout)
