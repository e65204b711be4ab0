"""The zoo's commands on a log, while nothing may make an environment."""

import re
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import optuna
import pandas as pd
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.train
import rl_zoo3.utils
import yaml
from conftest import make_arrays
from rl_zoo3.utils import StoreDict
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BC, FQE, OfflineDataset, load_dataset, save_dataset
from sb3_pg_extras.datasets import DatasetError
from sb3_pg_extras.offline.evaluation import evaluate_offline
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.sources import DatasetEnv
from sb3_pg_extras.zoo import ALGORITHMS, UsageError, main, upstream
from sb3_pg_extras.zoo.offline import OfflineManager, Split, TrainParser, TrialFQECallback, run_name

OFFLINE = [algo for algo, cls in ALGORITHMS.items() if issubclass(cls, OfflineAlgorithm)]


def refuse(*_, **__):
    raise AssertionError("an environment was made")


def arrays(n: int = 100, **changes) -> dict:
    return make_arrays(n) | changes


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder with robot.npz, ten episodes, where nothing makes an environment; what commands patch is put back."""
    for module, name in [
        (gym, "make"),
        (gym, "make_vec"),
        (gym.envs.registration, "make"),
        (gym.envs.registration.EnvSpec, "make"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    for module, name in [
        (rl_zoo3.train, "ExperimentManager"),
        (rl_zoo3.train, "argparse"),
        (rl_zoo3.utils, "get_latest_run_id"),
        (rl_zoo3.utils, "get_model_path"),
        (rl_zoo3.utils.StoreDict, "__call__"),
    ]:
        monkeypatch.setattr(module, name, getattr(module, name), raising=False)
    monkeypatch.setattr(gym.envs.registration, "registry", gym.registry)
    monkeypatch.chdir(tmp_path)
    save_dataset(OfflineDataset(**arrays()), "robot.npz")
    yield tmp_path
    for name in ("robot", "sharded-shards"):
        gym.registry.pop(name, None)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command; returns what it prints."""

    def run_command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sb3-pg-extras", *words])
        main()
        return capsys.readouterr().out

    return run_command


@pytest.fixture
def train(run):
    def train_tiny(*words: str, algo: str = "bc") -> str:
        sizes = "net_arch=[8],vae_net_arch=[8]" if algo in ("bear", "bcq") else "net_arch=[8]"
        start = ("train", "--algo", algo, "--dataset", "robot.npz", "-n", "4", "--eval-freq", "2", "--fqe-steps", "3")
        return run(*start, *words, "-params", f"policy_kwargs:dict({sizes})", "batch_size:8")

    return train_tiny


def figures(output: str) -> dict[str, dict[str, str]]:
    """The table that ``evaluate`` prints."""
    rows = [re.split(r" {2,}", line.strip()) for line in output.splitlines() if re.search(r"timesteps|\.zip ", line)]
    names = rows[0]
    return {label: dict(zip(names, values, strict=True)) for label, *values in rows[1:]}


def test_train_and_evaluate_make_no_environment(folder, run, train):
    train("--save-freq", "2", algo="bear")
    path = folder / "logs" / "bear" / "robot_1"
    names = {file.relative_to(path).as_posix() for file in path.rglob("*")}
    assert names >= {"robot.zip", "best_model.zip", "rl_model_2_steps.zip", "offline_evaluations.npz"}
    assert names >= {f"robot/{name}" for name in ("config.yml", "args.yml", "command.txt", "split.yml")}
    assert yaml.unsafe_load((path / "robot" / "config.yml").read_text())["dataset"] == "robot.npz"
    table = figures(run("evaluate", "--algo", "bear", "--dataset", "robot.npz", "--checkpoints", "--fqe-steps", "3"))
    assert list(table) == ["rl_model_2_steps.zip", "rl_model_4_steps.zip", "robot.zip"]
    # The same episodes are held out again: what training said of its models, evaluate says too.
    with np.load(path / "offline_evaluations.npz") as saved:
        assert set(table["robot.zip"]) == set(saved)
        for name in set(saved):
            said = [f"{value:.4g}" for value in saved[name]]
            assert [table[f"rl_model_{step}_steps.zip"][name] for step in (2, 4)] == said, name
    assert (folder / "bear-robot-offline.png").read_bytes()[1:4] == b"PNG"
    run("evaluate", "--algo", "bear", "--dataset", "robot.npz", "--load-best", "--fqe-steps", "3")
    assert (folder / "bear-robot-offline-2.png").is_file()


@pytest.mark.parametrize("algo", OFFLINE)
def test_every_offline_algorithm(folder, train, algo):
    train("--eval-freq", "25000", algo=algo)
    assert ALGORITHMS[algo].load(folder / "logs" / algo / "robot_1" / "robot.zip").num_timesteps == 4
    # A run that is shorter than --eval-freq is judged at its end.
    assert (folder / "logs" / algo / "robot_1" / "best_model.zip").is_file()


def test_nothing_is_learnt_from_what_is_held_out(folder, train):
    train("--held-out", "0.3", "-conf", str(normalizing(folder)))
    model = BC.load(folder / "logs" / "bc" / "robot_1" / "robot.zip")
    learnt, held_out = load_dataset("robot.npz").split(0.7, 0)
    assert len(learnt) == 70 and len(held_out) == 30
    np.testing.assert_allclose(observation_mean(model), learnt.observations.mean(axis=0), atol=1e-6)


def normalizing(folder: Path) -> Path:
    """Hyper-parameters with which a model holds the mean of the observations that it learns from."""
    path = folder / "x.yml"
    path.write_text("default: {policy: MlpPolicy, n_timesteps: 4, normalize_observations: true}")
    return path


def observation_mean(model: BC) -> np.ndarray:
    return next(value for name, value in model.policy.state_dict().items() if name.endswith("mean")).numpy()


def test_training_goes_on_from_a_run(folder, train):
    conf = ("-conf", str(normalizing(folder)))
    train(*conf)
    train(*conf, "-i", "logs/bc/robot_1/robot.zip")
    model = BC.load(folder / "logs" / "bc" / "robot_2" / "robot.zip")
    assert model._n_updates == 8
    assert np.array_equal(
        observation_mean(model), observation_mean(BC.load(folder / "logs" / "bc" / "robot_1" / "robot.zip"))
    )


def test_held_out_may_be_nothing_or_another_file(folder, run, train):
    assert "evaluating on OfflineDataset(100 transitions" in train("--held-out", "0")
    evaluate = ("evaluate", "--algo", "bc", "--dataset", "robot.npz", "--fqe-steps", "3")
    assert "Evaluating on all of robot.npz: OfflineDataset(100" in run(*evaluate)
    save_dataset(OfflineDataset(**arrays(40)), "other.npz")
    assert "evaluating on OfflineDataset(40 transitions" in train("--held-out", "other.npz")
    assert f"Evaluating on {folder}/other.npz: OfflineDataset(40" in run(*evaluate)
    # Of other data all is used.
    save_dataset(OfflineDataset(**arrays(60)), "fresh.npz")
    output = run(
        "evaluate", "--algo", "bc", "--dataset", "fresh.npz", "--model", "logs/bc/robot_1/robot.zip", "--fqe-steps", "3"
    )
    assert "Evaluating on all of fresh.npz: OfflineDataset(60" in output


def write_shards(folder: Path) -> None:
    """The folder ``shards`` of one parquet file, which names no action space."""
    data = OfflineDataset(**arrays())
    rows = {
        name: list(getattr(data, field))
        for name, field in {"observation.state": "observations", "action": "actions"}.items()
    }
    rows |= {"next.reward": data.rewards, "next.done": data.terminations, "episode_index": np.arange(100) // 10}
    rows["frame_index"] = np.arange(100) % 10
    (folder / "shards").mkdir()
    pd.DataFrame(rows).to_parquet("shards/a.parquet")


def test_a_dataset_larger_than_memory_is_judged_by_another(folder, run, train):
    write_shards(folder)
    train("--dataset", "sharded:shards", "--held-out", "robot.npz")
    path = folder / "logs" / "bc" / "sharded-shards_1"
    assert (path / "best_model.zip").is_file()
    evaluate = ("evaluate", "--algo", "bc", "--fqe-steps", "3")
    output = run(*evaluate, "--dataset", "sharded:shards")
    assert f"Evaluating on {folder}/robot.npz: OfflineDataset(100" in output
    with np.load(path / "offline_evaluations.npz") as saved:
        assert figures(output)["sharded-shards.zip"]["value"] == f"{saved['value'][-1]:.4g}"
    # Other shards cannot be evaluated on; a file can, as the error says.
    file = ("--dataset", "robot.npz", "--env", "sharded-shards")
    with pytest.raises(SystemExit, match=f"sharded:others: never in memory.*: evaluate {' '.join(file)}$"):
        run(*evaluate, "--dataset", "sharded:others", "--env", "sharded-shards")
    assert "Evaluating on all of robot.npz" in run(*evaluate, *file)


TRAIN, EVALUATE = ("train", "--algo", "bc", "--dataset"), ("evaluate", "--algo", "bc", "--env", "robot", "--dataset")
PYTHON_ONLY = {
    (*TRAIN, "log.csv"): "columns",
    (*TRAIN, "robot.npz", "--held-out", "log.csv"): "columns",
    (*EVALUATE, "log.csv"): "columns",
    ("inspect", "log.csv"): "columns",
    (*TRAIN, "shards"): "action_space",
    (*TRAIN, "wide.npz"): "action_space",
    (*TRAIN, "wide.h5"): "action_space",
    (*EVALUATE, "shards"): "action_space",
    ("inspect", "shards"): "action_space",
}


@pytest.mark.parametrize("words", PYTHON_ONLY, ids=" ".join)
def test_what_only_python_can_say_is_said_there_once(folder, run, train, words):
    if words[0] == "evaluate":
        train()
    write_shards(folder)
    Path("log.csv").write_text("x,u,r,run\n0.1,0.5,1,0\n0.2,0.5,1,0\n")
    bare = {name: value for name, value in arrays().items() if not name.endswith("_space")}
    np.savez("wide.npz", **bare)
    with h5py.File("wide.h5", "w") as file:
        file["observations"], file["actions"] = np.zeros((10, 3)), np.full((10, 2), 2.0)
        file["rewards"], file["terminals"] = np.zeros(10), np.arange(10) == 9
    name = PYTHON_ONLY[words]
    wanted = rf'load_dataset\(\.\.\., {name}=\.\.\.\), save it with save_dataset\(dataset, "log.npz"\), and name that file$'
    with pytest.raises(SystemExit, match=wanted):
        run(*words)


def test_a_log_that_python_has_saved_is_learnt_from(folder, train):
    write_shards(folder)
    save_dataset(load_dataset("shards", OfflineDataset(**arrays()).action_space), "log.npz")
    train("--dataset", "log.npz")


def test_optimize_searches_for_the_offline_value(folder, run, train, monkeypatch):
    judged = []

    class Callback(TrialFQECallback):
        def _on_step(self):
            goes_on = super()._on_step()
            judged.append((self.fqe_kwargs["gamma"], self.model.gamma, self.last_mean_reward))
            return goes_on

    monkeypatch.setattr("sb3_pg_extras.zoo.offline.TrialFQECallback", Callback)
    original = rl_zoo3.exp_manager.TrialEvalCallback
    output = train("-optimize", "--n-trials", "2", "--n-evaluations", "2", "--no-optim-plots", algo="td3_bc")
    # All trials are judged with the same discount factor, whatever they learn with.
    assert {gamma for gamma, *_ in judged} == {0.99}
    assert len({gamma for _, gamma, _ in judged}) == 2
    last = [value for *_, value in judged[3::4]]
    assert float(re.search(r"Value:\s+(\S+)", output)[1]) == max(last)
    assert rl_zoo3.exp_manager.TrialEvalCallback is original
    assert not list(folder.glob("logs/td3_bc/robot_1"))


def test_a_hopeless_trial_is_pruned(monkeypatch):
    data = OfflineDataset(**arrays())
    trial = optuna.create_study(direction="maximize").ask()
    monkeypatch.setattr(trial, "should_prune", lambda: True)
    callback = TrialFQECallback(trial, data, 2, 3)
    model = BC("MlpPolicy", None, data, policy_kwargs={"net_arch": [8]}, device="cpu").learn(10, callback=callback)
    assert callback.is_pruned and model.num_timesteps == 2


@pytest.mark.filterwarnings("ignore:the value 1e\\+09 is impossible")
def test_an_impossible_value_wins_no_search(monkeypatch):
    data = OfflineDataset(**arrays())
    trial = optuna.create_study(direction="maximize").ask()
    monkeypatch.setattr(FQE, "initial_values", lambda fqe: np.full(2, 1e9))
    callback = TrialFQECallback(trial, data, 2, 3)
    BC("MlpPolicy", None, data, policy_kwargs={"net_arch": [8]}, device="cpu").learn(2, callback=callback)
    assert callback.last_mean_reward == -np.inf


@pytest.mark.parametrize("command", ["enjoy", "record_video", "record_training", "collect", "push_to_hub"])
def test_commands_that_act_name_evaluate(folder, run, train, command, monkeypatch):
    (folder / "logs" / "bear" / "robot_1" / "robot").mkdir(parents=True)
    (folder / "logs" / "bear" / "robot_1" / "robot" / "split.yml").write_text("{}")
    (folder / "logs" / "bear" / "robot_1" / "robot.zip").touch()
    with pytest.raises(SystemExit, match=r"no environment.*evaluate --algo bear --dataset"):
        run(command, "--algo", "bear", "--env", "robot", "-f", "logs")
    # Of a run with an environment of the same name, they act.
    other = folder / "logs" / "bear" / "robot_2"
    other.mkdir()
    (other / "robot.zip").touch()
    monkeypatch.setattr(sys, "argv", [command, "--algo", "bear", "--env", "robot", "-f", "logs"])
    upstream.refuse_runs_without_environment()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--exp-id", "1"])
    with pytest.raises(UsageError, match="no environment to act in"):
        upstream.refuse_runs_without_environment()


def test_a_replay_buffer_beside_the_model_does_not_replace_the_dataset(folder, run, train):
    train("--save-replay-buffer")
    save_dataset(OfflineDataset(**arrays(60)), "other.npz")
    words = ("--algo", "bc", "-n", "4", "--fqe-steps", "3", "-i", "logs/bc/robot_1/robot.zip")
    run("train", "--dataset", "other.npz", "--held-out", "0", *words)
    assert BC.load(folder / "logs" / "bc" / "other_1" / "other.zip").dataset == "other.npz"


def test_a_run_that_is_killed_has_its_statistics_and_a_model_without_them_is_not_evaluated(
    folder, run, train, monkeypatch, capsys
):
    (folder / "norm.yml").write_text('default: {n_timesteps: 4, policy: MlpPolicy, normalize: "dict(norm_reward=False)"}')

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OfflineManager, "save_trained_model", killed)
        with pytest.raises(KeyboardInterrupt):
            train("-conf", "norm.yml")
    capsys.readouterr()
    words = ("evaluate", "--algo", "bc", "--dataset", "robot.npz", "--fqe-steps", "3")
    path = folder / "logs" / "bc" / "robot_1"
    with np.load(path / "offline_evaluations.npz") as saved:
        best = int(np.argmax(saved["value"]))
        assert figures(run(*words, "--load-best"))["best_model.zip"]["value"] == f"{saved['value'][best]:.4g}"
    shutil.copy(path / "best_model.zip", folder / "x.zip")
    with pytest.raises(SystemExit, match=r"x.zip learned with VecNormalize, whose vecnormalize.pkl is not beside it"):
        run(*words, "--model", "x.zip")


def test_evaluate_ends_in_one_line(folder, run, train):
    train()
    words = ("evaluate", "--algo", "bc", "--dataset", "robot.npz", "--fqe-steps", "3")
    with pytest.raises(SystemExit, match=r"error: gamma=2\.0: must be"):
        run(*words, "--gamma", "2")
    with pytest.raises(SystemExit, match="error: "):
        run("evaluate", "--algo", "bear", *words[3:], "--model", "logs/bc/robot_1/robot.zip")


EMPTY = {"--trained-agent": {"default": ""}, "--trial-id": {}}


def test_a_dataset_with_an_environment_is_a_hyperparameter():
    words = ["--algo", "bc", "--env", "Pendulum-v1", "--dataset", "x.npz"]
    parser = TrainParser()
    for name, kwargs in {
        "--algo": {},
        "--env": {"default": "CartPole-v1"},
        "--hyperparams": {"action": StoreDict},
        **EMPTY,
    }.items():
        parser.add_argument(name, **kwargs)
    args = parser.parse_args(words)
    assert args.env == "Pendulum-v1" and args.hyperparams == {"dataset": "x.npz"}


BAD_TRAIN = {
    ("--algo", "ppo"): "ppo learns from an environment",
    ("--held-out", "1.5"): "^2$",
    ("--held-out", "0.01"): r"robot.npz: split\(0.99\) of 10 episodes leaves one part empty.*--held-out",
    ("--held-out", "missing.npz"): "no such file",
    ("-i", "missing.zip"): "--trained-agent missing.zip: not a model",
    ("-i", "robot.npz"): "--trained-agent robot.npz: not a model",
    ("-i", "agent.zip", "-optimize"): "-optimize searches with new models",
    ("--trial-id", "0"): "--trial-id 0 is of a study: name its --storage and --study-name",
    ("--held-out", "other.npz"): r"--held-out other.npz has the spaces .*2,.* robot.npz has",
    ("--held-out", "endless.npz"): "terminations and truncations are False",
    ("--dataset", "endless.npz"): "terminations and truncations are False",
    ("--dataset", "missing.npz"): "no such file",
    ("--dataset", "sharded:shards"): "nothing is held out.*--held-out",
    ("-params", "dataset:x.npz"): "two datasets",
    ("--env", "Pendulum-v1", "--held-out", "0.2"): "without --env",
    ("--env-kwargs", "g:1"): "no environment",
    ("--fqe-steps", "0"): "at least 1",
    ("-conf", "stack.yml"): "frame_stack.*no environment",
}


@pytest.mark.parametrize("words", BAD_TRAIN, ids=" ".join)
def test_train_says_what_is_wrong_before_time_is_spent(folder, run, monkeypatch, words):
    other = arrays(observations=np.zeros((100, 2), np.float32), next_observations=np.zeros((100, 2), np.float32))
    other["observation_space"] = gym.spaces.Box(-1, 1, (2,))
    save_dataset(OfflineDataset(**other), "other.npz")
    endless = np.zeros(100, bool)
    save_dataset(OfflineDataset(**arrays(terminations=endless, truncations=endless)), "endless.npz")
    Path("agent.zip").touch()
    Path("stack.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 4, frame_stack: 2}")
    monkeypatch.setattr(BC, "learn", refuse)
    with pytest.raises(SystemExit, match=BAD_TRAIN[words]):
        run("train", "--algo", "bc", "--dataset", "robot.npz", *words)
    assert not list(folder.glob("logs/*/*.zip"))


def test_evaluate_says_what_is_wrong(folder, run, train):
    evaluate = ("evaluate", "--algo", "bc", "--dataset", "robot.npz")
    with pytest.raises(SystemExit, match="no model of bc on robot in logs"):
        run(*evaluate)
    train()
    for words, message in {
        ("--exp-id", "7"): "with --exp-id 7",
        ("--model", "x.zip"): "x.zip: no such file",
        ("--dataset", "missing.npz", "--env", "robot"): "no such file",
        ("--dataset", "other.npz", "--env", "robot"): "robot.zip is for the spaces .* other.npz has",
        ("--dataset", "endless.npz", "--env", "robot"): "terminations and truncations are False",
    }.items():
        wide = arrays(actions=np.zeros((100, 1), np.float32), action_space=gym.spaces.Box(-1, 1, (1,)))
        save_dataset(OfflineDataset(**wide), "other.npz")
        endless = np.zeros(100, bool)
        save_dataset(OfflineDataset(**arrays(terminations=endless, truncations=endless)), "endless.npz")
        with pytest.raises(SystemExit, match=message):
            run(*evaluate, *words)
    for name in ("--fqe-steps", "-o"):
        with pytest.raises(SystemExit):
            run(*evaluate, name, "0")
    save_dataset(OfflineDataset(**arrays(80)), "robot.npz")
    with pytest.raises(SystemExit, match=r"robot.npz has changed since .*robot_1 was trained"):
        run(*evaluate)


def test_evaluate_sees_what_an_agent_of_an_environment_saw(folder, run):
    """Observations as its VecNormalize gave them, and all of the dataset."""
    data = OfflineDataset(**arrays(50))
    env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(data)]))
    env.obs_rms.mean += 5.0
    model = PPO("MlpPolicy", env, n_steps=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    path = folder / "logs" / "ppo" / "Robot-v0_3"
    model.save(path / "Robot-v0.zip")
    (path / "Robot-v0").mkdir()
    env.save(path / "Robot-v0" / "vecnormalize.pkl")
    save_dataset(data, "log.npz")
    output = run(
        "evaluate", "--algo", "ppo", "--env", "Robot-v0", "--dataset", "log.npz", "--fqe-steps", "5", "--gamma", "0.5"
    )
    value, _ = evaluate_offline(model, data, 5, gamma=0.5)
    assert figures(output)["Robot-v0.zip"]["value"] == f"{value.mean:.4g}"
    model.set_env(DummyVecEnv([lambda: DatasetEnv(data)]))
    assert figures(output)["Robot-v0.zip"]["value"] != f"{evaluate_offline(model, data, 5, gamma=0.5)[0].mean:.4g}"


def test_names_of_runs():
    assert run_name("logs/robot.npz") == "robot"
    assert run_name("my robot.csv") == "my-robot"
    assert run_name("minari:mujoco/hopper/medium-v0") == "mujoco-hopper-medium-v0"
    # The zoo would use the environment's hyper-parameters, and mix up its runs with the environment's.
    assert run_name("Pendulum-v1.npz") == "Pendulum-v1-dataset"
    assert run_name("Pendulum.npz") == "Pendulum"


def test_the_split_is_known_again(folder):
    split = Split("robot.npz", 0.2)
    again = Split("robot.npz", 0.2)
    assert np.array_equal(split.held_out.rewards, again.held_out.rewards)
    rows = np.concatenate([split.training.rewards, split.held_out.rewards])
    assert sorted(rows) == sorted(load_dataset("robot.npz").rewards)
    with pytest.raises(DatasetError, match="leaves one part empty"):
        Split("robot.npz", 0.96)
