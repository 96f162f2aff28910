"""The two ways to observe: `RunningCommand` starts a program, `attach_to` joins one that runs.

Either leaves raw files in the recording's directory, which `finalise` turns into tables.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cowscope.errors import AccessDenied, CowscopeError, MissingRight, NoSuchProcess
from cowscope.linux import proc
from cowscope.linux.capabilities import Capability, effective
from cowscope.linux.perf_abi import Flag
from cowscope.linux.signal_witness import Witness
from cowscope.linux.signals import ENDING, FORWARDED, SignalQueue
from cowscope.recorder import census, interpreters
from cowscope.recorder.channels import NEW_TASK_EVENT
from cowscope.recorder.launch import Command, shell_status
from cowscope.recorder.probes import Probes
from cowscope.recorder.session import Limits, Progress, Session
from cowscope.recorder.setup import (
    Source,
    choose_source,
    make_directory,
    raise_file_limit,
    start_note,
)
from cowscope.recording.journal import JournalWriter, raw_directory
from cowscope.runtimes.python import agent


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may choose; `source` is "auto", "bpf", "tracepoint" or "software"."""

    output: Path | None = None
    limits: Limits = Limits()
    first_touch: bool = False
    allocations: bool = True
    source: str = "auto"
    python: bool = True
    """Whether Python processes of the command are looked into, where the agent is there (`run` only)."""
    lines: bool = True
    """Whether the agent notes Python lines, too."""
    on_progress: Callable[[Progress], None] | None = None
    on_ready: Callable[[], None] | None = None
    """Called when everything is observed that was there at the start (`attach` only)."""


@dataclass(frozen=True)
class Outcome:
    """What a finished observation left: the directory, why it ended, and the command's status (`run` only)."""

    directory: Path
    ended: str
    exit_status: int | None = None


class RunningCommand:
    """A command under observation: `observe` until the recording ends, then `wait` for the command itself."""

    def __init__(
        self, arguments: Sequence[str], options: Options, signals: SignalQueue | None = None
    ) -> None:
        """Fork the command, open the events, let it go.

        `signals` is a queue of the FORWARDED ones, for who could not wait for this module's import.
        Raises `MissingRight`, `CommandNotStarted`, `CowscopeError`; then nothing is left behind.
        """
        flags = Flag.INHERIT | Flag.DISABLED | Flag.ENABLE_ON_EXEC
        self.exit_status: int | None = None
        with ExitStack() as undo:
            # What lives as long as the recording, and what as long as the command.
            self._recording, self._waiting = undo.enter_context(ExitStack()), undo.enter_context(ExitStack())
            source = _source(options, flags)
            self._recording.callback(source.close)
            self.directory = make_directory(options.output, arguments[0])
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._signals = signals or SignalQueue(FORWARDED)
            self._waiting.callback(self._signals.restore)
            self._command = Command(
                arguments,
                signal_mask=self._signals.old_mask,
                environment=_environment(self.directory, lines=options.lines) if options.python else None,
            )
            undo.callback(self._command.abandon)
            self._witness = Witness(FORWARDED)
            self._waiting.callback(self._witness.close)
            raise_file_limit()  # ours alone: the command has been forked with the limit that we found
            self._pidfd = os.pidfd_open(self._command.pid)
            self._waiting.callback(os.close, self._pidfd)
            self._session = self._prepare(source, options)
            self._command.release()
            undo.pop_all()

    def observe(self) -> Outcome:
        """Record until the command ends or a limit is reached."""
        session = self._session
        session.adopt(self._command.pid)
        session.run({self._pidfd: self._ended, self._signals.fd: self._forward})
        session.finish({"exit_status": self.exit_status})
        self._recording.close()
        interpreters.dismiss(raw_directory(self.directory))
        return Outcome(self.directory, session.ended, self.exit_status)

    def wait(self) -> int:
        """Wait for the command, passing signals on; its exit status as a shell tells it."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.register(self._signals.fd, select.POLLIN)
        while self.exit_status is None:
            ready = {fd for fd, _ in poll.poll()}
            if self._signals.fd in ready:
                self._forward()
            if self._pidfd in ready:
                self._reap()
        self._waiting.close()
        return self.exit_status

    def _prepare(self, source: Source, options: Options) -> Session:
        raw = raw_directory(self.directory)
        probes = source.probes(raw)
        self._recording.callback(probes.close)
        probes.open_for(self._command.pid, at_exec=True)
        journal = JournalWriter(raw)
        self._recording.callback(journal.close)
        journal.append(
            start_note(
                source, command=self._command.arguments, attached=False, first_touch=options.first_touch
            )
        )
        census.identify(journal, self._command.pid)
        return _session(self.directory, probes, journal, source, options)

    def _ended(self) -> None:
        self._reap()
        self._session.stop("command")

    def _reap(self) -> None:
        _, status = os.waitpid(self._command.pid, 0)
        self.exit_status = shell_status(status)

    def _forward(self) -> None:
        """Pass on what came to us alone: what came to our whole group, the command has if it is still in it."""
        received = self._signals.receive()
        to_group = self._witness.seen() if received else None
        for each in received:
            to_all = each.from_terminal if to_group is None else each.number in to_group
            if self.exit_status is None and not (to_all and self._in_our_group()):
                os.kill(self._command.pid, each.number)

    def _in_our_group(self) -> bool:
        return os.getpgid(self._command.pid) == os.getpgrp()


def _environment(directory: Path, *, lines: bool) -> dict[str, str] | None:
    """What lets the agent into Python processes; None where there is no agent."""
    if agent.missing():
        return None
    where = interpreters.directory(raw_directory(directory))
    where.mkdir(mode=0o700)
    return agent.environment(where, os.environ, lines=lines)


def _source(options: Options, flags: Flag) -> Source:
    return choose_source(
        first_touch=options.first_touch, allocations=options.allocations, flags=flags, kind=options.source
    )


def attach_to(pid: int, options: Options, signals: SignalQueue | None = None) -> Outcome:
    """Record the tree under `pid`, all its threads, and what it forks, until a signal or a limit.

    `signals` is a queue of the ENDING ones, for who could not wait for this module's import. The observed
    processes are never stopped nor changed. Raises `NoSuchProcess`, `AccessDenied`,
    `MissingRight`, `CowscopeError`.
    """
    name = proc.parse_stat(proc.read_stat(pid)).comm
    if not proc.read_maps(pid):
        raise CowscopeError(f"process {pid} has no memory to observe: it is a kernel thread, or a zombie")
    with ExitStack() as recording:
        source = _source(options, Flag.INHERIT)
        recording.callback(source.close)
        raise_file_limit()
        directory = make_directory(options.output, name)
        queue = signals or SignalQueue(ENDING)
        recording.callback(queue.restore)
        try:
            session = _attached_session(pid, name, directory, source, options, recording)
            if options.on_ready is not None:
                options.on_ready()

            def interrupted() -> None:
                queue.receive()
                session.stop("signal")

            session.run({queue.fd: interrupted})
            session.finish({})
        except CowscopeError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    return Outcome(directory, session.ended)


def _attached_session(
    pid: int, name: str, directory: Path, source: Source, options: Options, recording: ExitStack
) -> Session:
    raw = raw_directory(directory)
    probes = source.probes(raw)
    recording.callback(probes.close)
    journal = JournalWriter(raw)
    recording.callback(journal.close)
    journal.append(start_note(source, command=(name,), attached=True, first_touch=options.first_touch))
    session = _session(directory, probes, journal, source, options)
    pids = _open_tree(pid, probes, session)
    frames = Capability.CAP_SYS_ADMIN in effective()
    looks = []
    for each in pids:
        try:
            looks.append(census.by_page(census.look_at(each, frames=frames, between=session.drain)))
        except NoSuchProcess:
            continue
    if not looks:
        raise NoSuchProcess(pid)
    for look, groups in zip(looks, census.renumbered(looks), strict=True):
        census.identify(journal, look.pid)
        census.write(journal, look, purpose="start", groups=groups)
        session.adopt(look.pid)
    session.ends_with_processes = True
    return session


def _open_tree(root: int, probes: Probes, session: Session) -> list[int]:
    """Open every thread of the tree; those that were born into an observed one have inherited already.

    A look at /proc that finds nothing new ends the search.
    """
    seen: set[int] = set()
    while True:
        pids = [pid for pid in proc.tree(root) if pid != os.getpid()]
        fresh = {tid for pid in pids for tid in _threads(pid)} - seen
        if seen:
            # A birth is in the ring a moment after it shows in /proc.
            time.sleep(0.005)
            fresh -= session.born()
        if not fresh:
            return [pid for pid in pids if pid in seen]
        for tid in sorted(fresh):
            _open_thread(tid, root, probes)
        seen |= fresh


def _open_thread(tid: int, root: int, probes: Probes) -> None:
    try:
        probes.open_for(tid)
    except NoSuchProcess:
        return
    except MissingRight as error:
        if tid == root:
            raise AccessDenied(tid, f"/proc/{tid}") from error
        raise


def _threads(pid: int) -> list[int]:
    try:
        return proc.threads(pid)
    except NoSuchProcess:
        return []


def _session(
    directory: Path, probes: Probes, journal: JournalWriter, source: Source, options: Options
) -> Session:
    new_task = source.events.get(NEW_TASK_EVENT)
    return Session(
        directory=directory,
        probes=probes,
        journal=journal,
        limits=options.limits,
        new_task_event=(new_task.id, new_task.fields["clone_flags"].offset) if new_task else None,
        on_progress=options.on_progress,
    )
