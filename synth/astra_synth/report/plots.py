"""The plots of a synthesis report, one PNG each. Nothing is drawn of what a run does not have.

The colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from astra_api.display import shortened
from astra_api.plotting import PALE, QUIET, Plot
from astra_synth.report.reading import Synthesis

PAPER_MEAN_HOPS = 4.37  # sub-questions of an instance (arXiv 2601.21558)
_BLUE, _ORANGE, _GREEN, _SKY, _QUIET, _PALE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", QUIET, PALE
_ROWS = 16  # shown at most
_SCENARIOS = ("single-hop", "parallel-single-hop", "multi-hop", "parallel-multi-hop")


def _yield(axes: Axes, synthesis: Synthesis) -> bool:
    stages = synthesis.accounts.stages()
    if not synthesis.accounts.records:
        return False
    places = range(len(stages))
    axes.barh(places, [stage.entered for stage in stages], 0.72, color=_PALE, label="entered")
    bars = axes.barh(places, [stage.passed for stage in stages], 0.72, color=_BLUE, label="passed")
    axes.bar_label(bars, [stage.yielded for stage in stages], padding=3, fontsize=8, color=_QUIET)
    axes.set_yticks(list(places), [stage.name for stage in stages])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * stages[0].entered)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("items")
    return True


def _reasons(axes: Axes, synthesis: Synthesis) -> bool:
    ranked = sorted(synthesis.reasons.items(), key=lambda entry: (-entry[1], entry[0]))
    return _bars(axes, {f"{reason} ({stage})": count for (stage, reason), count in ranked}, "rejects", _ORANGE)


def _domains(axes: Axes, synthesis: Synthesis) -> bool:
    ranked = sorted(synthesis.domains.items(), key=lambda entry: (-entry[1], entry[0]))
    return _bars(axes, dict(ranked), "environments", _GREEN)


def _languages(axes: Axes, synthesis: Synthesis) -> bool:
    ranked = sorted(synthesis.languages.items(), key=lambda entry: (-entry[1], entry[0]))
    return len(ranked) > 1 and _bars(axes, dict(ranked), "environments", _GREEN)


def _scenarios(axes: Axes, synthesis: Synthesis) -> bool:
    found = synthesis.scenarios
    return bool(found) and _bars(axes, {name: found[name] for name in _SCENARIOS}, "environments", _SKY)


def _hops(axes: Axes, synthesis: Synthesis) -> bool:
    if not synthesis.environments:
        return False
    _histogram(axes, synthesis.hops, "tool calls of a question")
    mean = synthesis.tool_steps / len(synthesis.environments)
    axes.axvline(mean, color=_BLUE, linewidth=1.6, label=f"mean {mean:.2f}")
    axes.axvline(PAPER_MEAN_HOPS, color=_ORANGE, linewidth=1.6, linestyle="--", label=f"the paper's, {PAPER_MEAN_HOPS}")
    return True


def _widths(axes: Axes, synthesis: Synthesis) -> bool:
    return bool(synthesis.environments) and _histogram(axes, synthesis.widths, "tool calls that may run at once")


def _quality(axes: Axes, synthesis: Synthesis) -> bool:
    judged = [record.quality for record in synthesis.accounts.records if record.quality]
    if not judged:
        return False
    names = ("dependency", "atomicity", "sequence", "completeness", "mean")
    means = {name: sum(getattr(quality, name) for quality in judged) / len(judged) for name in names}
    bars = axes.bar(list(means), list(means.values()), 0.62, color=[_SKY] * 4 + [_BLUE])
    axes.bar_label(bars, [f"{value:.2f}" for value in means.values()], padding=2, fontsize=8, color=_QUIET)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("mean over items that were kept on")
    return True


def _tokens(axes: Axes, synthesis: Synthesis) -> bool:
    stages = [stage for stage in synthesis.accounts.stages() if stage.usage.tokens]
    if not stages:
        return False
    places = range(len(stages))
    read = [stage.usage.prompt_tokens for stage in stages]
    axes.barh(places, read, 0.72, color=_SKY, label="prompt")
    written = [stage.usage.completion_tokens for stage in stages]
    axes.barh(places, written, 0.72, left=read, color=_BLUE, label="completion")
    axes.set_yticks(list(places), [stage.name for stage in stages])
    axes.invert_yaxis()
    axes.set_xlabel("tokens")
    return True


def _bars(axes: Axes, counts: Mapping[str, int], what: str, colour: str) -> bool:
    if not counts:
        return False
    shown = list(counts.items())[:_ROWS]
    bars = axes.barh(range(len(shown)), [count for _, count in shown], 0.72, color=colour)
    axes.bar_label(bars, padding=3, fontsize=8, color=_QUIET)
    names = [shortened(name, 44) for name, _ in shown]
    axes.set_yticks(range(len(shown)), names, parse_math=False)
    axes.tick_params(axis="y", labelsize=8 if len(shown) > 10 else 9)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    hidden = len(counts) - len(shown)
    axes.set_xlabel(what + (f" ({hidden} more kinds)" if hidden > 0 else ""))
    return True


def _histogram(axes: Axes, counts: Mapping[int, int], what: str) -> bool:
    values: Sequence[int] = range(min(counts), max(counts) + 1)
    bars = axes.bar(list(values), [counts.get(value, 0) for value in values], 0.8, color=_SKY)
    axes.bar_label(bars, padding=2, fontsize=8, color=_QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(what)
    axes.set_ylabel("environments")
    return True


PLOTS: Sequence[Plot[Synthesis]] = (
    Plot("yield", "Yield", "Yield by stage", "Items that entered each stage, and those that passed it", _yield),
    Plot("reasons", "Yield", "Rejects by reason", "Why things were thrown away, and in which stage", _reasons),
    Plot("quality", "Yield", "Quality", "The four dimensions that were judged, and their mean", _quality),
    Plot("tokens", "Yield", "Tokens by stage", "What the teacher and the judge read and wrote", _tokens),
    Plot("hops", "Environments", "Tool calls", "Beside the mean of the paper's 6,596 instances", _hops),
    Plot("scenarios", "Environments", "Scenario types", "By what the tool calls need of each other", _scenarios),
    Plot("widths", "Environments", "Parallelism", "The widest level of each step graph", _widths),
    Plot("domains", "Environments", "Domains", "The largest first", _domains),
    Plot("languages", "Environments", "Languages", "Of the questions", _languages),
)
