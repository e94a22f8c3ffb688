-- failover_by_hand.sql: the failover that a DBA would write, for bench/failover:
-- PL/Perl for HTTP, as PL/pgSQL has none, and PL/pgSQL around it. Variables: the
-- URLs a and b.

CREATE EXTENSION plperlu;

CREATE FUNCTION ask(url text, prompt text) RETURNS text
LANGUAGE plperlu AS $$
	use HTTP::Tiny;
	use JSON::PP;

	my ($url, $prompt) = @_;
	# one client a provider: each keeps its connection
	my $http = $_SHARED{$url} //= HTTP::Tiny->new(timeout => 1);
	my $response = $http->post("$url/chat/completions", {
		headers => { 'Content-Type' => 'application/json', Authorization => 'Bearer key' },
		content => encode_json({ model => 'm', messages => [ { role => 'user', content => $prompt } ] }),
	});
	die "$response->{status} $response->{content}" unless $response->{success};
	return decode_json($response->{content})->{choices}[0]{message}{content};
$$;

CREATE FUNCTION by_hand_over(a text, b text, prompt text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
	RETURN ask(a, prompt);
EXCEPTION WHEN OTHERS THEN
	RETURN ask(b, prompt);
END $$;

SELECT format('CREATE FUNCTION by_hand(prompt text) RETURNS text LANGUAGE sql RETURN by_hand_over(%L, %L, prompt)',
	:'a', :'b') \gexec
