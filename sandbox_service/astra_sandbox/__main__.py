"""The sandbox server: `python -m astra_sandbox --listen ADDR`."""

import sys

from astra_sandbox.command import main

sys.exit(main())
