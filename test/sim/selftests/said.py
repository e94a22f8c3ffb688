"""What is said: answers, refusals of wrong requests, error templates."""

import json
import unittest

import dialects
import templates

from .harness import (ANTHROPIC, AZURE, GEMINI, OPENAI, REQUESTS, SimTest,
                      change, request_bytes)


class Answers(SimTest):

    def test_openai(self):
        reply = self.ask()
        body = reply.json()
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.headers["content-type"], "application/json")
        self.assertEqual(body["choices"][0]["message"]["content"],
                         "a/m1: Hello wide world")
        self.assertEqual(body["choices"][0]["finish_reason"], "stop")
        self.assertEqual(body["usage"]["prompt_tokens"], 3)
        self.assertEqual(body["usage"]["completion_tokens"], 4)
        self.assertEqual(body["usage"]["total_tokens"], 7)
        self.assertIn("x-ratelimit-remaining-tokens", reply.headers)

    def test_any_base_path(self):
        request = dict(OPENAI, path="/p1/v1/chat/completions")
        self.assertEqual(self.ask(request).status, 200)

    def test_azure(self):
        body = self.ask(AZURE).json()
        self.assertEqual(body["model"], "m1")
        self.assertIn("prompt_filter_results", body)
        request = change(dict(AZURE, path="/openai/v1/chat/completions"),
                         model="m2")
        self.assertEqual(self.ask(request).json()["model"], "m2")
        self.assertEqual([e["dialect"] for e in self.log()],
                         ["azure", "azure"])

    def test_anthropic(self):
        body = self.ask(ANTHROPIC).json()
        self.assertEqual(body["content"], [
            {"type": "text", "text": "a/m1: Hello wide world"}])
        self.assertEqual(body["stop_reason"], "end_turn")
        self.assertEqual(body["usage"]["input_tokens"], 3)

    def test_gemini(self):
        body = self.ask(GEMINI).json()
        candidate = body["candidates"][0]
        self.assertEqual(candidate["content"]["parts"],
                         [{"text": "a/m1: Hello wide world"}])
        self.assertEqual(candidate["finishReason"], "STOP")
        self.assertEqual(body["usageMetadata"]["totalTokenCount"], 7)

    def test_length(self):
        body = self.ask(change(OPENAI, max_completion_tokens=2)).json()
        self.assertEqual(body["choices"][0]["message"]["content"],
                         "a/m1: Hello")
        self.assertEqual(body["choices"][0]["finish_reason"], "length")
        body = self.ask(change(ANTHROPIC, max_tokens=2)).json()
        self.assertEqual(body["stop_reason"], "max_tokens")
        body = self.ask(change(GEMINI, generationConfig={
            "maxOutputTokens": 2})).json()
        self.assertEqual(body["candidates"][0]["finishReason"], "MAX_TOKENS")

    def test_usage_in_each_dialects_words(self):
        self.behave({"usage": {"input": 100, "cached": 60, "cache_write": 10,
                               "output": 50, "reasoning": 20}})
        usage = self.ask().json()["usage"]
        self.assertEqual(usage["prompt_tokens"], 100)
        self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], 60)
        self.assertEqual(
            usage["completion_tokens_details"]["reasoning_tokens"], 20)
        usage = self.ask(ANTHROPIC).json()["usage"]
        self.assertEqual(usage["input_tokens"], 30)
        self.assertEqual(usage["cache_read_input_tokens"], 60)
        self.assertEqual(usage["cache_creation_input_tokens"], 10)
        usage = self.ask(GEMINI).json()["usageMetadata"]
        self.assertEqual(usage["promptTokenCount"], 100)
        self.assertEqual(usage["candidatesTokenCount"], 30)
        self.assertEqual(usage["thoughtsTokenCount"], 20)
        self.assertEqual(usage["totalTokenCount"], 150)

    def test_altered_answers(self):
        self.behave({"usage": None, "finish": None, "model": "other",
                     "reasoning": "hm hm", "set": {"choices.0.index": 7},
                     "omit": ["id"]})
        body = self.ask().json()
        self.assertNotIn("usage", body)
        self.assertNotIn("finish_reason", body["choices"][0])
        self.assertNotIn("id", body)
        self.assertEqual(body["choices"][0]["index"], 7)
        self.assertEqual(body["model"], "other")
        self.assertEqual(
            body["choices"][0]["message"]["reasoning_content"], "hm hm")
        self.assertNotIn("stop_reason", self.refresh(ANTHROPIC))

    def refresh(self, request):
        self.admin("DELETE", "/rules")
        self.behave({"finish": None})
        return self.ask(request).json()

    def test_tool_calls(self):
        self.behave({"tool_calls": True})
        message = self.ask().json()["choices"][0]["message"]
        self.assertIsNone(message["content"])
        self.assertEqual(json.loads(
            message["tool_calls"][0]["function"]["arguments"]),
            {"city": "Paris"})
        body = self.ask(ANTHROPIC).json()
        self.assertEqual(body["stop_reason"], "tool_use")
        self.assertEqual(body["content"][0]["input"], {"city": "Paris"})
        parts = self.ask(GEMINI).json()["candidates"][0]["content"]["parts"]
        self.assertEqual(parts[0]["functionCall"]["name"], "get_weather")

    def test_unicode(self):
        request = change(OPENAI, messages=[
            {"role": "user", "content": "\u00e9\u4e2d\U0001f600"}])
        reply = self.ask(request)
        self.assertIn("\u00e9\u4e2d\U0001f600".encode(), reply.body)
        self.behave({"ascii": True})
        reply = self.ask(request)
        self.assertIn(b"\\u00e9\\u4e2d\\ud83d\\ude00", reply.body)

    def test_streams(self):
        request = change(OPENAI, stream=True)
        self.assertTrue(self.ask(request).body.endswith(
            b"data: [DONE]\n\n"))
        self.behave({"stream": True})
        reply = self.ask(ANTHROPIC)
        self.assertTrue(reply.headers["content-type"].startswith(
            "text/event-stream"))
        self.assertIn(b"event: message_stop\n", reply.body)
        self.admin("DELETE", "/rules")
        self.behave({"stream": "error"})
        self.assertIn(b"event: error\n", self.ask(ANTHROPIC).body)
        self.admin("DELETE", "/rules")
        self.behave({"stream": "cut"})
        self.assertNotIn(b"[DONE]", self.ask().body)


class Judge(SimTest):
    """A wrong client hears so, in the vendor's words."""

    def check(self, status, text, request, **bytes_arguments):
        with self.client() as client:
            client.send(request_bytes(request, **bytes_arguments))
            reply = client.reply()
        self.assertEqual(reply.status, status, reply.body)
        self.assertIn(text, reply.body.decode())
        self.assertTrue(self.log()[-1]["refused"])
        return reply

    def test_no_key(self):
        reply = self.check(401, "didn't provide an API key",
                           change(OPENAI, {"Authorization": None}))
        self.assertEqual(reply.json()["error"]["type"],
                         "invalid_request_error")
        reply = self.check(401, "x-api-key",
                           change(ANTHROPIC, {"x-api-key": None}))
        self.assertEqual(reply.json()["error"]["type"],
                         "authentication_error")
        self.assertEqual(reply.json()["request_id"],
                         reply.headers["request-id"])
        self.check(403, "PERMISSION_DENIED",
                   change(GEMINI, {"x-goog-api-key": None}))
        self.check(401, "Access denied", change(
            AZURE, {"api-key": None}))
        self.assertEqual(self.counts()["refused"], 4)

    def test_wrong_key(self):
        self.admin("POST", "/listener/a", {"keys": ["sk-other"]})
        self.check(401, "invalid_api_key", OPENAI)
        self.check(401, "invalid x-api-key", ANTHROPIC)
        self.check(400, "API_KEY_INVALID", GEMINI)
        self.check(401, "invalid subscription key", AZURE)
        self.assertEqual(self.ask(change(
            OPENAI, {"Authorization": "Bearer sk-other"})).status, 200)

    def test_optional_key(self):
        self.admin("POST", "/listener/a", {"keys": "optional"})
        self.assertEqual(self.ask(change(
            OPENAI, {"Authorization": None})).status, 200)

    def test_body(self):
        for request in REQUESTS.values():
            self.check(400, "", request, body=b"{")
            self.check(400, "", request, body=b"[]")
            self.check(400, "", request, body=b'{"a":"\xff"}')
            self.check(400, "twice", request, body=b'{"a":1,"a":2}')

    def test_openai_fields(self):
        self.check(400, "model parameter", change(OPENAI, model=None))
        self.check(400, "messages", change(OPENAI, messages=None))
        self.check(400, "empty_array", change(OPENAI, messages=[]))
        self.check(400, "unknown role", change(
            OPENAI, messages=[{"role": "model", "content": "x"}]))
        self.check(400, "got null", change(
            OPENAI, messages=[{"role": "user", "content": None}]))
        self.check(400, "top_k", change(OPENAI, top_k=1))
        self.check(400, "at the same time", change(
            OPENAI, max_tokens=1, max_completion_tokens=1))
        self.check(400, "temperature", change(OPENAI, temperature=3))
        self.check(400, "unsupported_parameter", change(
            OPENAI, model="gpt-5", max_tokens=10))
        self.check(400, "unsupported_value", change(
            OPENAI, model="gpt-5-mini", temperature=0.5))
        self.assertEqual(self.ask(change(OPENAI, model="gpt-5.1",
                                         temperature=0.5)).status, 200)

    def test_lenient(self):
        self.admin("POST", "/listener/a", {"lenient": True})
        self.assertEqual(self.ask(change(OPENAI, top_k=1)).status, 200)

    def test_azure_api_version(self):
        path = AZURE["path"].partition("?")[0]
        self.check(404, "Resource not found", dict(AZURE, path=path))

    def test_anthropic_fields(self):
        self.check(400, "anthropic-version",
                   change(ANTHROPIC, {"anthropic-version": None}))
        self.check(400, "max_tokens: Field required",
                   change(ANTHROPIC, max_tokens=None))
        self.check(400, "Unexpected role", change(
            ANTHROPIC, messages=[{"role": "system", "content": "x"}]))
        self.check(400, "non-empty", change(
            ANTHROPIC, messages=[{"role": "user", "content": ""}]))
        self.check(400, "Extra inputs", change(ANTHROPIC, seed=1))
        self.check(400, "0..1", change(ANTHROPIC, temperature=1.5))

    def test_gemini_fields(self):
        self.check(400, "contents is not specified",
                   change(GEMINI, contents=None))
        self.check(400, "Unknown name", change(GEMINI, messages=[]))
        self.check(400, "at 'generation_config'", change(
            GEMINI, generationConfig={"max_tokens": 1}))
        self.check(400, "valid role", change(
            GEMINI, contents=[{"role": "assistant",
                               "parts": [{"text": "x"}]}]))
        self.check(400, "initialized field", change(
            GEMINI, contents=[{"role": "user", "parts": [{}]}]))

    def test_method_and_path(self):
        with self.client() as client:
            client.send(b"GET /v1/chat/completions HTTP/1.1\r\n"
                        b"Host: sim\r\n\r\n")
            self.assertEqual(client.reply().status, 405)
        self.assertEqual(self.ask(dict(OPENAI, path="/v2/what")).status, 404)

    def test_bad_http(self):
        for extra in ("Host: twice\r\n", "X y: z\r\n", "X-A: a\x01b\r\n",
                      "X-A: a\nb\r\n", "Content-Length: 3\r\n",
                      "Authorization: Bearer two\r\n",
                      "Transfer-Encoding: chunked\r\n"):
            with self.client() as client:
                client.send(request_bytes(OPENAI, extra=extra))
                self.assertEqual(client.reply().status, 400, extra)
                self.assertEqual(client.to_end(), b"")
        with self.client() as client:
            client.send(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
            self.assertEqual(client.reply().status, 400)
        self.assertEqual(self.counts()["refused"], 8)

    def test_no_rule_is_used_up_by_a_refusal(self):
        self.behave({"status": 500}, times=1)
        self.assertEqual(self.ask(change(OPENAI, messages=[])).status, 400)
        self.assertEqual(self.ask().status, 500)


class Templates(SimTest):

    def test_each_in_each_dialect(self):
        """Each template gives its status, and JSON where it says so."""
        for name, by_dialect in templates.TEMPLATES.items():
            for dialect, request in REQUESTS.items():
                if dialect not in by_dialect and "*" not in by_dialect:
                    continue
                self.behave({"template": name})
                reply = self.ask(request)
                self.admin("DELETE", "/rules")
                wanted = templates.apply(name, dialect).get("status", 200)
                self.assertEqual(reply.status, wanted, (name, dialect))
                self.assertNotIn(b"{model}", reply.body, name)
                self.assertNotIn(b"{retry", reply.body, name)
                if reply.headers["content-type"] == "application/json":
                    reply.json()

    def test_each_vendor_has_its_own_shape(self):
        shapes = {"openai": ("message", "type", "param", "code"),
                  "azure": ("code", "message"),
                  "anthropic": ("type", "message"),
                  "gemini": ("code", "message", "status")}
        for name in ("invalid_key", "model_not_found", "server_error"):
            for dialect, keys in shapes.items():
                behaviour = templates.apply(name, dialect)
                self.assertLessEqual(set(keys),
                                     set(behaviour["json"]["error"]), name)

    def test_retry_hints(self):
        self.behave({"template": "rate_limit", "retry_after": 2.5})
        reply = self.ask()
        self.assertEqual(reply.headers["retry-after"], "2.5")
        self.assertIn("in 2.5s", reply.json()["error"]["message"])
        self.assertEqual(self.ask(AZURE).headers["retry-after-ms"], "2500")
        details = self.ask(GEMINI).json()["error"]["details"]
        self.assertEqual(details[-1]["retryDelay"], "2.5s")

    def test_echoed_key(self):
        self.behave({"template": "echoed_key"})
        for request in REQUESTS.values():
            self.assertIn("sk-test", self.ask(request).body.decode())

    def test_status_alone(self):
        self.behave({"status": 503, "retry_after": 3})
        reply = self.ask()
        self.assertEqual(reply.status, 503)
        self.assertEqual(reply.headers["retry-after"], "3")
        self.assertIn("error", reply.json())
        self.assertEqual(self.ask(ANTHROPIC).json()["type"], "error")
        self.assertEqual(self.ask(GEMINI).json()["error"]["code"], 503)

    def test_overridden(self):
        self.behave({"template": "rate_limit", "status": 418,
                     "headers": {"X-More": "1", "retry-after": None}})
        reply = self.ask()
        self.assertEqual(reply.status, 418)
        self.assertEqual(reply.headers["x-more"], "1")
        self.assertNotIn("retry-after", reply.headers)


class Modules(unittest.TestCase):

    def test_every_template_has_a_dialect(self):
        known = set(REQUESTS) | {"*"}
        for name, by_dialect in templates.TEMPLATES.items():
            self.assertLessEqual(set(by_dialect), known, name)

    def test_strict_json(self):
        for bad in (b"NaN", b'{"a":1,"a":1}', b"\xff", b"", b"[" * 100000):
            with self.assertRaises(dialects.BadJson):
                dialects.strict_json(bad)
