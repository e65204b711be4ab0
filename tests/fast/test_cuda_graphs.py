"""
Gradient steps captured as CUDA graphs. Without a GPU, a stand-in carries the captured function out at each replay, on the
very tensors that a graph would read: what reaches it, what it leaves behind, and when it is captured anew are the same.
"""

import gc
import io

import pytest
import torch as th
from conftest import make_arrays
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pg_extras import BC, BCQ, BEAR, TD3BC
from sb3_pg_extras.fast import cuda_graphs
from sb3_pg_extras.offline import losses as offline_losses
from sb3_pg_extras.offline.evaluation import FQE
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm

SMALL = {"net_arch": [32, 32]}


def bear(device: str = "cpu", **kwargs) -> BEAR:
    small = {**SMALL, "vae_net_arch": [32, 32]}
    return BEAR(
        "MlpPolicy", None, make_arrays(400), **({"batch_size": 32, "policy_kwargs": small} | kwargs), seed=0, device=device
    )


def weights(model) -> th.Tensor:
    parts = [parameter.detach().flatten() for parameter in model.policy.parameters()]
    return th.cat([*parts, *([model.log_alpha.detach(), model.mmd_slack] if isinstance(model, BEAR) else [])])


def falling(progress: float) -> float:
    return 1e-3 * progress


RATES = dict.fromkeys(("learning_rate", "critic_learning_rate", "vae_learning_rate", "alpha_learning_rate"), falling)
VARIANTS = {
    "default": {},
    "learns the behaviour throughout": {"behavior_steps": None},
    "falling learning rates": RATES,
    "alpha at its bound": {"alpha_learning_rate": 1.0, "log_alpha_max": -4.0},
    "unbiased": {"mmd_estimator": "unbiased", "mmd_threshold": 1, "bootstrap_probability": 0.7, "n_steps": 1},
    "unbiased, auto": {"mmd_estimator": "unbiased"},
    "KL, fixed alpha": {"alpha": 10.0, "divergence": "kl"},
    "not normalised": {"normalize_observations": False},
}


class Capturer:
    """Stands for ``cuda_graphs.capture``."""

    def __init__(self, monkeypatch):
        self.captured, self.replayed = 0, 0
        monkeypatch.setattr(cuda_graphs, "capture", self)
        # So that a rate read from a tensor is the very number, and runs can be compared bit by bit.
        monkeypatch.setattr(cuda_graphs, "RATE_DTYPE", th.float64)
        monkeypatch.setattr(OfflineAlgorithm, "captures_steps", property(lambda self: self.cuda_graphs))

    def __call__(self, step, generator):
        self.captured += 1

        def replay():
            self.replayed += 1
            return step()

        return replay


@pytest.fixture
def capturer(monkeypatch):
    return Capturer(monkeypatch)


def plain(model):
    model.cuda_graphs = False
    return model


@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_a_captured_run_is_the_same_run(capturer, kwargs):
    expected, ours = plain(bear(**kwargs)).learn(120, log_interval=None), bear(**kwargs).learn(120, log_interval=None)
    assert th.equal(weights(expected), weights(ours))
    assert not th.equal(weights(bear(**kwargs)), weights(ours))
    assert (ours.log_alpha.item() == ours.log_alpha_max) == ("log_alpha_max" in kwargs)
    # Two kinds of steps; the rest ran from graphs.
    assert capturer.captured <= 2
    assert capturer.replayed >= 120 - 2 * cuda_graphs.WARMUP
    assert ours._sums.keys() == expected._sums.keys()
    for name, (total, count) in expected._sums.items():
        assert ours._sums[name][1] == count
        assert th.equal(ours._sums[name][0], total), name


def test_a_callback_may_set_the_threshold(capturer):
    def callback(local_variables, _):
        model = local_variables["self"]
        model.mmd_threshold = {20: 1, 40: 0.3, 60: "auto"}.get(model.num_timesteps, model.mmd_threshold)
        return True

    expected, ours = plain(bear()).learn(80, callback), bear().learn(80, callback)
    assert capturer.replayed > 0
    assert th.equal(weights(expected), weights(ours))


@pytest.mark.parametrize("algorithm", [BC, BCQ, TD3BC])
def test_the_baselines_are_captured(capturer, algorithm):
    models = [
        algorithm("MlpPolicy", None, make_arrays(400), batch_size=32, policy_kwargs=SMALL, seed=0, device="cpu")
        for _ in range(2)
    ]
    assert th.equal(weights(plain(models[0]).learn(40)), weights(models[1].learn(40)))
    assert capturer.replayed >= 40 - 2 * cuda_graphs.WARMUP


def test_fqe_is_captured_where_the_policy_is_deterministic(capturer):
    policy = BC("MlpPolicy", None, make_arrays(400), policy_kwargs=SMALL, seed=0, device="cpu")
    for deterministic in (True, False):
        models = [
            FQE(policy, make_arrays(400), deterministic=deterministic, policy_kwargs=SMALL, seed=0, device="cpu")
            for _ in range(2)
        ]
        before = capturer.replayed
        th.manual_seed(0)
        expected = weights(plain(models[0]).learn(40))
        th.manual_seed(0)
        assert th.equal(expected, weights(models[1].learn(40)))
        assert (capturer.replayed > before) is deterministic


def test_inputs_are_copied_to_where_the_graph_reads(capturer, monkeypatch):
    seen = []
    original = offline_losses.vae_loss

    def vae_loss(reconstruction, actions, *rest):
        seen.append(actions.data_ptr())
        return original(reconstruction, actions, *rest)

    monkeypatch.setattr("sb3_pg_extras.bear.bear.vae_loss", vae_loss)
    bear(behavior_steps=None).learn(100)
    assert len(set(seen[-30:])) == 1


def test_optimisers_keep_their_numbers(capturer):
    model = bear().learn(60)
    for optimizer in model._captured_steps.optimizers:
        for group in optimizer.param_groups:
            assert isinstance(group["lr"], float)
            assert group["capturable"] is False


def test_saves_and_loads(capturer, tmp_path):
    model = bear(behavior_steps=None).learn(60)
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", dataset=make_arrays(400), device="cpu")
    expected = plain(bear(behavior_steps=None)).learn(60)
    for one in (loaded, expected):
        one.learn(10, reset_num_timesteps=False)
    assert th.equal(weights(expected), weights(loaded))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_parameters(model.get_parameters()),
        lambda model: model.set_dataset(make_arrays(300)),
        lambda model: model.export_torchscript(io.BytesIO()),
    ],
)
def test_what_moves_tensors_during_learning_is_captured_anew(capturer, change):
    before = []

    def callback(model, _):
        if model["self"].num_timesteps == 40:
            before.append(capturer.captured)
            change(model["self"])
        return True

    bear().learn(60, callback)
    assert before == [2] and capturer.captured == 3


def test_each_learn_captures_anew_since_arguments_may_have_changed(capturer):
    model = bear().learn(60)
    assert capturer.captured == 2
    model.learn(20, reset_num_timesteps=False)
    assert capturer.captured == 3


def test_a_step_that_cannot_be_captured_says_what_to_do(capturer, monkeypatch):
    def refuse(step, generator):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "capture", refuse)
    with pytest.raises(RuntimeError, match=r"not permitted(.|\n)*model.cuda_graphs = False"):
        bear().learn(60)


def test_only_on_a_gpu():
    assert not bear().captures_steps
    assert bear().learn(10)._captured_steps is None


def close(ours, expected, tolerance=1e-3):
    """A graph's learning rates are in single precision, and some sums are added up in another order."""
    th.testing.assert_close(weights(ours), weights(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
def test_bear_on_a_gpu(kwargs):
    expected, ours = plain(bear("cuda", **kwargs)).learn(100), bear("cuda", **kwargs).learn(100)
    assert len(ours._captured_steps._graphs) == 2
    close(ours, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", [BC, BCQ, TD3BC])
def test_baselines_on_a_gpu(algorithm):
    models = [algorithm("MlpPolicy", None, make_arrays(400), batch_size=32, policy_kwargs=SMALL, seed=0) for _ in range(2)]
    plain(models[0]).learn(60)
    models[1].learn(60)
    assert models[1].device.type == "cuda" and models[1]._captured_steps._graphs
    close(models[1], models[0])


@pytest.mark.gpu
def test_fqe_on_a_gpu():
    policy = BC("MlpPolicy", None, make_arrays(400), policy_kwargs=SMALL, seed=0)
    models = [FQE(policy, make_arrays(400), policy_kwargs=SMALL, seed=0) for _ in range(2)]
    plain(models[0]).learn(60)
    assert models[1].learn(60)._captured_steps._graphs
    close(models[1], models[0])


@pytest.mark.gpu
def test_bf16_and_large_batches_on_a_gpu():
    for kwargs in ({"precision": "bf16"}, {"batch_size": 2048}):
        models = bear("cuda", **kwargs), bear("cuda", **kwargs)
        close(models[0].learn(60), plain(models[1]).learn(60), 3e-2)


@pytest.mark.gpu
def test_dropout_on_a_gpu_is_drawn_anew():
    class Dropout(FlattenExtractor):
        def __init__(self, space):
            super().__init__(space)
            self.dropout = nn.Dropout(0.5)

        def forward(self, observations):
            return self.dropout(super().forward(observations))

    kwargs = {"policy_kwargs": {**SMALL, "vae_net_arch": [32], "features_extractor_class": Dropout}}
    models = bear("cuda", **kwargs), bear("cuda", **kwargs)
    close(models[0].learn(60), plain(models[1]).learn(60))


@pytest.mark.gpu
def test_one_model_after_another_on_a_gpu():
    """What the collector destroys must not spoil the next model's capture."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(4):
            bear("cuda").learn(40)
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_says_what_to_do():
    class Waits(BC):
        def _update(self, batch, step):
            return {"sum": th.tensor(batch.rewards.sum().item())}

    with pytest.raises(RuntimeError, match="cuda_graphs = False"):
        Waits("MlpPolicy", None, make_arrays(400), policy_kwargs=SMALL, seed=0).learn(10)


@pytest.mark.gpu
def test_resuming_on_a_gpu_is_exact(tmp_path):
    model = bear("cuda", behavior_steps=None).learn(40)
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", dataset=make_arrays(400), device="cuda")
    for one in (model, loaded):
        one.learn(20, reset_num_timesteps=False)
    assert th.equal(weights(model), weights(loaded))


@pytest.mark.gpu
def test_a_model_of_the_gpu_acts_on_the_cpu_and_exports(tmp_path):
    model = bear("cuda").learn(40)
    model.save(tmp_path / "model")
    observations = th.randn(50, 3).numpy()
    on_cpu = BEAR.load(tmp_path / "model", device="cpu").predict(observations, deterministic=True)[0]
    th.testing.assert_close(
        th.from_numpy(on_cpu), th.from_numpy(model.predict(observations, deterministic=True)[0]), rtol=0, atol=1e-4
    )
    model.export_torchscript(str(tmp_path / "policy.pt"))


@pytest.mark.gpu
def test_what_is_not_finite_stops_the_run():
    arrays = make_arrays(400)
    arrays["rewards"] = arrays["rewards"] * 1e30
    with pytest.raises(ValueError, match="not finite"):
        BEAR("MlpPolicy", None, arrays, policy_kwargs={**SMALL, "vae_net_arch": [32]}, seed=0).learn(300)
