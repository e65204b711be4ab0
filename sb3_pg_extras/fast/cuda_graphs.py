"""Only speed: gradient steps as CUDA graphs, whose hundreds of small operations start with one call instead of one each."""

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch as th

Outputs = dict[str, th.Tensor]
Step = Callable[..., Outputs]
# Steps of a kind that run operator by operator before one is captured: libraries and optimisers allocate during the first.
WARMUP = 3
# The type that the fused optimisers read learning rates in.
RATE_DTYPE = th.float32


def capture(step: Callable[[], Outputs], generator: th.Generator) -> Callable[[], Outputs]:
    """
    :param step: What to capture; it must not wait for the device. Capturing does not execute it.
    :param generator: The generator that it draws from.
    :return: A function that executes the step and returns its outputs, which the next call overwrites.
    """
    graph = th.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    # An earlier model's graph that is destroyed meanwhile would spoil this one.
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with th.cuda.graph(graph):
            outputs = step()
    finally:
        if was_enabled:
            gc.enable()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


class CapturedSteps:
    """
    Runs steps, each kind operator by operator at first and then from a CUDA graph.

    A graph reads and writes the memory that it was captured with: inputs are copied there; weights and the optimisers' state
    must be changed in place only. Numbers that are neither inputs nor learning rates stay as they were when it was captured.

    :param optimizers: All that the steps use. Their learning rates may change from step to step.
    :param generator: The generator that the steps draw from.
    """

    def __init__(self, optimizers: Sequence[th.optim.Optimizer], generator: th.Generator) -> None:
        self.optimizers = optimizers
        self.generator = generator
        self._n_seen: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, step: Step, *inputs: Any) -> Outputs:
        """
        :param step: The step.
        :param inputs: Its arguments: tensors and hashable values, or (named) tuples and dicts of them. Those of the same
            shapes and values are of one kind.
        :return: Its outputs, to be read before the next step.
        :raises RuntimeError: when it cannot be captured, for instance because it waits for the device.
        """
        kind = tuple(leaf.shape if isinstance(leaf, th.Tensor) else leaf for leaf in _leaves(inputs))
        if kind not in self._graphs:
            self._n_seen[kind] = self._n_seen.get(kind, 0) + 1
            if self._n_seen[kind] <= WARMUP:
                return self._run_aside(step, inputs)
            try:
                self._graphs[kind] = _Graph(step, inputs, self.optimizers, self.generator)
            except (RuntimeError, AssertionError) as error:
                # It cannot continue: the generator still believes that it is being captured.
                raise RuntimeError(
                    f"{error}\nThis step cannot be captured as a CUDA graph: build the model again, and set "
                    "model.cuda_graphs = False before learn()"
                ) from error
        return self._graphs[kind](inputs)

    def _run_aside(self, step: Step, inputs: Any) -> Outputs:
        """On a side stream, as PyTorch requires before a graph is captured."""
        if self.generator.device.type != "cuda":
            return step(*inputs)
        current, aside = th.cuda.current_stream(), th.cuda.Stream()
        aside.wait_stream(current)
        with th.cuda.stream(aside):
            outputs = step(*inputs)
        current.wait_stream(aside)
        return outputs


class _Graph:
    def __init__(self, step: Step, inputs: Any, optimizers: Sequence[th.optim.Optimizer], generator: th.Generator) -> None:
        copies = deepcopy(inputs)
        self._inputs = _tensors(copies)
        self._groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._known_rates = [float(group["lr"]) for group in self._groups]
        self._rates = [th.full((), rate, dtype=RATE_DTYPE, device=generator.device) for rate in self._known_rates]
        for optimizer in optimizers:
            for state in optimizer.state.values():
                # Adam counts its steps on the CPU otherwise, where a graph does not.
                if "step" in state:
                    state["step"] = state["step"].to(generator.device)

        def captured() -> Outputs:
            with _rates_from(self._groups, self._rates):
                return step(*copies)

        self._replay = capture(captured, generator)

    def __call__(self, inputs: Any) -> Outputs:
        th._foreach_copy_(self._inputs, _tensors(inputs))
        for number, (group, rate) in enumerate(zip(self._groups, self._rates, strict=True)):
            if group["lr"] != self._known_rates[number]:
                self._known_rates[number] = group["lr"]
                rate.fill_(group["lr"])
        return self._replay()


@contextmanager
def _rates_from(groups: list[dict[str, Any]], rates: list[th.Tensor]) -> Iterator[None]:
    """Let optimisers read their learning rates from tensors meanwhile: a graph would keep a number for ever."""
    before = [dict(group) for group in groups]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group.update(lr=rate, **({"capturable": True} if "capturable" in group and rate.is_cuda else {}))
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree


def _tensors(tree: Any) -> list[th.Tensor]:
    return [leaf for leaf in _leaves(tree) if isinstance(leaf, th.Tensor)]
