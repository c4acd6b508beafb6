"""Sampling for many rollouts at once from a Hugging Face model in this process: continuous batching over a KV cache.

A request joins the running batch as soon as it comes and leaves it when it ends, so a rollout that waits for its tool
holds nobody up. What a row computed is kept: the next turn of the same rollout, and the other rollouts of its group,
only compute what is new in their contexts.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from astra_trainer.compute import compute
from astra_trainer.generation import Generation
from astra_trainer.models import unsampled
from astra_trainer.row_cache import PrefixStore, RowCache
from astra_trainer.sampling import sample, uniforms

_DRAWS = 64  # uniforms fetched at a time
_PREFILL_TOKENS = 4096  # in one pass


@dataclass(eq=False)
class _Request:
    context: list[int]
    limit: int
    temperature: float
    seed: int
    future: "asyncio.Future[Generation]"
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)

    @property
    def cached(self) -> int:
        """Tokens whose keys and values its row holds: all but the last."""
        return len(self.context) + len(self.tokens) - 1

    def draw(self) -> float:
        if not self.temperature:
            return 0.0
        if len(self.draws) <= len(self.tokens):
            self.draws += uniforms(self.seed, len(self.draws), _DRAWS)
        return self.draws[len(self.tokens)]


class BatchedGenerator:
    """A `Generator` over one set of weights: make a new one when they changed.

    `memory` bounds, in bytes, the rows of the running batch (at least one always runs) and, with the same amount,
    what is kept for reuse. Raises ValueError for a model whose attention is not full causal attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: Collection[int],
        *,
        rows: int = 64,
        memory: int = 1 << 29,
    ):
        if reason := unsampled(model.config):
            raise ValueError(f"{reason}; only full attention is supported")
        self._model = model
        self._stops = frozenset(stop_ids)
        self._most_rows = rows
        self._memory = memory
        self._longest = int(model.config.max_position_embeddings)
        self._cache = RowCache(model.config, model.dtype, model.device)
        self._kept = PrefixStore(memory)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []  # request i is row i of the cache
        self._driver: asyncio.Task[None] | None = None
        self.generated = 0  # tokens sampled so far
        self.prefilled = 0  # context tokens computed so far; those found in the cache are not among them

    async def generate(self, context: Sequence[int], *, max_tokens: int, temperature: float, seed: int) -> Generation:
        """See `Generator`. Raises ValueError for an empty context."""
        if not context:
            raise ValueError("nothing to continue: the context is empty")
        limit = min(max_tokens, self._longest - len(context))
        if limit <= 0:
            return Generation([], [], False)
        loop = asyncio.get_running_loop()
        request = _Request(list(context), limit, temperature, seed, loop.create_future())
        self._waiting.append(request)
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        return await request.future

    async def _drive(self) -> None:
        """Runs the batch until nothing is left to do; a failure goes to everyone who waits for it."""
        await asyncio.sleep(0)  # let the others of a group ask too
        while self._waiting or self._running:
            try:
                finished = await compute(self._advance)
            except Exception as error:  # handed on, not handled: each caller raises it
                failed, self._running = [*self._running, *self._waiting], []
                self._waiting.clear()
                for request in failed:
                    if not request.future.done():
                        request.future.set_exception(error)
                return
            for request, ended in finished:
                if not request.future.done():
                    request.future.set_result(Generation(request.tokens, request.logprobs, ended))
            await asyncio.sleep(0)

    @torch.inference_mode()
    def _advance(self) -> list[tuple[_Request, bool]]:
        """Steps until some request has ended; returns those, each with whether a stop token ended it."""
        while True:
            self._admit()
            if not self._running:
                return []
            self._step()
            finished = []
            for row in range(len(self._running) - 1, -1, -1):
                request = self._running[row]
                ended = request.tokens[-1] in self._stops
                if ended or len(request.tokens) >= request.limit:
                    self._keep(row)
                    finished.append((request, ended))
                elif not request.future.done():  # its caller still waits
                    continue
                self._remove(row)
            if finished or not self._running:
                return finished

    def _step(self) -> None:
        """One more token for every row."""
        running = self._running
        lengths = [request.cached for request in running]
        span = max(lengths) + 1
        self._cache.reserve(len(running), span)
        last = [[(request.tokens or request.context)[-1]] for request in running]
        logits = self._forward(0, last, lengths, span)[:, -1]
        draws = [request.draw() for request in running]
        tokens, logprobs = sample(logits, [request.temperature for request in running], draws)
        for request, token, logprob in zip(running, tokens, logprobs, strict=True):
            request.tokens.append(token)
            request.logprobs.append(logprob)
        self.generated += len(running)

    def _forward(self, first: int, tokens: list[list[int]], starts: list[int], span: int) -> torch.Tensor:
        """Logits of each row's last given token; `tokens[i]` go to row `first + i` at position `starts[i]` and on."""
        device = self._model.device
        positions = torch.tensor(starts, device=device).unsqueeze(-1) + torch.arange(len(tokens[0]), device=device)
        self._cache.aim(first, positions, span)
        seen = torch.arange(span, device=device) <= positions.unsqueeze(-1)  # (rows, tokens, span)
        mask = torch.zeros(seen.shape, dtype=self._model.dtype, device=device).masked_fill_(~seen, float("-inf"))
        output = self._model(
            input_ids=torch.tensor(tokens, device=device),
            attention_mask=mask.unsqueeze(1),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits
        return logits

    def _admit(self) -> None:
        """Gives waiting requests rows, as many as fit, and computes what their contexts lack."""
        admitted: dict[tuple[int, ...], list[_Request]] = {}
        rows = len(self._running)
        longest = max((request.cached for request in self._running), default=0)
        while self._waiting and rows < self._most_rows:
            request = self._waiting[0]
            longest = max(longest, request.cached)
            if rows and (rows + 1) * (longest + 128) * self._cache.bytes_per_token > self._memory:
                break
            self._waiting.popleft()
            if not request.future.done():
                admitted.setdefault(tuple(request.context[:-1]), []).append(request)
                rows += 1
        if not admitted:
            return
        self._cache.reserve(rows, longest + 1)
        for chunk in self._chunks(list(admitted)):
            self._prefill(chunk)
            first = len(self._running)
            self._running += [admitted[prefix][0] for prefix, _ in chunk]
            for offset, (prefix, _) in enumerate(chunk):
                for twin in admitted[prefix][1:]:
                    self._cache.move(first + offset, len(self._running), len(prefix))
                    self._running.append(twin)

    def _chunks(self, prefixes: list[tuple[int, ...]]) -> Iterator[list[tuple[tuple[int, ...], int]]]:
        """Prefixes with how much of each the cache has, of similar missing lengths, a pass at a time."""
        found = []
        for prefix in prefixes:
            held = self._kept.find(prefix)
            found.append((len(prefix) - (held.shape[-2] if held is not None else 0), prefix, held))
        found.sort(key=lambda item: item[0])
        while found:
            count = 1
            while count < len(found) and (count + 1) * found[count][0] <= _PREFILL_TOKENS:
                count += 1
            chunk, found = found[:count], found[count:]
            for offset, (_, _, held) in enumerate(chunk):
                if held is not None:
                    self._cache.write(len(self._running) + offset, held)
            yield [(prefix, len(prefix) - missing) for missing, prefix, _ in chunk]

    def _prefill(self, chunk: list[tuple[tuple[int, ...], int]]) -> None:
        """Computes the rest of each prefix, in the rows after the running ones; shorter ones are padded at the end."""
        width = max(len(prefix) - start for prefix, start in chunk)
        if not width:
            return
        first = len(self._running)
        span = max(start for _, start in chunk) + width
        self._cache.reserve(first + len(chunk), span)
        tokens = [[*prefix[start:], *[0] * (width - len(prefix) + start)] for prefix, start in chunk]
        self._forward(first, tokens, [start for _, start in chunk], span)
        self.prefilled += sum(len(prefix) - start for prefix, start in chunk)
        for offset, (prefix, start) in enumerate(chunk):
            if 2 * start < len(prefix):  # a new prompt: the others of its group may come later
                self._kept.put(prefix, self._cache.read(first + offset, len(prefix)))

    def _keep(self, row: int) -> None:
        request = self._running[row]
        self._kept.put([*request.context, *request.tokens][: request.cached], self._cache.read(row, request.cached))

    def _remove(self, row: int) -> None:
        """Drops a row; the last one takes its place."""
        last = self._running.pop()
        if row < len(self._running):
            self._cache.move(len(self._running), row, last.cached)
            self._running[row] = last
