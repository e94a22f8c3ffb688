/*
 * when.c
 *	  Points in monotonic time as people read them.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "when.h"

char *
write_when(char buffer[WHEN_LEN], Usec at, Usec now, pg_tz *zone)
{
	TimestampTz wall = GetCurrentTimestamp();
	pg_time_t	then = timestamptz_to_time_t(wall + Max(at - now, 0));
	pg_time_t	today = timestamptz_to_time_t(wall);
	struct pg_tm today_tm = *pg_localtime(&today, zone);
	struct pg_tm *tm = pg_localtime(&then, zone);
	bool		same_day = tm->tm_yday == today_tm.tm_yday &&
		tm->tm_year == today_tm.tm_year;

	pg_strftime(buffer, WHEN_LEN, same_day ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S",
				tm);
	return buffer;
}
