"""Torch twins opened: every run begins alike, whatever the model writes into, and every value is what its op put out."""

import gc

import numpy
import pytest

torch = pytest.importorskip("torch")

from workbench.capture.torch_graphs import script_graph  # noqa: E402
from workbench.capture.twins import open_twin  # noqa: E402

ONES = {"x": numpy.ones(3, numpy.float32)}
DIALECTS = ("TorchScript", "TorchExport::ATEN")


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 1.0


class Writer(torch.nn.Module):
    """Writes into what it is given, and into values and views of them."""

    def forward(self, x):
        x.mul_(2)
        half = x / 4
        half.view(3, 1).squeeze(1).add_(1)
        return half + 0


class Untraceable(Counter):
    def forward(self, x):
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            self.total.add_(5)
            raise RuntimeError("not this one")
        return super().forward(x)


def twins(make, folder):
    torch.jit.save(torch.jit.trace(make(), torch.zeros(3), check_trace=False), str(folder / "net.pt"))
    yield open_twin(folder / "net.pt", ONES)
    for dialect in DIALECTS:
        yield open_twin(make(), ONES, dialect)


@pytest.mark.parametrize(("make", "value"), [(Counter, 1.0), (Writer, 1.5)])
def test_every_run_begins_as_the_first(make, value, tmp_path):
    for twin in twins(make, tmp_path):
        for precision in ("float32", "float32", "float64"):
            (found,) = twin.run(ONES, precision).outputs.values()
            assert found.tolist() == [value] * 3, twin.label
    assert ONES["x"].tolist() == [1, 1, 1]  # what later runs are given too


def test_a_model_that_is_only_called_begins_alike_too():
    twin = open_twin(Untraceable(), ONES, "TorchScript")
    assert [next(iter(twin.run(ONES, "float32").outputs.values())).tolist() for _ in range(3)] == [[1.0] * 3] * 3
    assert "cannot be traced" in twin.notes[0]


def test_a_value_is_what_its_op_put_out_whatever_is_written_into_it_later():
    """ReLU in place follows nearly every convolution of torchvision."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(layer, torch.nn.ReLU(inplace=True), torch.nn.Linear(3, 3)).eval()
    x = torch.from_numpy(numpy.random.default_rng(0).standard_normal((4, 3)).astype(numpy.float32))
    wanted = layer(x).detach().numpy()
    assert (wanted < 0).any()
    inner = open_twin(model, {"x": x.numpy()}, "TorchScript").run({"x": x.numpy()}, "float32").inner
    assert any(numpy.array_equal(value, wanted) for value in inner.values())
    assert any(numpy.array_equal(value, wanted.clip(0)) for value in inner.values())
    view = script_graph(torch.jit.trace(Writer(), torch.zeros(3), check_trace=False)).run([torch.ones(3)]).inner
    assert any(value.tolist() == [0.5] * 3 for value in view.values())


class Typed(torch.nn.Module):
    """Its trace holds a float32 constant, so it fails in float64."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))

    def forward(self, x):
        return self.net(x.to(torch.float32))


def test_an_op_that_fails_in_another_precision_is_an_error_and_not_the_end_of_the_process(tmp_path):
    torch.jit.save(torch.jit.trace(Typed(), torch.zeros(1, 3)), str(tmp_path / "net.pt"))
    graph = script_graph(torch.jit.load(str(tmp_path / "net.pt")).to(torch.float64))
    gc.collect()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="dtype"):
            graph.run([torch.zeros(1, 3, dtype=torch.float64)])
