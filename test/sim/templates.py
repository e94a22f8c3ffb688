"""Named behaviours: each kind of failure as the vendors spell it.

TEMPLATES[name][dialect] is a behaviour; "*" stands for the dialects that are
not named. In strings {model}, {key}, {request_id}, {retry_after},
{retry_after_ms} are filled in. The names follow the outcomes that a client
has to tell apart, one or more for each.
"""

from dialects import anthropic, azure, gemini, openai


def with_headers(behaviour, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return dict(behaviour, headers=named)


RETRY = {"retry_after": "{retry_after}"}
HTML = ("<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n"
        "<center><h1>{0}</h1></center>\r\n<hr><center>nginx</center>\r\n"
        "</body>\r\n</html>\r\n")


def html_error(status, title):
    return {"status": status, "content_type": "text/html",
            "body": HTML.format("%d %s" % (status, title))}


def gemini_quota(message, quota_id, retry):
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
         "violations": [{
             "quotaMetric": "generativelanguage.googleapis.com/"
                            "generate_content_free_tier_requests",
             "quotaId": quota_id,
             "quotaDimensions": {"model": "{model}", "location": "global"},
         }]},
        {"@type": "type.googleapis.com/google.rpc.Help",
         "links": [{"description": "Learn more about Gemini API quotas",
                    "url": "https://ai.google.dev/gemini-api/docs/"
                           "rate-limits"}]}]
    if retry:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo",
                        "retryDelay": "{retry_after}s"})
        message += "\nPlease retry in {retry_after}s."
    return gemini.error(429, "RESOURCE_EXHAUSTED", message, details)


QUOTA = ("You exceeded your current quota, please check your plan and "
         "billing details.")

BILLING = {
    "insufficient_quota": {
        "*": openai.error(
            429, QUOTA + " For more information on this error, read the "
            "docs: https://platform.openai.com/docs/guides/error-codes/"
            "api-errors.", "insufficient_quota", None, "insufficient_quota"),
        "anthropic": anthropic.error(
            400, "invalid_request_error", "Your credit balance is too low to "
            "access the Anthropic API. Please go to Plans & Billing to "
            "upgrade or purchase credits."),
        "gemini": gemini_quota(
            QUOTA + "\n* Quota exceeded for metric: "
            "generativelanguage.googleapis.com/"
            "generate_content_free_tier_requests, limit: 0",
            "GenerateRequestsPerDayPerProjectPerModel-FreeTier", True),
    },
    "insufficient_quota_by_type": {     # the code says nothing, the type does
        "*": openai.error(429, QUOTA, "insufficient_quota", None, None),
    },
    "credit_balance_exhausted": {
        "*": openai.error(
            429, "Your credit balance is exhausted.", "billing_error", None,
            "credit_balance_exhausted"),
    },
    "spend_limit": {
        "*": openai.error(
            429, "Billing hard limit has been reached.", "billing_error",
            None, "billing_hard_limit_reached"),
        "anthropic": anthropic.error(
            429, "enforced_spend_limit_reached",
            "This workspace has reached its spend limit."),
    },
    "usage_limits": {
        "anthropic": anthropic.error(
            400, "invalid_request_error", "You have reached your specified "
            "API usage limits. You will regain access on 2026-12-01 at "
            "00:00 UTC."),
    },
    "payment_required": {
        "*": openai.error(402, "Insufficient Balance", "unknown_error",
                          None, "invalid_request_error"),
        "anthropic": anthropic.error(
            402, "billing_error", "There is a problem with your billing or "
            "payment information."),
        "gemini": gemini.error(402, "FAILED_PRECONDITION",
                               "Billing account is not active."),
    },
    "daily_quota": {
        "gemini": gemini_quota(
            QUOTA + "\n* Quota exceeded for metric: "
            "generativelanguage.googleapis.com/"
            "generate_requests_per_model_per_day, limit: 250, model: {model}",
            "GenerateRequestsPerDayPerProjectPerModel", False),
    },
    "moonshot_quota": {
        "*": openai.error(
            429, "Your account is suspended, please check your plan and "
            "billing details", "exceeded_current_quota_error"),
    },
    "zai_balance": {
        "*": {"status": 429, "json": {"error": {
            "code": "1113", "message": "Insufficient balance or no resource "
            "package. Please recharge."}}},
    },
}

CREDENTIAL = {
    "invalid_key": {
        "*": openai.error(
            401, "Incorrect API key provided. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            code="invalid_api_key"),
        "azure": azure.error(
            401, "Access denied due to invalid subscription key or wrong API "
            "endpoint. Make sure to provide a valid key for an active "
            "subscription and use a correct regional API endpoint for your "
            "resource."),
        "anthropic": anthropic.error(401, "authentication_error",
                                     "invalid x-api-key"),
        "gemini": gemini.bad_key(),
    },
    "unauthenticated": {
        "*": openai.error(401, "Invalid Authentication"),
        "gemini": gemini.error(
            401, "UNAUTHENTICATED", "Request had invalid authentication "
            "credentials."),
    },
    "echoed_key": {         # the key comes back in the error's words
        "*": openai.error(401, "Incorrect API key provided: {key}. Sent as "
                          "Authorization: Bearer {key}.",
                          code="invalid_api_key"),
        "anthropic": anthropic.error(401, "authentication_error",
                                     "invalid x-api-key: {key}"),
        "gemini": gemini.error(400, "INVALID_ARGUMENT",
                               "API key not valid: {key}",
                               [gemini.error_info("API_KEY_INVALID")]),
    },
    "forbidden": {
        "*": openai.error(403, "You are not allowed to sample from this "
                          "model", code="permission_denied"),
        "azure": azure.error(403, "Access denied due to Virtual Network/"
                             "Firewall rules.", "AccessDenied"),
        "anthropic": anthropic.error(
            403, "permission_error", "Your API key does not have permission "
            "to use the specified resource."),
        "gemini": gemini.error(403, "PERMISSION_DENIED",
                               "The caller does not have permission"),
    },
    "model_not_granted": {      # 403 with the code of a 404
        "*": openai.error(
            403, "Project `proj_sim` does not have access to model "
            "`{model}`", code="model_not_found"),
    },
    "country": {
        "*": openai.error(403, "Country, region, or territory not supported",
                          "request_forbidden",
                          code="unsupported_country_region_territory"),
        "gemini": gemini.error(
            400, "FAILED_PRECONDITION",
            "User location is not supported for the API use."),
    },
    "model_not_found": {
        "*": openai.error(
            404, "The model `{model}` does not exist or you do not have "
            "access to it.", code="model_not_found"),
        "azure": azure.error(
            404, "The API deployment for this resource does not exist. If "
            "you created the deployment within the last 5 minutes, please "
            "wait a moment and try again.", "DeploymentNotFound"),
        "anthropic": anthropic.error(404, "not_found_error",
                                     "model: {model}"),
        "gemini": gemini.error(
            404, "NOT_FOUND", "models/{model} is not found for API version "
            "v1beta, or is not supported for generateContent."),
    },
    "ollama_not_found": {
        "*": openai.error(404, "model \"{model}\" not found, try pulling it "
                          "first", "api_error"),
    },
    "vllm_not_found": {
        "*": {"status": 404, "json": {
            "object": "error", "message": "The model `{model}` does not "
            "exist.", "type": "NotFoundError", "param": None, "code": 404}},
    },
    "resource_not_found": {
        "*": azure.error(404, "Resource not found", "ResourceNotFound"),
    },
}

REQUEST = {
    "context_length": {
        "*": openai.error(
            400, "This model's maximum context length is 128000 tokens. "
            "However, your messages resulted in 140000 tokens. Please reduce "
            "the length of the messages.", param="messages",
            code="context_length_exceeded"),
        "anthropic": anthropic.error(
            400, "invalid_request_error",
            "prompt is too long: 214021 tokens > 200000 maximum"),
        "gemini": gemini.error(
            400, "INVALID_ARGUMENT", "The input token count (1200000) "
            "exceeds the maximum number of tokens allowed (1048576)."),
    },
    "vllm_context_length": {        # code is a number, told by words only
        "*": {"status": 400, "json": {
            "object": "error", "message": "This model's maximum context "
            "length is 4096 tokens. However, you requested 5000 tokens in "
            "the messages. Please reduce the length of the messages.",
            "type": "BadRequestError", "param": None, "code": 400}},
    },
    "context_length_413": {
        "*": openai.error(413, "Request too large: too many tokens in the "
                          "prompt.", code="context_length_exceeded"),
    },
    "context_words_in_500": {       # an overload that only sounds like it
        "*": openai.error(500, "maximum context length worker crashed",
                          "server_error"),
        "anthropic": anthropic.error(500, "api_error",
                                     "prompt is too long worker crashed"),
        "gemini": gemini.error(500, "INTERNAL", "maximum context length "
                               "worker crashed"),
    },
    "window_exceeded": {
        "anthropic": {"finish": "model_context_window_exceeded"},
    },
    "content_filter": {
        "*": openai.error(
            400, "Your request was rejected as a result of our safety "
            "system.", "image_generation_user_error", None,
            "content_policy_violation"),
        "azure": {"status": 400, "json": {"error": {
            "message": "The response was filtered due to the prompt "
            "triggering Azure OpenAI's content management policy. Please "
            "modify your prompt and retry.", "type": None, "param": "prompt",
            "code": "content_filter", "status": 400, "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": dict(
                    azure.SAFE_RESULTS,
                    violence={"filtered": True, "severity": "medium"})}}}},
        "anthropic": {"finish": "refusal", "text": None},
        "gemini": {"omit": ["candidates"], "set": {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}},
    },
    "filtered_answer": {            # status 200, the answer was cut off
        "*": {"finish": "content_filter", "text": ""},
        "azure": {"finish": "content_filter", "text": None},
        "anthropic": {"finish": "refusal", "text": "I cannot"},
        "gemini": {"finish": "SAFETY", "text": None,
                   "omit": ["candidates.0.content"]},
    },
    "bad_request": {
        "*": openai.error(400, "Invalid value for 'temperature'.",
                          param="temperature", code="invalid_value"),
        "azure": azure.error(400, "Invalid value for 'temperature'.",
                             "BadRequest"),
        "anthropic": anthropic.error(400, "invalid_request_error",
                                     "temperature: range: 0..1"),
        "gemini": gemini.error(400, "INVALID_ARGUMENT",
                               "Request contains an invalid argument."),
    },
    "unsupported_parameter": {
        "*": openai.error(
            400, "Unsupported parameter: 'max_tokens' is not supported with "
            "this model. Use 'max_completion_tokens' instead.",
            param="max_tokens", code="unsupported_parameter"),
    },
    "unprocessable": {              # as FastAPI and Mistral say it
        "*": {"status": 422, "json": {"detail": [{
            "type": "extra_forbidden", "loc": ["body", "foo"],
            "msg": "Extra inputs are not permitted", "input": 1}]}},
    },
    "too_large": {
        "*": openai.error(413, "Request entity too large"),
        "anthropic": anthropic.error(
            413, "request_too_large",
            "Request exceeds the maximum allowed number of bytes."),
        "gemini": gemini.error(413, "INVALID_ARGUMENT",
                               "Request payload size exceeds the limit."),
    },
    "method_not_allowed": {
        "*": openai.error(405, "Not allowed", code="method_not_supported")},
    "unsupported_media_type": {
        "*": openai.error(415, "Unsupported media type")},
}

CAPACITY = {
    "rate_limit": {
        "*": with_headers(openai.error(
            429, "Rate limit reached for {model} in organization org-sim on "
            "requests per min (RPM): Limit 3, Used 3, Requested 1. Please "
            "try again in {retry_after}s.", "requests",
            code="rate_limit_exceeded"),
            x_ratelimit_remaining_requests="0",
            x_ratelimit_reset_requests="{retry_after}s", **RETRY),
        "azure": with_headers(azure.error(
            429, "Requests to the ChatCompletions_Create Operation have "
            "exceeded call rate limit of your current pricing tier. Please "
            "retry after {retry_after} seconds."),
            retry_after_ms="{retry_after_ms}", **RETRY),
        "anthropic": with_headers(anthropic.error(
            429, "rate_limit_error", "This request would exceed your "
            "organization's rate limit of 50 requests per minute."), **RETRY),
        "gemini": gemini_quota(
            QUOTA + "\n* Quota exceeded for metric: "
            "generativelanguage.googleapis.com/generate_content_requests, "
            "limit: 10", "GenerateRequestsPerMinutePerProjectPerModel", True),
    },
    "rate_limit_silent": {          # no hint of when to try again
        "*": openai.error(429, "Too many requests", "requests",
                          code="rate_limit_exceeded"),
        "anthropic": anthropic.error(429, "rate_limit_error",
                                     "Number of requests has exceeded"),
        "gemini": gemini.error(429, "RESOURCE_EXHAUSTED",
                               "Resource has been exhausted"),
    },
    "rate_limit_ms": {
        "*": with_headers(azure.error(429, "Too many requests"),
                          retry_after_ms="{retry_after_ms}"),
    },
    "rate_limit_reset": {
        "*": with_headers(
            openai.error(429, "Too many requests", "tokens",
                         code="rate_limit_exceeded"),
            x_ratelimit_remaining_tokens="0",
            x_ratelimit_reset_tokens="{retry_after}s"),
    },
    "slow_down": {
        "*": openai.error(503, "Slow down: please reduce your request rate.",
                          "server_error", code="slow_down"),
    },
    "high_demand": {
        "*": azure.error(429, "The system is experiencing high demand and "
                         "cannot process your request. Please retry later.",
                         "NoCapacity"),
    },
    "zai_rate_limit": {
        "*": {"status": 429, "json": {"error": {
            "code": "1302", "message": "High concurrency usage of this API, "
            "please reduce concurrency."}}},
    },
    "overloaded": {
        "*": openai.error(503, "The server is overloaded. Please try again "
                          "later.", "server_error",
                          code="server_is_overloaded"),
        "anthropic": anthropic.error(529, "overloaded_error", "Overloaded"),
        "gemini": gemini.error(503, "UNAVAILABLE", "The model is overloaded. "
                               "Please try again later."),
    },
    "engine_overloaded": {          # 429, but nobody counts our requests
        "*": openai.error(429, "The engine is currently overloaded, please "
                          "try again later", "engine_overloaded_error"),
    },
    "loading": {                    # llama.cpp, while it loads a model
        "*": {"status": 503, "json": {"error": {
            "code": 503, "message": "Loading model",
            "type": "unavailable_error"}}},
    },
    "ollama_busy": {
        "*": {"status": 503, "json": {"error": "server busy, please try "
                                      "again.  maximum pending requests "
                                      "exceeded"}},
    },
}

SERVER = {
    "server_error": {
        "*": openai.error(500, "The server had an error while processing "
                          "your request. Sorry about that!", "server_error"),
        "azure": azure.error(500, "The server had an error processing your "
                             "request.", "InternalServerError"),
        "anthropic": anthropic.error(500, "api_error",
                                     "Internal server error"),
        "gemini": gemini.error(500, "INTERNAL", "An internal error has "
                               "occurred. Please retry."),
    },
    "bad_gateway": {"*": html_error(502, "Bad Gateway")},
    "unavailable_html": {"*": html_error(503,
                                         "Service Temporarily Unavailable")},
    "gateway_timeout": {
        "*": html_error(504, "Gateway Time-out"),
        "gemini": gemini.error(504, "DEADLINE_EXCEEDED",
                               "The request timed out. Please try again."),
    },
    "cloudflare_520": {"*": {"status": 520, "content_type": "text/plain",
                             "body": "error code: 520"}},
    "cloudflare_522": {"*": {"status": 522, "content_type": "text/plain",
                             "body": "error code: 522"}},
    "request_timeout": {
        "*": openai.error(408, "Request timed out.", "timeout_error"),
        "anthropic": anthropic.error(408, "timeout_error",
                                     "Request timed out"),
    },
    "cancelled": {
        "*": openai.error(499, "The operation was cancelled."),
        "gemini": gemini.error(499, "CANCELLED",
                               "The operation was cancelled."),
    },
    "conflict": {
        "*": openai.error(409, "The resource is locked. Please try again.",
                          code="conflict"),
        "anthropic": anthropic.error(409, "conflict_error", "Conflict"),
        "gemini": gemini.error(409, "ABORTED", "The operation was aborted."),
    },
}

# Status 200, and yet no answer.
OUTPUT = {
    "error_in_200": {
        "*": dict(openai.error(500, "The upstream provider failed.",
                               "server_error", code=502), status=200),
        "anthropic": dict(anthropic.error(500, "overloaded_error",
                                          "Overloaded"), status=200),
        "gemini": dict(gemini.error(503, "UNAVAILABLE",
                                    "The model is overloaded."), status=200),
    },
    "empty_answer": {"*": {"text": ""}, "gemini": {"text": None}},
    "null_answer": {
        "*": {"text": None},
        "gemini": {"omit": ["candidates.0.content.parts"]},
    },
    "no_choices": {
        "*": {"set": {"choices": []}},
        "anthropic": {"set": {"content": []}},
        "gemini": {"set": {"candidates": []}},
    },
    "no_finish": {"*": {"finish": None}},
    "not_of_this_dialect": {"*": {"json": {"ok": True}}},
}

TEMPLATES = {}
for group in (BILLING, CREDENTIAL, REQUEST, CAPACITY, SERVER, OUTPUT):
    TEMPLATES.update(group)


def fill(value, words):
    """Fills the words in braces into all strings of a value."""
    if isinstance(value, str):
        for name, word in words.items():
            if "{" + name in value:
                value = value.replace("{%s}" % name, word)
        return value
    if isinstance(value, list):
        return [fill(item, words) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, words) for key, item in value.items()}
    return value


def number(value):
    """A number without a needless fraction, as text."""
    return ("%.3f" % value).rstrip("0").rstrip(".")


def words_for(request, behaviour, request_id):
    retry_after = behaviour.get("retry_after", 7)
    return {"model": request.model or "unknown", "key": request.key or "",
            "request_id": request_id, "retry_after": number(retry_after),
            "retry_after_ms": number(retry_after * 1000)}


def apply(name, dialect):
    """The behaviour that a template has for a dialect, not yet filled."""
    by_dialect = TEMPLATES[name]
    if dialect in by_dialect:
        return by_dialect[dialect]
    if "*" in by_dialect:
        return by_dialect["*"]
    return next(iter(by_dialect.values()))
