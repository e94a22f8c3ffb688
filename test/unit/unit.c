/*
 * unit.c
 *	  Runs the unit tests: floor 1 and the dialects, outside the server.
 */
#include "postgres.h"

#include <stdarg.h>

#include "unit.h"

static int	npassed;
static int	nfailed;

void
unit_check(bool good, const char *file, int line, const char *format,...)
{
	va_list		args;

	if (good)
	{
		npassed++;
		return;
	}
	nfailed++;
	printf("FAIL %s:%d: ", file, line);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

void
unit_check_text(const char *got, const char *want, const char *file, int line,
				const char *what)
{
	bool		same = got && want ? strcmp(got, want) == 0 : got == want;

	unit_check(same, file, line, "%s\n  got  %s\n  want %s", what,
			   got ? got : "(null)", want ? want : "(null)");
}

int
main(void)
{
	static const struct
	{
		const char *name;
		void		(*run) (void);
	}			suites[] =
	{
		{"json", test_json},
		{"chat", test_chat},
		{"request", test_request},
		{"reply", test_reply},
		{"hostile", test_hostile},
		{"breaker", test_breaker},
		{"latency", test_latency},
		{"limits", test_limits},
		{"health", test_health},
		{"schedule", test_schedule},
		{"ring", test_ring},
	};

	for (size_t i = 0; i < lengthof(suites); i++)
	{
		int			before = npassed;

		suites[i].run();
		unit_forget();
		printf("%s: %d\n", suites[i].name, npassed - before);
	}
	printf("%d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0;
}
