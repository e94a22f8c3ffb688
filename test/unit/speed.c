/*
 * speed.c
 *	  Prints what reading, writing and a look at health cost. Asserts nothing: a
 *	  machine is no promise.
 */
#include "postgres.h"

#include <time.h>

#include "dialect/dialect.h"
#include "health/health.h"

#include "samples.h"
#include "unit.h"

#define ROUNDS 200000

static char *large;
static size_t large_len;

static double
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static void
json_only(void)
{
	json_parse(OPENAI_ANSWER, strlen(OPENAI_ANSWER), NULL);
}

static void
parse_with(const Dialect *dialect, const char *body)
{
	HttpResponse resp = {200, body, strlen(body), OPENAI_HEADERS,
	strlen(OPENAI_HEADERS)};
	Reply		reply;

	dialect->parse(&resp, 0, &reply);
}

static void
parse_openai(void)
{
	parse_with(&openai_dialect, OPENAI_ANSWER);
}

static void
parse_anthropic(void)
{
	parse_with(&anthropic_dialect, ANTHROPIC_ANSWER);
}

static void
parse_gemini(void)
{
	parse_with(&gemini_dialect, GEMINI_ANSWER);
}

static void
build_openai(void)
{
	static const char prompt[] = "Summarise in one sentence: PostgreSQL is a "
		"powerful, open source object-relational database system.";
	ChatRequest chat = {.prompt = prompt, .prompt_len = strlen(prompt),
	.system = "Be brief.", .max_tokens = 100};
	Endpoint	endpoint = {.base_url = "https://api.openai.com/v1",
		.model = "gpt-5-mini", .secret = "sk-abc",
	.capabilities = openai_dialect.capabilities};
	HttpRequest req;

	build(&openai_dialect, &chat, &endpoint, &req);
}

static void
read_large(void)
{
	json_parse(large, large_len, NULL);
}

static void
write_large(void)
{
	StringInfoData out;

	initStringInfo(&out);
	json_put_string(&out, large + 1, large_len - 2);
}

/* A tier of many candidates: each region and provider has several targets. */
#define TARGETS 32
#define NOW (1000 * USEC_SEC)

static HealthTarget targets[TARGETS];

static CellRef
new_cell(void)
{
	CellRef		ref = {calloc(1, sizeof(Cell)), 0};

	if (ref.cell == NULL)
		abort();
	cell_init(ref.cell, 0);
	return ref;
}

static void
make_targets(void)
{
	for (int i = 0; i < TARGETS; i++)
	{
		HealthTarget *target = &targets[i];

		*target = (HealthTarget) {.breaker = &breaker_defaults};
		target->cells[CELL_PROVIDER] = i % 8 ?
			targets[i - 1].cells[CELL_PROVIDER] : new_cell();
		target->cells[CELL_REGION] = i % 4 ?
			targets[i - 1].cells[CELL_REGION] : new_cell();
		target->cells[CELL_TARGET] = new_cell();
	}
}

static void
limit_targets(void)
{
	for (int i = 0; i < TARGETS; i++)
	{
		targets[i].max_inflight = 100;
		targets[i].rpm = 5000;
		targets[i].tpm = 2000000;
	}
}

/* Lets every breaker ramp: the dearest case. */
static void
ramp_breakers(void)
{
	BreakerView view = {.state = BREAKER_RAMPING, .until = NOW + USEC_SEC};

	for (int i = 0; i < TARGETS; i++)
		for (int scope = 0; scope < HEALTH_SCOPES; scope++)
		{
			Breaker    *breaker = &targets[i].cells[scope].cell->breaker;

			breaker_init(breaker);
			breaker_restore(breaker, &view, NOW);
		}
}

static void
free_targets(void)
{
	for (int i = 0; i < TARGETS; i++)
		for (int scope = 0; scope < HEALTH_SCOPES; scope++)
			if (i == 0 || targets[i].cells[scope].cell !=
				targets[i - 1].cells[scope].cell)
				free(targets[i].cells[scope].cell);
}

static void
check_targets(void)
{
	HealthCheck check;

	for (int i = 0; i < TARGETS; i++)
		health_check(&targets[i], 1000, 0, NOW, &check);
}

static void
reserve_and_settle(void)
{
	static const HealthResult result = {.kind = RESULT_SUCCESS, .tokens = 1000,
	.requests_left = {-1, -1, -1}, .tokens_left = {-1, -1, -1}};
	Reservation reservation;
	HealthCheck check;

	if (health_reserve(&targets[0], 1000, 0, false, USEC_SEC, NOW, &reservation,
					   &check))
		health_settle(&reservation, &result, NOW + 1);
}

static void
measure(const char *what, void (*run) (void), int rounds)
{
	double		start = now_ns();

	for (int i = 0; i < rounds; i++)
	{
		run();
		unit_forget();
	}
	printf("%-36s %12.0f ns\n", what, (now_ns() - start) / rounds);
}

int
main(void)
{
	large_len = 10 * 1024 * 1024;
	large = malloc(large_len);
	memset(large, 'x', large_len);
	large[0] = large[large_len - 1] = '"';

	printf("(a body of %zu bytes)\n", strlen(OPENAI_ANSWER));
	measure("json_parse", json_only, ROUNDS);
	measure("openai parse, headers included", parse_openai, ROUNDS);
	measure("anthropic parse", parse_anthropic, ROUNDS);
	measure("gemini parse", parse_gemini, ROUNDS);
	measure("openai build", build_openai, ROUNDS);
	measure("read a string of 10 MB", read_large, 10);
	measure("write a string of 10 MB", write_large, 10);
	free(large);

	make_targets();
	measure("reserve and settle one attempt", reserve_and_settle, ROUNDS);
	measure("check the health of 32 targets", check_targets, ROUNDS);
	limit_targets();
	measure("the same with all limits set", check_targets, ROUNDS);
	ramp_breakers();
	measure("the same, with each breaker ramping", check_targets, ROUNDS);
	free_targets();
	return 0;
}
