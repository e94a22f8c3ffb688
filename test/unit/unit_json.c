/*
 * unit_json.c
 *	  The reader takes what RFC 8259 says and nothing else; the writer writes
 *	  what the reader reads back.
 */
#include "postgres.h"

#include "json/json.h"

#include "unit.h"

#define DEEP (JSON_MAX_DEPTH + 1)

static JsonNode *
parse(const char *source, const char **why)
{
	size_t		len = strlen(source);

	return json_parse(unit_exact_copy(source, len), len, why);
}

/* What a document's text, decoded, is. */
static void
test_strings(void)
{
	static const char *const cases[][2] = {
		{"\"\"", ""},
		{"\"plain\"", "plain"},
		{"\xEF\xBB\xBF\"after a mark\"", "after a mark"},
		{" \t\r\n\"blanks\" \n", "blanks"},
		{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
		{"\"\\u0041\\u00e9\\u20AC\"", "A\xC3\xA9\xE2\x82\xAC"},
		{"\"\\uD83D\\uDE00!\"", "\xF0\x9F\x98\x80!"},
		{"\"\xF0\x9F\x98\x80 \xE2\x82\xAC\"", "\xF0\x9F\x98\x80 \xE2\x82\xAC"},
		{"\"a\\u0001b\"", "a\001b"},
		{"\"\\\\u0000\"", "\\u0000"},
		{"\"\x7F\"", "\x7F"},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		const char *why = "left alone";
		JsonNode   *node = parse(cases[i][0], &why);

		CHECK_TEXT(json_text(node), cases[i][1], cases[i][0]);
		CHECK(why == NULL, "%s: %s", cases[i][0], why);
		CHECK(node && node->text_len == strlen(cases[i][1]),
			  "length of %s", cases[i][0]);
	}
}

/* What is refused, and in which words. */
static void
test_refusals(void)
{
	static const char *const cases[][2] = {
		{"", "is empty"},
		{"\xEF\xBB\xBF", "is empty"},
		{" ", "ends too early"},
		{"{", "ends too early"},
		{"[1,", "ends too early"},
		{"{\"a\"", "ends too early"},
		{"{\"a\":", "ends too early"},
		{"{\"a\":1", "ends too early"},
		{"\"open", "is not JSON at byte 0"},
		{"nul", "is not JSON at byte 0"},
		{"tru", "is not JSON at byte 0"},
		{"<html>", "is not JSON at byte 0"},
		{"\xEF\xBB\xBFx", "is not JSON at byte 3"},
		{"[1,]", "is not JSON at byte 3"},
		{"[,1]", "is not JSON at byte 1"},
		{"[1 2]", "is not JSON at byte 3"},
		{"[1}", "is not JSON at byte 2"},
		{"{\"a\":1,}", "is not JSON at byte 7"},
		{"{a:1}", "is not JSON at byte 1"},
		{"{\"a\" 1}", "is not JSON at byte 5"},
		{"{1:1}", "is not JSON at byte 1"},
		{"01", "is not JSON at byte 0"},
		{"1.", "is not JSON at byte 0"},
		{"1e", "is not JSON at byte 0"},
		{"+1", "is not JSON at byte 0"},
		{"-", "is not JSON at byte 0"},
		{".5", "is not JSON at byte 0"},
		{"NaN", "is not JSON at byte 0"},
		{"Infinity", "is not JSON at byte 0"},
		{"'a'", "is not JSON at byte 0"},
		{"\"a\nb\"", "is not JSON at byte 0"},
		{"\"\\x41\"", "is not JSON at byte 2"},
		{"\"\\u12\"", "is not JSON at byte 0"},
		{"\"\\u12g4\"", "is not JSON at byte 0"},
		{"\"\\", "is not JSON at byte 0"},
		{"1 2", "has something behind its end"},
		{"{} {}", "has something behind its end"},
		{"[]]", "has something behind its end"},
		{"{}\n// no", "is not JSON at byte 3"},
		{"\"a\\u0000b\"", "has \\u0000 in a string"},
		{"{\"\\u0000\":1}", "has \\u0000 in a string"},
		{"\"\\ud800\"", "has half a surrogate pair"},
		{"\"\\udc00\"", "has half a surrogate pair"},
		{"\"\\ud800\\u0041\"", "has half a surrogate pair"},
		{"\"\\ud800\\ud800\"", "has half a surrogate pair"},
		{"\"\\ud800x\"", "has half a surrogate pair"},
		{"\"\xC3\"", "is not valid UTF-8"},
		{"\"\xC0\xAF\"", "is not valid UTF-8"},
		{"\"\xED\xA0\x80\"", "is not valid UTF-8"},
		{"\"\xF5\x80\x80\x80\"", "is not valid UTF-8"},
		{"\"\xFF\"", "is not valid UTF-8"},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		const char *why = NULL;

		CHECK(parse(cases[i][0], &why) == NULL, "accepted %s", cases[i][0]);
		CHECK_TEXT(why, cases[i][1], cases[i][0]);
		/* Nobody has to ask why. */
		CHECK(parse(cases[i][0], NULL) == NULL, "accepted %s", cases[i][0]);
	}
	CHECK(json_parse("{}\0", 3, NULL) == NULL, "accepted a zero byte");
}

/* Repeats an opening and a closing around a middle. */
static char *
nested(const char *open, const char *middle, const char *close, int depth)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < depth; i++)
		appendStringInfoString(&out, open);
	appendStringInfoString(&out, middle);
	for (int i = 0; i < depth; i++)
		appendStringInfoString(&out, close);
	return out.data;
}

/* Depth and number of values are bounded, and only they. */
static void
test_bounds(void)
{
	const char *why = NULL;
	StringInfoData many;

	CHECK(parse(nested("[", "", "]", JSON_MAX_DEPTH), &why), "%s", why);
	CHECK(parse(nested("{\"a\":", "1", "}", JSON_MAX_DEPTH), &why), "%s", why);
	CHECK(!parse(nested("[", "", "]", DEEP), &why), "too deep");
	CHECK_TEXT(why, "is nested too deeply", "arrays");
	CHECK(!parse(nested("{\"a\":", "1", "}", DEEP), &why), "too deep");
	CHECK_TEXT(why, "is nested too deeply", "objects");
	CHECK(!parse(nested("[{\"a\":", "1", "}]", 500000), &why), "far too deep");
	CHECK_TEXT(why, "is nested too deeply", "both");
	CHECK(parse(nested("[],", "", "", 0), &why) == NULL, "nothing");
	CHECK(parse(psprintf("[%s[]]", nested("[],", "", "", 1000)), &why),
		  "brackets in a row are no depth: %s", why);
	CHECK(parse(psprintf("\"%s\"", nested("[", "", "", 1000)), &why),
		  "brackets in a string are no depth: %s", why);

	initStringInfo(&many);
	appendStringInfoString(&many, "[1");
	for (int i = 2; i < JSON_MAX_VALUES; i++)
		appendStringInfoString(&many, ",1");
	CHECK(parse(psprintf("%s]", many.data), &why), "%s", why);
	CHECK(!parse(psprintf("%s,1]", many.data), &why), "too many");
	CHECK_TEXT(why, "has too many values", "values");
}

/* Numbers, as written and as integers. */
static void
test_numbers(void)
{
	static const struct
	{
		const char *source;
		int64		value;
	}			cases[] =
	{
		{"0", 0}, {"-0", 0}, {"42", 42}, {"-7", -7}, {"12.0", 12},
		{"12.9", 12}, {"-12.9", -12}, {"1e3", 1000}, {"1E+2", 100},
		{"9223372036854775807", PG_INT64_MAX},
		{"-9223372036854775808", PG_INT64_MIN},
		{"9223372036854775808", -99},
		{"1e400", -99}, {"-1e400", -99}, {"1e-400", 0},
		{"\"12\"", -99}, {"null", -99}, {"true", -99}, {"[1]", -99},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		JsonNode   *node = parse(cases[i].source, NULL);

		CHECK(json_int(node, -99) == cases[i].value, "%s is %lld",
			  cases[i].source, (long long) json_int(node, -99));
	}
	CHECK_TEXT(json_scalar_text(parse("[-1.50e+07]", NULL)->child),
			   "-1.50e+07", "as written");
	CHECK(parse(nested("1", "", "", 100000), NULL), "a long number");
	CHECK(json_int(parse(nested("1", "", "", 100000), NULL), -99) == -99,
		  "a long number as an integer");
	CHECK(json_int(NULL, 5) == 5, "nothing as an integer");
}

/* Ways through a tree. */
static void
test_paths(void)
{
	JsonNode   *root = parse("{\"a\":[10,{\"b\":\"x\"},null,true,false],"
							 "\"c\":{}, \"d\" : [ ] ,\"a2\":1,\"a2\":2}", NULL);
	const JsonNode *array = json_get(root, "a");

	CHECK(root->nchildren == 5 && array->nchildren == 5, "numbers of children");
	CHECK_TEXT(json_text(json_get(json_at(array, 1), "b")), "x", "a path");
	CHECK_TEXT(json_scalar_text(json_at(array, 0)), "10", "number");
	CHECK_TEXT(json_scalar_text(json_at(array, 3)), "true", "true");
	CHECK_TEXT(json_scalar_text(json_at(array, 4)), "false", "false");
	CHECK_TEXT(json_scalar_text(json_at(array, 2)), NULL, "null");
	CHECK_TEXT(json_scalar_text(array), NULL, "array");
	CHECK_TEXT(json_text(json_at(array, 0)), NULL, "a number is no text");
	CHECK(json_at(array, 5) == NULL && json_at(array, -1) == NULL, "outside");
	CHECK(json_at(root, 0) == NULL, "no element of an object");
	CHECK(json_get(array, "a") == NULL, "no member of an array");
	CHECK(json_get(root, "b") == NULL, "no such member");
	CHECK(json_int(json_get(root, "a2"), 0) == 2, "the last of two wins");
	CHECK(json_is(json_get(root, "c"), JN_OBJECT), "an empty object");
	CHECK(json_is(json_get(root, "d"), JN_ARRAY), "an empty array");
	CHECK(json_is(json_at(array, 2), JN_NULL) && json_is(NULL, JN_NULL),
		  "null, and nothing");
	CHECK(!json_is(NULL, JN_OBJECT), "nothing is no object");
	CHECK(json_get(NULL, "a") == NULL && json_at(NULL, 0) == NULL &&
		  json_text(NULL) == NULL && json_scalar_text(NULL) == NULL,
		  "nothing has nothing");
}

/* A value's own bytes. */
static void
test_raw(void)
{
	static const char *const cases[][2] = {
		{"{\"v\": {\"b\" : [1, 2]} }", "{\"b\" : [1, 2]}"},
		{"{\"v\":\"a\\u0041\\n\" ,\"w\":1}", "\"a\\u0041\\n\""},
		{"{\"v\":-1.5e3}", "-1.5e3"},
		{"{\"v\": true}", "true"},
		{"{\"v\": null }", "null"},
		{"{\"v\":[ ]}", "[ ]"},
		{"{}", "null"},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		StringInfoData out;

		initStringInfo(&out);
		json_put_raw(&out, json_get(parse(cases[i][0], NULL), "v"));
		CHECK_TEXT(out.data, cases[i][1], cases[i][0]);
	}
}

/* Strings as they are written. */
static void
test_writer(void)
{
	static const char *const cases[][2] = {
		{"", "\"\""},
		{"plain", "\"plain\""},
		{"a \"b\" \\c", "\"a \\\"b\\\" \\\\c\""},
		{"\b\f\n\r\t\v\001\037\177",
		"\"\\b\\f\\n\\r\\t\\u000b\\u0001\\u001f\177\""},
		{"12345678\"", "\"12345678\\\"\""},
		{"1234567\n", "\"1234567\\n\""},
		{"\xE2\x82\xAC\xF0\x9F\x98\x80", "\"\xE2\x82\xAC\xF0\x9F\x98\x80\""},
	};

	for (size_t i = 0; i < lengthof(cases); i++)
	{
		StringInfoData out;

		initStringInfo(&out);
		json_put_string(&out, unit_exact_copy(cases[i][0], strlen(cases[i][0])),
						strlen(cases[i][0]));
		CHECK_TEXT(out.data, cases[i][1], cases[i][0]);
	}
}

/* Each byte at each place of two words is read back as it was written. */
static void
test_round_trip(void)
{
	for (int c = 1; c < 0x80; c++)
	{
		for (int place = 0; place < 17; place++)
		{
			char		text[] = "abcdefghijklmnopq";
			StringInfoData out;

			text[place] = c;
			initStringInfo(&out);
			json_put_cstring(&out, text);
			CHECK_TEXT(json_text(parse(out.data, NULL)), text, "round trip");
		}
		unit_forget();
	}
}

/* Ten megabytes, plain, and of nothing but escapes. */
static void
test_large(void)
{
	const int	len = 10 * 1024 * 1024;
	const char	fills[] = {'x', '\n', '"', '\001'};

	for (size_t i = 0; i < lengthof(fills); i++)
	{
		char	   *text = palloc(len + 1);
		StringInfoData out;
		JsonNode   *node;

		memset(text, fills[i], len);
		text[len] = '\0';
		initStringInfo(&out);
		json_put_string(&out, text, len);
		node = json_parse(out.data, out.len, NULL);
		CHECK(node && node->text_len == (size_t) len &&
			  memcmp(node->text, text, len) == 0,
			  "10 MB of 0x%02x", fills[i]);
		unit_forget();
	}
}

void
test_json(void)
{
	test_strings();
	test_refusals();
	test_bounds();
	unit_forget();
	test_numbers();
	test_paths();
	test_raw();
	test_writer();
	test_round_trip();
	test_large();
}
