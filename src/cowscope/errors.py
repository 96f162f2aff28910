"""The exception tree: few leaves, each carrying what its message needs.

An error that a user can cause derives from `CowscopeError`, has one clear line as its message (who must
do what), and an exit status. A broken law of the vm is a bug, hence an `AssertionError`, and not here.
"""

from __future__ import annotations


class CowscopeError(Exception):
    """The root: something outside of cowscope stands in the way, and the message says what to do."""

    exit_status = 1


class UsageError(CowscopeError):
    """The call itself cannot mean anything."""

    exit_status = 2


class MissingRight(CowscopeError):
    """The kernel does not let this user do `what`; `remedy` is the one thing that would."""

    exit_status = 77

    def __init__(self, what: str, remedy: str) -> None:
        """Keep both parts for `doctor` and for programs."""
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy


class NoSuchProcess(CowscopeError):
    """The process ended (or never was) before it could be looked at."""

    def __init__(self, pid: int) -> None:
        """Keep the pid that was asked for."""
        super().__init__(f"no process {pid}: it has ended or never was")
        self.pid = pid


class AccessDenied(CowscopeError):
    """The process is there, but this user may not look into it."""

    exit_status = 77

    def __init__(self, pid: int, path: str) -> None:
        """Keep the pid and the file that was refused."""
        super().__init__(f"not allowed to read {path}: run as the user of process {pid}, or as root")
        self.pid = pid
        self.path = path


class CommandNotStarted(CowscopeError):
    """The command given to `run` could not be executed; 127 and 126 as the shell has it."""

    def __init__(self, command: str, reason: str, exit_status: int) -> None:
        """Keep the command, what the kernel said, and the shell's exit status for it."""
        super().__init__(f"cannot run {command}: {reason}")
        self.command = command
        self.exit_status = exit_status


class BadRecording(CowscopeError):
    """A path that is no recording, or one that this version cannot read."""

    exit_status = 65


class CallRefused(CowscopeError):
    """A call that the kernel would refuse; `errno_name` is what it would return."""

    errno_name = ""

    def __init__(self, reason: str) -> None:
        """Keep the reason, one line."""
        super().__init__(f"{reason} ({self.errno_name})")
        self.reason = reason


class InvalidArgument(CallRefused):
    """The arguments cannot mean anything to the kernel."""

    errno_name = "EINVAL"


class NotModelled(InvalidArgument):
    """The kernel would take the call; this system has no rule for it."""

    errno_name = "not modelled"


class NoMemory(CallRefused):
    """No room in the address space, no frame, or (mprotect, madvise) nothing mapped in part of the range."""

    errno_name = "ENOMEM"


class BadAddress(CallRefused):
    """The call would have to touch memory that is not there."""

    errno_name = "EFAULT"


class AlreadyMapped(CallRefused):
    """Something lies where MAP_FIXED_NOREPLACE was to map."""

    errno_name = "EEXIST"


class Forbidden(CallRefused):
    """What the file was opened for does not allow the protection asked for."""

    errno_name = "EACCES"


class NoChild(CallRefused):
    """There is no such child to wait for."""

    errno_name = "ECHILD"


class NotRunning(CallRefused):
    """The process has ended, or is suspended until its vfork child execs or exits."""

    errno_name = "ESRCH"


class InputOutputError(CallRefused):
    """Memory that a debugger may not write."""

    errno_name = "EIO"
