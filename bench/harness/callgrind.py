"""Instructions and allocations of our own program, counted by callgrind.

Allocations are the calls of allocators' functions: the program has an allocator of its own (jemalloc), which valgrind does not replace,
so that its heap tools see next to nothing.
"""

from __future__ import annotations

import re

from . import tools

FILE = tools.OUT / "logs" / "callgrind.out"
OPTIONS = ("--tool=callgrind", f"--callgrind-out-file={FILE}")

_ALLOCATES = re.compile(r"(_rjem_)?(malloc|mallocx|calloc|aligned_alloc|memalign|posix_memalign)")
# A name is given once, with its number, and later by its number alone.
_NAME = re.compile(r"c?fn=\((\d+)\)(?: (.+))?")


def totals() -> list[int]:
    """Instructions and allocations of the last run."""
    return read(FILE.read_text(errors="replace"))


def read(text: str) -> list[int]:
    """The same, from what callgrind wrote."""
    names: dict[str, str] = {}
    allocations, called = 0, ""
    for line in text.splitlines():
        if found := _NAME.match(line):
            number, name = found.groups()
            if name:
                names[number] = name
            called = names[number]
        elif line.startswith("calls=") and _ALLOCATES.fullmatch(called):
            allocations += int(line.split()[0].removeprefix("calls="))
    instructions = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    if instructions is None:
        raise RuntimeError("callgrind wrote no total")
    return [int(instructions.group(1)), allocations]
