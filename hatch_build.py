"""Compile the agent for Python processes when the package is built; without a compiler the package comes without it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = Path("src/cowscope/runtimes/python/inside")
FLAGS = (
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-shared",
    "-fPIC",
)


class CompileAgent(BuildHookInterface[Any]):
    """One C file for the stable ABI, so one library for all CPythons from 3.11 on."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the library packed; the wheel is then one for this platform."""
        if self.target_name != "wheel":
            return
        inside = Path(self.root) / INSIDE
        library = inside / "_cowscope_agent.abi3.so"
        sources = [str(inside / name) for name in ("_cowscope_agent.c", "lines.c")]
        compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or ""]
        include = sysconfig.get_path("include")
        command = [*compiler, *FLAGS, f"-I{include}", "-o", str(library), *sources]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            library.unlink(missing_ok=True)
            print(f"cowscope comes without its agent for Python: {error}", file=sys.stderr)
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"].append(str(INSIDE / "*.so"))
