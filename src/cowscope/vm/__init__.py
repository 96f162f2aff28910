"""The system: virtual memory with fork and copy-on-write, pure and without an operating system.

Start with `Machine`. State lies in columns; each module opens with its rules and with what it leaves out.
"""

from cowscope.vm.events import Allocated, Classified, Copied, Event, Mapped, Resumed, Trapped
from cowscope.vm.frames import ZERO_PAGE, Frames
from cowscope.vm.machine import Machine
from cowscope.vm.mappings import MappingRecord, Mappings
from cowscope.vm.policies import POLICIES, Policy
from cowscope.vm.rules import FrameFlag, Kind, MappingFlag, Outcome, Protection
from cowscope.vm.spaces import AddressSpace, Dropped, PageStates
from cowscope.vm.trap import AccessFault, BusError, OutOfMemory, SegmentationFault

__all__ = [
    "POLICIES",
    "ZERO_PAGE",
    "AccessFault",
    "AddressSpace",
    "Allocated",
    "BusError",
    "Classified",
    "Copied",
    "Dropped",
    "Event",
    "FrameFlag",
    "Frames",
    "Kind",
    "Machine",
    "Mapped",
    "MappingFlag",
    "MappingRecord",
    "Mappings",
    "OutOfMemory",
    "Outcome",
    "PageStates",
    "Policy",
    "Protection",
    "Resumed",
    "SegmentationFault",
    "Trapped",
]
