// queue_graphile.js: what graphile-worker does of the same work: a job is a
// request, and its answer is thrown away.
//
// node queue_graphile.js MODULES SOCKET_DIRECTORY URL COUNT CONCURRENCY < BODY
//
// Queues COUNT jobs, has them run, CONCURRENCY at once, and prints jobs/s from
// the start of the first to the end of the last.
'use strict';
const http = require('http');
const fs = require('fs');
const [modules, host, url, count, concurrency] = process.argv.slice(2);
const { run, runMigrations, Logger } = require(`${modules}/graphile-worker`);
const { Pool } = require(`${modules}/pg`);

const body = fs.readFileSync(0);
const agent = new http.Agent({ keepAlive: true, maxSockets: Number(concurrency) });
const headers = {
	'Content-Type': 'application/json',
	'Content-Length': body.length,
	Authorization: 'Bearer key',
};
let began = 0n;

const ask = () => new Promise((resolve, reject) => {
	if (began === 0n)
		began = process.hrtime.bigint();
	http.request(url, { method: 'POST', agent, headers }, (response) => {
		response.on('end', () => response.statusCode === 200 ?
			resolve() : reject(new Error(`status ${response.statusCode}`)));
		response.resume();
	}).on('error', reject).end(body);
});

(async () => {
	const pgPool = new Pool({ host, user: 'postgres', database: 'postgres', max: 20 });
	pgPool.on('error', console.error);
	pgPool.on('connect', (client) => client.on('error', console.error));
	const logger = new Logger(() => () => {});
	await runMigrations({ pgPool, logger });
	await pgPool.query(
		`SELECT count(graphile_worker.add_job('ask')) FROM generate_series(1, $1::int)`,
		[count]);
	const runner = await run({
		pgPool, logger, noHandleSignals: true, taskList: { ask },
		// what its manual recommends for throughput
		preset: {
			worker: {
				concurrentJobs: Number(concurrency),
				localQueue: { size: Number(concurrency) + 1 },
				completeJobBatchDelay: 10,
				failJobBatchDelay: 10,
			},
		},
	});
	let left = Number(count);
	await new Promise((resolve, reject) => {
		runner.events.on('job:error', ({ error }) => reject(error));
		runner.events.on('job:complete', () => --left === 0 && resolve());
	});
	console.log(Math.round(count * 1e9 / Number(process.hrtime.bigint() - began)));
	await runner.stop();
	await pgPool.end();
	process.exit(0);
})().catch((error) => {
	console.error(error);
	process.exit(1);
});
