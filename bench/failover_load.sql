-- failover_load.sql: what bench/failover measures with, inside the server.

CREATE EXTENSION llm_failover;
INSERT INTO llm_secret VALUES ('key', 'key');

-- The calls of many sessions. `run` is the tier that was asked; `paid`: A was
-- asked, too, and did not answer.
CREATE UNLOGGED TABLE lap(run text, began float8, ms float8, paid boolean, error_code text);

-- Calls a tier again and again, from a time to another, with pauses of so many
-- seconds on average. Who gets past A pauses in any case: such calls shall not
-- take the processor from those that are measured.
CREATE PROCEDURE call_until(run text, starts float8, ends float8, pause float8)
LANGUAGE plpgsql AS $$
DECLARE
	began float8;
	r llm_response;
	paid boolean;
BEGIN
	-- the first call of a session is slower than others
	PERFORM llm_complete('Hello', 'b', on_error => 'null');
	PERFORM pg_sleep(starts - extract(epoch FROM clock_timestamp())::float8);
	LOOP
		PERFORM pg_sleep(2 * pause * random());
		began := extract(epoch FROM clock_timestamp());
		EXIT WHEN began >= ends;
		r := llm_respond('Hello', run, on_error => 'null');
		paid := r.trace @? '$[*] ? (@.provider starts with "a" && @.outcome != "ok")';
		INSERT INTO lap VALUES (run, began,
			1000 * (extract(epoch FROM clock_timestamp()) - began), paid, r.error_code);
		IF r.provider = 'b' AND NOT paid THEN
			PERFORM pg_sleep(0.01);
		END IF;
	END LOOP;
END $$;

-- What a call takes, in milliseconds, by tier. Calls of the tiers take turns, so
-- that a noisy neighbour meets all of them. The tier "by hand" is none.
CREATE FUNCTION laps(tiers text[], calls int)
RETURNS TABLE(tier text, p50 float8, p99 float8)
LANGUAGE plpgsql AS $$
DECLARE
	n int := cardinality(tiers);
	lap float8[] := array_fill(0::float8, ARRAY[n * calls]);
	began timestamptz;
	answer text;
BEGIN
	FOR i IN 0 .. n * calls - 1 LOOP
		tier := tiers[1 + i % n];
		began := clock_timestamp();
		IF tier = 'by hand' THEN
			answer := by_hand('Why is the sky blue?');
		ELSE
			answer := llm_complete('Why is the sky blue?', tier);
		END IF;
		lap[i + 1] := 1000 * extract(epoch FROM clock_timestamp() - began);
		IF answer IS NULL THEN
			RAISE 'no answer of tier %', tier;
		END IF;
	END LOOP;
	RETURN QUERY
		SELECT tiers[1 + (l.nth - 1) % n],
			percentile_disc(0.5) WITHIN GROUP (ORDER BY l.ms),
			percentile_disc(0.99) WITHIN GROUP (ORDER BY l.ms)
		  FROM unnest(lap) WITH ORDINALITY l(ms, nth) GROUP BY 1;
END $$;

-- A provider that hangs, and a tier that asks it before B. Each run has a cell
-- of its own by this, and a model by which the simulator knows it.
CREATE PROCEDURE add_run(run text, a_url text, open_time interval, open_time_max interval)
LANGUAGE sql AS $$
	INSERT INTO llm_provider(name, dialect, base_url, secret, breaker_open_time, breaker_open_time_max)
	VALUES ('a-' || run, 'openai', a_url, 'key', open_time, open_time_max);
	INSERT INTO llm_tier(name, attempt_timeout) VALUES (run, '1 s');
	INSERT INTO llm_route(tier, provider, model, position) VALUES
		(run, 'a-' || run, run, 1), (run, 'b', 'm', 2);
$$;

-- A provider with a tier of its own: B itself, or a gateway.
CREATE PROCEDURE add_way(way text, url text, headers jsonb)
LANGUAGE sql AS $$
	INSERT INTO llm_provider(name, dialect, base_url, secret, headers)
	VALUES (way, 'openai', url, 'key', headers);
	INSERT INTO llm_tier(name) VALUES (way);
	INSERT INTO llm_route(tier, provider, model) VALUES (way, way, 'm');
$$;
