"""SingleStepA2C: its updates and traces by hand, against SB3's A2C; its loop on every kind of space."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from single_step_models import BACKENDS, Anything, Chain, chain_model, make, vector
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize

from sb3_pg_extras import STREAM_PRESET, SingleStepA2C
from sb3_pg_extras.single_step_a2c.single_step_a2c import successors

RMSPROP = {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}


# --- the TD error -----------------------------------------------------------------------------------------------------


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


def weights(model) -> list[float]:
    """V's weights of A and B, and its bias."""
    return [*model.policy.value_net.weight[0].tolist(), model.policy.value_net.bias.item()]


@BACKENDS
def test_two_states_by_hand(backend):
    env = Chain(length=2)
    model = chain_model(env, backend=backend)
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


class WithoutEnds(VecEnvWrapper):
    """Hides that episodes end, as an algorithm that ignores it would see them."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, _ = self.venv.step_wait()
        return obs, rewards, np.zeros_like(dones), [{} for _ in dones]


@BACKENDS
def test_a_time_limit_bootstraps_and_a_terminal_state_does_not(backend):
    def last_td_error(truncated: bool, wrapper=lambda env: env) -> float:
        env = wrapper(DummyVecEnv([lambda: Chain(2, truncated)]))
        return float(chain_model(env, backend=backend).learn(2)._td_errors[0])

    assert last_td_error(truncated=False) == pytest.approx(2 - 0.9)
    # The last state is B: V(B) = 0.9.
    assert last_td_error(truncated=True) == pytest.approx(2 + 0.5 * 0.9 - 0.9)
    # The wrong answer to both, V(A) of the next episode: the end ignored.
    for truncated in (False, True):
        assert last_td_error(truncated, WithoutEnds) == pytest.approx(2 + 0.5 * 0.6 - 0.9)


@BACKENDS
def test_traces_by_hand(backend):
    model = chain_model(env := Chain(length=4), backend=backend, learning_rate=0.0, trace_decay=0.8)
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


@BACKENDS
def test_several_environments_average_their_gradients(backend):
    envs = [Chain(length=9), Chain(length=9)]
    for trace_decay in (0.0, 0.8):
        model = chain_model(DummyVecEnv([lambda env=env: env for env in envs]), backend=backend, trace_decay=trace_decay)
        model.learn(2)
        assert model._n_updates == 1
        assert weights(model) == pytest.approx([0.5, 0.8, 0.1])
        taken = [env.actions[-1] for env in envs]
        mean = (0.1 if taken[0] else -0.1) / 2 + (0.1 if taken[1] else -0.1) / 2
        assert model.policy.action_net.bias.tolist() == pytest.approx([-mean, mean], abs=1e-7)


@BACKENDS
def test_the_traces_of_one_environment_do_not_end_with_anothers_episode(backend):
    model = chain_model(DummyVecEnv([lambda: Chain(1), lambda: Chain(9)]), backend=backend, trace_decay=0.8).learn(2)
    assert (model.traces.traces[0] == 0).all() and model.traces.traces[1, -3:].tolist() == [1.0, 0.0, 1.0]


class Recorder(gym.Wrapper):
    """Notes the observations it gave and the actions it was given."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        self.observations.append(obs)
        return obs, info

    def step(self, action):
        self.actions.append(action)
        obs, *rest = self.env.step(action)
        self.observations.append(obs)
        return obs, *rest


@BACKENDS
def test_the_actor_ascends_the_score_of_the_action_it_sampled(backend):
    """Through a reparametrised sample mu would get no gradient at all."""
    env = Recorder(gym.make("Pendulum-v1"))
    model = SingleStepA2C(
        "MlpPolicy", env, backend=backend, seed=1, max_grad_norm=None, learning_rate=0.1, critic_learning_rate=0.0,
        policy_kwargs={"net_arch": [], "optimizer_class": th.optim.SGD},
    )  # fmt: skip
    mean, std = deepcopy(model.policy.action_net), model.policy.log_std.item()
    model.learn(1)
    (action,), (delta,) = env.actions, model._td_errors
    # The environment clips at 2: this seed's action is inside.
    assert abs(action.item()) < 2
    mu = mean(th.as_tensor(env.observations[0])).item()
    assert (model.policy.action_net.bias - mean.bias).item() == pytest.approx(0.1 * delta * (action.item() - mu), rel=1e-4)
    assert model.policy.log_std.item() - std == pytest.approx(0.1 * delta * ((action.item() - mu) ** 2 - 1), rel=1e-4)


def test_one_actor_forward_and_two_of_the_critic_per_step():
    model = SingleStepA2C("MlpPolicy", "CartPole-v1", backend="torch", seed=0)
    calls = {"actor": 0, "critic": 0}
    for name, module in (("actor", model.policy.action_net), ("critic", model.policy.value_net)):
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model.learn(50, log_interval=None)
    assert calls == {"actor": 50, "critic": 100}


# --- against SB3's A2C, and NumPy against torch --------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("n_envs", [1, 4])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_with_one_optimizer_it_is_a2c_with_rollouts_of_one_step(env_id, n_envs, backend):
    def env():
        return make_vec_env(env_id, n_envs, seed=3, env_kwargs={"max_episode_steps": 15})

    settings = {"seed": 3, "ent_coef": 0.01, "max_grad_norm": 0.5, "device": "cpu"}
    a2c = A2C("MlpPolicy", env(), n_steps=1, **settings).learn(100 * n_envs)
    ours = SingleStepA2C(
        "MlpPolicy", env(), learning_rate=7e-4, critic_learning_rate=None, backend=backend, policy_kwargs=RMSPROP, **settings
    ).learn(100 * n_envs)
    assert ours._n_updates == a2c._n_updates == 100
    assert (vector(ours) - vector(a2c)).abs().max() < 1e-6


# --- the loop ---------------------------------------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("trace_decay", [0.0, 0.9])
@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(3), spaces.Box(-2, 3, (2, 2)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]
)
def test_every_action_space(action_space, trace_decay, backend):
    env = make_vec_env(lambda: Anything(spaces.Box(-1, 1, (3,)), action_space), 2)
    model = make(env=env, ent_coef=0.01, trace_decay=trace_decay, backend=backend)
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


@pytest.mark.parametrize(("sde_sample_freq", "lengths"), [(-1, [10, 10]), (4, [4, 4, 4, 4, 4])])
def test_gsde_draws_a_new_noise_matrix_now_and_then(sde_sample_freq, lengths):
    """When an episode ends, here after 10 steps, or every 4 steps."""
    matrices: list[th.Tensor] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            matrices.append(self.model.policy.action_dist.exploration_mat.clone())
            return True

    model = make(env=TimeLimit(gym.make("Pendulum-v1"), 10), use_sde=True, sde_sample_freq=sde_sample_freq)
    model.learn(20, callback=Watch())
    new = [i for i in range(1, 20) if not th.equal(matrices[i], matrices[i - 1])]
    assert np.diff([0, *new, 20]).tolist() == lengths


def test_separate_optimizers_have_their_own_learning_rates():
    model = make(learning_rate=lambda progress: 1e-3 * progress, critic_learning_rate=lambda progress: 4e-3 * progress)
    for backend in ("auto", "torch"):
        model.backend = backend
        model.learn(100)
        # The schedule as it stood before the last step.
        rates = [optimizer.param_groups[0]["lr"] for optimizer in model.optimizers]
        assert rates == pytest.approx([0.0, 0.0], abs=1e-9)
    actor, critic = ({id(p) for p in optimizer.param_groups[0]["params"]} for optimizer in model.optimizers)
    assert not actor & critic and len(actor | critic) == len(list(model.policy.parameters()))
    model = make(critic_learning_rate=0.0)
    value, action = model.policy.value_net.weight.clone(), model.policy.action_net.weight.clone()
    model.learn(20)
    assert th.equal(model.policy.value_net.weight, value) and not th.equal(model.policy.action_net.weight, action)


@BACKENDS
def test_the_gradient_is_clipped_for_each_optimizer(backend):
    model = make(backend=backend, max_grad_norm=1e-3, learning_rate=1.0, critic_learning_rate=1.0,
                 policy_kwargs={"optimizer_class": th.optim.SGD})  # fmt: skip
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(1)
    for part, names in (("actor", ("policy_net", "action_net")), ("critic", ("value_net",))):
        moved = [
            (p - before[name]).square().sum() for name, p in model.policy.named_parameters() if any(n in name for n in names)
        ]
        assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-2), part


@BACKENDS
@pytest.mark.parametrize("settings", [{}, {"trace_decay": 0.8}, STREAM_PRESET, {"critic_learning_rate": None}])
def test_save_load_and_going_on_equals_never_having_stopped(settings, backend, tmp_path):
    policy = "StreamPolicy" if settings is STREAM_PRESET else "MlpPolicy"
    model = make(policy, make_vec_env("CartPole-v1", 2, seed=0), backend=backend, **settings).learn(34)
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
    assert loaded._n_updates == 17 + 50 and loaded.num_timesteps == 134


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


@pytest.mark.parametrize(("saved", "given"), [(0.0, 0.8), (0.8, 0.0), (0.8, 0.5)])
def test_another_trace_decay_can_be_loaded(saved, given, tmp_path):
    model = make(trace_decay=saved).learn(20)
    model.save(tmp_path / "model.zip")
    loaded = SingleStepA2C.load(tmp_path / "model.zip", env=model.env, trace_decay=given)
    assert th.equal(vector(loaded), vector(model))
    assert (loaded.traces is None) == (given == 0)
    loaded.learn(10, reset_num_timesteps=False)
    assert not th.equal(vector(loaded), vector(model))


@pytest.mark.parametrize(("saved", "given", "words"), [(1e-3, None, "has an"), (None, 1e-3, "has no")])
def test_another_number_of_optimizers_cannot_be_loaded(saved, given, words, tmp_path):
    make(critic_learning_rate=saved).save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=f"critic_learning_rate={given}: the saved model {words} optimiser"):
        SingleStepA2C.load(tmp_path / "model.zip", critic_learning_rate=given)


def test_a_new_start_forgets_the_traces():
    model = make(trace_decay=0.9).learn(5)
    assert model.traces.traces.abs().sum() > 0
    model.learn(0)
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


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"trace_decay": -0.1}, "trace_decay=-0.1"),
        ({"backend": "cuda"}, "backend='cuda'"),
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


@BACKENDS
def test_learns_a_bandit_of_two_states(backend):
    class Bandit(gym.Env):
        """The action that equals the state is worth 1; one step per episode."""

        observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.state = int(self.np_random.integers(2))
            return np.eye(2, dtype=np.float32)[self.state], {}

        def step(self, action):
            return np.zeros(2, dtype=np.float32), float(action == self.state), True, False, {}

    model = make(env=Bandit(), backend=backend, learning_rate=1e-2).learn(600)
    actions, _ = model.predict(np.eye(2, dtype=np.float32), deterministic=True)
    assert actions.tolist() == [0, 1]


def test_the_defaults():
    model = make()
    assert (model.learning_rate, model.critic_learning_rate, model.gamma, model.trace_decay) == (3e-4, 1e-3, 0.99, 0.0)
    assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.0, 0.5, None)


def test_the_stream_preset_has_the_published_settings():
    names = ("learning_rate", "critic_learning_rate", "gamma", "trace_decay", "ent_coef", "max_grad_norm")
    assert [STREAM_PRESET[name] for name in names] == [1.0, 1.0, 0.99, 0.8, 0.01, None]


def test_figures_of_the_log_by_hand():
    model = chain_model(DummyVecEnv([lambda: Chain(9)] * 2))
    model.set_logger(configure(None, []))
    model.learn(2, log_interval=None)
    model._td_errors = np.array([1.0, -3.0], np.float32)
    line = {}
    model.logger.dump = lambda step=0: line.update(model.logger.name_to_value)
    model.dump_logs()
    assert (line["train/td_error"], line["train/value_loss"]) == (-1.0, 5.0)
    # Two actions, about equally likely.
    assert line["train/entropy_loss"] == pytest.approx(-np.log(2), abs=0.02)


def test_it_acts_and_learns_in_evaluation_mode():
    seen = set()

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            seen.add(self.model.policy.training)
            return True

    make(backend="torch").learn(5, callback=Watch())
    assert seen == {False}


@pytest.mark.parametrize("sde_sample_freq", [-1, 0])
def test_gsde_draws_when_an_episode_ends_unless_it_does_every_few_steps(sde_sample_freq):
    matrices = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            matrices.append(self.model.policy.action_dist.exploration_mat.clone())
            return True

    import gymnasium as gym
    from gymnasium.wrappers import TimeLimit

    make(env=TimeLimit(gym.make("Pendulum-v1"), 10), use_sde=True, sde_sample_freq=sde_sample_freq).learn(
        20, callback=Watch()
    )
    assert [i for i in range(1, 20) if not th.equal(matrices[i], matrices[i - 1])] == [10]


def test_an_entropy_without_a_closed_form_is_estimated():
    """gSDE that squashes its actions has none: minus the log-probability of what was drawn."""
    model = make(env="Pendulum-v1", use_sde=True, ent_coef=0.1, policy_kwargs={"squash_output": True, "net_arch": [8]})
    model.policy.reset_noise(1)
    _, log_prob, _, entropy = model._act(np.zeros((1, 3), np.float32))
    assert th.equal(entropy, -log_prob)


@BACKENDS
def test_a_loaded_model_whose_environment_begins_anew_forgets_the_traces(backend, tmp_path):
    model = make(env=Chain(100), trace_decay=0.9, backend=backend).learn(5)
    model.save(tmp_path / "model")
    loaded = SingleStepA2C.load(tmp_path / "model", env=Chain(100))
    assert loaded.traces.traces.abs().sum() > 0
    loaded.learn(0, reset_num_timesteps=False)
    assert (loaded.traces.traces == 0).all()


@BACKENDS
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_td_error_of_0_changes_nothing(backend, max_grad_norm):
    """Neither ObGD's bound nor that of the gradient divides by it."""
    kwargs = {k: v for k, v in STREAM_PRESET.items() if k not in ("ent_coef", "max_grad_norm")}

    class Nothing(Chain):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, 0.0, *rest

    model = SingleStepA2C(
        "StreamPolicy", DummyVecEnv([lambda: Nothing(4)]), backend=backend, seed=0, max_grad_norm=max_grad_norm, **kwargs
    )
    with th.no_grad():
        model.policy.value_net.weight.zero_()
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(6)
    assert all(map(th.equal, before, model.policy.parameters()))
