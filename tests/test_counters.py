"""What the counters count: views by their schema, storage by its life, kernels by the profiler's
names."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from isdo.bench import counters

X = torch.arange(24.0).reshape(2, 3, 4)
VIEWS = {
    "reshape": lambda x: x.reshape(6, 4),
    "flatten": lambda x: x.flatten(1),
    "slice": lambda x: x[:, 1:, ::2],
    "select": lambda x: x[0, ..., 1],
    "new axis": lambda x: x[:, None, ..., None],
    "expand": lambda x: x[:, :1].expand(2, 3, 4),
    "transpose": lambda x: x.transpose(0, 1).permute(2, 0, 1).mT,
    "view": lambda x: x.view(24),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 4)),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "unbind": lambda x: x.unbind(1)[0],
    "split": lambda x: x.split(2, 1)[1],
    "chunk": lambda x: x.chunk(2, 2)[1],
    "unfold": lambda x: x.unfold(2, 2, 1),
    "diagonal": lambda x: x.diagonal(dim1=1, dim2=2),
    "detach": lambda x: x.detach(),
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.view(12, 2))),
    "contiguous as it is": lambda x: x.contiguous(),
    "the dtype that it has": lambda x: x.to(torch.float32),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_no_operation(name):
    with counters.Operations() as counted:
        out = VIEWS[name](X)
    assert counted.total == 0 and out.untyped_storage().data_ptr() == X.untyped_storage().data_ptr()


WORK = {
    "add": (lambda x: x + 1, {"add": 1}),
    "in place": (lambda x: x.mul_(1), {"mul_": 1}),
    "written into a slice": (lambda x: x[0].copy_(x[1]), {"copy_": 1}),
    "another dtype": (lambda x: x.to(torch.float64), {"_to_copy": 1}),
    "copied to be reshaped": (lambda x: x.transpose(0, 1).reshape(24), {"clone": 1}),
    "matrix product": (lambda x: x.flatten(1) @ x.flatten(1).T, {"mm": 1}),
    "batched contraction": (lambda x: torch.einsum("bij,bkj->bik", x, x), {"bmm": 1}),
    "transform there and back": (
        lambda x: torch.fft.irfft(torch.fft.rfft(x)),
        {"_fft_r2c": 1, "_fft_c2r": 1},
    ),
    "asked for a number": (lambda x: x.sum().item(), {"sum": 1, "_local_scalar_dense": 1}),
    "several": (lambda x: (x * 2).sum() + (x - 1).exp().amax(), None),
}


@pytest.mark.parametrize("name", WORK)
def test_every_other_operation_counts_once(name):
    work, expected = WORK[name]
    with counters.Operations() as counted:
        work(X.clone())
    counted.counts["clone"] -= 1  # X's own
    found = {operation: n for operation, n in counted.counts.items() if n}
    assert found == expected if expected else sum(found.values()) == 6


def test_live_storage_counts_what_is_alive_and_what_was():
    x = torch.zeros(1000)
    with counters.LiveStorage() as storage:
        kept = x + 1
        assert storage.live == 4000
        view = kept.view(10, 100)[2:5]
        assert storage.live == 4000  # a view of it takes nothing
        del kept
        assert storage.live == 4000  # and keeps it alive
        assert (view + (view + 1)).sum() > 0
        assert storage.peak >= 4000 + 2 * 1200
        view.mul_(2)
        assert storage.live == 4000  # nor does an operation in place
        del view
        assert storage.live == 0
    assert storage.peak < 8000


def test_kernels_are_told_from_copies_and_from_what_the_processor_does():
    gpu, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    names = ["void add<float>", "Memcpy DtoH", "Memset (Device)", "void add<float>", "gemm"]
    events = [SimpleNamespace(name=name, device_type=gpu) for name in names]
    events += [SimpleNamespace(name=name, device_type=cpu) for name in ("aten::add", "Memcpy")]
    assert counters.of_gpu(events) == (3, 2)


class Debugged:
    """CUDA's debug mode: it warns of everything that waits, while it is switched on."""

    def __init__(self):
        self.mode = 0

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode

    def wait(self):
        if self.mode == "warn":
            warnings.warn(
                "called a synchronizing CUDA operation (Triggered internally)", stacklevel=1
            )


def test_every_wait_for_the_gpu_is_counted_and_the_mode_is_put_back(monkeypatch):
    debugged = Debugged()
    for name in ("get_sync_debug_mode", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, getattr(debugged, name))

    def work():
        for _ in range(3):
            debugged.wait()
        warnings.warn("something else", stacklevel=1)

    assert counters.synchronisations(work) == 3 and debugged.mode == 0
    assert counters.synchronisations(lambda: None) == 0
    with pytest.raises(KeyError):
        counters.synchronisations(lambda: {}["fails"])
    assert debugged.mode == 0
