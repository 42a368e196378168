"""Settings of gunicorn for this application: each one with its reason.

``hgwire serve`` starts from these.  A deployment uses them with ``gunicorn -c
python:hgwire_wsgi.cli.gunicorn_settings project:app``, or through ``conf/gunicorn.conf.py``, which imports them and
can change any.  Every public name here is a setting of gunicorn; a release of gunicorn that does not know one
ignores it.
"""

import os

worker_class = "gthread"
"""A clone occupies its thread for as long as the client downloads.  With ``sync`` it would occupy the whole worker,
and be killed after ``timeout``."""

workers = 2
"""Python runs one thread at a time, so the second process answers while the first one reads a large repository.
Every worker has repository objects of its own: more workers than cores cost memory and win nothing."""

threads = 8
"""Requests that one worker runs at once.  Slow downloads wait in threads, not in processes."""

preload_app = False
"""Repositories are opened in the worker, never before the fork: Mercurial's file handles, and compression contexts,
must not be shared between processes."""

limit_request_line = 8190
"""The largest that gunicorn allows.  Clients put arguments into the query string when they are not in headers."""

limit_request_fields = 1000
"""Arguments arrive in ``X-HgArg-<N>`` headers of 1,024 bytes each.  gunicorn's default of 100 fields is reached at
about 2,400 nodes, which a discovery on a repository with many heads sends."""

limit_request_field_size = 8190
"""One header.  Room for an application that offers ``httpheader`` up to 8,000 bytes."""

timeout = 120
"""Seconds without a heartbeat until a worker is killed.  With ``gthread`` the heart beats beside the requests, so
this does not bound the length of a clone; it leaves room for one long call into C that holds the interpreter's
lock."""

graceful_timeout = 60
"""Seconds that transfers may go on after a shutdown was asked for.  systemd kills after 90."""

keepalive = 65
"""Seconds that an idle connection stays open.  A client computes between its requests, and nginx keeps a connection
to its upstream for 60 seconds: the side that sends the next request must not be the last to learn of the close."""

worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""The heartbeat is a file.  On a disk that is busy with a clone it could be late; memory never is."""

control_socket_disable = True
"""gunicorn 25 and later would otherwise open a control socket in the home directory of whoever starts it."""
