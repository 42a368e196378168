"""Settings of gunicorn for this application, each with its reason.

``hgwire serve`` starts from these.  A deployment uses them with ``gunicorn -c
python:hgwire_wsgi.cli.gunicorn_settings project:app``, or through ``conf/gunicorn.conf.py``, which imports them and
can change any.  Every public name here is a setting of gunicorn; releases of gunicorn ignore the settings that they do
not know.
"""

import os as _os

from .gunicorn_hooks import complete_logs as _complete_logs

worker_class = "gthread"
"""A clone occupies its thread for as long as the client downloads.  With ``sync`` it would occupy the whole worker,
and gunicorn would kill the worker after ``timeout``."""

workers = 2
"""Python runs one thread at a time, so the second process answers while the first one reads a large repository.
Every worker has its own repository objects: more workers than cores cost memory and gain nothing."""

threads = 128
"""Requests that one worker serves at once.  Slow clients wait in threads, which cost little, and not in processes.  A
quarter of the threads serves small commands only: each worker sends at most 72 bundles at once, and 71 to one address,
such as that of a build farm.  gunicorn starts a thread when all others are busy."""

preload_app = False
"""Repositories are opened in the worker, never before the fork: Mercurial's file handles, and compression contexts,
must not be shared between processes."""

limit_request_line = 8190
"""The maximum of gunicorn.  Clients put arguments into the query string when they do not send them in headers."""

limit_request_fields = 1000
"""Arguments arrive in ``X-HgArg-<N>`` headers of 1,024 bytes each.  gunicorn's default of 100 fields holds about 2,400
nodes; discovery on a repository with many heads sends more."""

limit_request_field_size = 8190
"""Bytes of one header: room for an application that sets ``httpheader`` to up to 8,000."""

timeout = 120
"""Seconds without a heartbeat after which a worker is killed.  ``gthread`` sends the heartbeat from a thread of its
own, so this does not limit how long a clone takes; it allows for one long call into C that holds the interpreter's
lock."""

graceful_timeout = 60
"""Seconds that transfers may continue after a shutdown was requested.  systemd kills after 90."""

keepalive = 65
"""Seconds that an idle connection stays open.  A client computes between its requests.  nginx keeps an idle connection
to its upstream for 60 seconds; the server must not close it first, or the next request would fail."""

worker_tmp_dir = "/dev/shm" if _os.access("/dev/shm", _os.W_OK) else None
"""Where the heartbeat's file is.  On a disk that is busy with a clone the heartbeat could be late; in memory it is
not."""

control_socket_disable = True
"""gunicorn 25 and later would otherwise create a control socket in the home directory of the user that starts it."""

post_fork = _complete_logs
"""The package's warnings go to gunicorn's error log, and the access log counts cached bundles, which gunicorn logs as 0
bytes otherwise.  The application learns the number of threads.  glibc keeps two heaps instead of eight per core, unless
``MALLOC_ARENA_MAX`` is set.  A configuration with a ``post_fork`` of its own calls this one from it."""
