"""torch: nn.LSTM, nn.GRU, nn.RNN and nn.LSTMCell; a ragged batch is a PackedSequence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.recurrent.workloads import WORKLOADS, Layer, widened

torch = pytest.importorskip("torch")


def tensor(array: Any) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def module(inputs: Layer) -> Any:
    weight = inputs.weights["weight_ih_l0"]
    network = getattr(torch.nn, inputs.kind)(
        weight.shape[1], inputs.weights["weight_hh_l0"].shape[1]
    )
    network = network.to(tensor(weight).dtype)
    network.load_state_dict({name: tensor(array) for name, array in inputs.weights.items()})
    return network


def forward(inputs: Layer) -> Program:
    network, x = module(inputs).eval(), tensor(inputs.x)

    def call() -> Any:
        with torch.no_grad():
            return network(x)

    return Program(call, result=lambda: widened(call()[0].float().numpy()))


def ragged(inputs: Layer) -> Program:
    network, x = module(inputs).eval(), tensor(inputs.x)
    lengths = torch.from_numpy(inputs.lengths)

    def call() -> Any:
        with torch.no_grad():
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            return torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], total_length=len(x))

    return Program(call, result=lambda: call()[0].numpy())


def gradients(inputs: Layer) -> Program:
    network = module(inputs)
    grad = torch.from_numpy(
        np.random.default_rng(1).standard_normal(
            (*inputs.x.shape[:2], network.hidden_size), np.float32
        )
    )

    def call() -> Any:
        network.zero_grad(set_to_none=True)
        x = tensor(inputs.x).requires_grad_()
        network(x)[0].backward(grad)
        return [x.grad.numpy(), *(p.grad.numpy() for p in network.parameters())]

    return Program(call)


def steps(inputs: Layer) -> Program:
    cell = torch.nn.LSTMCell(inputs.x.shape[2], inputs.weights["weight_hh_l0"].shape[1])
    cell.load_state_dict({n.removesuffix("_l0"): tensor(a) for n, a in inputs.weights.items()})
    frames = list(tensor(inputs.x))
    zero = torch.zeros(inputs.x.shape[1], cell.hidden_size)

    def call() -> Any:
        with torch.no_grad():
            h = c = zero
            for frame in frames:
                h, c = cell(frame, (h, c))
        return h.numpy()

    return Program(call)


TORCH = Peer(
    name="torch",
    version=torch.__version__,
    programs={
        "forward float32": forward,
        "forward bfloat16": forward,
        "ragged": ragged,
        "gradients float32": gradients,
        "steps": steps,
    },
    set_threads=torch.set_num_threads,
)


@pytest.mark.parametrize("workload", TORCH.among(WORKLOADS), ids=str)
def bench_torch(race: Callable[..., None], workload: Workload) -> None:
    race(workload, TORCH)
