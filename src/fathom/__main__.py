"""``python -m fathom`` is ``fathom``."""

import os
import sys

from fathom.cli.main import main

try:
    code = main()
except SystemExit as end:
    code = int(end.code or 0)
if os.environ.get("WORLD_SIZE", "1") != "1":
    # One of several processes: torch's threads may abort an interpreter that is torn down, when all work is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
