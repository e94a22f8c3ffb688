-- queue_load.sql: what bench/queue measures with, inside the server.
--
-- Points in time are those of the commit records (track_commit_timestamp), so
-- that nobody has to look at the queue while it is at work: of the row version
-- that holds the answer it is xmin's, and of the INSERT that of the transaction
-- which the task carries in its metadata.

CREATE EXTENSION llm_failover;
INSERT INTO llm_secret VALUES ('key', 'key');
CREATE ROLE app;
SELECT llm_grant_usage('app');

-- A provider with a tier of its own, of the same name.
CREATE PROCEDURE add_way(way text, url text)
LANGUAGE sql AS $$
	INSERT INTO llm_provider(name, dialect, base_url, secret)
	VALUES (way, 'openai', url, 'key');
	INSERT INTO llm_tier(name) VALUES (way);
	INSERT INTO llm_route(tier, provider, model) VALUES (way, way, 'm');
$$;

-- Waits until so many tasks are left to be stored.
CREATE PROCEDURE wait_until_left(n bigint)
LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		EXIT WHEN (SELECT count(*) FROM (SELECT FROM llm_task
			WHERE finished_at IS NULL LIMIT n + 1) t) <= n;
		COMMIT;				-- holds back no vacuum
		PERFORM pg_sleep(0.2);
	END LOOP;
END $$;

CREATE VIEW stored AS
	SELECT *, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS stored_at,
		extract(epoch FROM pg_xact_commit_timestamp((metadata ->> 'xid')::xid8::xid))::float8 AS queued_at
	  FROM llm_task WHERE finished_at IS NOT NULL;

-- Seconds from the first claim to the last stored answer.
CREATE VIEW drained AS
	SELECT count(*) AS tasks, count(*) FILTER (WHERE state <> 'done') AS failed,
		max(stored_at) - extract(epoch FROM min(started_at))::float8 AS seconds
	  FROM stored;

-- Queues tasks one by one, so many seconds apart: evenly, or at random moments (a
-- Poisson process).
CREATE PROCEDURE trickle(tier text, tasks int, pause float8, random boolean)
LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. tasks LOOP
		INSERT INTO llm_task(prompt, tier, metadata)
		VALUES ('Why is the sky blue?', tier, jsonb_build_object('xid', pg_current_xact_id()));
		COMMIT;
		PERFORM pg_sleep(CASE WHEN random THEN -pause * ln(1 - random()) ELSE pause END);
	END LOOP;
END $$;

-- Queues tasks at an even rate, in batches, one every second.
CREATE PROCEDURE stream(tier text, batches int, batch int)
LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	FOR i IN 1 .. batches LOOP
		INSERT INTO llm_task(prompt, tier)
		SELECT 'Why is the sky blue?', tier FROM generate_series(1, batch);
		COMMIT;
		PERFORM pg_sleep(extract(epoch FROM began + i * interval '1 s' - clock_timestamp()));
	END LOOP;
END $$;

-- What a commit takes that writes a row of no queue, in milliseconds.
CREATE TABLE plain_row(prompt text);
CREATE PROCEDURE commits(n int, INOUT p50 float8, INOUT p99 float8)
LANGUAGE plpgsql AS $$
DECLARE
	lap float8[];
	began timestamptz;
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO plain_row VALUES ('Why is the sky blue?');
		began := clock_timestamp();
		COMMIT;
		lap[i] := 1000 * extract(epoch FROM clock_timestamp() - began);
		PERFORM pg_sleep(0.01);
	END LOOP;
	SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY x), percentile_disc(0.99) WITHIN GROUP (ORDER BY x)
	  FROM unnest(lap) x INTO p50, p99;
END $$;

-- The table by itself: all of its columns, defaults, checks and indexes, and
-- none of its triggers and policies.
CREATE TABLE plain_task (LIKE llm_task INCLUDING ALL);
GRANT INSERT ON plain_task TO app;
