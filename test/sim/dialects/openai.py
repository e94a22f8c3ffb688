"""OpenAI chat completions, below any base path."""

import re
import time

from . import (BadJson, Refused, dump, is_int, is_number, is_text, strict_json,
               words)

NAME = "openai"

PARAMETERS = {
    "messages", "model", "audio", "frequency_penalty", "function_call",
    "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls",
    "prediction", "presence_penalty", "prompt_cache_key",
    "prompt_cache_retention", "reasoning_effort", "response_format",
    "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
    "stream_options", "temperature", "tool_choice", "tools", "top_logprobs",
    "top_p", "user", "verbosity", "web_search_options",
}
ROLES = {"developer", "system", "user", "assistant", "tool", "function"}
PARTS = {"text", "image_url", "input_audio", "file", "refusal"}

# Models that refuse max_tokens and a temperature other than 1.
REASONING_MODEL = re.compile(r"(o[134](-|$)|gpt-5(-(mini|nano|pro)|$))")


def error(status, message, kind="invalid_request_error", param=None,
          code=None):
    """The behaviour that shows an error in this dialect."""
    return {"status": status, "json": {"error": {
        "message": message, "type": kind, "param": param, "code": code}}}


def refuse(status, message, kind="invalid_request_error", param=None,
           code=None):
    raise Refused(message, error(status, message, kind, param, code))


def bad_key(key):
    """The 401 of a wrong key, with most of the key masked, as they do."""
    shown = key[:3] + "*" * 8 + key[-4:]
    return error(401, "Incorrect API key provided: %s. You can find your API "
                 "key at https://platform.openai.com/account/api-keys."
                 % shown, code="invalid_api_key")


def check(request, provider):
    if request.method != "POST":
        refuse(405, "Not allowed to %s on %s."
               % (request.method, request.path), code="method_not_supported")
    check_bearer(request, provider)
    check_body(request, provider)


def check_bearer(request, provider):
    scheme, _, key = request.fields.get("authorization", "").partition(" ")
    if scheme == "Bearer" and key:
        request.key = key
        if not provider.accepts_key(key):
            raise Refused("wrong key", bad_key(key))
    elif not provider.key_optional:
        refuse(401, "You didn't provide an API key. You need to provide your "
               "API key in an Authorization header using Bearer auth (i.e. "
               "Authorization: Bearer YOUR_KEY).")


def check_body(request, provider, model_from_path=None):
    """Checks the JSON body, and learns model and prompt from it."""
    kind = request.fields.get("content-type", "").partition(";")[0]
    if kind.strip().lower() != "application/json":
        refuse(400, "Unsupported content type: %r. Send application/json."
               % kind)
    try:
        body = strict_json(request.body)
    except BadJson as problem:
        refuse(400, "We could not parse the JSON body of your request. (%s)"
               % problem)
    if not isinstance(body, dict):
        refuse(400, "The body of your request is not a JSON object.")
    request.json = body
    request.model = model_from_path or body.get("model")
    if not is_text(request.model) or not request.model:
        refuse(400, "you must provide a model parameter")
    if not provider.lenient:
        check_parameters(body, request.model)
    check_messages(body.get("messages"))
    request.max_tokens = body.get("max_completion_tokens",
                                  body.get("max_tokens"))
    request.stream = body.get("stream") is True
    request.words = sum(words(text_of(m)) for m in body["messages"])
    request.prompt = next((text_of(m) for m in reversed(body["messages"])
                           if m["role"] == "user"), "")


def check_parameters(body, model):
    for name in body:
        if name not in PARAMETERS:
            refuse(400, "Unrecognized request argument supplied: " + name)
    if "max_tokens" in body and "max_completion_tokens" in body:
        refuse(400, "Setting 'max_tokens' and 'max_completion_tokens' at the "
               "same time is not supported.")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        if name in body and not (is_int(body[name]) and body[name] > 0):
            refuse(400, "Invalid '%s': integer below minimum value." % name,
                   param=name, code="integer_below_min_value")
    temperature = body.get("temperature")
    if temperature is not None and not (is_number(temperature)
                                        and 0 <= temperature <= 2):
        refuse(400, "Invalid 'temperature': expected a number from 0 to 2.",
               param="temperature", code="decimal_above_max_value")
    if REASONING_MODEL.match(model):
        check_reasoning_model(body)


def check_reasoning_model(body):
    if "max_tokens" in body:
        refuse(400, "Unsupported parameter: 'max_tokens' is not supported "
               "with this model. Use 'max_completion_tokens' instead.",
               param="max_tokens", code="unsupported_parameter")
    if body.get("temperature") not in (None, 1):
        refuse(400, "Unsupported value: 'temperature' does not support %s "
               "with this model. Only the default (1) value is supported."
               % body["temperature"], param="temperature",
               code="unsupported_value")


def check_messages(messages):
    if not isinstance(messages, list):
        refuse(400, "Missing required parameter: 'messages'.",
               param="messages", code="missing_required_parameter")
    if not messages:
        refuse(400, "Invalid 'messages': empty array. Expected an array with "
               "minimum length 1, but got an empty array instead.",
               param="messages", code="empty_array")
    for at, message in enumerate(messages):
        problem = message_problem(message)
        if problem:
            refuse(400, "Invalid 'messages[%d]': %s" % (at, problem),
                   param="messages[%d]" % at, code="invalid_value")


def message_problem(message):
    """What is wrong with one message, or None."""
    if not isinstance(message, dict):
        return "expected an object."
    if message.get("role") not in ROLES:
        return "unknown role %r." % message.get("role")
    if message["role"] == "tool" and not is_text(message.get("tool_call_id")):
        return "a tool's message needs a tool_call_id."
    content = message.get("content")
    if content is None:
        if message["role"] == "assistant" and message.get("tool_calls"):
            return None
        return "expected content, got null."
    if is_text(content):
        return None
    if not isinstance(content, list) or not content:
        return "content must be a string or an array of parts."
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            return "a part's type is unknown."
        if part["type"] == "text" and not is_text(part.get("text")):
            return "a part of text has no text."
    return None


def text_of(message):
    """The text of a message, its parts joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def finish_of(answer):
    if answer.finish:
        return answer.finish
    if answer.tool_calls:
        return "tool_calls"
    return "length" if answer.cut else "stop"


def tool_calls(answer):
    return [{"id": "call_sim%06d_%d" % (answer.number, at),
             "type": "function",
             "function": {"name": call["name"],
                          "arguments": dump(call["arguments"]).decode()}}
            for at, call in enumerate(answer.tool_calls)]


def usage_of(answer):
    usage = answer.usage
    return {"prompt_tokens": usage["input"],
            "completion_tokens": usage["output"],
            "total_tokens": usage["input"] + usage["output"],
            "prompt_tokens_details": {"cached_tokens": usage["cached"],
                                      "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": usage["reasoning"], "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0}}


def answer(answer):
    """The JSON body of an answer."""
    message = {"role": "assistant", "content": answer.text,
               "refusal": answer.refusal, "annotations": []}
    if answer.reasoning is not None:    # as DeepSeek and vLLM spell it
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = tool_calls(answer)
    choice = {"index": 0, "message": message, "logprobs": None}
    if answer.has_finish:
        choice["finish_reason"] = finish_of(answer)
    body = {"id": "chatcmpl-sim%06d" % answer.number,
            "object": "chat.completion", "created": int(time.time()),
            "model": answer.model, "choices": [choice]}
    if answer.usage is not None:
        body["usage"] = usage_of(answer)
    body["service_tier"] = "default"
    body["system_fingerprint"] = None
    return body


def events(answer):
    """The same answer as server-sent events."""
    base = {"id": "chatcmpl-sim%06d" % answer.number,
            "object": "chat.completion.chunk", "created": int(time.time()),
            "model": answer.model}

    def chunk(delta, finish=None):
        return (None, dict(base, choices=[{
            "index": 0, "delta": delta, "logprobs": None,
            "finish_reason": finish}]))
    yield chunk({"role": "assistant", "content": None})
    for word in (answer.text or "").split(" "):
        yield chunk({"content": word + " "})
    yield chunk({}, finish_of(answer))
    yield (None, "[DONE]")


def stream_error():
    return (None, {"error": {
        "message": "The server had an error while processing your request.",
        "type": "server_error", "param": None, "code": None}})


def limit_headers(number):
    """Rate-limit and id headers of every response."""
    return [("x-request-id", "req_sim%06d" % number),
            ("openai-version", "2020-10-01"),
            ("openai-processing-ms", "1"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-limit-tokens", "2000000"),
            ("x-ratelimit-remaining-requests", "9999"),
            ("x-ratelimit-remaining-tokens", "1999990"),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-ratelimit-reset-tokens", "0s")]
