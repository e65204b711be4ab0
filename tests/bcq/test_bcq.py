"""BCQ: a step by hand, its limits, and that it learns within the data's actions and goes on."""

import copy

import numpy as np
import pytest
import torch as th
from conftest import TINY, Dropping, make_arrays
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from torch.nn import functional as F

from sb3_pg_extras import BCQ
from sb3_pg_extras.bcq.policies import BCQPolicy

NETWORKS = ("behavior_vae", "actor", "critic", "actor_target", "critic_target")


def tiny(dataset=None, **kwargs) -> BCQ:
    policy_kwargs = TINY | kwargs.pop("policy_kwargs", {})
    kwargs = {"seed": 0, "batch_size": 16, "device": "cpu", "n_action_samples": 20} | kwargs
    return BCQ("MlpPolicy", None, make_arrays() if dataset is None else dataset, policy_kwargs=policy_kwargs, **kwargs)


def weights(policy, name: str) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(getattr(policy, name).parameters()).detach().clone()


# The perturbation.


def test_perturbation_by_hand():
    policy = tiny(max_perturbation=0.1).policy
    last = policy.actor.mu[-2]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(th.tensor([100.0, -100.0]))  # the tanh gives 1 and -1
    actions = th.tensor([[[0.5, 0.5], [0.95, -0.95]]])
    th.testing.assert_close(policy.actor(th.zeros(1, 3), actions), th.tensor([[[0.6, 0.4], [1.0, -1.0]]]))


def test_without_perturbation_it_chooses_among_the_vaes_actions():
    model = tiny(max_perturbation=0.0).learn(5)
    obs = th.as_tensor(make_arrays()["observations"])
    policy = model.policy
    with th.no_grad():
        behavior = th.tanh(policy.behavior_vae.raw_actions(obs, policy.candidate_noise.expand(40, -1, -1)))
        values = th.stack([policy.critic.q1_forward(obs, behavior[:, i]) for i in range(20)], dim=1).squeeze(2)
    best = behavior[th.arange(40), values.argmax(dim=1)]
    acted = model.predict(obs.numpy(), deterministic=True)[0]
    np.testing.assert_allclose(acted, policy.unscale_action(best.numpy()), atol=1e-6)
    assert len(set(values.argmax(dim=1).tolist())) > 1


def test_candidates_are_new_unless_deterministic():
    model, obs = tiny(), make_arrays()["observations"]
    np.testing.assert_array_equal(*(model.predict(obs, deterministic=True)[0] for _ in range(2)))
    assert not np.array_equal(*(model.predict(obs)[0] for _ in range(2)))


# A gradient step.


def reference_step(policy: BCQPolicy, batch, noise: list[th.Tensor], gamma: float, tau: float) -> None:
    """Algorithm 1 in the layout of the authors' code: one row for each sample."""

    def decode(obs, noise):
        noise = noise.flatten(0, 1).clamp(-0.5, 0.5)
        return th.tanh(policy.behavior_vae.decoder(th.cat([obs, noise], dim=1)))

    def perturbed(actor, obs, actions):
        return (actions + 0.05 * actor.mu(th.cat([obs, actions], dim=1))).clamp(-1, 1)

    def descend(network, loss):
        network.optimizer.zero_grad()
        loss.backward()
        network.optimizer.step()

    obs, actions = batch.observations, batch.actions
    mean, log_std = policy.behavior_vae.encoder(th.cat([obs, actions], dim=1)).chunk(2, dim=1)
    std = log_std.exp()
    decoded = th.tanh(policy.behavior_vae.decoder(th.cat([obs, mean + std * noise[0][:, 0]], dim=1)))
    kl = -0.5 * (1 + th.log(std**2) - mean**2 - std**2).mean()
    descend(policy.behavior_vae, F.mse_loss(decoded, actions) + 0.5 * kl)
    with th.no_grad():
        next_obs = batch.next_observations.repeat_interleave(10, dim=0)
        next_actions = perturbed(policy.actor_target, next_obs, decode(next_obs, noise[1]))
        q1, q2 = policy.critic_target(next_obs, next_actions)
        q = (0.75 * th.min(q1, q2) + 0.25 * th.max(q1, q2)).reshape(len(obs), 10).max(dim=1, keepdim=True).values
        target = batch.rewards + gamma * (1 - batch.dones) * q
    descend(policy.critic, sum(F.mse_loss(q, target) for q in policy.critic(obs, actions)))
    descend(
        policy.actor, -policy.critic.q1_forward(obs, perturbed(policy.actor, obs, decode(obs, noise[2]).detach())).mean()
    )
    for name in ("critic", "actor"):
        target_network = getattr(policy, f"{name}_target")
        for ours, theirs in zip(target_network.parameters(), getattr(policy, name).parameters(), strict=True):
            ours.data.copy_((1 - tau) * ours.data + tau * theirs.data)


def test_steps_by_hand():
    """Fails when a sign or a detach is wrong, or when a loss moves another's network."""
    model = tiny(gamma=0.9, tau=0.1)
    policy, generator = copy.deepcopy(model.policy), th.Generator()
    batch = model.replay_buffer.get(np.arange(5, 21))
    for _ in range(3):
        generator.set_state(model.generator.get_state())
        noise = [th.randn(16, n, 4, generator=generator) for n in (1, 10, 1)]
        model._update(batch, None)
        reference_step(policy, batch, noise, gamma=0.9, tau=0.1)
    for name in NETWORKS:
        th.testing.assert_close(weights(model.policy, name), weights(policy, name), rtol=0, atol=1e-5)
    assert not th.allclose(weights(policy, "actor"), weights(policy, "actor_target"))


def test_figures_of_the_log():
    figures = tiny()._update(tiny().replay_buffer.get(np.arange(16)), None)
    assert set(figures) == {"reconstruction_loss", "kl_loss", "critic_loss", "actor_loss"}
    assert not any(value.requires_grad or value.ndim for value in figures.values())


# Learning.


@pytest.mark.parametrize(("max_perturbation", "lowest", "highest"), [(0.05, 0.2, 0.65), (1.0, 0.65, 1.0)])
def test_it_takes_the_better_of_the_datas_actions_and_goes_no_further_than_it_may(max_perturbation, lowest, highest):
    """One step per episode, reward a; the data's actions are about -0.6 and 0.5. The critics would go on to 1."""
    rng, n = np.random.default_rng(0), 600
    actions = (rng.choice([-0.6, 0.5], (n, 1)) + 0.05 * rng.normal(size=(n, 1))).astype(np.float32)
    observations = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    data = {
        "observations": observations, "next_observations": observations, "actions": actions, "rewards": actions[:, 0],
        "terminations": np.ones(n, bool), "truncations": np.zeros(n, bool), "action_space": spaces.Box(-1, 1, (1,)),
    }  # fmt: skip
    kwargs = {"learning_rate": 3e-3, "batch_size": 64, "vae_kl_weight": 0.05, "policy_kwargs": {"vae_net_arch": [32]}}
    model = tiny(data, max_perturbation=max_perturbation, **kwargs).learn(100)
    acted = model.predict(observations[:100], deterministic=True)[0]
    assert lowest < acted.mean() and acted.max() <= highest


def test_going_on_after_loading_equals_never_having_stopped(tmp_path):
    whole, part = tiny().learn(10), tiny().learn(5)
    part.save(tmp_path / "model")
    loaded = BCQ.load(tmp_path / "model", dataset=make_arrays(), device="cpu").learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 10
    for name in NETWORKS:
        assert th.equal(weights(whole.policy, name), weights(loaded.policy, name))
    observations = make_arrays()["observations"]
    np.testing.assert_array_equal(
        whole.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


def test_the_policy_is_saved_alone(tmp_path):
    model = tiny(max_perturbation=0.3, normalize_observations=True).learn(3)
    model.policy.save(tmp_path / "policy.pth")
    loaded = BCQPolicy.load(tmp_path / "policy.pth", device="cpu")
    assert loaded.actor.max_perturbation == 0.3
    observations = make_arrays()["observations"]
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("share", [False, True])
def test_images_and_dicts(share):
    policy_kwargs = TINY | {"share_features_extractor": share}
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 36, 3), dtype=np.uint8)
    rest = {name: value for name, value in make_arrays().items() if name != "observation_space"}
    kwargs = {"policy_kwargs": policy_kwargs, "batch_size": 4, "n_action_samples": 5, "n_steps": 3}
    model = BCQ("CnnPolicy", None, rest | {"observations": image, "next_observations": image}, **kwargs).learn(1)
    assert model.observation_space.shape == (3, 36, 36)
    assert np.isfinite(model.predict(image[:2])[0]).all()
    both = {"image": image, "speed": np.zeros((40, 2), np.float32)}
    BCQ("MultiInputPolicy", None, rest | {"observations": both, "next_observations": both}, **kwargs).learn(1)


def test_the_bundled_dataset_and_the_authors_networks():
    model = BCQ("MlpPolicy", "Pendulum-v1", batch_size=4).learn(2)
    assert model.replay_buffer.size() == 30_000
    policy = model.policy
    networks = {"actor": policy.actor.mu, "critic": policy.critic.q_networks[0], "vae": policy.behavior_vae.decoder}
    layers = {name: [m.out_features for m in net if hasattr(m, "out_features")] for name, net in networks.items()}
    assert layers == {"actor": [400, 300, 1], "critic": [400, 300, 1], "vae": [750, 750, 1]}
    assert model.policy.candidate_noise.shape == (1, 100, 2)
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=1)[0])


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"max_perturbation": -0.1}, "max_perturbation=-0.1"),
        ({"n_target_samples": 0}, "n_target_samples=0"),
        ({"target_q_mixture": 1.5}, "target_q_mixture=1.5"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
    ],
)
def test_wrong_arguments_are_named(kwargs, word):
    with pytest.raises(ValueError, match=word):
        tiny(**kwargs)


def test_the_defaults_are_the_authors():
    model = BCQ("MlpPolicy", None, make_arrays(), policy_kwargs=TINY, device="cpu")
    assert (model.learning_rate, model.batch_size, model.tau, model.gamma) == (1e-3, 100, 0.005, 0.99)


@pytest.mark.parametrize("argument", [{"max_perturbation": 2.1}, {"tau": 1.1}, {"n_action_samples": 0}])
def test_arguments_out_of_range_are_named(argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        tiny(**argument)


def test_the_behaviours_actions_have_no_gradient():
    policy = tiny().policy
    assert not policy.behavior_actions(th.zeros(2, 3), th.zeros(2, 5, 4)).requires_grad


def test_nothing_is_dropped_when_it_acts():
    """The VAE too is in evaluation mode."""
    model = tiny(policy_kwargs={"features_extractor_class": Dropping}).learn(2)
    obs = make_arrays()["observations"]
    first, second = (model.predict(obs, deterministic=True)[0] for _ in range(2))
    assert (first == second).all() and not model.policy.behavior_vae.training
