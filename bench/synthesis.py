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
    """Runs once and prints what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = prepared(folder, url, count)
        start, mine = time.perf_counter(), time.process_time()
        async with launch_local(level=level) as sandbox:
            begin = time.perf_counter()
            status = await synthesize(run, open_run(run, folder), sandbox, folder / "out", lambda *_: None)
            seconds = time.perf_counter() - begin
        mine = time.process_time() - mine
        calls = sum(1 for _ in (folder / "out" / "teacher").glob("??/*.json"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sandboxes = used.ru_utime + used.ru_stime
    print(f"{level.name.lower()}: {status.produced} environments, {status.rejected} rejects, {calls} calls")
    print(f"{seconds:.1f} s ({time.perf_counter() - start:.1f} s with the start of the sandbox)")
    print(f"1,000 environments at this rate: {1000 * seconds / max(1, status.produced) / 60:.1f} minutes")
    print(
        f"processor time an environment: pipeline {mine / count * 1e3:.0f} ms, sandbox {sandboxes / count * 1e3:.0f} ms"
    )


def prepared(folder: Path, url: str, count: int) -> SynthesisRun:
    lines = [{"domain": "harbours", "text": f"The register of Port-{number:04d}."} for number in range(2 * count)]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"type": "knowledge", "path": "seeds.jsonl", "languages": ["en", "de", "zh"], "statefulShare": 0.2}
    teacher = {"baseUrl": url, "model": "scripted", "concurrency": 8}
    spec = {"count": count, "seed": 1, "teacher": teacher, "environments": {"source": source}}
    return SynthesisRun.model_validate({"metadata": {"name": "bench"}, "spec": spec})


if __name__ == "__main__":
    main()
