"""The entry point: finds the command, turns errors into one line and an exit status.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | something outside stood in the way |
| 2 | the call makes no sense |
| 65 | not a recording, or not one that can be read |
| 77 | a right is missing |
| 126, 127 | `run`: the command could not be executed, was not found |
| 130 | interrupted |
| 141 | the reader of our output has gone |
| else | `run`: the command's own, 128 + n if signal n ended it |
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from cowscope import __version__

COMMANDS = {
    "run": "start a command and record its copy-on-write faults",
    "attach": "record a running process and its children",
    "show": "say what a recording holds",
    "recover": "finish the recording of a recorder that died",
    "dump": "print a table of a recording",
    "explain": "tell by example what a fork shares and what it copies",
    "check": "compare the vm with the live kernel, page by page",
    "doctor": "say what this machine and user allow",
    "completion": "print the shell completion script",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when one is named, so that --help costs click alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `cowscope.cli.NAME` and take the command of that name from it."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"cowscope.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="cowscope")
def cli() -> None:
    """What fork() shares, what was copied after all, when, and by which code.

    \b
    Examples:
      cowscope run -- gunicorn --preload app:app
      cowscope attach 4711 --duration 30
      cowscope show gunicorn-20260101-120000-4711.cow --by function
    """


def main() -> None:
    """Run the command line; never a traceback for what a user can cause."""
    from cowscope.errors import CowscopeError

    try:
        status = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _say("interrupted")
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except CowscopeError as error:
        _say(str(error))
        status = error.exit_status
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    except SystemExit as stop:
        # Click ends so, with status 1 and its own wrapper around stdout, when the reader of a pipe has gone.
        status = 141 if type(sys.stdout).__name__.endswith("PacifyFlushWrapper") else stop.code
    except BrokenPipeError:
        # Rich and others let it through; no complaint, and none at the interpreter's last flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _say(message: str) -> None:
    from cowscope.views.text import escaped

    click.echo(f"cowscope: {escaped(message)}", err=True)


if __name__ == "__main__":
    main()
