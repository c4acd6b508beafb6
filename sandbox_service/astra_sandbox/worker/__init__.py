"""The untrusted side: the processes in which toolsets load and run. Standard library only, single-threaded.

    zygote     one per variant, in its containment; forks templates
    template   one per toolset: loads the source once; forks sessions
    session    one per rollout: runs tool calls until its socket closes

Nothing here is trusted by the server: it bounds every byte that comes back.
"""
