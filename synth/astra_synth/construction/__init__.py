"""From instances to environments: a tool a step, widened, called, written, run; then merged and put together."""
