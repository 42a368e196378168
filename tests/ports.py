"""Ports for the servers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that the system gives nobody for a minute, but lets a server have that asks for it by number.

    A port that was merely free may be another server's, or a client's, before ours has started.  One with a connection
    in TIME_WAIT is not free, and yet may be bound with SO_REUSEADDR, as servers do.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        address = listener.getsockname()
        with socket.create_connection(address, 60) as client:
            # Whoever closes first waits.
            listener.accept()[0].close()
            client.recv(1)
        return int(address[1])
