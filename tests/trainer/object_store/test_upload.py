"""Copying snapshots to stores that are processes of their own: all of it arrives, whatever happens meanwhile."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from object_stores import BUCKET, SECRET, Copying, Place, S3Server, SlowWay, free_port, make_snapshot

Start = Callable[..., Copying]
WEIGHTS = os.urandom(1 << 20) * 12  # more than one part of an upload
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "tokenizer/added.json": b"[]", "empty": b""}


def digests(place: Place, name: str) -> dict[str, str]:
    """Of a snapshot in a store, as its manifest names the files: what they really hold."""
    manifest = place.read(f"checkpoints/{name}/snapshot.json")
    assert manifest is not None, f"{name} is not whole"
    assert json.loads(manifest)["whole"] is True
    found = {}
    for file, entry in json.loads(manifest)["files"].items():
        content = place.read(f"checkpoints/{name}/{file}")
        assert content is not None
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size"], entry["sha256"])
        found[file] = entry["sha256"]
    return found


def on_disk(s3: S3Server) -> Place:
    return Place(
        f"s3://{BUCKET}/lab",
        s3.environment(),
        lambda name: s3.file(f"lab/{name}").read_bytes() if s3.file(f"lab/{name}").exists() else None,
    )


def test_snapshots_arrive_in_order_and_are_not_sent_twice(place: Place, tmp_path: Path, copying: Start) -> None:
    out = tmp_path / "run"
    made = {name: make_snapshot(out, name, FILES) for name in ("rl-10", "base-0", "sft-4")}
    (out / "checkpoints" / ".rl-20").mkdir()  # one that is in the making
    first = copying(place.url, out, place.environment)
    first.wait_until(lambda: len(first.told("uploaded")) == 3)
    made["rl-9"] = make_snapshot(out, "rl-9", {**FILES, "config.json": b"[]"})
    first.wait_until(lambda: len(first.told("uploaded")) == 4)
    assert first.finish() == 0
    assert first.told("uploaded") == ["base-0", "sft-4", "rl-10", "rl-9"]
    assert {name: digests(place, name) for name in made} == made
    again = copying(place.url, out, place.environment)
    assert again.finish() == 0, again.output
    assert again.told("sent") == [0, 0, 0, 0]


def test_a_snapshot_that_was_made_again_is_copied_again(place: Place, tmp_path: Path, copying: Start) -> None:
    out = tmp_path / "run"
    make_snapshot(out, "rl-1", {"weights": b"before"})
    process = copying(place.url, out, place.environment)
    process.wait_until(lambda: process.told("uploaded"))
    (out / "checkpoints" / "rl-1").rename(out / "gone")
    made = make_snapshot(out, "rl-1", {"weights": b"after!"})
    process.wait_until(lambda: len(process.told("uploaded")) == 2)
    assert process.finish() == 0, process.output
    assert digests(place, "rl-1") == made


@pytest.mark.parametrize("harm", ["corrupted", "truncated", "missing"])
def test_an_object_that_was_harmed_is_repaired(harm: str, s3: S3Server, tmp_path: Path, copying: Start) -> None:
    """One of the right size is believed only when a snapshot.json says that it was read back."""
    out, place = tmp_path / "run", on_disk(s3)
    made = make_snapshot(out, "sft-4", FILES)
    assert copying(place.url, out, place.environment).finish() == 0
    s3.stop()  # it remembers what is in its folders
    harmed = s3.file("lab/checkpoints/sft-4/model.safetensors")
    if harm == "corrupted":
        s3.file("lab/checkpoints/sft-4/snapshot.json").unlink()
        with harmed.open("r+b") as file:
            file.seek(len(WEIGHTS) // 2)
            file.write(b"bit rot")
    elif harm == "truncated":
        os.truncate(harmed, 17)
    else:
        harmed.unlink()
    s3.start()
    again = copying(place.url, out, place.environment)
    assert again.finish() == 0, again.output
    assert digests(place, "sft-4") == made
    assert again.told("sent") == [len(WEIGHTS)]  # and no other file


def test_killed_in_the_middle_it_sends_what_is_missing(s3: S3Server, tmp_path: Path, copying: Start) -> None:
    way = SlowWay(s3.port, rate=4e6)
    out, place = tmp_path / "run", on_disk(s3)
    slow = {**place.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}
    made = make_snapshot(out, "sft-4", {"a": WEIGHTS, "b": WEIGHTS})
    first = s3.file("lab/checkpoints/sft-4/a")
    process = copying(place.url, out, slow)
    process.wait_until(lambda: first.exists() and way.passed > 1.2 * len(WEIGHTS))
    process.kill()
    way.close()
    assert place.read("checkpoints/sft-4/snapshot.json") is None
    written = first.stat().st_mtime_ns
    again = copying(place.url, out, place.environment)
    assert again.finish() == 0, again.output
    assert digests(place, "sft-4") == made
    assert first.stat().st_mtime_ns == written
    assert again.told("sent") == [len(WEIGHTS)]


@pytest.mark.parametrize("away", ["gone", "hanging"])
def test_a_store_that_goes_away_for_a_while(away: str, s3: S3Server, tmp_path: Path, copying: Start) -> None:
    out, place = tmp_path / "run", on_disk(s3)
    out.mkdir()
    process = copying(place.url, out, place.environment, patience=120.0)
    process.wait_until(lambda: process.told("ready"))
    if away == "gone":
        s3.stop()
    else:
        s3.signal(signal.SIGSTOP)
    made = make_snapshot(out, "sft-4", FILES)
    process.wait_until(lambda: process.told("note"))
    assert place.url in process.told("note")[0]
    if away == "gone":
        s3.start()
    else:
        s3.signal(signal.SIGCONT)
    assert process.finish() == 0, process.output
    assert digests(place, "sft-4") == made


def test_a_store_that_stays_away_at_the_end_is_given_up(s3: S3Server, tmp_path: Path, copying: Start) -> None:
    out, place = tmp_path / "run", on_disk(s3)
    out.mkdir()
    process = copying(place.url, out, place.environment, patience=3.0)
    process.wait_until(lambda: process.told("ready"))
    s3.stop()
    make_snapshot(out, "sft-4", FILES)
    assert process.finish() == 1
    (failed,) = process.told("failed")
    assert failed.startswith(f"{place.url}: checkpoints/sft-4 could not be copied")
    assert SECRET not in "".join(process.output)


@pytest.mark.parametrize(
    ("url", "secret", "message"),
    [
        (f"s3://{BUCKET}/lab", "wrong-but-just-as-secret", "ACCESS_DENIED"),
        ("s3://no-such-bucket/lab", SECRET, "NO_SUCH_BUCKET"),
        (f"s3://{SECRET}:{SECRET}@{BUCKET}/lab", SECRET, "holds credentials"),
        ("s3:///lab", SECRET, "s3://BUCKET/FOLDER"),
        ("file://somewhere/lab", SECRET, "file:///mnt/snapshots"),
        ("file:///proc/nowhere", SECRET, "No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(
    url: str, secret: str, message: str, s3: S3Server, tmp_path: Path, copying: Start
) -> None:
    process = copying(url, tmp_path, s3.environment(secret))
    assert process.finish() == 2
    (refused,) = process.told("refused")
    assert refused.startswith("spec.checkpoint.objectStore.url: ")
    assert message in refused
    assert secret not in "".join(process.output)


def test_a_store_that_cannot_be_reached_is_not_called_bad_input(s3: S3Server, tmp_path: Path, copying: Start) -> None:
    nobody = {**s3.environment(), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    process = copying(f"s3://{BUCKET}/lab", tmp_path, nobody)
    assert process.finish() == 1
    assert "cannot be reached" in process.told("unreachable")[0]


def test_the_folder_of_another_run_is_left_alone(place: Place, tmp_path: Path, copying: Start) -> None:
    for name, content in (("mine", b"mine"), ("theirs", b"theirs")):
        make_snapshot(tmp_path / name, "base-0", {"weights": content})
    assert copying(place.url, tmp_path / "mine", place.environment, run="mine").finish() == 0
    other = copying(place.url, tmp_path / "theirs", place.environment, run="theirs")
    assert other.finish() == 2
    assert "another run of that name" in other.told("refused")[0]
    assert place.read("checkpoints/base-0/weights") == b"mine"


def test_it_ends_with_the_process_that_started_it(s3: S3Server, tmp_path: Path) -> None:
    """A trainer that is killed cannot end it, and the next one brings its own."""
    s3.signal(signal.SIGSTOP)  # it is waiting for the store meanwhile
    starts = (
        "import os, subprocess, sys, time\n"
        "arguments = [*sys.argv[1:], str(os.getpid())]\n"
        "command = [sys.executable, '-m', 'astra_trainer.object_store.upload', *arguments]\n"
        "print(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    paths = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", starts, f"s3://{BUCKET}/lab", "me", str(tmp_path), "600"],
        env={**os.environ, **s3.environment(), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        time.sleep(1.5)
        assert child.exists()
        parent.kill()
        parent.wait()
        end = time.monotonic() + 20
        while child.exists():
            assert time.monotonic() < end, "still there after 20 s"
            time.sleep(0.05)
