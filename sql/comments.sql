
-- Every table and column says what it is for and in which unit.

COMMENT ON TABLE llm_secret IS
'literal keys, never dumped; value is readable by its owner and superusers only';
COMMENT ON COLUMN llm_secret.name IS
'what the column secret of llm_provider or llm_region calls it; lower-case letters, digits and _';
COMMENT ON COLUMN llm_secret.value IS
'the key itself and nothing else; a reference (env:NAME, file:/path) belongs in the column secret instead';

COMMENT ON TABLE llm_provider IS
'accounts at vendors of language models';
COMMENT ON COLUMN llm_provider.name IS
'name of the account';
COMMENT ON COLUMN llm_provider.dialect IS
'how it is spoken to: openai, azure, anthropic or gemini';
COMMENT ON COLUMN llm_provider.base_url IS
'start of its URLs as the vendor''s own SDK takes it, version path included; {region} stands for the region''s name; NULL = the dialect''s public one; who may change it can read the keys that are sent there';
COMMENT ON COLUMN llm_provider.secret IS
'the key: env:NAME, file:/path, or a name in llm_secret; NULL = none';
COMMENT ON COLUMN llm_provider.headers IS
'more request headers as a JSON object; a value is a literal, env:NAME, file:/path or secret:NAME; NULL = none';
COMMENT ON COLUMN llm_provider.enabled IS
'takes new calls; running ones end';
COMMENT ON COLUMN llm_provider.breaker_window IS
'duration over which calls and failures are counted, 1 second to 10 minutes';
COMMENT ON COLUMN llm_provider.breaker_min_calls IS
'calls; with fewer in the window no rate opens a breaker';
COMMENT ON COLUMN llm_provider.breaker_failure_rate IS
'part of the window''s calls, 0 to 1; so many failures open it';
COMMENT ON COLUMN llm_provider.breaker_consecutive IS
'failures; so many in a row open it, however few calls there were';
COMMENT ON COLUMN llm_provider.breaker_slow_call IS
'duration above which a call counts as slow, up to 1 day; NULL = none does';
COMMENT ON COLUMN llm_provider.breaker_slow_rate IS
'part of the window''s calls, 0 to 1; so many slow ones open it';
COMMENT ON COLUMN llm_provider.breaker_open_time IS
'duration of being open before the first trial, up to 1 day; doubles with each trial that fails';
COMMENT ON COLUMN llm_provider.breaker_open_time_max IS
'duration of being open at most, up to 1 day';
COMMENT ON COLUMN llm_provider.breaker_half_open_calls IS
'trials at once after that, 1 to 100';
COMMENT ON COLUMN llm_provider.breaker_ramp IS
'duration over which its share grows from 10 % to 100 % after a trial that succeeds, up to 1 day; 0 = all at once';

COMMENT ON TABLE llm_region IS
'endpoints of a provider; a provider without any has one, default';
COMMENT ON COLUMN llm_region.provider IS
'the provider whose endpoint it is';
COMMENT ON COLUMN llm_region.name IS
'name of the endpoint, unique in its provider';
COMMENT ON COLUMN llm_region.base_url IS
'as in llm_provider; NULL = the provider''s';
COMMENT ON COLUMN llm_region.secret IS
'as in llm_provider; NULL = the provider''s';
COMMENT ON COLUMN llm_region.params IS
'request parameters as a JSON object, merged under the route''s; NULL = none';
COMMENT ON COLUMN llm_region.residency IS
'labels of where data stays, such as {eu,de}; a call that asks for some needs a region with all of them';
COMMENT ON COLUMN llm_region.position IS
'order among the provider''s endpoints, lower first; equal ones share';
COMMENT ON COLUMN llm_region.weight IS
'share among endpoints of equal position, 0 to 1000000; 0 = last resort';
COMMENT ON COLUMN llm_region.enabled IS
'takes new calls; false drains it: running ones end';
COMMENT ON COLUMN llm_region.max_inflight IS
'calls at once from this server; NULL = no limit';

COMMENT ON TABLE llm_model IS
'what is known of a provider''s models; optional';
COMMENT ON COLUMN llm_model.provider IS
'the provider that has it';
COMMENT ON COLUMN llm_model.name IS
'its name as the provider spells it';
COMMENT ON COLUMN llm_model.context_window IS
'tokens of prompt and answer together; NULL = unknown, never skipped for length';
COMMENT ON COLUMN llm_model.max_output_tokens IS
'tokens of an answer at most; NULL = unknown';
COMMENT ON COLUMN llm_model.input_price IS
'USD per million input tokens; NULL = unknown and so is the cost of a call; 0 for your own server';
COMMENT ON COLUMN llm_model.output_price IS
'USD per million output tokens; NULL = unknown';
COMMENT ON COLUMN llm_model.cached_input_price IS
'USD per million input tokens that the provider had cached; NULL = input_price';
COMMENT ON COLUMN llm_model.capabilities IS
'some of json_schema, tools, images, temperature, system, embeddings; NULL = the dialect''s';
COMMENT ON COLUMN llm_model.rpm IS
'requests per minute from this server, in each region; NULL = no limit of ours';
COMMENT ON COLUMN llm_model.tpm IS
'tokens per minute from this server, input and output together, in each region; NULL = no limit of ours';
COMMENT ON COLUMN llm_model.enabled IS
'takes new calls; running ones end';

COMMENT ON TABLE llm_tier IS
'classes of service that a call asks for';
COMMENT ON COLUMN llm_tier.name IS
'what a call asks for';
COMMENT ON COLUMN llm_tier.fallback IS
'the tier that serves when no route of this one can; NULL = none';
COMMENT ON COLUMN llm_tier.enabled IS
'serves calls itself; false = they go on to fallback';
COMMENT ON COLUMN llm_tier.strategy IS
'how candidates of equal position share calls: weighted (by weight), latency (the faster of two drawn by weight), least_busy (fewest calls under way) or cost (the cheapest)';
COMMENT ON COLUMN llm_tier.timeout IS
'duration of a whole call at most, up to 1 day';
COMMENT ON COLUMN llm_tier.attempt_timeout IS
'duration of one attempt at most, up to 1 day';
COMMENT ON COLUMN llm_tier.connect_timeout IS
'duration of connecting at most, up to 1 day';
COMMENT ON COLUMN llm_tier.first_byte_timeout IS
'duration from the connection to the first byte of the answer at most; NULL = attempt_timeout, since an answer that is not streamed sends no byte before it is complete';
COMMENT ON COLUMN llm_tier.max_attempts IS
'attempts of a call in this tier at most, 1 to 100';
COMMENT ON COLUMN llm_tier.on_content_filter IS
'raise = an answer that the provider filtered is an error; next = the next candidate is asked';
COMMENT ON COLUMN llm_tier.hedge_after IS
'duration of silence after which a second candidate is asked as well, up to 1 day; NULL = never';
COMMENT ON COLUMN llm_tier.warm_share IS
'part of calls, 0 to 0.5, sent to candidates that would get none';
COMMENT ON COLUMN llm_tier.queue_timeout IS
'duration that a task may wait at most before it expires, or is answered degraded if it allows that; NULL = no limit';

COMMENT ON TABLE llm_route IS
'models that serve a tier';
COMMENT ON COLUMN llm_route.tier IS
'the tier that is served';
COMMENT ON COLUMN llm_route.provider IS
'a provider of llm_provider, or builtin';
COMMENT ON COLUMN llm_route.model IS
'the model as the provider spells it; of builtin: rule, extract or echo';
COMMENT ON COLUMN llm_route.region IS
'the only endpoint to use; NULL = each of the provider';
COMMENT ON COLUMN llm_route.position IS
'order in the tier, lower first: 1 shares, 2 backs up, and so on';
COMMENT ON COLUMN llm_route.weight IS
'share among routes of equal position, 0 to 1000000; 0 = last resort';
COMMENT ON COLUMN llm_route.enabled IS
'takes new calls; running ones end';
COMMENT ON COLUMN llm_route.params IS
'request parameters as a JSON object in the dialect''s own words, or options of a builtin model; NULL = none';

COMMENT ON TABLE llm_rule IS
'answers of builtin/rule, for texts that match';
COMMENT ON COLUMN llm_rule.name IS
'name of the rule';
COMMENT ON COLUMN llm_rule.feature IS
'the feature whose calls it is for; NULL = any';
COMMENT ON COLUMN llm_rule.pattern IS
'regular expression that the prompt must match (of a chat: the last user message); (?i) ignores case';
COMMENT ON COLUMN llm_rule.answer IS
'the answer; \1 to \9 are the captures of pattern, \& the match';
COMMENT ON COLUMN llm_rule.position IS
'order, lower first, then by name; the first match wins';
COMMENT ON COLUMN llm_rule.enabled IS
'is tried';

COMMENT ON TABLE llm_probe IS
'active health checks: targets that the worker asks by itself, traffic or not; each answer costs money and is booked to the target''s breakers';
COMMENT ON COLUMN llm_probe.provider IS
'the provider that is asked';
COMMENT ON COLUMN llm_probe.region IS
'the only endpoint to ask; NULL = each of the provider';
COMMENT ON COLUMN llm_probe.model IS
'the model as the provider spells it, routed to or not';
COMMENT ON COLUMN llm_probe.every IS
'duration from one question to the next at each endpoint, up to 1 day; varies by 10 % up and down';
COMMENT ON COLUMN llm_probe.prompt IS
'what is asked';
COMMENT ON COLUMN llm_probe.expect IS
'regular expression that the answer must match, or the target has failed; NULL = any answer is good';
COMMENT ON COLUMN llm_probe.enabled IS
'is asked; a question under way ends';
