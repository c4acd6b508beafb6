"""What tests run as a stage: `stage_program WHAT`. It starts a process in a session of its own, as Ray does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SPOOL = Path(os.environ["ASTRA_VERL_JOB"]).parent


def main(what: str) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print("begun", flush=True)
    if what == "fail":
        print("ValueError: the learning rate is a fish")
        sys.exit(3)
    if what == "diagnosed":
        (SPOOL / "diagnosis.json").write_text(json.dumps({"message": "the worker Bob died"}))
    if what != "finish":
        time.sleep(600)
    (SPOOL / "metrics.jsonl").write_text("{}\n")


main(sys.argv[1])
