"""Imports `random` and `threading` without what they do after every fork. The zygote imports this module first.

`random` seeds itself anew, which every session does by itself; `threading` forgets threads, of which there are none.
Together they touch 150 pages that each session would then have to itself: more than half of what a fork takes.
"""

import os

_register = os.register_at_fork
os.register_at_fork = lambda **handlers: None
try:
    import random  # noqa: F401
    import threading  # noqa: F401
finally:
    os.register_at_fork = _register
