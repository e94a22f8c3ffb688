"""Azure OpenAI: deployment paths with api-version, and /openai/v1."""

import re

from . import Refused, openai

NAME = "azure"
DEPLOYMENT = re.compile(
    r"/openai/deployments/([^/]+)/chat/completions$")

SAFE = {"filtered": False, "severity": "safe"}
SAFE_RESULTS = {"hate": SAFE, "self_harm": SAFE, "sexual": SAFE,
                "violence": SAFE}


def error(status, message, code=None, **more):
    """The behaviour that shows an error in this dialect."""
    body = {"code": code if code is not None else str(status),
            "message": message}
    body.update(more)
    return {"status": status, "json": {"error": body}}


def refuse(status, message, code=None):
    raise Refused(message, error(status, message, code))


def check(request, provider):
    if request.method != "POST":
        refuse(405, "Method not allowed")
    found = DEPLOYMENT.search(request.path)
    if found and not re.search(r"(^|&)api-version=\d{4}-\d\d-\d\d(-preview)?"
                               r"(&|$)", request.query):
        refuse(404, "Resource not found")
    check_key(request, provider)
    openai.check_body(request, provider,
                      found.group(1) if found else None)


def check_key(request, provider):
    key = request.fields.get("api-key")
    if not key:
        scheme, _, key = request.fields.get("authorization", "").partition(" ")
        key = key if scheme == "Bearer" else None
    request.key = key
    if key and provider.accepts_key(key):
        return
    if key or not provider.key_optional:
        refuse(401, "Access denied due to invalid subscription key or wrong "
               "API endpoint. Make sure to provide a valid key for an active "
               "subscription and use a correct regional API endpoint for "
               "your resource.")


def answer(answer):
    """OpenAI's body, with what the content filter thought of it."""
    body = openai.answer(answer)
    body["choices"][0]["content_filter_results"] = SAFE_RESULTS
    body["prompt_filter_results"] = [
        {"prompt_index": 0, "content_filter_results": SAFE_RESULTS}]
    return body


events = openai.events
stream_error = openai.stream_error


def limit_headers(number):
    return [("x-request-id", "00000000-0000-4000-8000-%012d" % number),
            ("apim-request-id", "10000000-0000-4000-8000-%012d" % number),
            ("x-ms-region", "Sweden Central"),
            ("x-ratelimit-remaining-requests", "249"),
            ("x-ratelimit-remaining-tokens", "249984")]
