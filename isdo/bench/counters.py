"""What a piece of work asks of torch: operations, kernel launches, synchronisations, storage."""

import warnings
from collections import Counter

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

# These give the same storage another shape, too, but their schema does not say so.
UNDECLARED_VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias")


def is_view(func):
    """Say whether an operator only looks at its argument's storage in another way: by its schema,
    something of an argument is aliased and nothing is written."""
    schema = func._schema
    if schema.name in UNDECLARED_VIEWS:
        return True
    aliased = [a.alias_info for a in schema.arguments if a.alias_info is not None]
    return bool(aliased) and not any(alias.is_write for alias in aliased)


class Operations(TorchDispatchMode):
    """Counts the tensor operations that are dispatched inside it, by name; views are none."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    @property
    def total(self):
        return sum(self.counts.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not is_view(func):
            self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all storages that torch operations made inside it and that are still
    alive.

    ``live`` is now, ``peak`` the most there was after any operation; what a kernel needs while it
    runs is not seen.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._made = {}  # storage: bytes; a reference of torch's, because Python's can die before the storage in torch 2.1

    @property
    def live(self):
        self._made = {
            storage: size for storage, size in self._made.items() if not storage.expired()
        }
        return sum(self._made.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, made = func(*args, **(kwargs or {})), False
        given = {
            t.untyped_storage().data_ptr()
            for t in tree_flatten((args, kwargs))[0]
            if isinstance(t, torch.Tensor)
        }
        for tensor in tree_flatten(out)[0]:
            if (
                isinstance(tensor, torch.Tensor)
                and tensor.untyped_storage().data_ptr() not in given
            ):
                storage = tensor.untyped_storage()
                self._made.setdefault(StorageWeakRef(storage), storage.nbytes())
                made = True
        if made:
            self.peak = max(self.peak, self.live)
        return out


def launches(work):
    """Return how many (kernels, copies and fills) a GPU is given by ``work()``, as torch's profiler
    sees it."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    return of_gpu(found.events())


def of_gpu(events):
    """Return how many (kernels, copies and fills) are among a profiler's events."""
    names = [e.name for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return len(names) - copies, copies


def synchronisations(work):
    """Return how often ``work()`` waits for the GPU, as torch's own debug mode sees it: copies to
    the host and the like, not events that are asked or waited for."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing CUDA operation" in str(each.message) for each in told)
