"""How fast a teacher's answers become environments, when the teacher takes no time.

    python bench/synthesis.py [--count 100] [--level process]

The teacher is the scripted one of the tests, in a process of its own on this machine. Says how long the run took, what
1,000 environments would take, and where the processor time went: the pipeline, the sandbox, the teacher.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from astra_api.synthesis_run import SynthesisRun
from astra_sandbox.interface import Isolation
from astra_sandbox.launching import launch_local
from astra_synth.run import open_run, synthesize

TEACHER = Path(__file__).parents[1] / "tests" / "synth" / "scripted_teacher.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--level", choices=[level.name.lower() for level in Isolation], default="process")
    options = parser.parse_args()
    with subprocess.Popen([sys.executable, str(TEACHER), "--port", "0"], stdout=subprocess.PIPE, text=True) as teacher:
        assert teacher.stdout is not None
        try:
            url = teacher.stdout.readline().strip()
            asyncio.run(measure(url, options.count, Isolation[options.level.upper()]))
        finally:
            teacher.terminate()
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of the teacher and the sandbox together: {total.ru_utime + total.ru_stime:.1f} s")


async def measure(url: str, count: int, level: Isolation) -> None:
    """Runs twice and prints what it took: the teacher is asked, then its answers are there already."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, answers = prepared(folder, url, count), folder / "answers"
        for what in ("asked", "kept"):
            source = open_run(run, folder, answers)  # loads libraries and a language model, once a run
            before, mine = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
            async with launch_local(level=level) as sandbox:
                start = time.perf_counter()
                status = await synthesize(run, source, sandbox, folder / what, lambda *_: None)
                seconds = time.perf_counter() - start
            mine = time.process_time() - mine
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            sandboxes = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            calls = sum(1 for _ in answers.glob("??/*.json"))
            print(f"{calls} calls {what}: {status.produced} environments, {status.rejected} rejects, {seconds:.1f} s")
            print(f"  1,000 environments at this rate: {1000 * seconds / max(1, status.produced) / 60:.1f} minutes")
            each = (
                f"pipeline {mine / count * 1e3:.0f} ms",
                f"sandbox ({level.name.lower()}) {sandboxes / count * 1e3:.0f} ms",
            )
            print(f"  processor time an environment: {', '.join(each)}")


def prepared(folder: Path, url: str, count: int) -> SynthesisRun:
    lines = [{"domain": "harbours", "text": f"The register of Port-{number:04d}."} for number in range(2 * count)]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"type": "knowledge", "path": "seeds.jsonl", "languages": ["en", "de", "zh"], "statefulShare": 0.2}
    teacher = {"baseUrl": url, "model": "scripted", "concurrency": 8}
    spec = {"count": count, "seed": 1, "teacher": teacher, "environments": {"source": source}}
    return SynthesisRun.model_validate({"metadata": {"name": "bench"}, "spec": spec})


if __name__ == "__main__":
    main()
