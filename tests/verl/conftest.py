"""verl warns of much when it is imported; its warnings are not ours."""

import contextlib
import warnings

with warnings.catch_warnings(), contextlib.suppress(ImportError):  # then the tests say what is missing
    warnings.simplefilter("ignore")
    import verl.experimental.agent_loop
    import verl.trainer.ppo.v1  # noqa: F401
