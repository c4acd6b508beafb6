"""`helm test`: opens a session in the operator's verification pool, calls a tool, and says what it answered.

    python call_a_tool.py HOST:PORT [NAMESPACE/STATEFULSET]

A pool that sleeps is woken first, by an annotation of its StatefulSet.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from astra_api.kube import Kube
from astra_api.records import ToolResult, Toolset, ToolSpec
from astra_operator.manifests.pool import STATEFUL_SET
from astra_operator.verification_pool import WAKE
from astra_sandbox.client import Retry, SandboxClient
from astra_sandbox.link import ClientTls

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = (ToolSpec(name="length", description="How long a text is.", parameters=SCHEMA),)
TOOLSET = Toolset(tools=TOOLS, source="def length(text):\n    return len(text)\n", state="stateless")
START = Retry(budget=240.0)  # seconds: until a pod that was woken serves


def wake(stateful_set: str) -> None:
    namespace, _, name = stateful_set.partition("/")
    Kube.connect().annotate(STATEFUL_SET, namespace, name, {WAKE: str(time.time())})


async def main(address: str, tls: ClientTls) -> int:
    client = SandboxClient([address], tls, retry=START)
    try:
        (session,) = await client.open_sessions(TOOLSET, 1, seed=0)
        outcome = await session.call("length", '{"text": "astra"}')
        await session.close()
    finally:
        await client.close()
    print(f"{address}: length('astra') gave {outcome.observation()}")
    return 0 if isinstance(outcome, ToolResult) and outcome.json_text == "5" else 1


FOLDER = Path(os.environ.get("ASTRA_TLS_DIR", "/tls"))
FILES = ((FOLDER / name).read_bytes() for name in ("client.crt", "client.key", "ca.crt"))
TLS = ClientTls(*FILES, server_name=os.environ.get("ASTRA_SERVER_NAME"))
for woken in sys.argv[2:]:
    wake(woken)
sys.exit(asyncio.run(main(sys.argv[1], TLS)))
