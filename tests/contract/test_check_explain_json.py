"""What docs/check-explain-json.md says of the JSON of check and explain is what they print."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.contract.json_on_paper import PAGE, SECTIONS, problems
from tests.views.test_views_story import beside

from cowscope.cli import explain as command
from cowscope.lab.search import Found
from cowscope.views import check, story
from cowscope.vm.policies import POLICIES


def test_the_page_names_the_versions() -> None:
    """Of both schemas."""
    for module in (check, story):
        assert f"`{module.SCHEMA}`, version {module.SCHEMA_VERSION}" in PAGE
        assert module.SCHEMA_VERSION == "1.0"
    assert set(SECTIONS) == {"check", "report", "page", "random", "explain", "chapter", "entry", "kernel"}
    assert all(SECTIONS.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_story_without_a_kernel(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command prints it, off Linux."""
    monkeypatch.setattr(command, "_stage", lambda: (None, "there is no Linux kernel"))
    done = CliRunner().invoke(command.explain, ["--policy", policy, "--json"])
    told = json.loads(done.stdout)
    assert list(problems(told, "explain")) == []
    assert (told["schema"], told["version"], told["policy"]) == ("cowscope.explain", "1.0", policy)
    assert all(chapter["kernel_missing"] for chapter in told["chapters"])


@pytest.mark.parametrize("policy", ["linux", "eager"])
def test_a_story_beside_a_kernel(policy: str) -> None:
    """One that agrees, and one that does not."""
    told = json.loads(json.dumps(story.as_json("It shows.", "linux", beside(policy))))
    assert list(problems(told, "explain")) == []
    assert all(chapter["kernel"] for chapter in told["chapters"])
    differing = [chapter["kernel"]["differing"] for chapter in told["chapters"]]
    assert any(differing) is (policy == "eager")


def test_a_comparison_with_a_disagreement() -> None:
    """Among the scenarios, and at random."""
    reports = [chapter.kernel.report for chapter in beside("eager") if chapter.kernel]
    done = check.Done(Found(7, report=reports[-1]), reports, 0.5, ["faults: needs root"], interrupted=True)
    told = json.loads(json.dumps(check.as_json(done)))
    assert list(problems(told, "check")) == []
    assert (told["schema"], told["version"]) == ("cowscope.check", "1.0")
    assert (told["agreed"], told["interrupted"]) == (False, True)
    assert told["random"]["disagreement"]["pages"]
    wrong = told["scenarios"][3]
    assert (wrong["step"], wrong["pages"][0]) == (
        "A fork B",
        {"process": "A", "page": "m[0]", "model": "A f1×2 mine", "kernel": "Ax f1×1 mine"},
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"schema": 1}, "$ has other keys: ["),
        ([], "$ has other keys: []"),
    ],
)
def test_the_reader_of_the_page_notices(value: object, problem: str) -> None:
    """Or the tests above would say nothing."""
    assert next(problems(value, "check")).startswith(problem)
    assert list(problems(True, "count")) == ["$ is no count: True"]
    assert list(problems([None], "list of text")) == ["$[0] is no text: None"]
