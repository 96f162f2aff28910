"""Runs at the start of each Python process under a recording: lets the agent in, and is gone.

It is found through PYTHONPATH, takes itself out of `sys.path`, and hands on to the `sitecustomize` that the
program would have found, if there is one. Whatever goes wrong with the agent is written down for the
recording and never shows in the program.
"""

from __future__ import annotations

import os
import sys

AGENT = "_cowscope_agent"
VERSIONS = range(11, 14)
"""Minor versions of CPython 3 whose objects the agent can read."""


def reason_to_stay_out() -> str:
    """Why this interpreter is none of the agent's, or nothing."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} is not CPython"
    if sys.version_info[0] != 3 or sys.version_info[1] not in VERSIONS:
        return f"the agent does not know CPython {sys.version_info[0]}.{sys.version_info[1]}"
    if "t" in sys.abiflags:
        return "objects of a free-threaded CPython have another layout"
    if sys.maxsize < 1 << 32:
        return "the interpreter is one of 32 bits"
    return ""


def let_in(directory: str, here: str) -> None:
    """Have the agent list the objects in `directory` before each fork; what it is or why not goes there too."""
    why, no_lines = reason_to_stay_out(), ""
    if not why:
        try:
            import atexit
            from importlib.machinery import ExtensionFileLoader, ModuleSpec

            agent = sys.modules.get(AGENT)
            if agent is None:
                loader = ExtensionFileLoader(AGENT, os.path.join(here, f"{AGENT}.abi3.so"))
                agent = loader.create_module(ModuleSpec(AGENT, loader, origin=loader.path))
                loader.exec_module(agent)
                sys.modules[AGENT] = agent
            if agent.set_up(sys.version_info[1]):
                os.register_at_fork(before=agent.before_fork, after_in_child=agent.after_fork)
                atexit.register(agent.shutdown)
                code = sys._getframe().f_code
                no_lines = agent.prepare_lines(code, code.co_filename, code.co_qualname, code.co_linetable)
                if not no_lines and os.environ.get("COWSCOPE_LINES") != "off":
                    agent.want_lines()
            agent.write_to(directory)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        fd = os.open(
            os.path.join(directory, f"python.{os.getpid()}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
        )
        os.write(fd, f"{version}\n{why}\n{no_lines or ''}\n".encode("utf-8", "replace"))
        os.close(fd)
    except OSError:
        pass


def hand_on() -> None:
    """Import the `sitecustomize` that comes next on the path, in this one's place."""
    ours = sys.modules.pop("sitecustomize")
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)


def main() -> None:
    """All of it."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    directory = os.environ.get("COWSCOPE_PYTHON")
    if directory:
        let_in(directory, here)
    hand_on()


if __name__ == "sitecustomize":
    main()
