
-- The rows that belong to the extension: a call is answered before anything is
-- configured. They may be changed and disabled; check_seed.c keeps them.
-- Inserted before there are triggers.

INSERT INTO llm_tier(name, fallback) VALUES
	('default', 'offline'),
	('offline', NULL);

INSERT INTO llm_route(tier, provider, model, position) VALUES
	('offline', 'builtin', 'rule', 2),
	('offline', 'builtin', 'extract', 3);
