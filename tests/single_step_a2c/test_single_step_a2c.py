"""SingleStepA2C: its updates and traces by hand, against SB3's A2C, NumPy against torch; its loop on every kind of space."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from torch_calls import torch_calls

from sb3_pg_extras import STREAM_PRESET, SingleStepA2C
from sb3_pg_extras.common import policy_gradients
from sb3_pg_extras.common.wrappers import TimeLimitTerminal
from sb3_pg_extras.single_step_a2c.optimizers import EligibilityTraces, ObGD
from sb3_pg_extras.single_step_a2c.policies import StreamPolicy
from sb3_pg_extras.single_step_a2c.single_step_a2c import successors

KERNELS = pytest.mark.parametrize("kernel", ["auto", "torch"])
RMSPROP = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}


def vector(model) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


# --- the TD error -----------------------------------------------------------------------------------------------------


def test_td_errors_by_hand():
    # gamma 0.1: the digits are reward and next value.
    rewards, terminations = th.tensor([1.0, 1.0]), th.tensor([0.0, 1.0])
    values, next_values = th.tensor([0.5, 0.5], requires_grad=True), th.tensor([2.0, 2.0], requires_grad=True)
    errors = policy_gradients.td_errors(rewards, terminations, values, next_values, 0.1)
    assert errors.tolist() == pytest.approx([1.2 - 0.5, 1.0 - 0.5])
    errors.square().sum().backward()
    assert values.grad.tolist() == pytest.approx([-1.4, -1.0])  # descending raises V(s) towards its target
    assert next_values.grad is None
    with pytest.raises(AssertionError):
        policy_gradients.td_errors(rewards, terminations, values, next_values.unsqueeze(1), 0.1)


def test_successors_are_the_last_states_of_episodes_that_were_cut_off():
    new_obs, dones = np.zeros((4, 2)), np.array([False, True, True, True])
    infos = [
        {},
        {"TimeLimit.truncated": True, "terminal_observation": np.array([5, 6])},
        {"terminal_observation": np.ones(2)},
        {},
    ]
    next_obs, terminations = successors(new_obs, dones, infos)
    assert next_obs.tolist() == [[0, 0], [5, 6], [0, 0], [0, 0]] and terminations.tolist() == [0, 0, 1, 1]
    assert (new_obs == 0).all()
    # As in SB3, an episode whose last observation is not kept cannot be bootstrapped.
    assert successors(new_obs, dones, [{}, {**infos[1], "terminal_observation": None}, {}, {}])[1].tolist() == [0, 1, 1, 1]
    next_obs, _ = successors(
        {"a": new_obs}, dones, [{}, {**infos[1], "terminal_observation": {"a": np.array([5, 6])}}, {}, {}]
    )
    assert next_obs["a"][1].tolist() == [5, 6]


def test_a_time_limit_can_be_made_terminal():
    env = make_vec_env(lambda: TimeLimitTerminal(TimeLimit(gym.make("Pendulum-v1"), 3)))
    env.reset()
    for step in range(3):
        _, _, dones, infos = env.step(np.zeros((1, 1)))
        assert dones[0] == (step == 2)
    assert not infos[0]["TimeLimit.truncated"]
    assert successors(np.zeros((1, 3)), dones, infos)[1].tolist() == [1.0]


class Chain(gym.Env):
    """States A and B, one-hot, by turns whatever the action; rewards 1, 2, 3, ...; ends after ``length`` steps in B."""

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def __init__(self, length: int, truncated: bool = False) -> None:
        self.length, self.truncated = length, truncated
        self.actions: list[int] = []

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action):
        self.actions.append(int(action))
        self.t += 1
        end = self.t == self.length
        state = 1 if end else self.t % 2
        return np.eye(2, dtype=np.float32)[state], float(self.t), end and not self.truncated, end and self.truncated, {}


def chain_model(env, **kwargs) -> SingleStepA2C:
    """Linear actor and critic, SGD; V(A) = 0.4, V(B) = 0.8; both actions as likely; gamma 0.5."""
    policy_kwargs = {"net_arch": [], "optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    settings = {"learning_rate": 0.2, "critic_learning_rate": 0.1, "gamma": 0.5, "max_grad_norm": None} | kwargs
    model = SingleStepA2C("MlpPolicy", env, policy_kwargs=policy_kwargs, seed=0, **settings)
    with th.no_grad():
        for p in model.policy.parameters():
            p.zero_()
        model.policy.value_net.weight.copy_(th.tensor([[0.4, 0.8]]))
    return model


def weights(model) -> list[float]:
    """V's weights of A and B, and its bias."""
    return [*model.policy.value_net.weight[0].tolist(), model.policy.value_net.bias.item()]


@KERNELS
def test_two_states_by_hand(kernel):
    env = Chain(length=2)
    model = chain_model(env, kernel=kernel)
    # A: td_error = 1 + 0.5 * 0.8 - 0.4 = 1.
    model.learn(1)
    assert model._td_errors.tolist() == pytest.approx([1.0])
    assert weights(model) == pytest.approx([0.5, 0.8, 0.1])
    taken = env.actions[0]
    # The score of one of two equally likely actions is 1/2, that of the other -1/2; learning rate 0.2.
    expected = np.zeros((2, 3))
    expected[[taken, 1 - taken], 0] = expected[[taken, 1 - taken], 2] = [0.1, -0.1]
    np.testing.assert_allclose(model.policy.action_net.weight.detach(), expected[:, :2], atol=1e-7)
    np.testing.assert_allclose(model.policy.action_net.bias.detach(), expected[:, 2], atol=1e-7)
    # B, terminated: td_error = 2 - (0.8 + 0.1) = 1.1.
    model.learn(1, reset_num_timesteps=False)
    assert model._td_errors.tolist() == pytest.approx([1.1])
    assert weights(model) == pytest.approx([0.5, 0.91, 0.21])


@KERNELS
def test_a_time_limit_bootstraps_and_a_terminal_state_does_not(kernel, monkeypatch):
    def last_td_error(truncated: bool) -> float:
        model = chain_model(Chain(2, truncated), kernel=kernel).learn(2)
        return float(model._td_errors[0])

    assert last_td_error(truncated=False) == pytest.approx(2 - 0.9)
    # The last state is B: V(B) = 0.9.
    assert last_td_error(truncated=True) == pytest.approx(2 + 0.5 * 0.9 - 0.9)
    # The wrong answers: the end ignored, V(B) follows a terminal state and V(A) of the next episode a truncated one.
    monkeypatch.setattr(
        "sb3_pg_extras.single_step_a2c.single_step_a2c.successors", lambda new_obs, dones, infos: (new_obs, 0.0 * dones)
    )
    assert last_td_error(truncated=True) == pytest.approx(2 + 0.5 * 0.6 - 0.9)
    assert last_td_error(truncated=False) == pytest.approx(2 + 0.5 * 0.6 - 0.9)


@KERNELS
def test_traces_by_hand(kernel):
    model = chain_model(env := Chain(length=4), kernel=kernel, learning_rate=0.0, trace_decay=0.8)
    # gamma * lambda = 0.4. The states are A, B, A; the critic's gradient is the one-hot state and 1 for the bias.
    model.learn(3)
    critic = model.traces.traces[0, -3:].tolist()
    assert critic == pytest.approx([0.16 + 1.0, 0.4, 0.16 + 0.4 + 1.0])
    # The actor's logits stay 0: plus or minus a half in each state and in the bias.
    signs = [0.5 if action == 1 else -0.5 for action in env.actions]
    actor = model.traces.traces[0, :-3].tolist()  # weights (2, 2), then biases
    second = [0.16 * signs[0] + signs[2], 0.4 * signs[1], 0.16 * signs[0] + 0.4 * signs[1] + signs[2]]
    assert actor == pytest.approx([-second[0], -second[1], second[0], second[1], -second[2], second[2]])
    # Three updates of the critic: td_error times the trace, learning rate 0.1.
    #   A: 1 + 0.5 * 0.8 - 0.4 = 1; trace (1, 0, 1): weights 0.5, 0.8, bias 0.1.
    #   B: 2 + 0.5 * (0.5 + 0.1) - 0.9 = 1.4; trace (0.4, 1, 1.4): 0.556, 0.94, 0.296.
    #   A: 3 + 0.5 * 1.236 - 0.852 = 2.766; trace (1.16, 0.4, 1.56): 0.876856, 1.05064, 0.727496.
    assert weights(model) == pytest.approx([0.876856, 1.05064, 0.727496])
    # The episode ends: the trace is forgotten, not carried into the next one.
    model.learn(1, reset_num_timesteps=False)
    assert (model.traces.traces == 0).all()


@KERNELS
def test_several_environments_average_their_gradients(kernel):
    envs = [Chain(length=9), Chain(length=9)]
    for trace_decay in (0.0, 0.8):
        model = chain_model(DummyVecEnv([lambda env=env: env for env in envs]), kernel=kernel, trace_decay=trace_decay)
        model.learn(2)
        assert model._n_updates == 1
        assert weights(model) == pytest.approx([0.5, 0.8, 0.1])
        taken = [env.actions[-1] for env in envs]
        mean = (0.1 if taken[0] else -0.1) / 2 + (0.1 if taken[1] else -0.1) / 2
        assert model.policy.action_net.bias.tolist() == pytest.approx([-mean, mean], abs=1e-7)


@KERNELS
def test_the_traces_of_one_environment_do_not_end_with_anothers_episode(kernel):
    model = chain_model(DummyVecEnv([lambda: Chain(1), lambda: Chain(9)]), kernel=kernel, trace_decay=0.8).learn(2)
    assert (model.traces.traces[0] == 0).all() and model.traces.traces[1, -3:].tolist() == [1.0, 0.0, 1.0]


@KERNELS
def test_the_actor_ascends_the_score_of_the_action_it_sampled(kernel):
    """Through a reparametrised sample mu would get no gradient at all."""
    env = gym.make("Pendulum-v1")
    model = SingleStepA2C(
        "MlpPolicy", env, kernel=kernel, seed=1, max_grad_norm=None, learning_rate=0.1, critic_learning_rate=0.0,
        policy_kwargs={"net_arch": [], "optimizer_class": th.optim.SGD},
    )  # fmt: skip
    mean, std = model.policy.action_net, model.policy.log_std
    before = (mean.bias.item(), std.item())
    actions = []
    step = env.unwrapped.step
    model.env.envs[0].unwrapped.step = lambda action: (actions.append(action), step(action))[1]
    obs = model.env.reset()
    model._last_obs = obs
    with th.no_grad():
        mu = mean(th.as_tensor(obs)).item()
    model.learn(1, reset_num_timesteps=False)
    (action,), (delta,) = actions, model._td_errors
    # The environment clips at 2: this seed's action is inside.
    assert abs(action.item()) < 2
    assert mean.bias.item() - before[0] == pytest.approx(0.1 * delta * (action.item() - mu), rel=1e-4)
    assert std.item() - before[1] == pytest.approx(0.1 * delta * ((action.item() - mu) ** 2 - 1), rel=1e-4)


def test_one_actor_forward_and_two_of_the_critic_per_step():
    model = SingleStepA2C("MlpPolicy", "CartPole-v1", kernel="torch", seed=0)
    calls = {"actor": 0, "critic": 0}
    for name, module in (("actor", model.policy.action_net), ("critic", model.policy.value_net)):
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model.learn(50, log_interval=None)
    assert calls == {"actor": 50, "critic": 100}


# --- against SB3's A2C, and NumPy against torch --------------------------------------------------------------------------


@KERNELS
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_with_one_optimizer_it_is_a2c_with_rollouts_of_one_step(env_id, n_envs, kernel):
    def env():
        return make_vec_env(env_id, n_envs, seed=3, env_kwargs={"max_episode_steps": 15})

    settings = {"seed": 3, "ent_coef": 0.01, "device": "cpu"}
    a2c = A2C("MlpPolicy", env(), n_steps=1, **settings).learn(100 * n_envs)
    ours = SingleStepA2C(
        "MlpPolicy", env(), learning_rate=7e-4, critic_learning_rate=None, kernel=kernel, policy_kwargs=RMSPROP, **settings
    ).learn(100 * n_envs)
    assert ours._n_updates == a2c._n_updates == 100
    assert (vector(ours) - vector(a2c)).abs().max() < 1e-6


class Noise(gym.Env):
    """Random observations of 4 numbers and random rewards; 1 step in 10 terminates, and the 20th truncates."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (4,)), action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=4).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        reward, terminated = self.np_random.normal() + 0.1 * np.sum(action), self.np_random.random() < 0.1
        return self.np_random.normal(size=4).astype(np.float32), float(reward), terminated, self.t == 20, {}


OPTIMIZERS = [
    (th.optim.SGD, 3e-3, {}),
    (th.optim.RMSprop, 7e-4, {"eps": 1e-3}),
    (th.optim.Adam, 3e-3, {"eps": 1e-3}),
    (ObGD, 3e-3, {"kappa": 2.0}),
]
HEADS = ["discrete", "gaussian", "state-dependent std"]


@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trace_decay", [0.0, 0.7])
@pytest.mark.parametrize(("optimizer_class", "learning_rate", "optimizer_kwargs"), OPTIMIZERS)
def test_numpy_kernel_makes_the_updates_of_torch(
    optimizer_class, learning_rate, optimizer_kwargs, trace_decay, head, activation_fn
):
    # One optimiser or two, entropy, clipping, layer norm, and one environment or three: each meets each of the others.
    extras = (HEADS.index(head) + [nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU].index(activation_fn)) % 2 == 0
    n_envs = 1 if (extras == (trace_decay > 0)) else 3
    space = spaces.Discrete(3) if head == "discrete" else spaces.Box(-1, 1, (2,))

    def train(kernel: str, n_updates: int = 100) -> SingleStepA2C:
        model = SingleStepA2C(
            "StreamPolicy", make_vec_env(lambda: Noise(space), n_envs, seed=1), seed=2, kernel=kernel,
            learning_rate=learning_rate, critic_learning_rate=2 * learning_rate if extras else None, trace_decay=trace_decay,
            ent_coef=0.03 * extras, max_grad_norm=0.5 if extras else None,
            policy_kwargs={
                "net_arch": [6, 5], "activation_fn": activation_fn, "sparsity": None, "layer_norm": extras,
                "state_dependent_std": head == "state-dependent std",
                "optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs,
            },
        )  # fmt: skip
        return model.learn(n_updates * n_envs)

    ours, oracle, start = train("auto"), train("torch"), train("torch", 0)
    assert ours._learner is not None and oracle._learner is None and ours._n_updates == 100
    assert (vector(ours) - vector(oracle)).abs().max() < 1e-6
    assert (vector(oracle) - vector(start)).abs().max() > 1e-2
    for (one, _), (other, _) in zip(ours.optimizers, oracle.optimizers, strict=True):
        states = one.state_dict()["state"], other.state_dict()["state"]
        for index, state in states[1].items():
            for name, value in state.items():
                if value is not None:
                    th.testing.assert_close(states[0][index][name], value, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("policy", ["MultiInputPolicy", "StreamPolicy"])
def test_numpy_kernel_takes_dicts_of_vectors(policy):
    space = spaces.Dict({"z": spaces.Box(-9, 9, (1,)), "a": spaces.Box(-9, 9, (3, 1))})

    def train(kernel: str) -> SingleStepA2C:
        env = make_vec_env(
            lambda: gym.wrappers.TransformObservation(
                Noise(spaces.Discrete(2)), lambda obs: {"z": obs[:1], "a": obs[1:, None]}, space
            ),
            seed=1,
        )
        return SingleStepA2C(policy, env, seed=2, kernel=kernel).learn(100)

    ours, oracle = train("auto"), train("torch")
    assert ours._learner is not None
    assert (vector(ours) - vector(oracle)).abs().max() < 1e-6


def make(policy="MlpPolicy", env="CartPole-v1", **kwargs) -> SingleStepA2C:
    return SingleStepA2C(policy, env, seed=0, **kwargs)


class OwnPolicy(ActorCriticPolicy):
    """A policy that may have a forward pass of its own."""


@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel": "torch"},
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
    assert model._learner is None and "NumPy" not in capsys.readouterr().out


def test_images_of_floats_in_a_dict_are_left_to_torch():
    space = spaces.Dict({"image": spaces.Box(0, 1, (3, 36, 36), np.float32), "vector": spaces.Box(-1, 1, (3,))})
    images = {"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True}}
    model = make("MultiInputPolicy", Anything(space, spaces.Discrete(3)), policy_kwargs=images)
    assert model.learn(10)._learner is None


def test_networks_that_were_changed_are_left_to_torch():
    head = make(policy_kwargs={"net_arch": [8]})
    head.policy.action_net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    head.policy.optimizer.add_param_group({"params": list(head.policy.action_net.parameters())})
    assert head.learn(10)._learner is None
    # An optimiser of some of the parameters: the others stay as they are.
    part = make()
    part.policy.optimizer = th.optim.Adam(part.policy.action_net.parameters())
    before = deepcopy(part.policy.mlp_extractor.policy_net.state_dict())
    assert part.learn(10)._learner is None
    th.testing.assert_close(part.policy.mlp_extractor.policy_net.state_dict(), before, atol=0, rtol=0)


def test_the_kernel_is_named_in_the_log(capsys):
    make(verbose=1).learn(3)
    assert "NumPy kernel" in capsys.readouterr().out


def test_the_kernel_works_in_the_memory_of_the_policy_and_its_optimizers():
    model = make().learn(50)
    policy = deepcopy(model.policy)
    values = policy.predict_values(th.zeros(1, 4))
    model.learn(50, reset_num_timesteps=False)
    assert policy.predict_values(th.zeros(1, 4)) == values != model.policy.predict_values(th.zeros(1, 4))
    state = model.policy.optimizer.state[model.policy.action_net.weight]
    assert state["step"] == 100 and state["exp_avg"].abs().sum() > 0
    # Torch takes over where NumPy stopped.
    model.kernel = "torch"
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

    def train(kernel, callback=None):
        # A schedule: a learning rate that is read from the old group stands still.
        settings = {"learning_rate": lambda progress: 0.1 * progress, "trace_decay": trace_decay, "max_grad_norm": 10.0}
        return vector(chain_model(Chain(7), kernel=kernel, **settings).learn(30, callback=callback))

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


@KERNELS
@pytest.mark.parametrize("function", [halve_in_place, load_policy])
def test_a_callback_may_change_the_policy(function, kernel):
    before: list[th.Tensor] = []
    model = make(env=Chain(10**6), kernel=kernel)
    model.learn(10, callback=Call(lambda model: (before.append(vector(model)), function(model)), step=10))
    # The step in flight is not learnt from: what chose its action is gone.
    assert th.equal(vector(model), 0.5 * before[0]) and model._n_updates == 9
    model.learn(10, callback=Call(function, step=15), reset_num_timesteps=False)
    assert model._n_updates == 18


@pytest.mark.parametrize("trace_decay", [0.0, 0.8])
@pytest.mark.parametrize(
    "changed",
    [{"gamma": 0.2}, {"ent_coef": 1.0}, {"vf_coef": 5.0}, {"max_grad_norm": 1e-3}, {"gamma": 0.9, "trace_decay": 0.1}],
)
def test_a_callback_may_change_the_settings(changed, trace_decay):
    def train(kernel, changed):
        model = chain_model(Chain(7), kernel=kernel, trace_decay=trace_decay, ent_coef=0.01, max_grad_norm=10.0)
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
def test_a_step_on_the_kernel_calls_torch_for_the_draw_only(policy, env_id, draw, n_envs):
    """
    The gate for speed that needs no clock. The draw is PyTorch's because its generator is what SB3 seeds, and because
    ``kernel="torch"`` is then the oracle; one at a time, because PyTorch draws many in another order.
    """

    def calls(n_updates, kernel):
        settings = STREAM_PRESET if policy == "StreamPolicy" else {}
        env = VecNormalize(make_vec_env(env_id, n_envs, seed=0))
        model = make(policy, env, kernel=kernel, device="cpu", **settings)
        return torch_calls(lambda: model.learn(n_updates * n_envs, log_interval=None))

    assert calls(100, "auto") - calls(50, "auto") == {draw: 50}
    # And it counts.
    assert (calls(20, "torch") - calls(10, "torch")).total() > 10 * 100


class Replace(BaseCallback):
    """Puts the given parameters into the model before the update of one step."""

    def __init__(self, parameters: dict, step: int) -> None:
        super().__init__()
        self.parameters, self.step = parameters, step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            # A copy: an optimiser of PyTorch goes on in the very tensors it is given.
            self.model.set_parameters(deepcopy(self.parameters))
        return True


@KERNELS
@pytest.mark.parametrize("settings", [{}, {"trace_decay": 0.8}, {"critic_learning_rate": None}])
def test_a_callback_may_set_parameters(settings, kernel):
    """From there on it learns as a model does that starts with those parameters, optimisers and traces."""

    def model():
        return make(env=Chain(10**6), kernel=kernel, **settings)

    earlier = model().learn(8)
    saved = deepcopy(earlier.get_parameters())
    replaced = model().learn(20, callback=Replace(saved, 20))
    for name, part in replaced.get_parameters().items():
        th.testing.assert_close(part, saved[name], msg=name)  # the step in flight was not learnt from
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


def test_setting_parameters_draws_a_new_noise_matrix_for_gsde(monkeypatch):
    model = make(env="Pendulum-v1", use_sde=True)
    steps: list[int] = []
    reset_noise = model.policy.reset_noise
    monkeypatch.setattr(model.policy, "reset_noise", lambda n: (steps.append(model.num_timesteps), reset_noise(n))[1])
    model.learn(20, callback=Replace(model.get_parameters(), 8))
    assert steps == [0, 8]


@KERNELS
def test_an_episode_that_ends_as_parameters_are_set_takes_its_traces_along(kernel):
    model = make(env=Chain(4), trace_decay=0.8, kernel=kernel).learn(2)
    saved = deepcopy(model.get_parameters())
    assert saved["traces"]["traces"].abs().sum() > 0
    model.learn(4, callback=Replace(saved, 4))
    assert (model.traces.traces == 0).all()


# --- ObGD and the stream policy ---------------------------------------------------------------------------------------


def test_obgd_by_hand():
    # |e|_1 = 6 over both parameters of the group.
    for td_error, step in ((2.0, 1 / (2 * 6 * 3)), (0.5, 1 / (6 * 3)), (-2.0, 1 / (2 * 6 * 3))):
        a, b = nn.Parameter(th.zeros(2)), nn.Parameter(th.zeros(1))
        optimizer = ObGD([a, b], lr=1.0, kappa=3.0)
        # Descending minus td_error * e ascends the trace.
        a.grad, b.grad = -td_error * th.tensor([1.0, -2.0]), -td_error * th.tensor([3.0])
        optimizer.step(td_error=td_error)
        assert [*a.tolist(), *b.tolist()] == pytest.approx([step * td_error * e for e in (1, -2, 3)])
    # Small steps are not made larger.
    a = nn.Parameter(th.zeros(1))
    a.grad = th.tensor([-0.1])
    ObGD([a], lr=0.5, kappa=3.0).step(td_error=1.0)
    assert a.item() == pytest.approx(0.05)


def test_obgd_is_an_ordinary_optimizer():
    w = nn.Parameter(th.tensor([3.0, -2.0]))
    optimizer = ObGD([{"params": [w], "kappa": 1.0}], lr=1.0)
    schedule = th.optim.lr_scheduler.StepLR(optimizer, step_size=50, gamma=0.1)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    values = []
    for _ in range(200):
        values.append(optimizer.step(closure).item())
        schedule.step()
    assert values[0] == 13 and values[-1] < 0.01
    assert ObGD([w]).state_dict()["param_groups"][0]["kappa"] == 2.0
    ObGD([nn.Parameter(th.ones(1))]).step()  # no gradient, nothing to do
    for kwargs in ({"lr": -1.0}, {"kappa": 0.0}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            ObGD([w], **kwargs)


def test_obgd_does_not_overshoot_where_sgd_with_the_same_step_does():
    """One linear TD update must not change the sign of the TD error it comes from (features within +-1, kappa 2)."""
    rng = np.random.default_rng(0)
    overshot = {"ObGD": 0, "SGD": 0}
    for _ in range(200):
        x, next_x = th.tensor(rng.uniform(-1, 1, (2, 8)), dtype=th.float32)
        reward = float(rng.normal() * 10 ** rng.uniform(-2, 2))
        trace = x + 0.9 * th.tensor(rng.uniform(-1, 1, 8), dtype=th.float32)
        start = th.tensor(rng.normal(size=8), dtype=th.float32)
        for name, make_optimizer in (("ObGD", ObGD), ("SGD", th.optim.SGD)):
            w = nn.Parameter(start.clone())
            optimizer = make_optimizer([w], lr=1.0)

            def td_error(w=w, x=x, next_x=next_x, reward=reward) -> float:
                return (reward + 0.99 * next_x @ w - x @ w).item()

            before = td_error()
            w.grad = -before * trace
            optimizer.step(**({"td_error": before} if name == "ObGD" else {}))
            overshot[name] += before * td_error() < -1e-6
    assert overshot["ObGD"] == 0
    assert overshot["SGD"] > 20


def test_traces_ignore_parameters_without_gradient_and_are_saved():
    used, unused = nn.Parameter(th.ones(2)), nn.Parameter(th.ones(1))
    traces = EligibilityTraces([used, unused], 1)
    traces.accumulate((used * th.tensor([3.0, 4.0])).sum().unsqueeze(0), 0.5)
    traces.write_gradients(th.tensor([2.0]))
    assert used.grad.tolist() == [-6, -8] and unused.grad.tolist() == [0]
    other = EligibilityTraces([used, unused], 1)
    other.load_state_dict(traces.state_dict())
    assert other.traces.tolist() == [[3, 4, 0]]


def test_parameters_that_are_frozen_stay_as_they_are_and_the_others_learn_on():
    model = make(trace_decay=0.8).learn(10)
    net = model.policy.mlp_extractor.policy_net.requires_grad_(False)
    before, everything = deepcopy(net.state_dict()), vector(model)
    model.learn(10, reset_num_timesteps=False)
    th.testing.assert_close(net.state_dict(), before, atol=0, rtol=0)
    assert (vector(model) - everything).abs().max() > 1e-4


def test_stream_policy_is_that_of_stream_ac():
    model = make("StreamPolicy", "Pendulum-v1", **STREAM_PRESET)
    policy = model.policy
    assert [type(m).__name__ for m in policy.mlp_extractor.policy_net] == ["Linear", "LayerNorm", "LeakyReLU"] * 2
    assert len(list(policy.mlp_extractor.value_net)) == 6
    linears = [m for m in policy.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 7  # two and two hidden layers, mean, standard deviation, value
    for linear in linears:
        zeros = min(int(np.ceil(0.9 * linear.in_features)), linear.in_features - 1)
        assert ((linear.weight == 0).sum(dim=1) == zeros).all()
        assert linear.weight.abs().max() <= linear.in_features**-0.5 and (linear.bias == 0).all()
    # In 128 inputs another place for each unit.
    assert len({tuple(row.nonzero().flatten().tolist()) for row in linears[1].weight}) == 128
    # Only linear layers have parameters, and each has one optimiser.
    groups = [optimizer.param_groups[0] for optimizer, _ in model.optimizers]
    assert sum(len(group["params"]) for group in groups) == 14 == len(list(policy.parameters()))
    assert [(group["lr"], group["kappa"]) for group in groups] == [(1.0, 3.0), (1.0, 2.0)]
    assert model.traces is not None


def test_stream_policys_standard_deviation_depends_on_the_state():
    policy = make("StreamPolicy", "Pendulum-v1").policy
    with th.no_grad():
        policy.std_net.bias.fill_(-1.0)
        distribution = policy.get_distribution(obs := th.randn(3, 3)).distribution
        latent = policy.mlp_extractor.forward_actor(obs)
        expected = th.log1p(th.exp(policy.std_net(latent))) + 1e-5
    th.testing.assert_close(distribution.stddev, expected)
    assert len(set(distribution.stddev.flatten().tolist())) == 3
    assert not hasattr(policy, "log_std")


def test_stream_policys_switches(tmp_path):
    off = {"sparsity": None, "layer_norm": False, "state_dependent_std": False, "net_arch": [8], "activation_fn": nn.Tanh}
    optimizer = {"optimizer_class": th.optim.Adam}
    stream = make("StreamPolicy", "Pendulum-v1", policy_kwargs=off | optimizer)
    stock = make("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]})
    assert th.equal(vector(stream), vector(stock))
    policy = make("StreamPolicy", "Pendulum-v1", policy_kwargs={"sparsity": 0.5, "net_arch": [16]}).policy
    policy.save(tmp_path / "policy.zip")
    loaded = StreamPolicy.load(tmp_path / "policy.zip")
    obs = np.ones(3, dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0])
    assert loaded.sparsity == 0.5
    with pytest.raises(ValueError, match=r"sparsity=1\.5"):
        make("StreamPolicy", policy_kwargs={"sparsity": 1.5})
    with pytest.raises(ValueError, match="state_dependent_std=True and use_sde=True"):
        make("StreamPolicy", "Pendulum-v1", use_sde=True)


# --- the loop ---------------------------------------------------------------------------------------------------------


class Anything(gym.Env):
    """Random observations and rewards; ends after 7 steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t % 7 == 0, self.t % 5 == 0, {}


@KERNELS
@pytest.mark.parametrize("trace_decay", [0.0, 0.9])
@pytest.mark.parametrize(
    "action_space",
    [spaces.Discrete(3), spaces.Box(-2, 3, (2, 2)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
)
def test_every_action_space(action_space, trace_decay, kernel):
    env = make_vec_env(lambda: Anything(spaces.Box(-1, 1, (3,)), action_space), 2)
    model = make(env=env, ent_coef=0.01, trace_decay=trace_decay, kernel=kernel)
    before = vector(model).clone()
    model.learn(40)
    assert model.num_timesteps == 40 and not th.equal(vector(model), before)
    assert env.action_space.contains(model.predict(env.reset())[0][0])


def test_cnn_and_multi_input_policies_share_a_feature_extractor_with_one_optimizer_only():
    image, box = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Box(-1, 1, (3,))
    for policy, space in (("CnnPolicy", image), ("MultiInputPolicy", spaces.Dict({"image": image, "box": box}))):
        env = Anything(space, spaces.Discrete(2))
        model = make(policy, env, trace_decay=0.5).learn(8)
        critic = {id(p) for p in model.critic_optimizer.param_groups[0]["params"]}
        assert {id(p) for p in model.policy.vf_features_extractor.parameters()} <= critic
        assert not critic & {id(p) for p in model.policy.pi_features_extractor.parameters()}
        shared = make(policy, env, critic_learning_rate=None).learn(8)
        assert shared.policy.share_features_extractor
        with pytest.raises(ValueError, match="share_features_extractor=True and critic_learning_rate"):
            make(policy, env, policy_kwargs={"share_features_extractor": True})


@pytest.mark.parametrize("sde_sample_freq", [-1, 4])
def test_gsde_draws_a_new_noise_matrix_now_and_then(sde_sample_freq, monkeypatch):
    model = make(env=TimeLimit(gym.make("Pendulum-v1"), 10), use_sde=True, sde_sample_freq=sde_sample_freq)
    steps: list[int] = []
    reset_noise = model.policy.reset_noise
    monkeypatch.setattr(model.policy, "reset_noise", lambda n: (steps.append(model._n_updates), reset_noise(n))[1])
    model.learn(20)
    # Once when learn() begins; then at the episodes' ends, or every 4 steps.
    assert steps == ([0, 10, 20] if sde_sample_freq == -1 else [0, 0, 4, 8, 12, 16])


def test_separate_optimizers_have_their_own_learning_rates():
    model = make(learning_rate=lambda progress: 1e-3 * progress, critic_learning_rate=lambda progress: 4e-3 * progress)
    for kernel in ("auto", "torch"):
        model.kernel = kernel
        model.learn(100)
        # The schedule as it stood before the last step.
        rates = [optimizer.param_groups[0]["lr"] for optimizer, _ in model.optimizers]
        assert rates == pytest.approx([0.0, 0.0], abs=1e-9)
    actor, critic = ({id(p) for p in optimizer.param_groups[0]["params"]} for optimizer, _ in model.optimizers)
    assert not actor & critic and len(actor | critic) == len(list(model.policy.parameters()))
    model = make(critic_learning_rate=0.0)
    value, action = model.policy.value_net.weight.clone(), model.policy.action_net.weight.clone()
    model.learn(20)
    assert th.equal(model.policy.value_net.weight, value) and not th.equal(model.policy.action_net.weight, action)


@KERNELS
def test_the_gradient_is_clipped_for_each_optimizer(kernel):
    model = make(kernel=kernel, max_grad_norm=1e-3, learning_rate=1.0, critic_learning_rate=1.0,
                 policy_kwargs={"optimizer_class": th.optim.SGD})  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(1)
    for part, names in (("actor", ("policy_net", "action_net")), ("critic", ("value_net",))):
        moved = [
            (p - before[name]).square().sum() for name, p in model.policy.named_parameters() if any(n in name for n in names)
        ]
        assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-2), part


@KERNELS
@pytest.mark.parametrize("settings", [{}, {"trace_decay": 0.8}, STREAM_PRESET, {"critic_learning_rate": None}])
def test_save_load_and_going_on_equals_never_having_stopped(settings, kernel, tmp_path):
    policy = "StreamPolicy" if settings is STREAM_PRESET else "MlpPolicy"
    model = make(policy, make_vec_env("CartPole-v1", 2, seed=0), kernel=kernel, **settings).learn(34)
    model.save(tmp_path / "model.zip")
    env = deepcopy(model.env)
    loaded = SingleStepA2C.load(tmp_path / "model.zip", env=env, force_reset=False)
    assert set(loaded.get_parameters()) == {
        "policy", "policy.optimizer",
        *(["critic_optimizer"] if loaded.critic_learning_rate is not None else []),
        *(["traces"] if loaded.trace_decay else []),
    }  # fmt: skip
    for one in (model, loaded):
        th.manual_seed(1)
        one.learn(100, reset_num_timesteps=False)
    assert th.equal(vector(model), vector(loaded))
    # And it matters: without the saved state it would not be equal.
    stripped = SingleStepA2C.load(tmp_path / "model.zip", env=env, force_reset=True)
    assert stripped._n_updates == 17 and stripped.num_timesteps == 34


def test_the_saved_traces_and_optimizers_matter(tmp_path):
    model = make(trace_decay=0.8).learn(20)
    model.save(tmp_path / "model.zip")
    for name in ("traces", "critic_optimizer"):
        loaded = SingleStepA2C.load(tmp_path / "model.zip", env=deepcopy(model.env), force_reset=False)
        fresh = make(trace_decay=0.8)
        loaded.set_parameters({**loaded.get_parameters(), name: fresh.get_parameters()[name]})
        intact = SingleStepA2C.load(tmp_path / "model.zip", env=deepcopy(model.env), force_reset=False)
        for one in (loaded, intact):
            th.manual_seed(1)
            one.learn(3, reset_num_timesteps=False)
        assert not th.equal(vector(loaded), vector(intact)), name


def test_a_new_start_forgets_the_traces():
    model = make(trace_decay=0.9).learn(5)
    assert model.traces.traces.abs().sum() > 0
    model._setup_learn(10)
    assert (model.traces.traces == 0).all()


def test_a_loaded_model_logs_from_its_first_step_on(tmp_path):
    make().learn(10).save(tmp_path / "model.zip")
    loaded = SingleStepA2C.load(tmp_path / "model.zip", env=make_vec_env("CartPole-v1"))
    loaded.learn(5, log_interval=1, reset_num_timesteps=False)
    assert loaded._n_updates == 15


def test_loading_for_another_number_of_environments(tmp_path):
    model = make(env=make_vec_env("CartPole-v1", 3), trace_decay=0.9).learn(30)
    model.save(tmp_path / "model.zip")
    loaded = SingleStepA2C.load(tmp_path / "model.zip", env=make_vec_env("CartPole-v1", 2))
    assert loaded.traces.traces.shape[0] == 2 and (loaded.traces.traces == 0).all()
    loaded.learn(20)
    assert SingleStepA2C.load(tmp_path / "model.zip", learning_rate=0.0).predict(np.zeros(4))[0] in (0, 1)


def test_same_seed_same_weights():
    one, other, third = (SingleStepA2C("MlpPolicy", "CartPole-v1", seed=seed).learn(200) for seed in (0, 0, 1))
    assert th.equal(vector(one), vector(other)) and not th.equal(vector(one), vector(third))


def test_vec_normalize_and_set_env():
    env = VecNormalize(make_vec_env("Pendulum-v1", 2), gamma=0.9)
    model = make(env=env, trace_decay=0.5).learn(100)
    assert env.obs_rms.count > 100
    model.set_env(VecNormalize(make_vec_env("Pendulum-v1", 2)))
    model.learn(50)
    assert model.num_timesteps == 50
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2)[0])


def test_callbacks_and_log(tmp_path):
    env = make_vec_env("CartPole-v1", 2)
    model = make(env=env, learning_rate=1e-3)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    callbacks = [
        EvalCallback(make_vec_env("CartPole-v1"), eval_freq=50, n_eval_episodes=1, verbose=0, log_path=str(tmp_path)),
        CheckpointCallback(50, str(tmp_path)),
    ]
    model.learn(200, callback=callbacks, log_interval=50, progress_bar=True)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [100, 200]
    assert (tmp_path / "rl_model_200_steps.zip").exists()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for key in ("train/td_error", "train/value_loss", "train/entropy_loss", "train/n_updates", "train/learning_rate",
                "train/critic_learning_rate", "rollout/ep_rew_mean", "time/total_timesteps"):  # fmt: skip
        assert key in header
    model.learn(20, callback=lambda *_: False)
    assert model.num_timesteps == 2
    model.learn(20, log_interval=None)


@KERNELS
def test_rewards_that_are_not_finite_end_in_one_error(kernel):
    class Broken(Chain):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, float("nan"), terminated, truncated, info

    with pytest.raises(ValueError, match=r"td_error=\[nan\] after 1 steps, with rewards=\[nan\]"):
        make(env=Broken(3), kernel=kernel).learn(10)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"trace_decay": -0.1}, "trace_decay=-0.1"),
        ({"kernel": "cuda"}, "kernel='cuda'"),
        ({"trace_decay": "0.9"}, "trace_decay='0.9': must be a number"),
        ({"vf_coef": None}, "vf_coef=None: must be a number"),
        ({"critic_learning_rate": "lin_1e-3"}, "critic_learning_rate='lin_1e-3': must be a number"),
        ({"max_grad_norm": "0.5"}, "max_grad_norm='0.5'"),
        ({"critic_learning_rate": None, "critic_optimizer_kwargs": {"kappa": 2.0}}, "critic_learning_rate=None"),
    ],
)
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(**kwargs)


@KERNELS
def test_learns_a_bandit_of_two_states(kernel):
    class Bandit(gym.Env):
        """The action that equals the state is worth 1; one step per episode."""

        observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.state = int(self.np_random.integers(2))
            return np.eye(2, dtype=np.float32)[self.state], {}

        def step(self, action):
            return np.zeros(2, dtype=np.float32), float(action == self.state), True, False, {}

    model = make(env=Bandit(), kernel=kernel, learning_rate=1e-2).learn(600)
    actions, _ = model.predict(np.eye(2, dtype=np.float32), deterministic=True)
    assert actions.tolist() == [0, 1]
