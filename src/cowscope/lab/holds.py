"""References from outside to a puppet's pages: a device's pin, a pipe's.

| how | the kernel takes |
|---|---|
| pin | io_uring_register(2) of a buffer: a pin for writing that lasts (FOLL_PIN, FOLL_LONGTERM, FOLL_WRITE) |
| splice | vmsplice(2) into a pipe: a plain reference (FOLL_GET) |

A child inherits the descriptors; so what ends a hold is not their end but the buffer taken back, or the pipe emptied
into /dev/null.
"""

from __future__ import annotations

import os
import struct

from cowscope.lab.puppet import Call, Puppet, Reply
from cowscope.lab.result import NotChecked
from cowscope.lab.stub import LOAD

_PARAMETERS_BYTES = 120
"""Of struct io_uring_params; all zero is a ring with nothing special."""
_REGISTER_BUFFERS, _UNREGISTER_BUFFERS = 0, 1
_NULL = 0
"""A puppet's standard input: /dev/null, open for writing too."""


class Hold:
    """What a puppet keeps open for one hold."""

    def __init__(self, *fds: int) -> None:
        """The ring's descriptor, or the pipe's two."""
        self.fds = fds


def pin(puppet: Puppet, address: int, length: int) -> tuple[Reply, Hold]:
    """Let a ring of the puppet refer to the range; what the kernel said, and what there is to release then.

    Raises `NotChecked` where there are no rings.
    """
    made = puppet.do(Call.IO_URING_SETUP, 1, puppet.put(bytes(_PARAMETERS_BYTES)))
    if made.error:
        raise NotChecked(f"io_uring is not to be had here: {os.strerror(made.error)}")
    ring = made.value
    vector = struct.pack("<QQ", address, length)
    reply = puppet.do(Call.IO_URING_REGISTER, ring, _REGISTER_BUFFERS, puppet.tail_address, 1, tail=vector)
    hold = Hold(ring)
    if reply.error:
        _close(puppet, hold)
    return reply, hold


def splice(puppet: Puppet, address: int, length: int) -> tuple[Reply, Hold]:
    """The same by a pipe."""
    at = puppet.put(bytes(8))
    puppet.do(Call.PIPE2, at, 0)
    ends = puppet.do(LOAD, at).value
    hold = Hold(ends & 0xFFFFFFFF, ends >> 32)
    vector = struct.pack("<QQ", address, length)
    reply = puppet.do(Call.VMSPLICE, hold.fds[1], puppet.tail_address, 1, 0, tail=vector)
    if reply.error:
        _close(puppet, hold)
    return reply, hold


def release(puppet: Puppet, hold: Hold, length: int) -> Reply:
    """End a hold; the kernel has let go of the pages when this returns."""
    if len(hold.fds) == 1:
        reply = puppet.do(Call.IO_URING_REGISTER, hold.fds[0], _UNREGISTER_BUFFERS, 0, 0)
    else:
        reply = puppet.do(Call.SPLICE, hold.fds[0], 0, _NULL, 0, length, 0)
    _close(puppet, hold)
    return reply


def _close(puppet: Puppet, hold: Hold) -> None:
    ticks = puppet.ticks
    for fd in hold.fds:
        puppet.do(Call.CLOSE, fd)
    puppet.ticks = ticks
