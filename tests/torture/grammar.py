#!/usr/bin/env python3
"""Thousands of requests made by a grammar: some right, most wrong in one or several places.

Usage: grammar.py [--requests N] [--seed N] [--clients N] [--hgweb]

Every request gets an answer within ten seconds.  No status is a 5xx, except 503 with ``Retry-After``; the log has no
traceback; the server stays alive, its memory bounded, and the repository unharmed.
"""

from __future__ import annotations

import collections
import contextlib
import random
import socket
import threading
import time
from urllib.parse import quote

from torture_support import Report, Server, hg, make_repository, parser, scratch, server, tracebacks
from transfers import connect

DEADLINE = 10
"""Seconds that an answer may take."""

GROWTH = 64
"""MiB by which the server may grow after the first quarter of the requests."""

COMMANDS = (
    *("heads", "capabilities", "listkeys", "lookup", "branchmap", "known", "between", "branches", "changegroup"),
    *(
        "changegroupsubset",
        "getbundle",
        "batch",
        "hello",
        "stream_out",
        "clonebundles",
        "pushkey",
        "unbundle",
        "protocaps",
    ),
    *("", "nosuch", "heads%00", "h%C3%A9", "..", "heads&cmd=unbundle", "x" * 300),
)
PATHS = (
    *("/repo", "/repo/", "//repo", "/", "/repo/.hg/lfs/objects/aa", "/repo.git/info/lfs/objects/batch", "/repo/api"),
    *("/repo/%2e%2e/repo", "/%00", "/repo/%ff%fe", "/none", "/repo/" + "a/" * 200, "/%C3%A9", "/repo/.hg", "*"),
)
METHODS = ("GET", "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "BREW")
NAMES = (
    *("heads", "common", "nodes", "roots", "bases", "key", "namespace", "old", "new", "pairs", "cmds", "bundlecaps"),
    *("listkeys", "cg", "cbattempted", "bookmarks", "phases", "obsmarkers", "*", "bundleheads", "", "\u00e9"),
)
NODE = "0" * 40


class Grammar:
    """Makes requests.

    Args:
        seed: of the random numbers.
        tip: the node of a changeset that exists.
        bundle: a bundle that the server has already.
    """

    def __init__(self, seed: object, tip: str, bundle: bytes) -> None:
        self._random = random.Random(repr(seed))
        self._tip = tip
        self._bundle = bundle

    def request(self) -> bytes:
        """One request, complete, so that every server answers it."""
        choose, chance = self._random.choice, self._random.random
        target = choose(PATHS) if chance() < 0.3 else "/repo"
        arguments = "&".join(self._argument() for _ in range(self._random.randrange(4)))
        query, headers = f"cmd={choose(COMMANDS)}", []
        place = self._random.randrange(4)
        body = self._body() if chance() < 0.4 else b""
        if place == 0 and arguments:
            query += "&" + arguments
        elif place == 1:
            headers += [
                f"X-HgArg-{number}: {arguments[offset : offset + 50]}"
                for number, offset in enumerate(range(0, len(arguments), 50), choose((1, 1, 1, 0, 2)))
            ]
        elif place == 2:
            body = arguments.encode() + body
            headers.append(f"X-HgArgs-Post: {choose((len(arguments), len(arguments), -1, 10**9, 'x', len(body) + 5))}")
        if chance() < 0.1:
            query = choose(("", "cmd", "cmd=%", "%=%", query * 20, query + "&=", "&&&&", quote(query)))
        return self._write(f"{choose(METHODS)} {target}?{query} HTTP/1.1", headers, body)

    def _write(self, line: str, headers: list[str], body: bytes) -> bytes:
        choose, chance = self._random.choice, self._random.random
        if chance() < 0.5:
            media = ("application/mercurial-0.1", "application/mercurial-0.2", "*/*", "text/html", "\u00e9", ";;q=")
            headers.append(f"Accept: {choose(media)}")
        if chance() < 0.5:
            protocol = ("0.1 0.2 comp=zstd,zlib,none,bzip2", "0.2 comp=", "0.1 0.2 comp=nosuch", "partial-pull", "\x7f")
            headers.append(f"X-HgProto-{choose((1, 1, 2))}: {choose(protocol)}")
        if chance() < 0.4:
            types = ("application/mercurial-0.1", "application/mercurial-0.2", "text/plain", "application/octet-stream")
            headers.append(f"Content-Type: {choose(types)}")
        if chance() < 0.05:
            headers.append("Authorization: " + choose(("Basic ====", "Basic YTpi", "Bearer x", "Negotiate")))
        if chance() < 0.3:
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:100], body[100:]) if part)
            headers.append("Transfer-Encoding: chunked")
            body = chunks + b"0\r\n\r\n"
        elif body or chance() < 0.5:
            headers.append(f"Content-Length: {len(body)}")
        self._random.shuffle(headers)
        head = "\r\n".join([line, "Host: localhost", "Connection: close", *headers, "", ""])
        return head.encode("latin-1", "replace") + body

    def _argument(self) -> str:
        return f"{self._random.choice(NAMES)}={self._value()}"

    def _value(self) -> str:
        node = self._random.choice((NODE, self._tip, "f" * 40, "1" * 40))
        return self._random.choice(
            (
                node,
                "+".join([node] * self._random.randrange(1, 40)),
                f"{node}-{self._tip}",
                *("bookmarks", "phases", "obsolete", "nosuch", "tip", "0", "1", "-1", "%00", "%zz", "", "a" * 2000),
                f"heads%20%3Bknown%20nodes%3D{node}",
                "batch%20cmds%3Dbatch",
                "%3B" * 50,
                "HG20,bundle2=HG20%250Achangegroup%253D01%252C02",
                str(10 ** self._random.randrange(400)),
            )
        )

    def _body(self) -> bytes:
        bundle = bytearray(self._bundle)
        bundle[self._random.randrange(len(bundle))] ^= 1 << self._random.randrange(8)
        cut = self._bundle[: self._random.randrange(len(self._bundle))]
        return self._random.choice(
            (b"", b"x", b"HG10UN", b"HG20\0\0\0\0", bytes(bundle), cut, self._bundle, bytes(70000))
        )


class Client(threading.Thread):
    """Sends requests and notes what comes back."""

    def __init__(self, served: Server, grammar: Grammar, requests: int) -> None:
        super().__init__()
        self._served, self._grammar, self._requests = served, grammar, requests
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[tuple[bytes, bytes]] = []
        self.slowest = 0.0

    def run(self) -> None:
        """Send all requests."""
        for _ in range(self._requests):
            request = self._grammar.request()
            started = time.monotonic()
            reply = self._ask(request)
            taken = time.monotonic() - started
            self.slowest = max(self.slowest, taken)
            status = reply[9:12].decode("latin-1") or "none"
            self.statuses[status] += 1
            declared = status == "503" and b"\r\nretry-after:" in reply.lower()
            if not status.isdigit() or (status >= "500" and not declared) or taken > DEADLINE:
                self.wrong.append((request, reply[:300]))

    def _ask(self, request: bytes) -> bytes:
        reply = b""
        with contextlib.suppress(OSError), connect(self._served.port) as connection:
            connection.settimeout(2 * DEADLINE)
            with contextlib.suppress(OSError):
                connection.sendall(request)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                reply = reply or data[:4096]
        return reply


def main() -> None:
    """Run the script."""
    options = parser(__doc__, requests=30_000, clients=4).parse_args()
    report = Report(f"{options.requests} requests made by a grammar")
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo")
        tip = hg("-R", repository, "log", "-r", "tip", "-T", "{node}")[1]
        hg("-R", repository, "bundle", "-q", "--all", "-t", "none-v1", folder / "bundle")
        bundle = (folder / "bundle").read_bytes()[:20_000]
        with server(folder, hgweb=options.hgweb) as served:
            clients, memory = [], 0.0
            for part, share in enumerate((0.25, 0.75)):
                each = round(options.requests * share / options.clients)
                made = [
                    Client(served, Grammar((options.seed, part, number), tip, bundle), each)
                    for number in range(options.clients)
                ]
                for client in made:
                    client.start()
                for client in made:
                    client.join()
                clients += made
                memory = memory if part else served.memory()
            grown = served.memory() - memory
            statuses = sum((client.statuses for client in clients), collections.Counter())
            wrong = [each for client in clients for each in client.wrong]
            report.figure("statuses", dict(sorted(statuses.items())))
            report.figure("slowest answer", f"{max(client.slowest for client in clients):.2f} s")
            report.figure("memory", f"{memory:.0f} MiB after a quarter, then {grown:+.1f} MiB")
            report.check(not wrong, "no undeclared 5xx, nothing unanswered", f"{len(wrong)}, such as {wrong[:2]}")
            report.check(grown < GROWTH, f"memory grows by less than {GROWTH} MiB", f"{grown:.1f}")
            report.check(served.answers("/repo?cmd=heads"), "the server is alive")
            log = served.log()
            report.check(not tracebacks(log), "no traceback in the log", f"{tracebacks(log)}: {log[-2000:]}")
        code, said = hg("-R", repository, "verify", code=None)
        report.check(code == 0, "the repository verifies", said)
    report.end()


if __name__ == "__main__":
    main()
