#!/usr/bin/env python3
"""A simulator of LLM providers for tests: see README.md beside this file."""

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import stat
import sys
import tempfile

import certs
from admin import Admin
from provider import BACKLOG, Listener, bind, tls_context
from state import State

EPILOG = """\
NAME=PORT[:https[:CERT]]  one virtual provider on 127.0.0.1; port 0 chooses a
free one. CERT is one of: %s.
When everything listens, one line of JSON with ports and URLs goes to standard
output or to --ready-file. The simulator ends on SIGTERM and SIGINT, and when
its standard input, if that is a pipe, is closed.
""" % ", ".join(certs.KINDS)


def listener_argument(text):
    """Parses NAME=PORT[:https[:CERT]]."""
    name, equals, rest = text.partition("=")
    port, _, scheme = rest.partition(":")
    scheme, _, cert = scheme.partition(":")
    if not name or not equals or not port.isdecimal() \
            or scheme not in ("", "http", "https") \
            or (cert and (scheme != "https" or cert not in certs.KINDS)):
        raise argparse.ArgumentTypeError(
            "%r is not NAME=PORT[:https[:CERT]]" % text)
    return name, int(port), (cert or "good") if scheme == "https" else None


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", metavar="SPEC", action="append",
                        type=listener_argument, default=[],
                        help="a virtual provider (may be repeated)")
    parser.add_argument("--admin", metavar="PORT", type=int, default=0,
                        help="port of the admin interface (default: chosen)")
    parser.add_argument("--certs", metavar="DIR",
                        help="keep CA and certificates here "
                        "(default: a temporary directory)")
    parser.add_argument("--ready-file", metavar="FILE",
                        help="write the ready line there instead")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the probabilities of rules (default: 0)")
    arguments = parser.parse_args()
    names = [name for name, _, _ in arguments.listen]
    if not names or len(set(names)) < len(names):
        parser.error("name at least one listener, and each only once")
    return arguments


def raise_descriptor_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Simulator:
    """Everything that one process runs."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.state = State(arguments.seed)
        self.listeners = {}
        self.admin_port = None
        self.cert_directory = None
        self.stopped = None

    async def run(self):
        self.stopped = asyncio.Event()
        try:
            await self.start()
            await self.stopped.wait()
        finally:
            if self.cert_directory and not self.arguments.certs:
                shutil.rmtree(self.cert_directory, ignore_errors=True)

    async def start(self):
        self.watch_signals()
        for name, port, cert in self.arguments.listen:
            context = None if cert is None \
                else tls_context(self.certs(), cert)
            self.listeners[name] = Listener(name, port, self.state, context)
        admin = Admin(self.state, self.listeners, self.describe)
        sock = bind(self.arguments.admin)
        self.admin_port = sock.getsockname()[1]
        self.server = await asyncio.start_server(admin.serve, sock=sock,
                                                 backlog=BACKLOG)
        self.tell_ready()

    def watch_signals(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        try:
            kind = os.fstat(0).st_mode
        except OSError:
            return
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
            loop.add_reader(0, self.stdin_readable)

    def stdin_readable(self):
        if not os.read(0, 4096):
            self.stopped.set()

    def certs(self):
        if self.cert_directory is None:
            self.cert_directory = self.arguments.certs \
                or tempfile.mkdtemp(prefix="llm_sim_")
            os.makedirs(self.cert_directory, exist_ok=True)
        return self.cert_directory

    def describe(self):
        return {
            "pid": os.getpid(),
            "admin": "http://127.0.0.1:%d" % self.admin_port,
            "ca_file": os.path.join(self.cert_directory, "ca.pem")
            if self.cert_directory else None,
            "listeners": {
                name: {"port": listener.port, "url": listener.url,
                       "mode": listener.mode}
                for name, listener in self.listeners.items()},
        }

    def tell_ready(self):
        line = json.dumps(self.describe()) + "\n"
        path = self.arguments.ready_file
        if path is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        with open(path + ".new", "w") as out:
            out.write(line)
        os.rename(path + ".new", path)


def main():
    arguments = parse_arguments()
    raise_descriptor_limit()
    try:
        asyncio.run(Simulator(arguments).run())
    except OSError as error:
        sys.exit("llm_sim: %s" % error)


if __name__ == "__main__":
    main()
