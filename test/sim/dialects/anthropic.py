"""Anthropic messages."""

from . import (BadJson, Refused, is_int, is_number, is_text, strict_json,
               words)

NAME = "anthropic"

PARAMETERS = {
    "model", "messages", "max_tokens", "system", "temperature", "top_p",
    "top_k", "stop_sequences", "stream", "metadata", "service_tier",
    "thinking", "tools", "tool_choice", "container", "context_management",
    "mcp_servers", "output_config", "output_format", "inference_geo",
    "cache_control",
}
BLOCKS = {"text", "image", "document", "tool_use", "tool_result", "thinking",
          "redacted_thinking", "search_result", "server_tool_use",
          "web_search_tool_result", "container_upload"}


def error(status, kind, message):
    """The behaviour that shows an error in this dialect."""
    return {"status": status, "json": {
        "type": "error", "error": {"type": kind, "message": message},
        "request_id": "{request_id}"}}


def refuse(status, kind, message):
    raise Refused(message, error(status, kind, message))


def invalid(message):
    refuse(400, "invalid_request_error", message)


def check(request, provider):
    if request.method != "POST":
        refuse(405, "invalid_request_error", "Method Not Allowed")
    check_key(request, provider)
    if request.fields.get("anthropic-version") not in ("2023-06-01",
                                                       "2023-01-01"):
        invalid("anthropic-version: header is required")
    try:
        body = strict_json(request.body)
    except BadJson as problem:
        invalid("The request body is not valid JSON: %s" % problem)
    if request.fields.get("content-type", "").partition(";")[0] \
            != "application/json":
        invalid("content-type: must be application/json")
    if not isinstance(body, dict):
        invalid("Input should be a valid dictionary")
    request.json = body
    check_parameters(body, provider)
    check_messages(body.get("messages"))
    learn(request, body)


def check_key(request, provider):
    key = request.fields.get("x-api-key")
    request.key = key
    if key is None and not provider.key_optional:
        refuse(401, "authentication_error", "x-api-key header is required")
    if key is not None and not provider.accepts_key(key):
        refuse(401, "authentication_error", "invalid x-api-key")


def check_parameters(body, provider):
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            invalid("%s: Field required" % name)
    if not is_text(body["model"]) or not body["model"]:
        invalid("model: Input should be a valid string")
    if not is_int(body["max_tokens"]) or body["max_tokens"] < 1:
        invalid("max_tokens: must be greater than or equal to 1")
    if not provider.lenient:
        for name in body:
            if name not in PARAMETERS:
                invalid("%s: Extra inputs are not permitted" % name)
    temperature = body.get("temperature")
    if temperature is not None and not (is_number(temperature)
                                        and 0 <= temperature <= 1):
        invalid("temperature: range: 0..1")
    system = body.get("system")
    if system is not None and not is_text(system):
        check_blocks("system", system)


def check_messages(messages):
    if not isinstance(messages, list):
        invalid("messages: Input should be a valid list")
    if not messages:
        invalid("messages: at least one message is required")
    for at, message in enumerate(messages):
        where = "messages.%d" % at
        if not isinstance(message, dict):
            invalid(where + ": Input should be a valid dictionary")
        if message.get("role") == "system":
            invalid("messages: Unexpected role \"system\". The Messages API "
                    "accepts a top-level `system` parameter, not \"system\" "
                    "as an input message role.")
        if message.get("role") not in ("user", "assistant"):
            invalid(where + ".role: Input should be 'user' or 'assistant'")
        for name in message:
            if name not in ("role", "content"):
                invalid("%s.%s: Extra inputs are not permitted"
                        % (where, name))
        check_content(where + ".content", message.get("content"))


def check_content(where, content):
    if is_text(content):
        if not content:
            invalid(where + ": text content blocks must be non-empty")
        return
    check_blocks(where, content)


def check_blocks(where, blocks):
    if not isinstance(blocks, list) or not blocks:
        invalid(where + ": Input should be a valid list")
    for at, block in enumerate(blocks):
        if not isinstance(block, dict) or block.get("type") not in BLOCKS:
            invalid("%s.%d: Input tag found does not match any of the "
                    "expected tags" % (where, at))
        if block["type"] == "text" and not block.get("text"):
            invalid("%s.%d: text content blocks must be non-empty"
                    % (where, at))


def text_of(content):
    if isinstance(content, list):
        return "".join(block.get("text") or "" for block in content)
    return content or ""


def learn(request, body):
    """Takes model, prompt and counts from a body that is in order."""
    request.model = body["model"]
    request.max_tokens = body["max_tokens"]
    request.stream = body.get("stream") is True
    request.words = words(text_of(body.get("system"))) + sum(
        words(text_of(m["content"])) for m in body["messages"])
    request.prompt = next((text_of(m["content"])
                           for m in reversed(body["messages"])
                           if m["role"] == "user"), "")


def finish_of(answer):
    if answer.finish:
        return answer.finish
    if answer.refusal is not None:
        return "refusal"
    if answer.tool_calls:
        return "tool_use"
    return "max_tokens" if answer.cut else "end_turn"


def blocks_of(answer):
    blocks = []
    if answer.reasoning is not None:
        blocks.append({"type": "thinking", "thinking": answer.reasoning,
                       "signature": "c2ltdWxhdGVk"})
    if answer.text is not None:
        blocks.append({"type": "text", "text": answer.text})
    elif answer.refusal:
        blocks.append({"type": "text", "text": answer.refusal})
    for at, call in enumerate(answer.tool_calls):
        blocks.append({"type": "tool_use",
                       "id": "toolu_sim%06d_%d" % (answer.number, at),
                       "name": call["name"], "input": call["arguments"]})
    return blocks


def usage_of(answer):
    """Anthropic's input_tokens leave out what the cache read and wrote."""
    usage = answer.usage
    fresh = usage["input"] - usage["cached"] - usage["cache_write"]
    return {"input_tokens": fresh,
            "cache_creation_input_tokens": usage["cache_write"],
            "cache_read_input_tokens": usage["cached"],
            "output_tokens": usage["output"],
            "service_tier": "standard"}


def answer(answer):
    """The JSON body of an answer."""
    body = {"id": "msg_sim%06d" % answer.number, "type": "message",
            "role": "assistant", "model": answer.model,
            "content": blocks_of(answer)}
    if answer.has_finish:
        body["stop_reason"] = finish_of(answer)
    body["stop_sequence"] = None
    if answer.usage is not None:
        body["usage"] = usage_of(answer)
    return body


def events(answer):
    """The same answer as server-sent events."""
    start = dict(globals()["answer"](answer), content=[], stop_reason=None)
    yield ("message_start", {"type": "message_start", "message": start})
    yield ("content_block_start", {
        "type": "content_block_start", "index": 0,
        "content_block": {"type": "text", "text": ""}})
    for word in (answer.text or "").split(" "):
        yield ("content_block_delta", {
            "type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": word + " "}})
    yield ("content_block_stop", {"type": "content_block_stop", "index": 0})
    yield ("message_delta", {
        "type": "message_delta",
        "delta": {"stop_reason": finish_of(answer), "stop_sequence": None},
        "usage": {"output_tokens": words(answer.text or "")}})
    yield ("message_stop", {"type": "message_stop"})


def stream_error():
    return ("error", {"type": "error", "error": {
        "type": "overloaded_error", "message": "Overloaded"}})


def limit_headers(number):
    reset = "2030-01-01T00:00:00Z"
    headers = [("request-id", "req_sim%06d" % number),
               ("anthropic-organization-id", "org-sim")]
    for what, limit in (("requests", 4000), ("tokens", 480000),
                        ("input-tokens", 400000), ("output-tokens", 80000)):
        name = "anthropic-ratelimit-%s-" % what
        headers += [(name + "limit", str(limit)),
                    (name + "remaining", str(limit - 1)),
                    (name + "reset", reset)]
    return headers
