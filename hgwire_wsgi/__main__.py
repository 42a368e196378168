"""``python -m hgwire_wsgi``: the same as ``hgwire``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
