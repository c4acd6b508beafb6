"""What a plan takes for granted: each number that the manifest, the model's shape and data sheets do not give."""

from typing import Annotated, Any

from pydantic import Field

from astra_api.errors import BadInput
from astra_api.records import Record
from astra_api.training_run import Rl, TrainingRunSpec

Count = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _why(text: str, option: str | None = None) -> Any:
    return Field(description=text, json_schema_extra={"option": option} if option else None)


class Assumptions(Record):
    """What rollouts are like, and what hardware gives of what it promises. `rows` lists them for people."""

    prompt_tokens: Annotated[
        Positive, _why("tokens of a prompt: 400, and 200 for each of 4 tools and of those mixed in", "--prompt-tokens")
    ]
    tokens_per_rollout: Annotated[
        Positive,
        _why("generated tokens of a rollout: 4.37 sub-questions of 899 (arXiv 2601.21558)", "--tokens-per-rollout"),
    ]
    calls_per_rollout: Annotated[
        Count,
        _why("tool calls of a rollout: 0.913 for each of 4.37 sub-questions (arXiv 2601.21558)", "--calls-per-rollout"),
    ]
    tool_tokens: Annotated[Count, _why("tokens of a tool's response")]
    tool_seconds: Annotated[Count, _why("from a call to its result", "--tool-seconds")] = 0.02
    longest_rollout: Annotated[
        float, Field(ge=1), _why("tokens and calls of a round's longest rollout, times the mean", "--longest-rollout")
    ] = 3.0
    discarded_share: Annotated[
        float,
        Field(ge=0, lt=1),
        _why("groups without a spread of rewards, rolled out for nothing", "--discarded-share"),
    ] = 0.25
    demonstrations: Annotated[
        int | None, Field(ge=1), _why("demonstrations of SFT; without them its length is not known", "--demonstrations")
    ] = None
    mfu: Annotated[
        Share, _why("share of the FLOP/s reached in training (recomputation not counted) and prefill", "--mfu")
    ]
    bandwidth_share: Annotated[
        Share, _why("share of the memory bandwidth reached in decoding", "--bandwidth-share")
    ] = 0.6
    token_seconds: Annotated[Count, _why("of a decoding step beside memory and arithmetic: launches, sampling")]
    reduce_seconds: Annotated[Count, _why("of each of a layer's two sums over the GPUs of a copy of the model")] = 15e-6
    update_seconds: Annotated[Count, _why("of an update beside arithmetic: data, optimizer")]
    switch_seconds: Annotated[
        Count, _why("of an RL step beside all else: batches handed over, vLLM's sleep and wake-up")
    ]
    link_bandwidth: Annotated[Positive, _why("bytes/s of a GPU to the others: weights gathered for vLLM")]
    host_bandwidth: Annotated[Positive, _why("bytes/s between a GPU and host memory: offloading")] = 25e9
    disk_bandwidth: Annotated[Positive, _why("bytes/s of a node to the disk of checkpoints")] = 1e9
    reserve: Annotated[
        float, Field(ge=0, lt=1), _why("share of a GPU left to CUDA, NCCL, a sleeping vLLM and fragmentation")
    ] = 0.1
    vllm_workspace: Annotated[Count, _why("bytes of a GPU that vLLM takes beside weights and KV cache")] = 3e9
    sessions_per_rollout: Annotated[int, Field(ge=1), _why("one of its own tools, one of mixed-in tools")] = 2

    @property
    def response_tokens(self) -> float:
        """After the prompt: the model's and the tools'."""
        return self.tokens_per_rollout + self.calls_per_rollout * self.tool_tokens

    @property
    def rollout_tokens(self) -> float:
        """Of a rollout, its prompt included."""
        return self.prompt_tokens + self.response_tokens

    @property
    def mean_context(self) -> float:
        """Tokens that a generated token sees, on average."""
        return self.prompt_tokens + self.response_tokens / 2

    def rows(self) -> list[tuple[str, float | None, str, str | None]]:
        """(name, value, what it is, the option that changes it) of each."""
        found = []
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            option = extra.get("option") if isinstance(extra, dict) else None
            found.append((name, getattr(self, name), info.description or "", str(option) if option else None))
        return found


def assume(spec: TrainingRunSpec, *, is_gpu: bool, layers: int, **given: float | None) -> Assumptions:
    """The assumptions of a run; `given` replaces defaults, None keeps them. Raises BadInput.

    Defaults of lengths and calls bow to the run's limits; what is given may not exceed them.
    """
    rl = spec.rl or Rl()
    found: dict[str, Any] = {
        "prompt_tokens": min(400 + 200 * (4 + 3 * rl.irrelevant_tools.per_band), rl.max_prompt_tokens),
        "tokens_per_rollout": min(4000, 0.8 * rl.max_response_tokens),
        "calls_per_rollout": min(4, rl.max_turns),
        "mfu": 0.35,
        "token_seconds": _token_seconds(spec, is_gpu, layers),
        "update_seconds": 1.0 if spec.engine == "verl" else 0.05,
        "switch_seconds": 0.0 if spec.engine == "embedded" else 10.0 if is_gpu else 2.0,
        "link_bandwidth": 100e9 if spec.trainer.nodes == 1 else 25e9,
        "demonstrations": _limit(spec),
    }
    if not is_gpu:
        found["reserve"] = 0.0
    found |= {name: value for name, value in given.items() if value is not None}
    _check("--prompt-tokens", found["prompt_tokens"], "spec.rl.maxPromptTokens", rl.max_prompt_tokens)
    _check("--tokens-per-rollout", found["tokens_per_rollout"], "spec.rl.maxResponseTokens", rl.max_response_tokens)
    if (limit := _limit(spec)) is not None:
        _check("--demonstrations", found["demonstrations"], "spec.sft.dataset.limit", limit)
    left = rl.max_response_tokens - found["tokens_per_rollout"]
    return Assumptions(**found, tool_tokens=min(100, left / max(found["calls_per_rollout"], 1)))


def _token_seconds(spec: TrainingRunSpec, is_gpu: bool, layers: int) -> float:
    """vLLM replays recorded graphs; the embedded sampler launches each layer anew. The CPU's is `astra demo`'s."""
    if spec.engine == "verl":
        return 5e-3
    return 1e-3 * (1 + layers) if is_gpu else 1e-2 + 2e-3 * layers


def _limit(spec: TrainingRunSpec) -> int | None:
    dataset = spec.sft.dataset if spec.sft is not None else None
    return dataset.limit if dataset is not None and dataset.type == "gold" else None


def _check(option: str, value: float, field: str, most: float) -> None:
    if value > most:
        raise BadInput(f"{option} {value:g}: exceeds {field} {most:g}; lower it")
