-- The builtin model "extract": sentences of the prompt that say most of it.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null NULL
\pset tuples_only
\pset format unaligned
SET default_text_search_config = 'pg_catalog.english';
CREATE EXTENSION llm_failover;

-- first contact
SELECT llm_complete('Summarise: PostgreSQL is old. It is careful. It keeps data safe for years.');
SELECT answer, source, degraded FROM llm_respond('One. Two is longer. Three ends it.');
SELECT answer, source, degraded, cost FROM llm_respond('One. Two is longer. Three ends it.', 'offline');

-- fewer than three sentences are no choice, and the instruction is none
SELECT llm_complete('Why is the sky blue?', 'offline');
SELECT answer, error_code FROM llm_respond('Summarise: It is old. It is careful.', 'offline', on_error => 'null');
SELECT answer, error_code FROM (VALUES ('!!! ??? ...'), ('-- -- --'), ('a, b; c'), (repeat('word ', 2000))) v(t),
  llm_respond(t, 'offline', on_error => 'null');

-- a text of several paragraphs: what is repeated matters, what is unlike the
-- rest does not, and no two of the sentences picked say the same
CREATE TABLE article(t text);
INSERT INTO article VALUES ('The river

On Monday the river Elbe flooded the old town of Dresden. It rained.
Thousands of people had to leave their houses in the old town, said
Dr. Weber, the mayor. "We have not seen such a flood of the river in
50 years!" he said. My aunt makes good soup.

The river flooded the old town of Dresden on Monday. The army helps with
2.5 million sandbags, e.g. at the bridges across the river. Schools stay
closed until Friday. The water is expected to fall by the weekend, but
the people of the old town fear that the flood will come back.

Best regards
Anna');
SELECT llm_complete(t, 'offline') FROM article;

-- its options are the route's, and the call's
CREATE FUNCTION extract_with(t text, params jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r llm_response;
BEGIN
  r := llm_respond(t, 'offline', params => params, on_error => 'null');
  RETURN coalesce(r.answer, 'declined: ' || (r.trace -> -1 ->> 'error'));
END $$;
BEGIN;
UPDATE llm_route SET params = '{"sentences": 1}' WHERE tier = 'offline' AND model = 'extract';
SELECT llm_complete(t, 'offline') AS of_the_route FROM article;
ROLLBACK;
SELECT extract_with(t, '{"sentences": 1}') FROM article;
SELECT extract_with(t, '{"sentences": 2}') FROM article;
SELECT extract_with(t, '{"sentences": 2, "config": "simple"}') FROM article;
SELECT extract_with(t, '{"sentences": null, "config": null}') = llm_complete(t, 'offline') FROM article;
-- at most half of the text
SELECT extract_with('Aa bb. Cc dd. Ee ff. Gg hh. Ii jj.', '{"sentences": 100}');
-- what makes no sense is declined, or refused in a route
SELECT extract_with('One. Two. Three.', p) FROM (VALUES
  (jsonb '{"sentences": 0}'), ('{"sentences": -1}'), ('{"sentences": 101}'), ('{"sentences": "3"}'),
  ('{"config": 1}'), ('{"config": "klingon"}'), ('{"config": "a.b.c"}'), ('{"config": "no.english"}'), ('{"config": ""}'),
  ('{"config": "\"pg_catalog\".\"english\""}')) v(p);

UPDATE llm_route SET params = '{"sentences": 0}' WHERE model = 'extract';
UPDATE llm_route SET params = '{"sentences": 1.5}' WHERE model = 'extract';
UPDATE llm_route SET params = '{"sentences": "3"}' WHERE model = 'extract';
UPDATE llm_route SET params = '{"sentences": 101}' WHERE model = 'extract';
UPDATE llm_route SET params = '{"config": 1}' WHERE model = 'extract';
UPDATE llm_route SET params = '{"sentences": 3, "config": null}' WHERE model = 'extract';
UPDATE llm_route SET params = NULL WHERE model = 'extract';

-- where a sentence does not end: it would be cut if it did
SELECT s FROM (VALUES
  ('Dr. Smith met Mrs. J. R. Jones, St. Paul''s expert for silver.'),
  ('The price rose to $12.50, i.e. by 3.2 %, vs. Last year''s.'),
  ('See Fig. 3, No. 7 and pp. 12 of the report of Jan. 5 first.'),
  ('The U.S. Navy sails at 5 p.m. Eastern time on Tuesday.'),
  ('Acme Inc. Directors said that example.com runs version 1.2.3.'),
  ('"Stop at once!" he shouted... and then he ran to the river.'),
  ('He waited (approx. Ten minutes?) at the station for a train.'),
  ('“Is it old?” she asked the man behind the counter of the shop.'),
  ('Yahoo! is the name of a company that had a search engine.'),
  ('A line that is wrapped where the
width of the page ends, as e-mail is, goes on.')
  ) v(s) WHERE llm_complete(s || ' It rained. We left.', 'offline') IS DISTINCT FROM replace(s, E'\n', ' ');
SELECT s FROM (VALUES
  ('Am 3. Oktober 1990 kam Prof. Weber z. B. nach Berlin zurück.'),
  ('Das kostet ca. 5 Mio. Euro, d.h. Steuern für 20 Jahre und mehr.')
  ) v(s) WHERE extract_with(s || ' Es regnet. Wir gehen.', '{"config": "pg_catalog.german"}') IS DISTINCT FROM s;

-- where it does: it would be declined if it did not
SELECT a || b FROM (VALUES
  ('We met at 5 p.m.', ' They talked about the database of the bank for a long time.'),
  ('He lives in the U.S.', ' The climate of the coast is mild in most years.'),
  ('We sold 12.', ' They sold forty of the boxes with green labels.'),
  ('I can''t.', ' The train to Dresden leaves in a few minutes.'),
  ('No.', ' Nobody knows the name of the man on the bridge.'),
  ('Really?!', ' Nobody knows the name of the man on the bridge.'),
  ('It ended in 1996.[12]', ' Nobody knows the name of the man on the bridge.'),
  ('It ended (at last).', ' Nobody knows the name of the man on the bridge.'),
  ('“It ended.”', ' Nobody knows the name of the man on the bridge.'),
  ('« Oui ! »', ' Nobody knows the name of the man on the bridge.'),
  ('It ended…', ' Nobody knows the name of the man on the bridge.'),
  (E'A heading\n\n', 'nobody knows the name of the man on the bridge.'),
  (E'A heading\n', 'Nobody knows the name of the man on the bridge.'),
  (E'It ended.\r\n', 'Nobody knows the name of the man on the bridge.'),
  (E'- an item\n- ', 'nobody knows the name of the man on the bridge'),
  (E'1. an item\n2) ', 'nobody knows the name of the man on the bridge'),
  (E'an item\n---\n', 'nobody knows the name of the man on the bridge'),
  (E'# A heading\n> ', 'nobody knows the name of the man on the bridge')
  ) v(a, b) WHERE llm_complete(a || b || E'\n\nIt rained.', 'offline') IS DISTINCT FROM ltrim(b);

-- there are people who write no capitals
SELECT llm_complete('my invoice is wrong. please fix the wrong invoice soon. i am waiting.', 'offline');

-- instructions
SELECT llm_complete(i || 'The cat slept all day long. A dog ate the food of the cat. It rained.', 'offline') FROM (VALUES
  ('Summarise: '), ('TL;DR: '), ('Text: '), (E'Please read this text:\n'),
  ('Please summarize the following text in one sentence: '),
  (E'Summarize the following text in one sentence.\n\n'),
  ('Fasse den folgenden Text zusammen: '), ('Résumez ce texte : '), ('请总结以下文章：'),
  ('There are three of them: ')) v(i);

-- scripts; no space is put behind a mark that wants none
SET default_text_search_config = 'simple';
SELECT llm_complete(t, 'offline') FROM (VALUES
  ('数据库系统保存数据。今天下雨！“好。”他说。我们的数据库系统很安全？'),
  ('データベースは古い。雨です。データベースは安全です！本当ですか？'),
  ('यह डेटाबेस पुराना है। बारिश हो रही है। यह डेटाबेस सुरक्षित है। क्या सच है?'),
  ('قاعدة البيانات قديمة. المطر ينزل. هل قاعدة البيانات آمنة؟ نعم، هذه قاعدة.'),
  ('База данных старая. Идёт дождь. База данных хранит данные, т.е. База! Да.')) v(t);
SET default_text_search_config = 'english';

-- nothing but stop words, nothing in common, nothing but copies
SELECT llm_complete('It is. He was. They are.', 'offline');
SELECT llm_complete('Red apples fall. Green boats sail. Old horses sleep. Cold rivers freeze.', 'offline');
SELECT llm_complete(repeat('The same thing again. ', 10), 'offline');

-- a configuration that is gone: simple
CREATE TEXT SEARCH CONFIGURATION mine (COPY = english);
SET default_text_search_config = 'mine';
DROP TEXT SEARCH CONFIGURATION mine;
SELECT llm_complete('One. Two is longer. Three ends it.', 'offline');
SET default_text_search_config = 'pg_catalog.english';

-- words that are too long for text search are no NOTICE; what no one would
-- call a sentence is none
SELECT length(llm_complete('One. ' || repeat('x', 3000) || ' ends after a long word and others. Three.', 'offline', on_error => 'null'));
SELECT llm_complete('One. ' || repeat('sentence ', 1000) || '. Two is longer. Three ends it.', 'offline');

-- 10 MB: in time, or not at all
SET statement_timeout = '60s';
CREATE TABLE big AS SELECT string_agg(format('Customer %s wrote about invoice %s on Monday. ', md5(g::text), g), '') AS t FROM generate_series(1, 150000) g;
SELECT length(t) > 10000000, llm_complete(t, 'offline') ~ '^(Customer [0-9a-f]+ wrote about invoice \d+ on Monday\. ?){3}$' FROM big;
SELECT llm_complete(repeat('x', 10000000), 'offline', on_error => 'null');
SELECT llm_complete(repeat(E'x\n', 5000000), 'offline', on_error => 'null');
SELECT length(llm_complete(repeat(E'Ab cd ef! ', 1000000), 'offline'));
SET statement_timeout = '100ms';
SELECT llm_complete(t || t, 'offline') FROM big;
RESET statement_timeout;
DROP TABLE big, article;
DROP FUNCTION extract_with(text, jsonb);
DROP EXTENSION llm_failover;

-- in other encodings
CREATE DATABASE llm_extract_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
\c llm_extract_latin1
SET client_encoding = 'UTF8';
CREATE EXTENSION llm_failover;
SELECT llm_complete('Résumé : Müller kam am 3. Mai. Es gab « Ärger. » Über Müller kam Ärger. Ja.', 'offline');
CREATE DATABASE llm_extract_euc_jp ENCODING 'EUC_JP' LOCALE 'C' TEMPLATE template0;
\c llm_extract_euc_jp
SET client_encoding = 'UTF8';
CREATE EXTENSION llm_failover;
SELECT llm_complete('要約：データベースは古い。雨です。データベースは安全です！本当ですか？', 'offline');
CREATE DATABASE llm_extract_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;
\c llm_extract_ascii
CREATE EXTENSION llm_failover;
SELECT llm_complete('古い。データベースは安全です。雨', 'offline');
\c contrib_regression
DROP DATABASE llm_extract_latin1;
DROP DATABASE llm_extract_euc_jp;
DROP DATABASE llm_extract_ascii;
