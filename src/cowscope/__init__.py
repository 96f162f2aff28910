"""cowscope: what fork() shares, what was copied after all, when, and by which code."""

__version__ = "0.1.0"
