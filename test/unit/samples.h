/*
 * samples.h
 *	  A good response of each dialect, with all that vendors put into one.
 */
#ifndef LLM_SAMPLES_H
#define LLM_SAMPLES_H

#define OPENAI_ANSWER \
	"{\n" \
	"  \"id\": \"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\n" \
	"  \"object\": \"chat.completion\",\n" \
	"  \"created\": 1741569952,\n" \
	"  \"model\": \"gpt-4.1-2025-04-14\",\n" \
	"  \"choices\": [{\"index\": 0, \"message\": {\"role\": \"assistant\",\n" \
	"    \"content\": \"Hello! How can I assist you today?\",\n" \
	"    \"refusal\": null, \"annotations\": []},\n" \
	"    \"logprobs\": null, \"finish_reason\": \"stop\"}],\n" \
	"  \"usage\": {\"prompt_tokens\": 19, \"completion_tokens\": 10,\n" \
	"    \"total_tokens\": 29,\n" \
	"    \"prompt_tokens_details\": {\"cached_tokens\": 4, \"audio_tokens\": 0},\n" \
	"    \"completion_tokens_details\": {\"reasoning_tokens\": 3}},\n" \
	"  \"service_tier\": \"default\"\n" \
	"}\n"

#define ANTHROPIC_ANSWER \
	"{\"id\":\"msg_013Zva2CMHLNnXjNJJKqJ2EF\",\"type\":\"message\"," \
	"\"role\":\"assistant\",\"model\":\"claude-opus-4-6\",\"content\":[" \
	"{\"type\":\"thinking\",\"thinking\":\"They greet.\",\"signature\":\"EqQB\"}," \
	"{\"type\":\"redacted_thinking\",\"data\":\"Emwk\"}," \
	"{\"type\":\"text\",\"text\":\"Hi! \"}," \
	"{\"type\":\"text\",\"text\":\"My name is Claude.\",\"citations\":null}]," \
	"\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{" \
	"\"input_tokens\":20,\"cache_creation_input_tokens\":5," \
	"\"cache_read_input_tokens\":75,\"output_tokens\":12}}"

#define GEMINI_ANSWER \
	"{\"candidates\":[{\"content\":{\"parts\":[" \
	"{\"text\":\"Let me think.\",\"thought\":true}," \
	"{\"text\":\"Paris \",\"thoughtSignature\":\"AbCd\"},{\"text\":\"is it.\"}]," \
	"\"role\":\"model\"},\"finishReason\":\"STOP\",\"index\":0," \
	"\"safetyRatings\":[]}],\"usageMetadata\":{\"promptTokenCount\":8," \
	"\"candidatesTokenCount\":5,\"totalTokenCount\":43," \
	"\"cachedContentTokenCount\":2,\"thoughtsTokenCount\":30}," \
	"\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"r-17\"}"

#define OPENAI_HEADERS \
	"date: Sat, 22 Nov 2025 17:00:00 GMT\r\n" \
	"content-type: application/json\r\n" \
	"access-control-expose-headers: X-Request-ID\r\n" \
	"openai-organization: user-abc\r\n" \
	"openai-processing-ms: 412\r\n" \
	"openai-version: 2020-10-01\r\n" \
	"x-ratelimit-limit-requests: 5000\r\n" \
	"x-ratelimit-remaining-requests: 4999\r\n" \
	"x-ratelimit-reset-requests: 12ms\r\n" \
	"x-request-id: req_7d\r\n" \
	"cf-cache-status: DYNAMIC\r\n"

#endif							/* LLM_SAMPLES_H */
