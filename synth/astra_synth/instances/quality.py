"""Four dimensions of quality, judged step by step, and their mean against a threshold (METHOD section 2)."""

from statistics import fmean

from astra_api.graph import terminal_steps
from astra_api.records import Record
from astra_synth.instances.checks import same_steps
from astra_synth.instances.plan import SCORE, Scores
from astra_synth.instances.refinement import Instance
from astra_synth.rejection import Rejected
from astra_synth.teacher import Enquiry


class Quality(Record):
    """Each dimension between 0 and 1, and their mean."""

    dependency: float  # depends_on exactly right, mean over steps
    atomicity: float  # one call each, mean over steps; a final summary without a tool is exempt
    sequence: float  # no forced serialisation, mean over steps
    completeness: float  # the steps answer the main question
    mean: float


async def judge(enquiry: Enquiry, instance: Instance, threshold: float) -> Quality:
    """The quality of an instance. Raises Rejected below the threshold."""
    plan = instance.plan
    scores = await enquiry.ask(
        SCORE,
        judge=True,
        check=lambda reply: same_steps(plan, [item.id for item in reply.steps]),
        plan=plan.shown(),
        summaries=_summaries(instance),
    )
    quality = quality_of(scores, instance)
    if quality.mean < threshold - 1e-9:
        told = ", ".join(f"{name} {value:.2f}" for name, value in quality)
        raise Rejected("LowQuality", f"{told}; {threshold:g} is asked for: {scores.why}"[:1000])
    return quality


def quality_of(scores: Scores, instance: Instance) -> Quality:
    """The arithmetic."""
    exempt = _summaries(instance)
    dependency = fmean(item.dependency for item in scores.steps)
    atomicity = fmean([item.atomicity for item in scores.steps if item.id not in exempt] or [1])
    sequence = fmean(item.sequence for item in scores.steps)
    return Quality(
        dependency=dependency,
        atomicity=atomicity,
        sequence=sequence,
        completeness=scores.completeness,
        mean=fmean([dependency, atomicity, sequence, scores.completeness]),
    )


def _summaries(instance: Instance) -> list[str]:
    ends = terminal_steps(instance.plan.as_steps())
    return [step.id for step in ends if step.id not in instance.tool_steps]
