"""Gemini generateContent."""

import re
from urllib.parse import unquote

from . import (BadJson, Refused, is_int, is_number, is_text, strict_json,
               words)

NAME = "gemini"
PATH = re.compile(r"/v1(?:beta)?/models/([^/:?]+):"
                  r"(generateContent|streamGenerateContent)(?:\?|$)")

# Both spellings are accepted; unknown names are not.
PARAMETERS = {"contents", "systemInstruction", "system_instruction",
              "generationConfig", "generation_config", "safetySettings",
              "safety_settings", "tools", "toolConfig", "tool_config",
              "cachedContent", "cached_content", "labels", "model",
              "serviceTier", "store"}
CONFIG = {"stopSequences", "responseMimeType", "responseSchema",
          "responseJsonSchema", "_responseJsonSchema", "responseModalities",
          "candidateCount", "maxOutputTokens", "temperature", "topP", "topK",
          "seed", "presencePenalty", "frequencyPenalty", "responseLogprobs",
          "logprobs", "enableEnhancedCivicAnswers", "speechConfig",
          "thinkingConfig", "imageConfig", "mediaResolution"}
PARTS = {"text", "inlineData", "inline_data", "fileData", "file_data",
         "functionCall", "functionResponse", "executableCode",
         "codeExecutionResult", "thought", "thoughtSignature",
         "videoMetadata"}


def error(status, name, message, details=None):
    """The behaviour that shows an error in this dialect."""
    body = {"code": status, "message": message, "status": name}
    if details:
        body["details"] = details
    return {"status": status, "json": {"error": body}}


def error_info(reason):
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason, "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"}}


def invalid(message):
    raise Refused(message, error(400, "INVALID_ARGUMENT", message))


def unknown_name(name, where):
    invalid("Invalid JSON payload received. Unknown name \"%s\"%s: "
            "Cannot find field." % (name, where))


def check(request, provider):
    if request.method != "POST":
        raise Refused("method", error(404, "NOT_FOUND", "Not Found"))
    found = PATH.search(request.target)
    request.model = unquote(found.group(1))
    request.stream = found.group(2) == "streamGenerateContent"
    check_key(request, provider)
    if request.fields.get("content-type", "").partition(";")[0] \
            != "application/json":
        invalid("Invalid content type: send application/json.")
    try:
        body = strict_json(request.body)
    except BadJson as problem:
        invalid("Invalid JSON payload received. %s" % problem)
    if not isinstance(body, dict):
        invalid("Invalid JSON payload received. Root element must be a "
                "message.")
    request.json = body
    if not provider.lenient:
        check_parameters(body)
    check_contents(body.get("contents"))
    learn(request, body)


def check_key(request, provider):
    key = request.fields.get("x-goog-api-key")
    request.key = key
    if key is None and not provider.key_optional:
        message = ("Method doesn't allow unregistered callers (callers "
                   "without established identity). Please use API Key or "
                   "other form of API consumer identity to call this API.")
        raise Refused(message, error(403, "PERMISSION_DENIED", message))
    if key is not None and not provider.accepts_key(key):
        raise Refused("wrong key", bad_key())


def bad_key():
    return error(400, "INVALID_ARGUMENT",
                 "API key not valid. Please pass a valid API key.",
                 [error_info("API_KEY_INVALID")])


def check_parameters(body):
    for name in body:
        if name not in PARAMETERS:
            unknown_name(name, "")
    config = body.get("generationConfig", {})
    if not isinstance(config, dict):
        invalid("Invalid value at 'generation_config'.")
    for name in config:
        if name not in CONFIG:
            unknown_name(name, " at 'generation_config'")
    limit = config.get("maxOutputTokens", 1)
    if not is_int(limit) or limit < 1:
        invalid("Unable to submit request because it has a maxOutputTokens "
                "value of %r but the supported range is from 1." % limit)
    temperature = config.get("temperature", 1)
    if not is_number(temperature) or not 0 <= temperature <= 2:
        invalid("temperature must be in the range [0.0, 2.0].")
    system = body.get("systemInstruction")
    if system is not None:
        if not isinstance(system, dict):
            invalid("Invalid value at 'system_instruction'.")
        check_parts("system_instruction", system.get("parts"))


def check_contents(contents):
    if not isinstance(contents, list) or not contents:
        invalid("* GenerateContentRequest.contents: contents is not "
                "specified")
    for at, content in enumerate(contents):
        where = "contents[%d]" % at
        if not isinstance(content, dict):
            invalid("Invalid value at '%s'." % where)
        for name in content:
            if name not in ("role", "parts"):
                unknown_name(name, " at '%s'" % where)
        if content.get("role", "user") not in ("user", "model", "function"):
            invalid("Please use a valid role: user, model.")
        check_parts(where, content.get("parts"))


def check_parts(where, parts):
    if not isinstance(parts, list) or not parts:
        invalid("* GenerateContentRequest.%s.parts: contents.parts must not "
                "be empty." % where)
    for part in parts:
        if not isinstance(part, dict) or not part:
            invalid("* GenerateContentRequest.%s.parts: part must have one "
                    "initialized field." % where)
        for name in part:
            if name not in PARTS:
                unknown_name(name, " at '%s.parts'" % where)
        if not is_text(part.get("text", "")):
            invalid("Invalid value at '%s.parts.text'." % where)


def text_of(content):
    return "".join(part.get("text", "") for part in content.get("parts", ()))


def learn(request, body):
    contents = body["contents"]
    request.words = words(text_of(body.get("systemInstruction", {}))) + sum(
        words(text_of(c)) for c in contents)
    request.prompt = next((text_of(c) for c in reversed(contents)
                           if c.get("role", "user") == "user"), "")
    request.max_tokens = body.get("generationConfig",
                                  {}).get("maxOutputTokens")


def finish_of(answer):
    return answer.finish or ("MAX_TOKENS" if answer.cut else "STOP")


def parts_of(answer):
    parts = []
    if answer.reasoning is not None:
        parts.append({"text": answer.reasoning, "thought": True})
    if answer.text is not None:
        parts.append({"text": answer.text})
    for call in answer.tool_calls:
        parts.append({"functionCall": {"name": call["name"],
                                       "args": call["arguments"]}})
    return parts


def usage_of(answer):
    """Gemini counts thoughts apart from candidates."""
    usage = answer.usage
    told = {"promptTokenCount": usage["input"],
            "candidatesTokenCount": usage["output"] - usage["reasoning"],
            "totalTokenCount": usage["input"] + usage["output"],
            "promptTokensDetails": [{"modality": "TEXT",
                                     "tokenCount": usage["input"]}]}
    if usage["cached"]:
        told["cachedContentTokenCount"] = usage["cached"]
    if usage["reasoning"]:
        told["thoughtsTokenCount"] = usage["reasoning"]
    return told


def answer(answer):
    """The JSON body of an answer."""
    candidate = {"content": {"parts": parts_of(answer), "role": "model"}}
    if answer.has_finish:
        candidate["finishReason"] = finish_of(answer)
    candidate["index"] = 0
    body = {"candidates": [candidate]}
    if answer.usage is not None:
        body["usageMetadata"] = usage_of(answer)
    body["modelVersion"] = answer.model
    body["responseId"] = "sim%06d" % answer.number
    return body


def events(answer):
    """The same answer as server-sent events."""
    yield (None, globals()["answer"](answer))


def stream_error():
    return (None, error(503, "UNAVAILABLE", "The model is overloaded. "
                        "Please try again later.")["json"])


def limit_headers(number):
    return [("Server", "scaffolding on HTTPServer2"),
            ("X-XSS-Protection", "0"),
            ("Server-Timing", "gfet4t7; dur=1")]
