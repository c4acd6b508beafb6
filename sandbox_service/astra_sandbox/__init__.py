"""Tool execution: the server of a sandbox pod, and the client that everyone uses to reach it.

astra_sandbox.interface    the protocols Sandbox and Session, and the error tree
astra_sandbox.client       SandboxClient: balances over servers, retries, replays lost sessions
astra_sandbox.fake         FakeSandbox: the same behaviour in memory, for tests
astra_sandbox.launching    launch_local: servers on this machine, in the strongest containment it offers
python -m astra_sandbox    the server
"""
