#!/usr/bin/env python3
"""A small HTTP proxy for tests: CONNECT tunnels, and plain requests by URL.

Prints its port, then a line of JSON for each request that reaches it: method,
target, and the headers that it could read. Options: --user NAME:PASSWORD wants
that Proxy-Authorization (else 407), --status N refuses each CONNECT with N.
Ends when its standard input does.
"""

import argparse
import asyncio
import base64
import json
import sys
from urllib.parse import urlsplit


async def read_head(reader):
    """The request line's words and the headers, by lower-case name."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = lines.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in rest)
    return first.split(" "), {name.lower(): value.strip()
                              for name, _, value in pairs}


async def pipe(reader, writer):
    """Copies until there is no more."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


class Proxy:
    def __init__(self, options):
        self.options = options
        self.wanted = options.user and "Basic " + base64.b64encode(
            options.user.encode()).decode()

    def refusal(self, method, headers):
        """The status to refuse a request with, or None."""
        if self.wanted and headers.get("proxy-authorization") != self.wanted:
            return 407
        return self.options.status if method == "CONNECT" else None

    async def serve(self, reader, writer):
        try:
            await self.serve_one(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def serve_one(self, reader, writer):
        """Serves one request, and what follows on its connection."""
        (method, target, _), headers = await read_head(reader)
        print(json.dumps({"method": method, "target": target,
                          "headers": headers}), flush=True)
        status = self.refusal(method, headers)
        if status:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n"
                         b"Connection: close\r\n\r\n" % status)
            await writer.drain()
            writer.close()
            return
        url = urlsplit("//" + target if method == "CONNECT" else target)
        up_reader, up_writer = await asyncio.open_connection(url.hostname,
                                                             url.port or 80)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            headers.pop("proxy-connection", None)
            headers["connection"] = "close"
            up_writer.write(("%s %s HTTP/1.1\r\n%s\r\n" % (
                method, url.path, "".join(
                    "%s: %s\r\n" % pair for pair in headers.items())
            )).encode("latin-1"))
        await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--user")
    parser.add_argument("--status", type=int)
    proxy = Proxy(parser.parse_args())
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
