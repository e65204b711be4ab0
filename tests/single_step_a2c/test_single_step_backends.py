"""SingleStepA2C on both backends: NumPy against torch, and what callbacks may change while either learns."""

import pickle
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from single_step_models import BACKENDS, Anything, Chain, Noise, chain_model, make, vector
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn
from torch_calls import torch_calls

from sb3_pg_extras import REINFORCE, STREAM_PRESET, SingleStepA2C
from sb3_pg_extras.single_step_a2c.optimizers import ObGD

OPTIMIZERS = [
    (th.optim.SGD, 1e-2, {}),
    (th.optim.RMSprop, 7e-4, {"eps": 1e-3}),
    (th.optim.Adam, 3e-3, {"eps": 1e-3}),
    (ObGD, 1e-2, {"kappa": 2.0}),
]
HEADS = ["discrete", "gaussian", "state-dependent std"]


def uses_numpy(model: SingleStepA2C) -> bool:
    return model._make_learner() is not None


def both_backends(head: str, n_envs: int, **settings) -> None:
    """Train 50 updates with each backend: the same parameters and the same states of the optimisers."""
    space = spaces.Discrete(3) if head == "discrete" else spaces.Box(-1, 1, (2,))
    networks = {"net_arch": [6, 5], "sparsity": None, "state_dependent_std": head == "state-dependent std"}
    settings["policy_kwargs"] = networks | settings["policy_kwargs"]

    def train(backend: str, n_updates: int = 50) -> SingleStepA2C:
        env = make_vec_env(lambda: Noise(space), n_envs, seed=1)
        return SingleStepA2C("StreamPolicy", env, seed=2, backend=backend, **settings).learn(n_updates * n_envs)

    ours, oracle, start = train("auto"), train("torch"), train("torch", 0)
    assert uses_numpy(ours) and not uses_numpy(oracle) and ours._n_updates == 50
    assert (vector(ours) - vector(oracle)).abs().max() < 1e-6
    assert (vector(oracle) - vector(start)).abs().max() > 1e-2
    for one, other in zip(ours.optimizers, oracle.optimizers, strict=True):
        states = one.state_dict()["state"], other.state_dict()["state"]
        for index, state in states[1].items():
            for name, value in state.items():
                if value is not None:
                    th.testing.assert_close(states[0][index][name], value, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trace_decay", [0.0, 0.7])
@pytest.mark.parametrize(("optimizer_class", "learning_rate", "optimizer_kwargs"), OPTIMIZERS)
def test_numpy_makes_the_updates_of_torch(
    optimizer_class, learning_rate, optimizer_kwargs, trace_decay, head, extras, n_envs
):
    """The extras: a second optimiser, entropy, clipping and layer norm."""
    both_backends(
        head, n_envs, learning_rate=learning_rate, critic_learning_rate=2 * learning_rate if extras else None,
        trace_decay=trace_decay, ent_coef=0.03 if extras else 0.0, max_grad_norm=0.5 if extras else None,
        policy_kwargs={
            "layer_norm": extras, "activation_fn": nn.Tanh,
            "optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs,
        },
    )  # fmt: skip


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation_fn", [nn.ReLU, nn.LeakyReLU, nn.ELU])
def test_numpy_makes_the_updates_of_torch_with_every_activation(activation_fn, head, layer_norm):
    both_backends(
        head, 2, learning_rate=3e-3, trace_decay=0.7, ent_coef=0.03,
        policy_kwargs={
            "layer_norm": layer_norm, "activation_fn": activation_fn,
            "optimizer_class": th.optim.Adam, "optimizer_kwargs": {"eps": 1e-3},
        },
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["MultiInputPolicy", "StreamPolicy"])
def test_numpy_takes_dicts_of_vectors(policy):
    space = spaces.Dict({"z": spaces.Box(-9, 9, (1,)), "a": spaces.Box(-9, 9, (3, 1))})

    def train(backend: str) -> SingleStepA2C:
        env = make_vec_env(
            lambda: gym.wrappers.TransformObservation(
                Noise(spaces.Discrete(2)), lambda obs: {"z": obs[:1], "a": obs[1:, None]}, space
            ),
            seed=1,
        )
        return SingleStepA2C(policy, env, seed=2, backend=backend).learn(100)

    ours, oracle = train("auto"), train("torch")
    assert uses_numpy(ours)
    assert (vector(ours) - vector(oracle)).abs().max() < 1e-6


class OwnPolicy(ActorCriticPolicy):
    """A policy that may have a forward pass of its own."""


@pytest.mark.parametrize(
    "kwargs",
    [
        {"backend": "torch"},
        {"env": "Pendulum-v1", "use_sde": True},
        {"policy": OwnPolicy},
        {"policy_kwargs": {"activation_fn": nn.SiLU}},
        {"policy_kwargs": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}},
        {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}},
        {"policy_kwargs": {"optimizer_class": th.optim.AdamW}},
    ],
)
def test_everything_else_is_left_to_torch(kwargs, capsys):
    model = make(verbose=1, **kwargs).learn(3)
    assert not uses_numpy(model) and "NumPy" not in capsys.readouterr().out


def test_images_of_floats_in_a_dict_are_left_to_torch():
    space = spaces.Dict({"image": spaces.Box(0, 1, (3, 36, 36), np.float32), "vector": spaces.Box(-1, 1, (3,))})
    images = {"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True}}
    model = make("MultiInputPolicy", Anything(space, spaces.Discrete(3)), policy_kwargs=images)
    assert not uses_numpy(model.learn(10))


def test_networks_that_were_changed_are_left_to_torch():
    head = make(policy_kwargs={"net_arch": [8]})
    head.policy.action_net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    head.policy.optimizer.add_param_group({"params": list(head.policy.action_net.parameters())})
    assert not uses_numpy(head.learn(10))
    # An optimiser of some of the parameters: the others stay as they are.
    part = make()
    part.policy.optimizer = th.optim.Adam(part.policy.action_net.parameters())
    before = deepcopy(part.policy.mlp_extractor.policy_net.state_dict())
    assert not uses_numpy(part.learn(10))
    th.testing.assert_close(part.policy.mlp_extractor.policy_net.state_dict(), before, atol=0, rtol=0)


def test_the_numpy_backend_is_named_in_the_log(capsys):
    make(verbose=1).learn(3)
    assert "NumPy backend" in capsys.readouterr().out


def test_the_numpy_backend_works_in_the_memory_of_the_policy_and_its_optimizers():
    model = make().learn(50)
    policy = deepcopy(model.policy)
    values = policy.predict_values(th.zeros(1, 4))
    model.learn(50, reset_num_timesteps=False)
    assert policy.predict_values(th.zeros(1, 4)) == values != model.policy.predict_values(th.zeros(1, 4))
    state = model.policy.optimizer.state[model.policy.action_net.weight]
    assert state["step"] == 100 and state["exp_avg"].abs().sum() > 0
    # Torch takes over where NumPy stopped.
    model.backend = "torch"
    model.learn(50, reset_num_timesteps=False)
    assert state["step"] == 150


class Call(BaseCallback):
    """Does something to the model before the update of one step."""

    def __init__(self, function, step: int = 10) -> None:
        super().__init__()
        self.function, self.step = function, step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.function(self.model)
        return True


def load_optimizer(model) -> None:
    model.policy.optimizer.load_state_dict(deepcopy(model.policy.optimizer.state_dict()))


def replace_optimizer(model) -> None:
    model.policy.optimizer = th.optim.RMSprop(model.policy.optimizer.param_groups[0]["params"], eps=1.0)


def replace_optimizer_by_one_of_torch(model) -> None:
    model.policy.optimizer = th.optim.SGD(model.policy.optimizer.param_groups[0]["params"], momentum=0.9)


@pytest.mark.parametrize("trace_decay", [0.0, 0.8])
@pytest.mark.parametrize("function", [load_optimizer, replace_optimizer, replace_optimizer_by_one_of_torch])
def test_a_callback_may_load_or_replace_an_optimizer(function, trace_decay):
    class BetweenSteps(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps == 10:
                function(self.model)

        def _on_step(self) -> bool:
            return True

    def train(backend, callback=None):
        # A schedule: a learning rate that is read from the old group would not change.
        settings = {"learning_rate": lambda progress: 0.1 * progress, "trace_decay": trace_decay, "max_grad_norm": 10.0}
        return vector(chain_model(Chain(7), backend=backend, **settings).learn(30, callback=callback))

    ours = train("auto", BetweenSteps())
    th.testing.assert_close(ours, train("torch", BetweenSteps()), atol=1e-5, rtol=0)
    changed = (ours - train("auto")).abs().max()
    assert changed < 1e-5 if function is load_optimizer else changed > 1e-2


def halve_in_place(model) -> None:
    with th.no_grad():
        for p in model.policy.parameters():
            p.mul_(0.5)


def load_policy(model) -> None:
    model.policy.load_state_dict({name: 0.5 * value for name, value in model.policy.state_dict().items()})


@BACKENDS
@pytest.mark.parametrize("function", [halve_in_place, load_policy])
def test_a_callback_may_change_the_policy(function, backend):
    before: list[th.Tensor] = []
    model = make(env=Chain(10**6), backend=backend)
    model.learn(10, callback=Call(lambda model: (before.append(vector(model)), function(model)), step=10))
    # The current step is not learnt from: the parameters that chose its action are gone.
    assert th.equal(vector(model), 0.5 * before[0]) and model._n_updates == 9
    model.learn(10, callback=Call(function, step=15), reset_num_timesteps=False)
    assert model._n_updates == 18


@pytest.mark.parametrize("trace_decay", [0.0, 0.8])
@pytest.mark.parametrize(
    "changed",
    [{"gamma": 0.2}, {"ent_coef": 1.0}, {"vf_coef": 5.0}, {"max_grad_norm": 1e-3}, {"gamma": 0.9, "trace_decay": 0.1}],
)
def test_a_callback_may_change_the_settings(changed, trace_decay):
    def train(backend, changed):
        model = chain_model(Chain(7), backend=backend, trace_decay=trace_decay, ent_coef=0.01, max_grad_norm=10.0)
        return vector(model.learn(30, callback=Call(lambda model: vars(model).update(changed))))

    ours = train("auto", changed)
    th.testing.assert_close(ours, train("torch", changed), atol=1e-5, rtol=0)
    assert (ours - train("auto", {})).abs().max() > 1e-3


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    ("policy", "env_id", "draw"),
    [("MlpPolicy", "CartPole-v1", "exponential_"), ("MlpPolicy", "Pendulum-v1", "normal_"),
     ("StreamPolicy", "Pendulum-v1", "normal_")],
)  # fmt: skip
def test_a_step_in_numpy_calls_torch_for_the_draw_only(policy, env_id, draw, n_envs):
    """
    The gate for speed that needs no clock. The draw is PyTorch's because its generator is what SB3 seeds, and because
    ``backend="torch"`` is then the oracle; one at a time, because PyTorch draws many in another order. Where the parameters
    lie is asked twice, for a callback may have moved them.
    """
    n_params = len(list(make(policy, env_id).policy.parameters()))

    def calls(n_updates, backend):
        settings = STREAM_PRESET if policy == "StreamPolicy" else {}
        env = VecNormalize(make_vec_env(env_id, n_envs, seed=0))
        model = make(policy, env, backend=backend, device="cpu", **settings)
        return torch_calls(lambda: model.learn(n_updates * n_envs, log_interval=None))

    assert calls(100, "auto") - calls(50, "auto") == {draw: 50, "data_ptr": 2 * 50 * n_params}
    # And it counts.
    assert (calls(20, "torch") - calls(10, "torch")).total() > 10 * 100


class Replace(BaseCallback):
    """Puts the given parameters into the model before the update of one step."""

    def __init__(self, parameters: dict, step: int) -> None:
        super().__init__()
        self.parameters, self.step = parameters, step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            # A copy: PyTorch's optimisers work on the tensors that they are given.
            self.model.set_parameters(deepcopy(self.parameters))
        return True


@BACKENDS
@pytest.mark.parametrize("settings", [{}, {"trace_decay": 0.8}, {"critic_learning_rate": None}])
def test_a_callback_may_set_parameters(settings, backend):
    """From there on it learns as a model does that starts with those parameters, optimisers and traces."""

    def model():
        return make(env=Chain(10**6), backend=backend, **settings)

    earlier = model().learn(8)
    saved = deepcopy(earlier.get_parameters())
    replaced = model().learn(20, callback=Replace(saved, 20))
    for name, part in replaced.get_parameters().items():
        th.testing.assert_close(part, saved[name], msg=name)  # the current step was not learnt from
    assert replaced._n_updates == 19

    def go_on(model):
        """The same draws and rewards from here on."""
        th.manual_seed(1)
        model.env.envs[0].unwrapped.t, model._last_obs = 0, np.array([[1.0, 0.0]], dtype=np.float32)

    # Within one learn(): 3 steps, then the parameters are replaced at the 4th, then 6 more.
    class Sync(Replace):
        def _on_rollout_start(self) -> None:
            if self.model.num_timesteps == self.step:
                go_on(self.model)

    within = model().learn(10, callback=Sync(saved, 4))
    loaded = model()
    loaded.learn(0)
    loaded.set_parameters(deepcopy(saved))
    go_on(loaded)
    loaded.learn(6, reset_num_timesteps=False)
    assert within._n_updates == 9 and loaded._n_updates == 6
    assert th.equal(vector(within), vector(loaded))
    for name, part in within.get_parameters().items():
        if "optim" in name or name == "traces":
            th.testing.assert_close(part, loaded.get_parameters()[name], atol=0, rtol=0, msg=name)


def test_setting_parameters_draws_a_new_noise_matrix_for_gsde():
    matrices: list[th.Tensor] = []

    class SetAtStep8(Replace):
        def _on_step(self) -> bool:
            matrices.append(self.model.policy.action_dist.exploration_mat.clone())
            return super()._on_step()

    model = make(env="Pendulum-v1", use_sde=True)
    model.learn(20, callback=SetAtStep8(deepcopy(model.get_parameters()), 8))
    # The episode does not end: one matrix for the first 8 steps, another for the others.
    assert all(th.equal(matrix, matrices[0]) for matrix in matrices[:8])
    assert all(th.equal(matrix, matrices[8]) for matrix in matrices[8:])
    assert not th.equal(matrices[0], matrices[8])


@BACKENDS
def test_an_episode_that_ends_as_parameters_are_set_takes_its_traces_along(backend):
    model = make(env=Chain(4), trace_decay=0.8, backend=backend).learn(2)
    saved = deepcopy(model.get_parameters())
    assert saved["traces"]["traces"].abs().sum() > 0
    model.learn(4, callback=Replace(saved, 4))
    assert (model.traces.traces == 0).all()


@BACKENDS
def test_a_callback_may_replace_the_memory_of_parameters(backend):
    """As ``load_from_vector`` does: the new ones act and learn."""
    model, actions = make(backend=backend), []

    def replace(locals_, _):
        if model.num_timesteps == 5:
            model.policy.load_from_vector(model.policy.parameters_to_vector() * 0)
            with th.no_grad():
                model.policy.action_net.bias[1] = 50.0
        elif model.num_timesteps > 5:
            actions.append(locals_["actions"][0])
        return True

    model.learn(40, callback=replace)
    assert set(actions) == {1} and model._n_updates == 39
    assert model.policy.value_net.bias.item() != 0


@BACKENDS
def test_layers_that_a_callback_freezes_stay_as_they_are(backend):
    model, before = make(backend=backend), []

    def freeze(*_):
        if model.num_timesteps == 5:
            model.policy.action_net.requires_grad_(False)
            before.append(deepcopy(model.policy.action_net.state_dict()))
        return True

    value_net = deepcopy(model.policy.value_net.state_dict())
    model.learn(40, callback=freeze)
    th.testing.assert_close(model.policy.action_net.state_dict(), before[0], atol=0, rtol=0)
    assert not th.equal(model.policy.value_net.weight, value_net["weight"])


@pytest.mark.parametrize("algorithm", [SingleStepA2C, REINFORCE])
def test_hooks_are_called(algorithm):
    """A mask of actions as a hook: NumPy would not see it."""
    model, actions = algorithm("MlpPolicy", "CartPole-v1", device="cpu"), []
    model.policy.action_net.register_forward_hook(lambda _, inputs, logits: logits + th.tensor([-1e8, 0.0]))
    model.learn(30, callback=lambda locals_, _: actions.append(locals_["actions"][0]) or True)
    assert set(actions) == {1}


def test_a_trained_model_can_be_pickled():
    model = make().learn(10)
    assert uses_numpy(model)
    again = pickle.loads(pickle.dumps(model))
    th.testing.assert_close(vector(again), vector(model), atol=0, rtol=0)
    again.learn(10)


def test_parameters_without_an_optimiser_get_sb3s_error():
    model = make()
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": model.policy.state_dict()})
