/*
 * raw_curl.c
 *	  The yardstick: POST requests over one kept connection, by libcurl alone.
 *
 * raw_curl URL COUNT BODY_SIZE
 *
 * Prints key=value lines: count, p50_us, p90_us, p99_us, mean_us. A tenth of
 * COUNT, at most 1000, goes before as a warm-up. Does as little as a program
 * can: one easy handle, options set once, the response thrown away. Build with
 * cc -O2 raw_curl.c -lcurl.
 */
#define _GNU_SOURCE
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Throws a piece of a response away. */
static size_t
discard(char *bytes, size_t size, size_t count, void *arg)
{
	(void) bytes;
	(void) arg;
	return size * count;
}

/* Returns monotonic time in microseconds. */
static double
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/* Makes the handle that all requests use. */
static CURL *
prepare(const char *url, const char *body, long size)
{
	CURL	   *easy = curl_easy_init();
	struct curl_slist *headers = NULL;

	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Expect:");
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, size);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
	return easy;
}

/* Does one request and returns how long it took, in microseconds. */
static double
measure(CURL *easy)
{
	double		start = now_us();
	CURLcode	code = curl_easy_perform(easy);
	double		end = now_us();
	long		status = 0;

	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK || status != 200)
	{
		fprintf(stderr, "raw_curl: %s, status %ld\n",
				curl_easy_strerror(code), status);
		exit(1);
	}
	return end - start;
}

int
main(int argc, char **argv)
{
	long		count = argc == 4 ? atol(argv[2]) : 0;
	long		size = argc == 4 ? atol(argv[3]) : -1;
	double	   *times;
	double		sum = 0;
	char	   *body;
	CURL	   *easy;

	if (count < 1 || size < 0)
	{
		fprintf(stderr, "usage: raw_curl URL COUNT BODY_SIZE\n");
		return 2;
	}
	times = calloc(count, sizeof(double));
	body = malloc(size + 1);
	if (times == NULL || body == NULL ||
		curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return 1;
	memset(body, ' ', size);
	easy = prepare(argv[1], body, size);
	for (long i = 0; i < count / 10 && i < 1000; i++)
		measure(easy);
	for (long i = 0; i < count; i++)
		sum += times[i] = measure(easy);
	qsort(times, count, sizeof(double), compare);
	printf("count=%ld\np50_us=%.1f\np90_us=%.1f\np99_us=%.1f\nmean_us=%.1f\n",
		   count, times[count / 2], times[count * 9 / 10],
		   times[count * 99 / 100], sum / count);
	return 0;
}
