"""
Gradient steps recorded as CUDA graphs. Without a GPU, a stand-in carries the recorded function out at each replay, on the
very tensors that a graph would read: what reaches it, what it leaves behind, and when it is recorded anew are the same.
"""

import pytest
import torch as th

from sb3_pg_extras import BEAR
from sb3_pg_extras.bear import bear as bear_module
from sb3_pg_extras.bear import losses
from sb3_pg_extras.fast import cuda_graphs

DATASET = "bundled:pendulum-mixed-v0"


def pendulum(**kwargs) -> BEAR:
    small = {"net_arch": [32, 32], "vae_net_arch": [32, 32]}
    warmup_steps = kwargs.pop("warmup_steps", 10)
    kwargs = {"batch_size": 32, "policy_kwargs": small, "device": "cpu", "seed": 0} | kwargs
    model = BEAR("MlpPolicy", "Pendulum-v1", DATASET, **kwargs)
    model.warmup_steps = warmup_steps
    return model


def weights(model) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()] + [model.log_alpha.detach()])


class Recorder:
    """Stands for ``cuda_graphs.record``."""

    def __init__(self, monkeypatch):
        self.recorded, self.replayed = 0, 0
        monkeypatch.setattr(cuda_graphs, "record", self)
        # So that a rate read from a tensor is the very number, and runs can be compared bit by bit.
        monkeypatch.setattr(cuda_graphs, "RATE_DTYPE", th.float64)

    def __call__(self, step, generator):
        self.recorded += 1

        def replay():
            self.replayed += 1
            return step()

        return replay


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


class Recording(BEAR):
    """As on a GPU."""

    @property
    def records_steps(self) -> bool:
        return True


def recording(**kwargs) -> BEAR:
    model = pendulum(**kwargs)
    model.__class__ = Recording
    return model


def falling(progress: float) -> float:
    return 1e-3 * progress


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"warmup_steps": 30, "behavior_steps": 60},
        {
            "learning_rate": falling,
            "critic_learning_rate": falling,
            "vae_learning_rate": falling,
            "alpha_learning_rate": falling,
        },
        {"mmd_threshold": "auto", "warmup_steps": 50},
        {"mmd_estimator": "unbiased", "mmd_threshold": 0.1, "bootstrap_probability": 0.7, "n_steps": 3},
        {"alpha": 10.0, "divergence": "kl"},
    ],
)
def test_a_recorded_run_is_the_same_run(recorder, monkeypatch, kwargs):
    monkeypatch.setattr(bear_module, "AUTO_WINDOW", 10)
    plain, ours = (
        pendulum(**kwargs).learn(120, log_interval=None),
        recording(**kwargs).learn(120, log_interval=None),
    )
    assert th.equal(weights(plain), weights(ours))
    assert not th.equal(weights(plain), weights(pendulum(**kwargs)))
    # A few kinds of steps; the rest ran from graphs.
    assert recorder.recorded <= 4
    assert recorder.replayed >= 120 - 10 - 4 * cuda_graphs.WARMUP
    logged, expected = ours._sums, plain._sums
    assert logged.keys() == expected.keys()
    for name, (total, count) in expected.items():
        assert logged[name][1] == count
        assert th.equal(logged[name][0], total), name


def test_inputs_are_copied_to_where_the_graph_reads(recorder, monkeypatch):
    model, seen = recording(), []
    original = losses.vae_loss

    def vae_loss(reconstruction, actions, *rest):
        seen.append(actions.data_ptr())
        return original(reconstruction, actions, *rest)

    monkeypatch.setattr(losses, "vae_loss", vae_loss)
    model.learn(100)
    assert len(set(seen[-30:])) == 1


def test_optimisers_keep_their_numbers(recorder):
    model = recording().learn(60)
    for optimizer in model._recorded_steps.optimizers:
        for group in optimizer.param_groups:
            assert isinstance(group["lr"], float)
            assert group["capturable"] is False


def test_saves_and_loads(recorder, tmp_path):
    model = recording().learn(60)
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", device="cpu")
    loaded.__class__ = Recording
    plain = pendulum().learn(60)
    for one in (loaded, plain):
        one.learn(10, reset_num_timesteps=False)
    assert th.equal(weights(plain), weights(loaded))


@pytest.mark.parametrize(
    "change", [lambda model: model.set_parameters(model.get_parameters()), lambda model: model.set_dataset(DATASET)]
)
def test_what_moves_the_tensors_forgets_the_graphs(recorder, change):
    model = recording().learn(60)
    before = recorder.recorded
    assert model._recorded_steps._graphs
    change(model)
    assert not model._recorded_steps._graphs
    model.learn(60, reset_num_timesteps=False)
    assert recorder.recorded > before


def test_a_step_that_cannot_be_recorded_runs_as_before(monkeypatch):
    def refuse(step, generator):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "record", refuse)
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph.*not permitted") as caught:
        model = recording().learn(60)
    assert len([w for w in caught if "CUDA graph" in str(w.message)]) <= 3  # once for each kind
    assert th.equal(weights(model), weights(pendulum().learn(60)))


def test_seldom_more_graphs_than_there_is_room_for(recorder):
    model = recording(warmup_steps=0)
    model._setup_learn(400)
    for number in range(200):
        model.mmd_threshold = 0.05 + number // 10 * 0.001
        model.train(1, 32)
        assert len(model._recorded_steps._graphs) <= cuda_graphs.MAX_GRAPHS
    assert recorder.recorded > cuda_graphs.MAX_GRAPHS


def test_without_a_gpu_it_has_no_effect():
    model = pendulum()
    model.cuda_graphs = True
    assert model.learn(10)._recorded_steps is None


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    runs = [pendulum(device="cuda", behavior_steps=60) for _ in range(2)]
    runs[1].cuda_graphs = True
    for model in runs:
        model.learn(120)
    assert len(runs[1]._recorded_steps._graphs) >= 3
    th.testing.assert_close(weights(runs[0]), weights(runs[1]), rtol=0, atol=1e-4)
