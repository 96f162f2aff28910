"""The program that a puppet runs: a loop of machine code that does what a pipe tells it, and nothing else.

A puppet must not touch memory on its own account, or the kernel's answers would be about the puppet. So it
is no interpreter and has no C library: an ELF file of one page of code, one page of buffer for each slot that
was ever used, and a stack.

    command (64 bytes): number, six arguments, slot of a forked child
    reply (32 bytes):   value, signal, code, and the address of a signal, or else how long it took in ticks

| number | what the puppet does | value |
|---|---|---|
| `LOAD` | one 8-byte load at argument 1 | the 8 bytes |
| `STORE` | one 8-byte store of argument 2 at argument 1 | 0 |
| `GATHER` | reads argument 1 many addresses (at most 500) from the pipe, loads from each | (those words) |
| else | that system call | what the kernel returned |

A child (any call that returns 0 while the command names a slot) goes on in its own slot: its own pipes and
buffer. SIGSEGV and SIGBUS end the command, not the puppet: the handler replies and takes the next one. At the
end of its pipe the puppet exits, so none outlives its controller.

The slot of a new program is its number of arguments: that is all a program is told before it reads its pipe.
Source: the x86-64 psABI (system calls), elf(5). Not here: other architectures; `image` says so.
"""

from __future__ import annotations

import os
import struct

from cowscope.errors import MissingRight

LOAD, STORE, GATHER = 0x1000, 0x1001, 0x1002
MOST_GATHERED = 500

FIRST_PIPE = 100
"""Slot s reads commands from descriptor 100 + 2 s and replies to the next one."""

_CODE, _BUFFERS, _BUFFER_SHIFT = 0x400000, 0x500000, 13
_HEADER_BYTES = 64 + 2 * 56
N_SLOTS = 64

_X86_64 = bytes.fromhex(
    # start:   mov r12,[rsp]; mov r13,rsp                     r12 slot, r13 stack
    "4c8b2424"
    "4989e5"
    # slot:    mov r14,r12; shl r14,13; add r14,0x500000      r14 buffer
    "4d89e6"
    "49c1e60d"
    "4981c600005000"
    # next:    mov rsp,r13; mov rsi,r14; mov edx,64; call receive
    "4c89ec"
    "4c89f6"
    "ba40000000"
    "e8f9000000"
    #          mov rbx,[r14]; mov r15,[r14+8]
    "498b1e"
    "4d8b7e08"
    #          lfence; rdtsc; shl rdx,32; lea rbp,[rax+rdx]           rbp: when it began
    "0faee8"
    "0f31"
    "48c1e220"
    "488d2c10"
    #          cmp ebx,LOAD; je load; cmp ebx,STORE; je store; cmp ebx,GATHER; je gather
    "81fb00100000"
    "744e"
    "81fb01100000"
    "744b"
    "81fb02100000"
    "744e"
    #          mov rdi,r15; mov rsi,[r14+16]; mov rdx,[r14+24]; mov r10,[r14+32]; mov r8,[r14+40]; mov r9,[r14+48]
    "4c89ff"
    "498b7610"
    "498b5618"
    "4d8b5620"
    "4d8b4628"
    "4d8b4e30"
    #          mov eax,ebx; syscall; test rax,rax; jne reply
    "89d8"
    "0f05"
    "4885c0"
    "7567"
    #          mov rcx,[r14+56]; test rcx,rcx; je reply       a child of a fork: take the new slot
    "498b4e38"
    "4885c9"
    "745e"
    #          mov r12,rcx; xor eax,eax; mov r14,r12; shl r14,13; add r14,0x500000; jmp reply
    "4989cc"
    "31c0"
    "4d89e6"
    "49c1e60d"
    "4981c600005000"
    "eb49"
    # load:    mov rax,[r15]; jmp reply
    "498b07"
    "eb44"
    # store:   mov rax,[r14+16]; mov [r15],rax; xor eax,eax; jmp reply
    "498b4610"
    "498907"
    "31c0"
    "eb39"
    # gather:  lea rsi,[r14+64]; lea edx,[r15*8]; call receive
    "498d7640"
    "428d14fd00000000"
    "e86e000000"
    #          lea rsi,[r14+64]; mov rdi,rsi; mov ecx,r15d
    "498d7640"
    "4889f7"
    "4489f9"
    # again:   mov rax,[rsi]; mov rax,[rax]; mov [rsi],rax; add rsi,8; dec ecx; jnz again
    "488b06"
    "488b00"
    "488906"
    "4883c608"
    "ffc9"
    "75ef"
    #          mov rsi,rdi; lea edx,[r15*8]; jmp send
    "4889fe"
    "428d14fd00000000"
    "eb32"
    # reply:   mov rbx,rax; lfence; rdtsc; shl rdx,32; add rdx,rax; sub rdx,rbp       rdx: how long it took
    "4889c3"
    "0faee8"
    "0f31"
    "48c1e220"
    "4801c2"
    "4829ea"
    #          mov rax,rbx; xor ebx,ebx; xor ecx,ecx          no signal
    "4889d8"
    "31db"
    "31c9"
    # answer:  mov [r14+64],rax; mov [r14+72],rbx; mov [r14+80],rcx; mov [r14+88],rdx
    "49894640"
    "49895e48"
    "49894e50"
    "49895658"
    #          lea rsi,[r14+64]; mov edx,32
    "498d7640"
    "ba20000000"
    # send:    lea edi,[r12*2+101]; mov eax,1 (write); syscall; jmp next
    "428d3c6565000000"
    "b801000000"
    "0f05"
    "e9f7feffff"
    # receive: lea edi,[r12*2+100]; xor eax,eax (read); syscall; cmp eax,edx; jne leave; ret
    "428d3c6564000000"
    "31c0"
    "0f05"
    "39d0"
    "7501"
    "c3"
    # leave:   xor edi,edi; mov eax,231 (exit_group); syscall
    "31ff"
    "b8e7000000"
    "0f05"
    # handler: mov ebx,edi; movsxd rcx,[rsi+8]; mov rdx,[rsi+16]; xor eax,eax; jmp answer
    "89fb"
    "48634e08"
    "488b5610"
    "31c0"
    "ebab"
)

HANDLER = _CODE + _HEADER_BYTES + 0x138
"""Address of the signal handler."""


def buffer_address(slot: int) -> int:
    """Where a puppet of `slot` keeps the command that it carries out.

    >>> hex(buffer_address(1))
    '0x502000'
    """
    return _BUFFERS + (slot << _BUFFER_SHIFT)


def image() -> bytes:
    """The ELF file. Raises `MissingRight` on a machine that has no machine code here.

    >>> image()[:4]
    b'\\x7fELF'
    """
    if os.uname().machine != "x86_64":
        raise MissingRight(f"the lab has no puppet for {os.uname().machine}", "run on x86-64")
    size = _HEADER_BYTES + len(_X86_64)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, _CODE + _HEADER_BYTES, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, _CODE, _CODE, size, size, 4096)
    buffers = struct.pack("<IIQQQQQQ", 1, 6, 0, _BUFFERS, _BUFFERS, 0, N_SLOTS << _BUFFER_SHIFT, 4096)
    return header + code + buffers + _X86_64
