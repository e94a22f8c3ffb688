// failover_gateway.js PORT URL...: a gateway as one writes it in a hurry, for
// bench/failover: asks the providers in their order, each for a second.
'use strict';

const http = require('http');

const TIMEOUT = 1000;
const [port, ...urls] = process.argv.slice(2);

async function ask(url, request, body) {
	const response = await fetch(url + request.url.replace(/^\/v1/, ''), {
		method: request.method,
		headers: {
			'content-type': 'application/json',
			authorization: request.headers.authorization ?? 'Bearer key',
		},
		body,
		signal: AbortSignal.timeout(TIMEOUT),
	});
	if (!response.ok)
		throw new Error(`${url}: ${response.status}`);
	return response.text();
}

async function failover(request, body) {
	const problems = [];
	for (const url of urls) {
		try {
			return [200, await ask(url, request, body)];
		} catch (problem) {
			problems.push(problem.message);
		}
	}
	return [502, JSON.stringify({ error: { message: problems.join('; ') } })];
}

http.createServer(async (request, response) => {
	const chunks = [];
	for await (const chunk of request)
		chunks.push(chunk);
	const [status, text] = await failover(request, Buffer.concat(chunks));
	response.writeHead(status, { 'content-type': 'application/json' }).end(text);
}).listen(Number(port), '127.0.0.1');
