"""A blocking client for both versions of the wire protocol, on top of :mod:`http.client`.

::

    with V1Client("https://user@example.org/repo") as client:
        print(client.capabilities.words("compression"))
        with client.call("getbundle", {"common": 40 * "0"}) as reply, open("all.hg", "wb") as file:
            file.writelines(reply)
        heads, known = client.call_many([Call("heads"), Call("known", {"nodes": b""})])

    with V2Client("https://user@example.org/repo") as client:
        for part in client.exchange([Call("heads"), Call("branchmap")]):
            print(part.call, part.data)
"""

from .base import REPLY_BYTES, Call, Client, Outcome, Reply
from .capabilities import Capabilities
from .connection import Source
from .v1 import V1Client
from .v2 import APIS, Exchange, Part, V2Client

__all__ = [
    "APIS",
    "REPLY_BYTES",
    "Call",
    "Capabilities",
    "Client",
    "Exchange",
    "Outcome",
    "Part",
    "Reply",
    "Source",
    "V1Client",
    "V2Client",
]
