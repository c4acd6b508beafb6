"""Training at scale: verl's own programs on Ray, with vLLM rollouts, driven by a TrainingRun.

`stages` runs each stage as a process of its own and commits what it reports; everything else here runs inside of verl's
processes, or says what they are to do (`overrides`). What a rollout, a reward, a group or a mixed-in tool is, the rest
of the trainer says, for every engine.
"""
