/*
 * standing.c
 *	  Why the queue of this database stands: see standing.h.
 *
 * A queue that finds itself in another cluster or database than the one it was
 * filled in is a copy of one that runs. It must not repeat the calls of the
 * original, so it stands until llm_resume() makes it this database's own.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "queue/standing.h"

QueueOrigin
queue_origin_of_args(FunctionCallInfo fcinfo, int first)
{
	QueueOrigin origin = {
		.system_identifier = (uint64) PG_GETARG_INT64(first),
		.database = PG_GETARG_OID(first + 1),
	};
	char	   *paused = text_to_cstring(PG_GETARG_TEXT_PP(first + 2));

	if (paused[0])
		origin.paused = paused;
	return origin;
}

bool
queue_is_copy(const QueueOrigin *origin)
{
	return origin->system_identifier != GetSystemIdentifier() ||
		origin->database != MyDatabaseId;
}

const char *
queue_why_standing(const QueueOrigin *origin)
{
	if (origin->system_identifier != GetSystemIdentifier())
		return "copied from another cluster";
	if (origin->database == InvalidOid)
		return "restored from a dump";
	if (origin->database != MyDatabaseId)
		return "copied from another database";
	return origin->paused;
}
