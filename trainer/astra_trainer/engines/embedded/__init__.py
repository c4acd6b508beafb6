"""verl's engine in one process. Importing this package readies verl for the device of this machine.

It comes first because verl settles on its platform when most of its modules are imported.
"""

from astra_trainer.engines.embedded.platform import activate

DEVICE = activate()  # `cuda` or `cpu`
