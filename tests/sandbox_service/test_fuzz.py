"""Whatever arrives at the gRPC surface is answered with an outcome or a fitting status, and the server lives on."""

import asyncio
import json
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from astra_api.records import Toolset
from astra_api.sandbox.v1 import sandbox_pb2 as pb
from astra_api.sandbox.v1 import sandbox_pb2_grpc as stubs
from astra_sandbox.wire import toolset_to_wire

pytestmark = pytest.mark.asyncio(loop_scope="module")
Code = grpc.StatusCode
REFUSALS = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED}
quietly = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(max_size=40)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
json_texts = jsons.map(json.dumps) | texts | st.just("[" * 5000)
limits = st.builds(
    pb.SessionLimits,
    call_seconds=st.floats(),
    cpu_seconds=st.floats(),
    memory_bytes=st.integers(0, 2**64 - 1),
    processes=st.integers(0, 2**32 - 1),
    open_files=st.integers(0, 2**32 - 1),
    file_bytes=st.integers(0, 2**64 - 1),
    output_bytes=st.integers(0, 2**64 - 1),
)
METHODS = ("PutToolset", "OpenSessions", "CallTool", "CloseSessions", "GetStatus")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def channel(tmp_path_factory: pytest.TempPathFactory, server: Any) -> Any:
    async with server(tmp_path_factory.mktemp("fuzz"), "--capacity", "16") as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
        assert process.returncode is None


async def answered(call: Any) -> Any:
    """The answer, or None for a refusal that fits."""
    try:
        async with asyncio.timeout(30):
            return await call
    except grpc.aio.AioRpcError as error:
        if error.code() in REFUSALS:
            return None
        raise


async def examples(strategy: st.SearchStrategy[Any], check: Any) -> None:
    """Draws examples in a thread, and checks each on this loop."""
    loop = asyncio.get_running_loop()

    @quietly
    @given(strategy)
    def draw(example: Any) -> None:
        asyncio.run_coroutine_threadsafe(check(example), loop).result(60)

    await asyncio.to_thread(draw)


async def sound(channel: Any, toolset: Toolset) -> None:
    """The server still does what it is for."""
    stub = stubs.SandboxServiceStub(channel)
    await stub.PutToolset(toolset_to_wire(toolset))
    ids = (await stub.OpenSessions(pb.OpenSessionsRequest(digest=toolset.digest, count=1))).session_ids
    call = pb.CallToolRequest(session_id=ids[0], call_id="1", tool="add", arguments_json='{"a": 1, "b": 1}')
    assert (await stub.CallTool(call)).result_json == "2"
    await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))


async def test_bytes_that_are_no_message(channel: Any, stateless: Toolset) -> None:
    async def check(example: tuple[str, bytes]) -> None:
        name, data = example
        method = channel.unary_unary(f"/astra.sandbox.v1.SandboxService/{name}")
        try:
            await method(data, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() not in {*REFUSALS, Code.INTERNAL, Code.UNKNOWN, Code.UNIMPLEMENTED}:  # gRPC's own
                raise

    await examples(st.tuples(st.sampled_from([*METHODS, "None"]), st.binary(max_size=200)), check)
    await sound(channel, stateless)


async def test_toolsets(channel: Any, stateless: Toolset) -> None:
    stub = stubs.SandboxServiceStub(channel)
    tools = st.builds(pb.Tool, name=texts | st.just("add"), description=texts, parameters_json=json_texts)
    puts = st.builds(
        pb.PutToolsetRequest,
        tools=st.lists(tools, max_size=3),
        source=texts | st.just("def add(): return 1"),
        state=st.sampled_from([0, 1, 2]),
    )

    async def check(put: pb.PutToolsetRequest) -> None:
        stored = await answered(stub.PutToolset(put))
        if stored is not None:
            opened = await answered(stub.OpenSessions(pb.OpenSessionsRequest(digest=stored.digest, count=1)))
            if opened is not None:
                await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=opened.session_ids))

    await examples(puts, check)
    await sound(channel, stateless)


async def test_openings(channel: Any, stateless: Toolset) -> None:
    stub = stubs.SandboxServiceStub(channel)
    await stub.PutToolset(toolset_to_wire(stateless))
    opens = st.builds(
        pb.OpenSessionsRequest,
        request_id=texts,
        digest=st.just(stateless.digest) | texts,
        count=st.integers(0, 20) | st.integers(0, 2**32 - 1),
        seed=st.integers(-(2**63), 2**63 - 1),
        limits=limits,
        variant=st.sampled_from([0, 0, 0, 1, 99, 2**32 - 1]),
    )

    async def check(request: pb.OpenSessionsRequest) -> None:
        opened = await answered(stub.OpenSessions(request))
        if opened is not None:
            assert len(opened.session_ids) == request.count
            await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=opened.session_ids))

    await examples(opens, check)
    await sound(channel, stateless)


async def test_calls_on_the_stream(channel: Any, stateless: Toolset) -> None:
    stub = stubs.SandboxServiceStub(channel)
    await stub.PutToolset(toolset_to_wire(stateless))
    ids = (await stub.OpenSessions(pb.OpenSessionsRequest(digest=stateless.digest, count=2))).session_ids
    calls = st.lists(
        st.builds(
            pb.CallToolRequest,
            session_id=st.sampled_from([*ids, "", "none"]),
            call_id=texts,
            tool=st.sampled_from(["add", "echo", "", "__import__"]) | texts,
            arguments_json=json_texts,
        ),
        max_size=8,
    )

    async def check(requests: list[pb.CallToolRequest]) -> None:
        stream = stub.Rollout()
        for request in requests:
            await stream.write(request)
        await stream.done_writing()
        async with asyncio.timeout(30):
            answers = [answer async for answer in stream]
        asked = sorted((request.session_id, request.call_id) for request in requests)
        assert sorted((answer.session_id, answer.call_id) for answer in answers) == asked
        for answer in answers:
            assert answer.WhichOneof("outcome")
            refused = {code.value[0] for code in REFUSALS}
            assert not answer.HasField("failure") or answer.failure.code in refused, answer

    await examples(calls, check)
    await stub.CloseSessions(pb.CloseSessionsRequest(session_ids=ids))
    await sound(channel, stateless)
