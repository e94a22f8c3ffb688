/*
 * check_access.c
 *	  Rules of keys and of references to them, and the right to write these.
 *
 * env: and file: read the server's environment and files with the server's
 * rights and send them to whatever base_url says. So only a superuser or a
 * member of pg_read_server_files may bring such a reference and an endpoint
 * together: write the reference, or change where it goes while it stands, be
 * it in the row itself or inherited. It is the one check of a row that looks
 * at other rows while the statement runs, because a trigger that fires later
 * cannot tell who changed the row (a cascade runs as the owner), and it is not
 * switched off by check_function_bodies, which anybody may set.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "catalog/config.h"
#include "check.h"

#define ENV_PREFIX		"env:"
#define FILE_PREFIX		"file:"

#define SECRET_NAME_MAX 63		/* bytes */

/* What a region inherits. */
typedef struct ProviderSide
{
	bool		secret_is_reference;
	bool		headers_have_reference;
	bool		is_templated;	/* {region} in base_url */
} ProviderSide;

static bool may_use_references(void);
static void refuse_reference(const CheckedRow *row, const char *column);
static bool column_is_reference(const CheckedRow *row, const char *column);
static bool column_has_reference(const CheckedRow *row, const char *column);
static bool regions_have_reference(const CheckedRow *row);
static void read_provider(const CheckedRow *row, ProviderSide *provider);
static bool region_moved(const CheckedRow *row, const ProviderSide *provider);
static bool region_is_at_home(const CheckedRow *row,
							  const ProviderSide *provider);
static bool starts_with(const char *text, const char *prefix);
static bool is_env_name(const char *text);

/* Wants a name that a column secret can hold. Not shown: it may be the key. */
void
check_secret_name(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	if (value == (Datum) 0 || !is_secret_name(TextDatumGetCString(value)))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be 1 to %d lower-case letters, digits or \"_\", the first no digit",
						RelationGetRelationName(row->rel), rule->column,
						SECRET_NAME_MAX)));
}

/* Wants a key that can stand in a header, and no reference to one. */
void
check_key(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *key = value == (Datum) 0 ? NULL : TextDatumGetCString(value);

	if (key == NULL || key[0] == '\0' || has_control(key) ||
		is_server_reference(key))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s is the key itself",
						RelationGetRelationName(row->rel), rule->column),
				 errdetail("It must not be empty, contain control characters such as a line end, or be a reference."),
				 errhint("Write env:NAME or file:/path into the column secret of llm_provider or llm_region.")));
}

/* Wants env:NAME, file:/path or a name in llm_secret. */
void
check_reference(const CheckedRow *row, const ColumnRule *rule, Datum value)
{
	char	   *reference = TextDatumGetCString(value);

	if (!is_secret_name(reference) &&
		!(is_server_reference(reference) &&
		  is_well_formed_reference(reference)))
		ereport(ERROR,
				(refusal(row, rule->column),
				 errmsg("%s.%s must be env:NAME, file:/path or a name in llm_secret",
						RelationGetRelationName(row->rel), rule->column),
				 errhint("A key itself belongs in llm_secret.value.")));
}

/* Says whether a value is meant to be of the server's environment or files. */
bool
is_server_reference(const char *value)
{
	return starts_with(value, ENV_PREFIX) || starts_with(value, FILE_PREFIX);
}

/* Says whether a reference with a prefix, secret: too, can be followed. */
bool
is_well_formed_reference(const char *value)
{
	const char *target = strchr(value, ':') + 1;

	if (starts_with(value, ENV_PREFIX))
		return is_env_name(target);
	if (starts_with(value, FILE_PREFIX))
		return target[0] == '/' && target[1] != '\0' && !has_control(target);
	return is_secret_name(target);
}

/* Says whether a text is [a-z_][a-z0-9_]* and not too long. */
bool
is_secret_name(const char *value)
{
	size_t		len = strspn(value, "abcdefghijklmnopqrstuvwxyz_0123456789");

	return len > 0 && len <= SECRET_NAME_MAX && value[len] == '\0' &&
		strchr("0123456789", value[0]) == NULL;
}

/* Says whether a text is [A-Za-z_][A-Za-z0-9_]*. */
static bool
is_env_name(const char *text)
{
	if (!isascii((unsigned char) text[0]) ||
		!(isalpha((unsigned char) text[0]) || text[0] == '_'))
		return false;
	for (const char *c = text; *c; c++)
		if (!isascii((unsigned char) *c) ||
			!(isalnum((unsigned char) *c) || *c == '_'))
			return false;
	return true;
}

static bool
starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/*
 * Refuses a provider that an unprivileged user gave a reference, or whose
 * endpoint he changed under a reference of its own or of one of its regions.
 */
void
check_provider_access(const CheckedRow *row,
					  const ColumnRule *rule pg_attribute_unused(),
					  Datum value pg_attribute_unused())
{
	bool		moved;

	if (may_use_references())
		return;
	if (row_changed(row, "secret") && column_is_reference(row, "secret"))
		refuse_reference(row, "secret");

	moved = row_changed(row, "base_url") || row_changed(row, "dialect") ||
		row_changed(row, "headers");
	if (moved && (column_is_reference(row, "secret") ||
				  column_has_reference(row, "headers") ||
				  (row->old && regions_have_reference(row))))
		refuse_reference(row, "base_url");
}

/* The same of a region, whose other half is its provider. */
void
check_region_access(const CheckedRow *row,
					const ColumnRule *rule pg_attribute_unused(),
					Datum value pg_attribute_unused())
{
	ProviderSide provider;
	bool		own;
	bool		inherits;

	if (may_use_references())
		return;
	own = column_is_reference(row, "secret");
	if (own && row_changed(row, "secret"))
		refuse_reference(row, "secret");

	read_provider(row, &provider);
	inherits = provider.headers_have_reference ||
		(provider.secret_is_reference &&
		 column_text(row->rel, row->tuple, "secret") == NULL);
	if ((own || inherits) && region_moved(row, &provider) &&
		(own || !region_is_at_home(row, &provider)))
		refuse_reference(row, "base_url");
}

/* Says whether a region, or what it sends, goes elsewhere than before. */
static bool
region_moved(const CheckedRow *row, const ProviderSide *provider)
{
	char	   *base_url = column_text(row->rel, row->tuple, "base_url");
	bool		is_templated = base_url ?
		strstr(base_url, REGION_PLACEHOLDER) != NULL : provider->is_templated;

	return row_changed(row, "provider") || row_changed(row, "base_url") ||
		(is_templated && row_changed(row, "name")) ||
		(row_changed(row, "secret") &&
		 column_text(row->rel, row->tuple, "secret") == NULL);
}

/*
 * Says whether a region sends where its provider alone would, so that it may
 * have whatever the provider has.
 */
static bool
region_is_at_home(const CheckedRow *row, const ProviderSide *provider)
{
	char	   *name = column_text(row->rel, row->tuple, "name");

	return column_text(row->rel, row->tuple, "base_url") == NULL &&
		(!provider->is_templated ||
		 (name && strcmp(name, IMPLICIT_REGION) == 0));
}

static bool
may_use_references(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES);
}

static void
refuse_reference(const CheckedRow *row, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errtablecol(row->rel, column_number(row->rel, column)),
			 errmsg("permission denied to use env: and file: references"),
			 errhint("Only superusers and members of pg_read_server_files may.")));
}

static bool
column_is_reference(const CheckedRow *row, const char *column)
{
	char	   *value = column_text(row->rel, row->tuple, column);

	return value && is_server_reference(value);
}

static bool
column_has_reference(const CheckedRow *row, const char *column)
{
	bool		isnull;
	Datum		headers = heap_getattr(row->tuple,
									   column_number(row->rel, column),
									   RelationGetDescr(row->rel), &isnull);

	return !isnull && headers_have_reference(headers);
}

/* Says whether a region of the provider has a reference of its own. */
static bool
regions_have_reference(const CheckedRow *row)
{
	TriggerQuery query;
	char	   *name = column_text(row->rel, row->old, "name");
	uint64		n;

	query_begin(&query, row->rel, AS_OWNER, NULL);
	n = query_run_text(&query,
					   "SELECT FROM @.llm_region"
					   " WHERE provider = $1 AND secret ~ '^(env|file):'",
					   1, &name);
	query_end(&query);
	return n > 0;
}

/*
 * Reads what the region's provider has, and keeps it so until we commit. It
 * must be there already: else it could come later, with a reference.
 */
static void
read_provider(const CheckedRow *row, ProviderSide *provider)
{
	TriggerQuery query;
	char	   *name = column_text(row->rel, row->tuple, "provider");

	query_begin(&query, row->rel, AS_OWNER, NULL);
	if (query_run_text(&query,
					   "SELECT coalesce(secret ~ '^(env|file):', false),"
					   " EXISTS (SELECT FROM jsonb_each_text(headers) h"
					   " WHERE h.value ~ '^(env|file):'),"
					   " coalesce(strpos(base_url, '" REGION_PLACEHOLDER "') > 0, false)"
					   " FROM @.llm_provider WHERE name = $1 FOR SHARE",
					   1, &name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errtablecol(row->rel, column_number(row->rel, "provider")),
				 errmsg("provider \"%s\" does not exist", shown(name))));
	provider->secret_is_reference = query_is_true(0, 0);
	provider->headers_have_reference = query_is_true(0, 1);
	provider->is_templated = query_is_true(0, 2);
	query_end(&query);
}
