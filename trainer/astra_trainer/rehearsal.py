"""A TrainingRun checked before anything of it runs: what it would do, and what would keep it from it.

Nothing is written into its directory, no sandbox is started, and no weights are read. What only executing shows (gold
steps, the isolation in force, whether an object store takes objects) is left to the run.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from astra_api.display import duration
from astra_api.environment import Environment
from astra_api.errors import BadInput
from astra_api.training_run import FilesDataset, Model, Sft, TrainingRun
from astra_trainer.chat import ChatFormat, ChatTemplateError
from astra_trainer.file_dataset import load_demonstrations
from astra_trainer.gguf_files import gguf_file
from astra_trainer.local_run import check_given
from astra_trainer.mixing import ToolMixer
from astra_trainer.pipeline import digest_of, split_of
from astra_trainer.planning import DEFAULT, assume, cpu, gpu, make_plan, shape_of
from astra_trainer.rollout import PromptTooLong, episode_prompt
from astra_trainer.run_directory import claim
from astra_trainer.split import EnvironmentSplit
from astra_trainer.supervision import not_held_out, short_enough
from astra_trainer.workplace import mixing_settings, rollout_settings


@dataclass
class Rehearsal:
    """What was found: facts as (what, said), problems that the plan has, and what to think about."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def rehearse(run: TrainingRun, environments: Sequence[Environment], out: Path | None) -> Rehearsal:
    """Checks a run, its environments, its model and its data set, and `out` if it is given. Raises BadInput."""
    split = split_of(run, environments)
    if out is not None:
        claim(out, run, digest_of(environments))
    check_given(run, out or Path(os.devnull))
    found = Rehearsal()
    found.facts.append(("run", f"{run.metadata.name}, engine {run.spec.engine}, seed {run.spec.seed}"))
    domains = len({environment.spec.domain for environment in environments})
    counts = f"{len(split.train)} to train on, {len(split.holdout)} held out, {domains} domains"
    found.facts.append(("environments", counts))
    with tempfile.TemporaryDirectory(prefix="astra-") as folder:
        chat, said = _chat(run, split, Path(folder) / "model")
    found.facts.append(("model", said))
    tokens = _prompt_tokens(run, split, chat, found) if chat is not None else None
    demonstrations = _demonstrations(run.spec.sft, split, chat, found) if run.spec.sft is not None else None
    _plan(run, demonstrations, tokens, found)
    return found


def _chat(run: TrainingRun, split: EnvironmentSplit, folder: Path) -> tuple[ChatFormat | None, str]:
    """How the model is talked to, as far as that is known without its weights, and what it is."""
    from astra_trainer.models import load_tokenizer, prepare_model
    from astra_trainer.tiny import TinyModel

    model = run.spec.model
    if model.gguf is not None:
        return None, f"{gguf_file(model.gguf)}, to be unpacked"
    if model.name is not None and not _is_here(model):
        return None, f"{model.name}, to be downloaded"
    if model.preset is not None:
        folder.mkdir()
        TinyModel(practice=()).build(split.train, run.spec.seed, folder)
    else:
        folder = prepare_model(model, folder, split.train, run.spec.seed)
    try:
        return ChatFormat(load_tokenizer(folder)), str(model.name or model.path or f"{model.preset}, to be made")
    except ChatTemplateError as error:
        raise BadInput(f"spec.model: {error}") from None


def _is_here(model: Model) -> bool:
    """Whether a model of the hub is in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(str(model.name), "config.json"), str)
    except HFValidationError:
        return True  # no name of the hub: preparing it says so


def _prompt_tokens(run: TrainingRun, split: EnvironmentSplit, chat: ChatFormat, found: Rehearsal) -> float:
    """Mean tokens of the prompts that fit. Raises BadInput where none does that is held out, or trained on."""
    mixer = ToolMixer([*split.train, *split.holdout], mixing_settings(run), pool=split.train)
    settings = rollout_settings(run, 1.0)
    lengths: list[int] = []
    for side, environments in (("held-out environment", split.holdout), ("environment to train on", split.train)):
        failures: list[PromptTooLong] = []
        for number, environment in enumerate(environments):
            episode = mixer.episode(environment, seed=run.spec.seed, index=number, step=0)
            try:
                lengths.append(len(episode_prompt(episode, chat, settings)))
            except PromptTooLong as error:
                failures.append(error)
        if len(failures) == len(environments):
            raise BadInput(f"no {side} could be rolled out: {failures[0]}")
        if failures:
            found.warnings.append(f"{len(failures)} of {len(environments)} {side}s are left out: {failures[0]}")
    return fmean(lengths)


def _demonstrations(sft: Sft, split: EnvironmentSplit, chat: ChatFormat | None, found: Rehearsal) -> int | None:
    """How many SFT learns from; None if that is not known yet."""
    dataset = sft.dataset
    if not isinstance(dataset, FilesDataset):
        count = min(len(split.train), dataset.limit or len(split.train)) * dataset.samples
        found.facts.append(("SFT data", f"{count} demonstrations, by executing gold steps"))
        return count
    if chat is None:
        found.facts.append(("SFT data", f"{dataset.path}, to be read once the model is here"))
        return None
    data = load_demonstrations(Path(dataset.path), chat, found.warnings.append)
    count = len(short_enough(not_held_out(data, split.holdout), sft))
    longer = f", {len(data) - count} longer than {sft.max_length} tokens left out" if count < len(data) else ""
    found.facts.append(("SFT data", f"{dataset.path}: {count} demonstrations{longer}"))
    return count


def _plan(run: TrainingRun, demonstrations: int | None, prompt_tokens: float | None, found: Rehearsal) -> None:
    spec = run.spec
    found.facts.append(("steps", ", then ".join(_steps(run, demonstrations)) or "an evaluation alone"))
    device = gpu(DEFAULT) if spec.trainer.gpus_per_node else cpu(os.cpu_count() or 1, None)
    try:
        shape = shape_of(spec.model)
        assumptions = assume(
            spec,
            is_gpu=device.is_gpu,
            layers=shape.layers,
            demonstrations=demonstrations,
            prompt_tokens=prompt_tokens,
        )
        plan = make_plan(run, shape, device, assumptions)
    except BadInput as error:
        found.warnings.append(f"no plan of its time: {error}")
        return
    hours = plan.totals.hours
    time = "not known" if hours is None else f"about {duration(hours * 3600)} of training on {device.name}"
    found.facts.append(("time", f"{time}; astra plan says what that assumes"))
    found.facts.append(("disk", f"{plan.checkpoints.bytes / 1e9:.2f} GB of checkpoints and states"))
    found.problems += [f"{problem.field}: {problem.message}" for problem in plan.problems]


def _steps(run: TrainingRun, demonstrations: int | None) -> Iterator[str]:
    spec = run.spec
    if spec.sft is not None:
        known = None if demonstrations is None else spec.sft.epochs * -(-demonstrations // spec.sft.batch_size)
        yield f"{'an unknown number' if known is None else known} of SFT"
    if spec.rl is not None:
        yield f"{spec.rl.steps} of RL"
