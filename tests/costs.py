"""What a call costs besides arithmetic: operations that are launched, and waits for a device's answer."""

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

# a value that the host reads, and an index of unknown size; every other way to wait ends in one of these or is a read
WAITS = ("aten::_local_scalar_dense", "aten::nonzero")
# of which the profiler sees nothing on a CPU
READS = (Tensor.tolist, Tensor.numpy, Tensor.cpu)


class _Reads(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.number += function in READS
        return function(*args, **(kwargs or {}))


def operations_and_waits(call):
    """The number of operations of ``call()``, and how many of these would make the host wait for a GPU."""
    with profile(activities=[ProfilerActivity.CPU]) as found, _Reads() as reads:
        call()
    events = [event for event in found.events() if event.name.startswith("aten::")]
    launched = [event for event in events if event.cpu_parent is None or not event.cpu_parent.name.startswith("aten::")]
    return len(launched), sum(event.name in WAITS for event in events) + reads.number
