"""The status line: one line on stderr, written over itself, for whoever watches a terminal."""

from __future__ import annotations

import click


def status_line(text: str) -> None:
    """Show `text` in place of what the line said before."""
    click.echo(f"\r\x1b[2Kcowscope: {text}", err=True, nl=False)


def clear_status_line() -> None:
    """Leave the line empty."""
    click.echo("\r\x1b[2K", err=True, nl=False)
