"""BPF programs: instructions as the standard lays them out, and what the kernel makes of them."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.conftest import Require

from cowscope.linux.bpf import ProgramType, attach_raw, create_array, load_program, missed
from cowscope.linux.bpf_code import Arithmetic, Code, Compare, Helper, Register, Width
from cowscope.units import PAGE_SIZE

R0, R1, R2 = Register.R0, Register.R1, Register.R2


def instructions(code: Code) -> list[tuple[int, int, int, int]]:
    """Opcode, registers, offset and immediate of each."""
    return list(struct.iter_unpack("<BBhi", code.build()))


@pytest.fixture
def keep(require: Require) -> Iterator[ExitStack]:
    """Descriptors to close; only root may load programs."""
    require(os.geteuid() == 0, "root")
    with ExitStack() as stack:
        yield stack


def test_operations_take_a_constant_or_a_register() -> None:
    """RFC 9669: class ALU64 is 7, the source bit is 8; the source register is in the upper half of byte 1."""
    code = Code()
    code.compute(Arithmetic.ADD, R1, -4)
    code.compute(Arithmetic.SHIFT_RIGHT, R1, R2)
    assert instructions(code) == [(0x07, 0x01, 0, -4), (0x7F, 0x21, 0, 0)]


def test_loads_and_stores_name_width_and_offset() -> None:
    """LDX is 0x61, STX 0x63, ST 0x62, each with 0x18 for eight bytes and 0x10 for one."""
    code = Code()
    code.load(Width.U64, R0, R1, 8)
    code.store(Width.U8, R1, -1, R0)
    code.store(Width.U32, R1, 4, 9)
    assert instructions(code) == [(0x79, 0x10, 8, 0), (0x73, 0x01, -1, 0), (0x62, 0x01, 4, 9)]


def test_jumps_count_from_the_next_instruction() -> None:
    """Forwards over a constant of two instructions; to a label that is not there: never."""
    code = Code()
    code.jump(Compare.EQUAL, R0, 0, "out")
    code.map_value(R1, 5)
    code.label("out")
    code.exit()
    assert instructions(code) == [(0x15, 0, 2, 0), (0x18, 0x21, 0, 5), (0, 0, 0, 0), (0x95, 0, 0, 0)]
    code.jump(Compare.EQUAL, R0, 0, "nowhere")
    with pytest.raises(KeyError):
        code.build()


def test_a_program_writes_into_the_array_that_we_map(keep: ExitStack) -> None:
    """One that runs at each new task, and leaves the creator's thread id."""
    array = create_array(8)
    keep.callback(os.close, array)
    memory = keep.enter_context(mmap.mmap(array, PAGE_SIZE))
    code = Code()
    code.call(Helper.GET_CURRENT_PID_TGID)
    code.map_value(R1, array)
    code.store(Width.U32, R1, 0, R0)
    code.set(R0, 1)
    code.exit()
    program = load_program(ProgramType.RAW_TRACEPOINT, code.build())
    keep.callback(os.close, program)
    link = attach_raw("task_newtask", program)
    try:
        child = os.fork()
        if not child:
            os._exit(0)
        assert int.from_bytes(memory[:4], "little") == os.getpid()
    finally:
        os.close(link)
    os.waitpid(child, 0)
    memory[:4] = bytes(4)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert memory[:4] == bytes(4), "closed is gone"
    assert missed(program) == 0


def test_a_program_that_the_kernel_refuses_says_why(keep: ExitStack) -> None:
    """An answer that was never set."""
    code = Code()
    code.exit()
    with pytest.raises(OSError, match="R0 !read_ok"):
        load_program(ProgramType.TRACEPOINT, code.build())


def test_an_array_larger_than_any_memory_is_refused(keep: ExitStack) -> None:
    """By the kernel, as an error of the operating system."""
    with pytest.raises(OSError, match="BPF: "):
        create_array(1 << 31)
