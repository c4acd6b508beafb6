"""`astra env verify` and `astra env show`, through the command line's own entry point."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astra_api.environment import Environment
from astra_api.manifests import load_manifests
from astra_cli.main import run

_GOOD = """\
apiVersion: astra.farm/v1alpha1
kind: Environment
metadata: {name: NAME}
spec:
  question: "Population of Paris, in $ and <b>?"
  answer: 2148000
  domain: travel
  scenario: single-hop
  steps:
    - {id: s1, question: "Population of Paris?", answer: ANSWER, call: {tool: population, arguments: {city: Paris}}}
    - {id: s2, question: "And so?", answer: 2148000, dependsOn: [s1]}
  tools:
    - name: population
      description: Population of a city at the last census.
      parameters:
        type: object
        properties:
          city: {type: string}
          unit: {type: string, enum: [people, thousands], default: people}
        required: [city]
        additionalProperties: false
  source: |
    _POPULATION = {"Paris": 2148000, "Rome": 2873000}

    def population(city, unit="people"):
        return _POPULATION[city] // (1000 if unit == "thousands" else 1)
"""


def _environment(name: str, answer: int = 2148000) -> str:
    return _GOOD.replace("NAME", name).replace("ANSWER", str(answer))


@pytest.fixture(autouse=True)
def _fastest_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTRA_ISOLATION", "process")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(_environment("good"))
    return file


def test_all_verified(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "verify", str(good)]) == 0
    out, err = capsys.readouterr()
    header, row = out.strip().splitlines()
    assert header.split() == ["name", "phase", "reason", "message"]
    assert row.split() == ["good", "Verified"]
    assert "sandbox containment: process" in err
    assert "1 verified" in err


def test_json_over_files_documents_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(_environment("one") + "---\n" + _environment("two", answer=5))
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}))
    assert run(["env", "verify", str(tmp_path / "deep"), str(alone), "--json", "--jobs", "2"]) == 1
    rows = json.loads(capsys.readouterr().out)
    keys = {"file", "document", "name", "phase", "digest", "checks", "reason", "message"}
    assert [set(row) for row in rows] == [keys, keys]
    assert [(row["name"], row["document"], row["phase"], row["reason"]) for row in rows] == [
        ("one", 1, "Verified", None),
        ("two", 2, "Rejected", "GoldMismatch"),
    ]
    assert rows[0]["file"] == str(folder / "two.yaml")
    assert rows[0]["digest"].startswith("sha256:")
    assert set(rows[0]["checks"].values()) == {"passed"}
    assert rows[1]["checks"]["gold"] == "failed"
    assert rows[1]["message"].startswith("spec.steps[0].call: ")


def test_a_bad_document_hides_no_good_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text(_environment("first") + "---\n" + _environment("bad").replace("answer:", "anwser:", 1))
    assert run(["env", "verify", str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    assert [(row["name"], row["phase"]) for row in json.loads(out)] == [("first", "Verified")]
    assert f"{file}: document 2: spec.anwser: unknown field" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("", "no document"),
        ("a: [", "line"),
        ("kind: Environment\n", "apiVersion"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "no document of kind Environment"),
    ],
)
@pytest.mark.parametrize("command", [["verify"], ["show"], ["verify", "--json"]])
def test_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: str | None, complaint: str
) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_text(content)
    assert run(["env", *command, str(file)]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert str(file) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["verify"], ["verify", "x.yaml", "--jobs", "0"], ["show"], ["no-such-command"], []]
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", *arguments]) == 2


def test_interrupting_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    file = tmp_path / "hangs.yaml"
    hanging = _environment("hangs").replace("return _POP", "while True: pass\n        return _POP")
    file.write_text(hanging + "  sandbox: {timeoutSeconds: 60}\n")
    program = "from astra_cli.main import main; main()"
    command = [sys.executable, "-c", program, "env", "verify", str(file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        assert "sandbox containment" in process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_show(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "show", str(good)]) == 0
    out = capsys.readouterr().out
    for text in ("Population of Paris, in $ and <b>?", "= 2148000", "single-hop", "s2", "reasoning"):
        assert text in out
    assert 'population(city: string, unit: "people" | "thousands" = "people")' in out


def test_show_draws_the_step_graph(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = tmp_path / "graph.png"
    assert run(["env", "show", str(good), "--png", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(png.read_bytes()[start : start + 4], "big") for start in (16, 20))
    assert width > height > 200  # two levels, side by side


def test_show_draws_in_any_script_and_over_levels(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    needs = ["[s1]", "[s1, t0]", "[s1, t1]", "[t0, t2]"]
    steps = "".join(
        f"    - {{id: t{index}, question: '步骤 {index} $x_1$', answer: 1, dependsOn: {parents}}}\n"
        for index, parents in enumerate(needs)
    )
    file.write_text(_environment("wide").replace("  tools:\n", steps + "  tools:\n"))
    assert run(["env", "show", str(file), "--png", str(tmp_path / "wide.png")]) == 0
    assert (tmp_path / "wide.png").stat().st_size > 10_000


def test_show_chooses_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(_environment("one") + "---\n" + _environment("two"))
    png = tmp_path / "two.png"
    assert run(["env", "show", str(file), "--png", str(png)]) == 2
    assert "--name (one, two)" in capsys.readouterr().err
    assert not png.exists()
    assert run(["env", "show", str(file), "--name", "three"]) == 2
    assert "one, two" in capsys.readouterr().err
    assert run(["env", "show", str(file), "--name", "two", "--png", str(png)]) == 0
    out = capsys.readouterr().out
    assert "two" in out
    assert "one" not in out


@pytest.mark.parametrize("png", ["no/such/folder/x.png", "x.nonsense"])
def test_a_picture_that_cannot_be_written(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], png: str
) -> None:
    assert run(["env", "show", str(good), "--png", str(tmp_path / png)]) == 2
    assert "--png" in capsys.readouterr().err


def test_a_cycle_is_shown_but_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cycle.yaml"
    file.write_text(_environment("cycle").replace("{id: s1,", "{id: s1, dependsOn: [s2],"))
    assert run(["env", "show", str(file)]) == 0
    assert run(["env", "show", str(file), "--png", str(tmp_path / "x.png")]) == 2
    assert "cycle" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["--help"], ["verify", "--help"], ["show", "--help"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", *command]) == 0
    if command != ["--help"]:
        assert "astra env" in capsys.readouterr().out


def test_the_command_line_starts_without_heavy_imports() -> None:
    program = "import sys, astra_cli.env; print(sorted({'torch', 'grpc', 'matplotlib', 'networkx'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(_environment("a") + "---\n" + _environment("b"))
    (tmp_path / "bad.yaml").write_text("kind: Environment\n")
    assert run(["env", "list", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "bad.yaml: document 1: apiVersion: required field is missing" in err
    rows = [line.split() for line in out.splitlines()]
    assert [row[:7] for row in rows[1:]] == [[name, "travel", "single-hop", "–", "1", "2", "1"] for name in "ab"]
    assert run(["env", "list", str(tmp_path / "a.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["hops"], row["steps"], row["tools"], row["verdict"]) for row in found] == [
        ("a", 1, 2, 1, None),
        ("b", 1, 2, 1, None),
    ]


def test_a_verdict_of_another_spec_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = "status: {phase: Verified, digest: 'sha256:" + "0" * 64 + "'}\n"
    (tmp_path / "a.yaml").write_text(_environment("a") + status)
    assert run(["env", "list", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] is None


def test_shown_as_json_it_is_the_manifest_that_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(_environment("a"))
    (tmp_path / "b.yaml").write_text(_environment("b"))
    for arguments, names in (([str(tmp_path / "a.yaml")], ["a"]), ([str(tmp_path)], ["a", "b"])):
        assert run(["env", "show", *arguments, "--json"]) == 0
        file = tmp_path / "again.json"
        file.write_text(capsys.readouterr().out)
        again = [manifest.resource for manifest in load_manifests([file])]
        assert [resource.metadata.name for resource in again] == names
        assert [resource for resource in again if isinstance(resource, Environment)] == [
            manifest.resource for name in names for manifest in load_manifests([tmp_path / f"{name}.yaml"])
        ]
        file.unlink()
