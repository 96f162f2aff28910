"""ksmd is stopped and its settings are put back, whatever happens; on a directory that looks like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowscope.errors import CowscopeError
from cowscope.lab import ksm

FILES = {
    "run": "0\n",
    "pages_to_scan": "100\n",
    "sleep_millisecs": "20\n",
    "smart_scan": "1\n",
    "use_zero_pages": "1\n",
    "full_scans": "7\n",
    "pages_scanned": "1234\n",
    "advisor_mode": "[none] scan-time\n",
}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ksmd's settings are."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(ksm, "_ROOM", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("run", "1\n", "run is 1"),
        ("run", "2\n", "run is 2"),
        ("advisor_mode", "none [scan-time]\n", "advisor"),
        ("run", None, "CONFIG_KSM"),
    ],
)
def test_what_keeps_ksmd_from_running_is_told(room: Path, name: str, text: str | None, reason: str) -> None:
    assert ksm.missing() == ""
    if text is None:
        (room / name).unlink()
    else:
        (room / name).write_text(text)
    assert reason in ksm.missing()


def test_passes_are_awaited(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ksmd at full speed, and zero pages merged like others."""
    during: dict[str, str] = {}

    def scan() -> None:
        during.update({name: (room / name).read_text().strip() for name in FILES})
        (room / "full_scans").write_text(str(int(during["full_scans"]) + 1))

    monkeypatch.setattr("os.sched_yield", scan)
    ksm.merge()
    assert [during[n] for n in ("run", "sleep_millisecs", "smart_scan", "use_zero_pages")] == [
        "1",
        "0",
        "0",
        "0",
    ]
    assert int((room / "full_scans").read_text()) == 7 + ksm._PASSES
    assert settings(room) == {**settings_at_first(), "run": "0"}
    assert ksm.scanned() == 1234


def test_a_daemon_that_does_not_move_is_given_up(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And left as it was found."""
    monkeypatch.setattr(ksm, "_PATIENCE_S", 0)
    with pytest.raises(CowscopeError, match="did not pass"):
        ksm.merge()
    assert settings(room) == {**settings_at_first(), "run": "0"}


def settings(room: Path) -> dict[str, str]:
    """What can be set."""
    return {name: (room / name).read_text().strip() for name in settings_at_first()}


def settings_at_first() -> dict[str, str]:
    """The same as it was."""
    names = ("run", "pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages")
    return {name: FILES[name].strip() for name in names}
