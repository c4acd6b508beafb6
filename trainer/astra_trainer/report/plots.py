"""The plots of a report, one PNG each. Nothing is drawn of what a run does not have.

The colours are Okabe and Ito's, which colour-blind readers tell apart; lines differ by marker and dash as well.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from astra_api.plotting import QUIET, Plot
from astra_trainer.report.run_record import Line, RunRecord, series
from astra_trainer.report.wording import STAGE_NAMES, shortened
from astra_trainer.run_directory import Stage

_COLOURS: dict[Stage, str] = {"base": "#9aa0a6", "sft": "#0072B2", "rl": "#D55E00"}
_GREEN, _PINK, _SKY, _ORANGE, _BLUE, _QUIET = "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#0072B2", QUIET
_FEW = 40  # points: so many get markers
_DOMAINS = 16  # shown at most
STYLE: dict[str, Any] = {
    "axes.grid": True,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
}


def _success(axes: Axes, record: RunRecord) -> bool:
    names = ("success", "answer", "solved")
    figures = {
        stage: [series([line], f"holdout_{name}")[0] for name in names] for stage, line in record.evaluations.items()
    }
    if not any(_any(values) for values in figures.values()):
        return False
    width = 0.8 / len(figures)
    for number, (stage, values) in enumerate(figures.items()):
        places = [group + (number - (len(figures) - 1) / 2) * width for group in range(len(names))]
        axes.bar(places, values, width * 0.92, color=_COLOURS[stage], label=STAGE_NAMES[stage])
        bounds = [record.evaluations[stage].get(f"holdout_{name}_interval") or (math.nan, math.nan) for name in names]
        reach = [
            [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)],
        ]
        axes.errorbar(places, values, reach, fmt="none", ecolor=_QUIET, elinewidth=1, capsize=3)
    axes.set_xticks(range(len(names)), ("success", "right answer", "all steps solved"))
    axes.grid(visible=False, axis="x")
    return _finish(axes, None, "share of rollouts", share=True)


def _hops(axes: Axes, record: RunRecord) -> bool:
    figures = {stage: dict(line.get("hops_success") or {}) for stage, line in record.evaluations.items()}
    hops = sorted({int(count) for values in figures.values() for count in values})
    if not hops:
        return False
    for stage, values in figures.items():
        found = [series([values], str(count))[0] for count in hops]
        axes.plot(hops, found, marker="o", color=_COLOURS[stage], label=STAGE_NAMES[stage])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _finish(axes, "calls that a question needs", "success", share=True)


def _outcomes(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    kinds = (
        ("success", _GREEN, "o", "-"),
        ("early", _ORANGE, "s", "--"),
        ("cut", _PINK, "^", ":"),
        ("scraps", _BLUE, "v", "-."),
    )
    drawn = [
        _curve(axes, lines, series(lines, name), colour, name, marker, dash) for name, colour, marker, dash in kinds
    ]
    return any(drawn) and _finish(axes, "RL step", "share of rollouts", share=True)


def _held_out(axes: Axes, record: RunRecord) -> bool:
    if not record.evaluations:
        return False
    names = ("F1", "recall", "precision")
    figures = {
        stage: [series([line], f"holdout_{name.lower()}")[0] for name in names]
        for stage, line in record.evaluations.items()
    }
    width = 0.8 / len(figures)
    for number, (stage, values) in enumerate(figures.items()):
        places = [group + (number - (len(figures) - 1) / 2) * width for group in range(len(names))]
        bars = axes.bar(places, values, width * 0.92, color=_COLOURS[stage], label=STAGE_NAMES[stage])
        labels = ["" if math.isnan(value) else f"{value:.2f}" for value in values]
        axes.bar_label(bars, labels, padding=2, fontsize=8, color=_QUIET)
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    return _finish(axes, None, "mean over rollouts", share=True)


def _domains(axes: Axes, record: RunRecord) -> bool:
    shown = list(record.evaluations.items())[-2:]
    figures = {stage: dict(line.get("domain_f1") or {}) for stage, line in shown}
    domains = sorted({domain for values in figures.values() for domain in values})
    if not domains:
        return False
    hidden, domains = len(domains) - _DOMAINS, domains[:_DOMAINS]
    height = 0.8 / len(figures)
    for number, (stage, values) in enumerate(figures.items()):
        places = [row + (number - (len(figures) - 1) / 2) * height for row in range(len(domains))]
        numbers = [series([values], domain)[0] for domain in domains]
        bars = axes.barh(places, numbers, height * 0.92, color=_COLOURS[stage], label=STAGE_NAMES[stage])
        if len(domains) * len(figures) <= 16:
            labels = ["" if math.isnan(value) else f"{value:.2f}" for value in numbers]
            axes.bar_label(bars, labels, padding=3, fontsize=8, color=_QUIET)
    axes.set_yticks(range(len(domains)), [shortened(domain, 24) for domain in domains], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(visible=False, axis="y")
    more = f" ({hidden} more domains)" if hidden > 0 else ""
    return _finish(axes, f"F1, mean over rollouts{more}", None)


def _reward(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    means, spreads = series(lines, "reward_mean"), series(lines, "reward_std")
    if not _any(means):
        return False
    low = [max(0.0, mean - spread) if mean == mean else mean for mean, spread in zip(means, spreads, strict=True)]
    high = [min(1.0, mean + spread) if mean == mean else mean for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(_x(lines), low, high, color=_COLOURS["rl"], alpha=0.15, linewidth=0, label="± std")
    _curve(axes, lines, means, _COLOURS["rl"], "mean")
    kind = record.run.spec.rl.reward if record.run.spec.rl else "f1"
    return _finish(axes, "RL step", f"reward ({_reward_name(kind)})", share=True)


def _recall_precision(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    drawn = [
        _curve(axes, lines, series(lines, name), colour, name, marker, dash)
        for name, colour, marker, dash in (("recall", _GREEN, "o", "-"), ("precision", _PINK, "s", "--"))
    ]
    return any(drawn) and _finish(axes, "RL step", "mean over rollouts", share=True)


def _calls(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    drawn = _curve(axes, lines, series(lines, "tool_calls"), _COLOURS["rl"])
    return drawn and _finish(axes, "RL step", "calls per rollout", zero=True)


def _length(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    drawn = _curve(axes, lines, series(lines, "response_tokens"), _COLOURS["rl"])
    return drawn and _finish(axes, "RL step", "generated tokens per rollout", zero=True)


def _loss(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("sft")
    losses = series(lines, "loss")
    positive = [loss for loss in losses if loss > 0]
    drawn = _curve(axes, lines, losses, _COLOURS["sft"])
    if positive and max(positive) > 20 * min(positive):
        _logarithmic(axes, positive)
    return drawn and _finish(axes, "SFT step", "negative log-likelihood (nats per token)")


def _discarded(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    shares = series(lines, "discarded_share")
    if not _any(shares):
        return False
    axes.bar(_x(lines), shares, _bar_width(lines), color=_SKY)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _finish(axes, "RL step", "share of groups", share=True)


def _seconds(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    rollout, update = series(lines, "rollout_seconds"), series(lines, "update_seconds")
    if not _any(rollout) and not _any(update):
        return False
    below = [value if math.isfinite(value) else 0.0 for value in rollout]
    axes.bar(_x(lines), rollout, _bar_width(lines), color=_BLUE, label="rollouts")
    axes.bar(_x(lines), update, _bar_width(lines), bottom=below, color=_ORANGE, label="update")
    return _finish(axes, "RL step", "seconds", zero=True)


def _mismatch(axes: Axes, record: RunRecord) -> bool:
    lines = record.steps("rl")
    drawn: list[float] = []
    for name, colour, marker, dash in (("max", _PINK, "s", "--"), ("mean", _GREEN, "o", "-")):
        values = [value if value > 0 else math.nan for value in series(lines, f"logprob_mismatch_{name}")]
        _curve(axes, lines, values, colour, name, marker, dash)
        drawn += filter(math.isfinite, values)
    if not drawn:
        return False
    _logarithmic(axes, drawn)
    return _finish(axes, "RL step", "absolute difference (nats)")


_HELD_OUT, _RL, _REST = "Held-out environments", "Reinforcement learning", "Loss, batches and time"
PLOTS = (
    Plot(
        "success",
        _HELD_OUT,
        "Held-out success",
        "Every step solved and the answer right, with intervals of 95%",
        _success,
    ),
    Plot("hops", _HELD_OUT, "Held-out success by calls needed", "Of questions that need so many calls", _hops),
    Plot(
        "held_out",
        _HELD_OUT,
        "Held-out F1, recall and precision",
        "Never trained on; the same prompts and seeds at every stage",
        _held_out,
    ),
    Plot("domains", _HELD_OUT, "Held-out F1 by domain", "The last two stages", _domains),
    Plot("reward", _RL, "Reward", "All training rollouts of a step, discarded groups included", _reward),
    Plot(
        "outcomes",
        _RL,
        "Success, and what goes wrong",
        "Early: answered after too few calls; cut: by a limit; scraps: of a call in the answer",
        _outcomes,
    ),
    Plot(
        "recall_precision",
        _RL,
        "Recall and precision",
        "Recall: sub-questions solved; precision: calls that solved one",
        _recall_precision,
    ),
    Plot("calls", _RL, "Tool calls per prompt", "Failed and irrelevant calls included", _calls),
    Plot("length", _RL, "Response length", "Generated tokens; tool responses do not count", _length),
    Plot("loss", _REST, "SFT loss", "Of the assistant's tokens", _loss),
    Plot(
        "discarded", _REST, "Discarded groups", "A group whose rollouts all earned the same teaches nothing", _discarded
    ),
    Plot("seconds", _REST, "Where a step's time goes", "Rolling out, and updating the weights", _seconds),
    Plot(
        "mismatch",
        _REST,
        "Log-probabilities, sampler against trainer",
        "Near zero on-policy; more where a batch holds groups of earlier steps",
        _mismatch,
    ),
)


def _curve(
    axes: Axes,
    lines: Sequence[Line],
    values: Sequence[float],
    colour: str,
    label: str | None = None,
    marker: str = "o",
    dash: str = "-",
) -> bool:
    """A line over the steps, broken where there is no value. False when there is none at all."""
    if not _any(values):
        return False
    shown = marker if len(values) <= _FEW else ""
    axes.plot(_x(lines), values, dash, marker=shown, markersize=4, color=colour, label=label)
    return True


def _finish(axes: Axes, x: str | None, y: str | None, *, share: bool = False, zero: bool = False) -> bool:
    """Labels and limits; `share`: from 0 to 1, `zero`: from 0 on."""
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)
    if x and x.endswith("step"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if share:
        axes.set_ylim(0, 1.05)
    elif zero:
        axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9))
    return True


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A log scale with plain numbers at the powers of ten, and between them when there are few."""
    axes.set_yscale("log")
    few = max(values) < 100 * min(values)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _x(lines: Sequence[Line]) -> list[int]:
    return [int(line["step"]) for line in lines]


def _bar_width(lines: Sequence[Line]) -> float:
    return 0.8 * min((b - a for a, b in pairwise(_x(lines)) if b > a), default=1)


def _any(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)


def _reward_name(kind: str) -> str:
    return "F1" if kind == "f1" else kind
