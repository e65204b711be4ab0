"""Gradient steps recorded as CUDA graphs: hundreds of small kernels then start with one call instead of one each."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th

Outputs = dict[str, th.Tensor]
Step = Callable[..., Outputs]
# Steps of a kind that run operator by operator before one is recorded: libraries and optimisers allocate in the first ones.
WARMUP = 3
# What the optimisers' kernels read.
RATE_DTYPE = th.float32
# Kinds of steps whose graphs are kept at a time.
MAX_GRAPHS = 16


def record(step: Callable[[], Outputs], generator: th.Generator) -> Callable[[], Outputs]:
    """
    :param step: What to record; it must not wait for the device. It is not carried out yet.
    :param generator: The generator that it draws from.
    :return: Carries out the step, and returns its outputs, which the next call overwrites.
    """
    graph = th.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with th.cuda.graph(graph):
        outputs = step()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


class RecordedSteps:
    """
    Runs steps, each kind operator by operator at first and then from a CUDA graph.

    What a graph reads and writes stays where it was recorded: inputs are copied there, weights and the optimisers' state
    must be changed in place only. :meth:`clear` after anything else.

    :param optimizers: All that the steps use. Their learning rates may change from step to step.
    :param generator: The generator that the steps draw from.
    """

    def __init__(self, optimizers: Sequence[th.optim.Optimizer], generator: th.Generator) -> None:
        self.optimizers = optimizers
        self.generator = generator
        self.clear()

    def clear(self) -> None:
        """Forget what is recorded."""
        self._n_seen: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, kind: Hashable, step: Step, *inputs: Any) -> Outputs:
        """
        :param kind: Steps of one kind are the same operators on tensors of the same shapes, and on the same numbers where
            these are not tensors.
        :param step: The step.
        :param inputs: Its arguments: tensors, or (named) tuples and dicts of them.
        :return: Its outputs, to be read before the next step.
        """
        if kind not in self._graphs:
            self._n_seen[kind] = self._n_seen.get(kind, 0) + 1
            if self._n_seen[kind] <= WARMUP:
                return self._run_aside(step, inputs)
            if len(self._graphs) == MAX_GRAPHS:
                self.clear()
            try:
                self._graphs[kind] = _Graph(step, inputs, self.optimizers, self.generator)
            except RuntimeError as error:
                warnings.warn(f"this step cannot be recorded as a CUDA graph, it runs operator by operator: {error}")
                self._n_seen[kind] = -(1 << 62)
                return step(*inputs)
        return self._graphs[kind](inputs)

    def _run_aside(self, step: Step, inputs: Any) -> Outputs:
        """On another stream, as PyTorch asks for before a recording."""
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
        copies = _copy(inputs)
        self._inputs = list(_tensors(copies))
        self._groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._known_rates = [float(group["lr"]) for group in self._groups]
        self._rates = [th.full((), rate, dtype=RATE_DTYPE, device=generator.device) for rate in self._known_rates]

        def recorded() -> Outputs:
            with _rates_from(self._groups, self._rates):
                return step(*copies)

        self._replay = record(recorded, generator)

    def __call__(self, inputs: Any) -> Outputs:
        th._foreach_copy_(self._inputs, list(_tensors(inputs)))
        for number, (group, rate) in enumerate(zip(self._groups, self._rates, strict=True)):
            if group["lr"] != self._known_rates[number]:
                self._known_rates[number] = group["lr"]
                rate.fill_(group["lr"])
        return self._replay()


@contextmanager
def _rates_from(groups: list[dict[str, Any]], rates: list[th.Tensor]) -> Iterator[None]:
    """Optimisers read their learning rates from tensors meanwhile: a graph would keep a number for ever."""
    before: list[dict[str, Any]] = [
        {name: group[name] for name in ("lr", "capturable") if name in group} for group in groups
    ]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)


def _tensors(tree: Any) -> Iterator[th.Tensor]:
    if isinstance(tree, th.Tensor):
        yield tree
    elif isinstance(tree, (tuple, dict)):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(item)


def _copy(tree: Any) -> Any:
    if isinstance(tree, th.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        items = [_copy(item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree
