# gunicorn -c conf/gunicorn.conf.py project:app
#
# The settings, each with its reason, are in hgwire_wsgi/cli/gunicorn_settings.py, so that `hgwire serve` and this
# file cannot differ.  Put your own settings below the import.

from hgwire_wsgi.cli.gunicorn_settings import *  # noqa: F403  # All settings, including future ones.

bind = "127.0.0.1:8000"
