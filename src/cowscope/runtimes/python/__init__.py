"""Inside a CPython process: which object lies where just before a fork."""
