"""BPF programs as bytes: one method for each instruction that cowscope needs, and jumps by label.

Pure: nothing here asks the kernel. An instruction is eight bytes; one that loads a 64-bit constant is two.

    byte 0       1              2        4
         opcode  dst | src<<4   offset   immediate
         u8      u8             s16      s32

Registers: r0 holds results, r1 to r5 arguments (lost in a call), r6 to r9 survive calls, r10 is the end of a
stack of 512 bytes. Source: Documentation/bpf/standardization/instruction-set.rst (RFC 9669).
"""

from __future__ import annotations

import struct
from enum import IntEnum


class Register(IntEnum):
    """A register; R10 is read only."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


class Helper(IntEnum):
    """Functions of the kernel that a program may call, none of which is kept for programs under the GPL."""

    MAP_LOOKUP_ELEM = 1
    KTIME_GET_NS = 5
    GET_SMP_PROCESSOR_ID = 8
    GET_CURRENT_PID_TGID = 14


class Width(IntEnum):
    """Bytes of a load or store; the value is its bits in the opcode."""

    U32 = 0x00
    U8 = 0x10
    U64 = 0x18


class Arithmetic(IntEnum):
    """64-bit operations, `dst = dst OP operand`; the value is the bits in the opcode."""

    ADD = 0x00
    SUB = 0x10
    OR = 0x40
    AND = 0x50
    SHIFT_LEFT = 0x60
    SHIFT_RIGHT = 0x70
    MOVE = 0xB0


class Compare(IntEnum):
    """What a jump compares, unsigned; the value is the bits in the opcode."""

    EQUAL = 0x10
    GREATER = 0x20
    NOT_EQUAL = 0x50


_MAP_BY_FD, _VALUE_BY_FD = 1, 2
_INSTRUCTION = struct.Struct("<BBhi")


class Code:
    """Instructions in order; `build` fills in where the jumps go.

    >>> code = Code()
    >>> code.set(Register.R0, 0)
    >>> code.exit()
    >>> code.build().hex(" ", 8)
    'b700000000000000 9500000000000000'
    """

    def __init__(self) -> None:
        """No instruction yet."""
        self._code: list[tuple[int, int, int, int | str, int]] = []
        self._labels: dict[str, int] = {}

    def set(self, to: Register, value: int | Register) -> None:
        """`to = value`."""
        self.compute(Arithmetic.MOVE, to, value)

    def compute(self, operation: Arithmetic, to: Register, operand: int | Register) -> None:
        """`to = to OPERATION operand`, in 64 bits; a constant is a signed number of 32 bits."""
        if isinstance(operand, Register):
            self._add(0x0F | operation, to, operand)
        else:
            self._add(0x07 | operation, to, immediate=operand)

    def load(self, width: Width, to: Register, base: Register, offset: int = 0) -> None:
        """`to = *(base + offset)`."""
        self._add(0x61 | width, to, base, offset)

    def store(self, width: Width, base: Register, offset: int, value: int | Register) -> None:
        """`*(base + offset) = value`."""
        if isinstance(value, Register):
            self._add(0x63 | width, base, value, offset)
        else:
            self._add(0x62 | width, base, 0, offset, value)

    def jump(self, test: Compare, left: Register, right: int | Register, label: str) -> None:
        """Go on at `label` if `left TEST right`."""
        if isinstance(right, Register):
            self._add(0x0D | test, left, right, label)
        else:
            self._add(0x05 | test, left, 0, label, right)

    def label(self, name: str) -> None:
        """The place of the next instruction."""
        self._labels[name] = len(self._code)

    def call(self, helper: Helper) -> None:
        """`r0 = helper(r1, …)`; r1 to r5 are lost."""
        self._add(0x85, immediate=helper)

    def exit(self) -> None:
        """Return r0."""
        self._add(0x95)

    def map(self, to: Register, fd: int) -> None:
        """`to` = the map behind a file descriptor."""
        self._wide(to, _MAP_BY_FD, fd)

    def map_value(self, to: Register, fd: int) -> None:
        """`to` = the address of the only value of an array."""
        self._wide(to, _VALUE_BY_FD, fd)

    def build(self) -> bytes:
        """The program. Raises `KeyError` for a jump to nowhere."""
        parts = []
        for at, (opcode, to, source, offset, immediate) in enumerate(self._code):
            distance = self._labels[offset] - at - 1 if isinstance(offset, str) else offset
            parts.append(_INSTRUCTION.pack(opcode, to | source << 4, distance, immediate))
        return b"".join(parts)

    def _wide(self, to: Register, kind: int, fd: int) -> None:
        self._add(0x18, to, kind, 0, fd)
        self._add(0x00)

    def _add(
        self, opcode: int, to: int = 0, source: int = 0, offset: int | str = 0, immediate: int = 0
    ) -> None:
        self._code.append((opcode, to, source, offset, immediate))
