"""The system: virtual memory with fork and copy-on-write, pure and without an operating system.

Start with `Machine`: its `start` gives a `Process`. State lies in columns; each module opens with its rules and
with what it leaves out.
"""

from cowscope.vm.advice import Advice
from cowscope.vm.events import Allocated, Classified, Copied, Event, Flushed, Mapped, Resumed, Trapped
from cowscope.vm.files import File
from cowscope.vm.frames import ZERO_PAGE, Frames
from cowscope.vm.layout import Layout
from cowscope.vm.machine import Machine
from cowscope.vm.mappings import MappingRecord, Mappings
from cowscope.vm.policies import POLICIES, Policy
from cowscope.vm.process import Mapping, Process, Thread
from cowscope.vm.rules import FrameFlag, Kind, MappingFlag, Outcome, Protection
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.states import Dropped, PageStates
from cowscope.vm.trap import AccessFault, BusError, OutOfMemory, SegmentationFault

__all__ = [
    "POLICIES",
    "ZERO_PAGE",
    "AccessFault",
    "AddressSpace",
    "Advice",
    "Allocated",
    "BusError",
    "Classified",
    "Copied",
    "Dropped",
    "Event",
    "File",
    "Flushed",
    "FrameFlag",
    "Frames",
    "Kind",
    "Layout",
    "Machine",
    "Mapped",
    "Mapping",
    "MappingFlag",
    "MappingRecord",
    "Mappings",
    "OutOfMemory",
    "Outcome",
    "PageStates",
    "Policy",
    "Process",
    "Protection",
    "Resumed",
    "SegmentationFault",
    "Thread",
    "Trapped",
]
