"""The RL Zoo: registration, hyper-parameters, and the command as a user types it, from an empty folder."""

import argparse
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import optuna
import pytest
import rl_zoo3.exp_manager
import yaml
from conftest import make_arrays
from gymnasium import spaces
from rl_zoo3.utils import StoreDict, get_wrapper_class
from warm_python import this_environment

import sb3_pg_extras
from sb3_pg_extras import BEAR, PUBLISHED_PRESET, REINFORCE, OfflineAlgorithm, OfflineDataset, SingleStepA2C
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.zoo import ALGORITHMS, UsageError, hyperparams_file, register, upstream
from sb3_pg_extras.zoo.manager import Manager, errors_of_arguments
from sb3_pg_extras.zoo.search_spaces import CONVERTERS, SAMPLERS

ROOT = Path(__file__).parents[2]
SMALL = ["warmup_fraction:0.1", "policy_kwargs:dict(net_arch=[8],vae_net_arch=[8])"]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return this_environment().run("sb3_pg_extras.zoo", *arguments, folder=folder)


def fresh(folder: Path, module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """A module in a Python that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder, env={**os.environ, **env}, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip


TRAIN = ["--algo", "bear", "--env", "Pendulum-v1", "-n", "20", "--seed", "1", "--num-threads", "1"]
TRAIN += ["--eval-freq", "10", "--eval-episodes", "1"]


def train(folder: Path, *arguments: str, params: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return command(folder, "train", *TRAIN, *arguments, "-params", *SMALL, *params)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    result = train(folder, "--progress", "--save-freq", "10")
    assert result.returncode == 0, result.stderr
    assert "20/20" in result.stdout + result.stderr
    return folder


def test_register_is_known_to_all_of_the_zoo():
    import rl_zoo3
    import rl_zoo3.train

    register()
    assert rl_zoo3.ALGOS["bear"] is rl_zoo3.train.ALGOS["bear"] is BEAR
    assert rl_zoo3.ALGOS["reinforce"] is REINFORCE
    assert rl_zoo3.ALGOS["single_step_a2c"] is SingleStepA2C


def test_importing_the_package_imports_nothing_that_sb3_has_not():
    """So that it takes hardly longer: no module but our own and the standard library's is loaded beyond SB3's."""
    code = (
        "import stable_baselines3, sys; before = set(sys.modules); import sb3_pg_extras; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert result.stdout.strip() == "{'sb3_pg_extras'}"


def test_our_hyperparameter_file_is_taken_where_the_user_names_none(tmp_path):
    register()
    make = partial(Manager, argparse.Namespace(), env_id="Pendulum-v1", log_folder=str(tmp_path))
    assert make("bear").config == str(hyperparams_file("bear"))
    assert make("bear", config="x.yml").config == "x.yml"
    assert "rl_zoo3" in make("sac").config


LEARNING_RATES = [
    (algo, name)
    for algo, cls in ALGORITHMS.items()
    for name in inspect.signature(cls).parameters
    if name.endswith("learning_rate")
]


@pytest.mark.parametrize(("algo", "name"), LEARNING_RATES)
def test_a_schedule_for_each_learning_rate(algo, name, tmp_path):
    (tmp_path / "x.yml").write_text(f"default: {{policy: MlpPolicy, n_timesteps: 10, {name}: lin_0.004}}")
    register()
    manager = Manager(
        argparse.Namespace(), algo, "Pendulum-v1", str(tmp_path), eval_freq=-1, verbose=0, config=str(tmp_path / "x.yml")
    )
    model, saved = manager.setup_experiment()
    assert [getattr(model, name)(progress) for progress in (1.0, 0.5)] == [0.004, 0.002]
    assert saved[name] == "lin_0.004"


def test_every_algorithm_with_a_learning_rate_of_its_own_is_tried():
    assert {("bear", "alpha_learning_rate"), ("single_step_a2c", "critic_learning_rate")} < set(LEARNING_RATES)


ROBOTS = {"Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"}
ZOO_ONLY = ("n_timesteps", "n_envs", "normalize", "env_wrapper", "frame_stack")


class StandIn(gym.Env):
    """An environment of the shape that a policy asks for: hyper-parameters are checked without the real one."""

    def __init__(self, policy: str) -> None:
        image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        self.observation_space = image if policy == "CnnPolicy" else spaces.Box(-1, 1, (3,))
        self.action_space = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_entry_of_the_hyperparameter_files_makes_a_model(algo):
    entries = yaml.safe_load(hyperparams_file(algo).read_text())
    own = ROBOTS if issubclass(ALGORITHMS[algo], OfflineAlgorithm) else {"CartPole-v1", "Hopper-v5", "atari"}
    assert {"default", "Pendulum-v1"} | own <= set(entries)
    for name, entry in entries.items():
        assert entry.get("warmup_fraction", 0) < 1, name
        get_wrapper_class(dict(entry))  # imports the wrappers that it names
        kwargs = {key: value for key, value in entry.items() if key not in ZOO_ONLY}
        if "policy_kwargs" in kwargs:
            kwargs["policy_kwargs"] = eval(kwargs["policy_kwargs"], vars(rl_zoo3.exp_manager))
        kwargs.pop("dataset", None)
        ALGORITHMS[algo](env=StandIn(entry["policy"]), **kwargs)


def test_the_published_settings_of_bear_as_entries():
    entries = yaml.safe_load((hyperparams_file("bear").parent / "bear_published.yml").read_text())
    for name, entry in entries.items():
        entry["policy_kwargs"] = eval(entry["policy_kwargs"])
        kernel = {"mmd_kernel": "gaussian"} if name == "HalfCheetah-v5" else {}
        assert entry == {"n_timesteps": 5e5, "policy": "MlpPolicy"} | PUBLISHED_PRESET | kernel
    assert set(entries) >= {"default", "HalfCheetah-v5"}


def test_train_leaves_what_the_zoo_leaves(trained):
    run = trained / "logs" / "bear" / "Pendulum-v1_1"
    assert {"Pendulum-v1.zip", "best_model.zip", "evaluations.npz", "rl_model_10_steps.zip"} <= {
        p.name for p in run.iterdir()
    }
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [10, 20]
    assert yaml.unsafe_load((run / "Pendulum-v1" / "config.yml").read_text())["dataset"] == "bundled:pendulum-mixed-v0"
    assert BEAR.load(run / "Pendulum-v1.zip").num_timesteps == 20


@pytest.mark.parametrize("flags", [[], ["--load-best"], ["--load-last-checkpoint"], ["--load-checkpoint", "10"]])
def test_enjoy(trained, flags):
    result = command(
        trained, "enjoy", "--algo", "bear", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "200", *flags
    )
    assert result.returncode == 0, result.stderr
    assert "Mean reward:" in result.stdout


def test_record_video(trained):
    result = command(
        trained, "record_video", "--algo", "bear", "--env", "Pendulum-v1", "-f", "logs", "-n", "20", "-o", "videos"
    )
    assert result.returncode == 0, result.stderr
    (video,) = (trained / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


def test_continue_training(trained):
    result = train(trained, "-i", "logs/bear/Pendulum-v1_1/Pendulum-v1.zip", "--save-replay-buffer")
    assert result.returncode == 0, result.stderr
    run = trained / "logs" / "bear" / "Pendulum-v1_2"
    assert BEAR.load(run / "Pendulum-v1.zip")._n_updates == 40
    assert (run / "replay_buffer.pkl").exists()
    # The zoo loads the buffer beside the model it goes on with.
    result = train(trained, "-i", str(run / "Pendulum-v1.zip"))
    assert result.returncode == 0, result.stderr
    assert "Loading replay buffer" in result.stdout


def test_dataset_on_the_command_line_and_normalization(tmp_path):
    rng = np.random.default_rng(0)
    angle = rng.normal(size=60)
    observations = np.stack([np.cos(angle), np.sin(angle), rng.normal(size=60)], axis=1)
    arrays = make_arrays(60) | {"observations": observations, "next_observations": observations}
    arrays |= {"actions": rng.uniform(-2, 2, (60, 1)), "action_space": spaces.Box(-2, 2, (1,))}
    save_dataset(OfflineDataset(**arrays), tmp_path / "mine.npz")
    result = train(tmp_path, params=("dataset:'mine.npz'", "normalize:True"))
    assert result.returncode == 0, result.stderr
    run = tmp_path / "logs" / "bear" / "Pendulum-v1_1"
    assert BEAR.load(run / "Pendulum-v1.zip").dataset == "mine.npz"
    assert (run / "Pendulum-v1" / "vecnormalize.pkl").exists()
    result = command(tmp_path, "enjoy", "--algo", "bear", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "200")
    assert "Loading running average" in result.stdout
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("algo", ["reinforce", "single_step_a2c"])
def test_online_algorithms_train_enjoy_and_record(algo, tmp_path):
    env = ["--algo", algo, "--env", "CartPole-v1"]
    result = command(tmp_path, "train", *env, "-n", "600", "--eval-freq", "300", "--eval-episodes", "1", "--progress")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "logs" / algo / "CartPole-v1_1" / "best_model.zip").exists()
    for arguments in (
        ["enjoy", *env, "-f", "logs", "--no-render"],
        ["record_video", *env, "-f", "logs", "-n", "20", "-o", "video"],
    ):
        result = command(tmp_path, *arguments)
        assert result.returncode == 0, result.stderr
    assert list((tmp_path / "video").glob("*.mp4"))
    trained = f"logs/{algo}/CartPole-v1_1/CartPole-v1.zip"
    result = command(tmp_path, "train", *env, "-n", "300", "--eval-freq", "-1", "-i", trained)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("algo", ["reinforce", "single_step_a2c"])
def test_optimize(algo, tmp_path):
    arguments = ["-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--n-evaluations", "1", "--no-optim-plots"]
    env = ["--algo", algo, "--env", "CartPole-v1"]
    result = command(tmp_path, "train", *env, "-n", "1500", "--eval-episodes", "2", "--seed", "0", *arguments)
    assert result.returncode == 0, result.stderr
    assert "Number of finished trials:  2" in result.stdout
    assert list((tmp_path / "logs" / algo).glob("report_CartPole-v1_*.csv"))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_search_spaces_make_models_and_read_back_their_trials(algo):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        kwargs = SAMPLERS[algo](trial, 2, 1, {})
        assert CONVERTERS[algo](trial.params) == kwargs
        ALGORITHMS[algo]("MlpPolicy", StandIn("MlpPolicy"), **kwargs)


def test_the_first_trial_of_a_study_can_be_loaded(tmp_path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    study = optuna.create_study(storage=storage, study_name="study")
    SAMPLERS["reinforce"](study.ask(), 2, 1, {})
    learning_rate = study.trials[0].params["learning_rate"]
    arguments = ["--storage", "study.log", "--study-name", "study", "--trial-id", "0", "--eval-freq", "-1"]
    result = command(tmp_path, "train", "--algo", "reinforce", "--env", "CartPole-v1", "-n", "20", *arguments)
    assert result.returncode == 0, result.stderr
    assert f"('learning_rate', {learning_rate})" in result.stdout


def test_a_missing_dataset_ends_in_one_line(tmp_path):
    result = train(tmp_path, params=("dataset:'nowhere.npz'",))
    assert result.returncode == 1
    assert "error: dataset='nowhere.npz': no such file" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --algo bear --env Pendulum-v1 -params dataset:nowhere.npz", "dataset='nowhere.npz': no such file"),
        ("train --algo bear --env Pendulum-v1 -params dataset:minari:no/such-v0", "minari:no/such-v0"),
        ("train --algo bear --env Pendulum-v1 -params gama:0.9", "unexpected keyword argument 'gama'"),
        ("train --algo bear --env Pendulum-v1 -params policy_kwargs:dict(net_arch=[8)", "expected name:value"),
        ("train --algo bear --env Penduum-v1", "Did you mean: `Pendulum`?"),
        ("train --algo bear --env CartPole-v1", "only supports .*Box.* but Discrete"),
        ("train --algo bear --env CartPole-v1 -optimize -n 20", "only supports .*Box.* but Discrete"),
        ("train --algo bear --env Pendulum-v1 -conf nowhere.yml", "No such file.*nowhere.yml"),
        (
            "enjoy --algo bear --env Pendulum-v1",
            r"rl-trained-agents/bear folder was not found: train one \(sb3-pg-extras train",
        ),
        ("enjoy --algo bear --env Pendulum-v1 -f logs --exp-id 3", "Pendulum-v1_3 folder was not found: train one"),
        ("record_training --algo bear --env Pendulum-v1 -f crashed", "no run of Pendulum-v1 in crashed/bear has a model"),
        ("record_training --algo bear --env Pendulum-v1 -f 'my logs'", "'my logs' has a space"),
        ("all_plots -a bear -e Pendulum-v1 -f logs -o x", "no run of bear on Pendulum-v1 in logs has left evaluations.npz"),
        ("all_plots", "required: -a"),
        ("plot_train -a bear -e Pendulum-v1 -f logs", "no run of bear on Pendulum-v1 in logs has left .*monitor.csv"),
        ("plot_from_file -i nowhere", "No such file.*nowhere.pkl"),
    ],
)
def test_a_command_that_cannot_be_followed_ends_in_one_line(tmp_path, arguments, words):
    (tmp_path / "crashed" / "bear" / "Pendulum-v1_1").mkdir(parents=True)
    result = command(tmp_path, *shlex.split(arguments))
    assert result.returncode in (1, 2)
    assert re.search(f"^sb3-pg-extras {arguments.split()[0]}: error: .*{words}", result.stderr.splitlines()[-1])
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.pkl")) and not list(tmp_path.rglob("*.mp4"))


def test_mujoco_that_is_missing_is_one_line(tmp_path):
    script = tmp_path / "without_mujoco.py"
    script.write_text("import sys; sys.modules['mujoco'] = None; from sb3_pg_extras.zoo import main; main()")
    arguments = ["train", "--algo", "reinforce", "--env", "Hopper-v5"]
    result = this_environment().run(str(script), *arguments, folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("sb3-pg-extras train: error: MuJoCo is not installed")
    assert "Traceback" not in result.stderr


def test_a_crashed_run_is_passed_over(trained):
    (trained / "logs" / "bear" / "Pendulum-v1_9" / "Pendulum-v1").mkdir(parents=True)
    try:
        result = command(
            trained, "enjoy", "--algo", "bear", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "200"
        )
    finally:
        shutil.rmtree(trained / "logs" / "bear" / "Pendulum-v1_9")
    assert result.returncode == 0, result.stderr
    assert re.search(r"Loading logs/bear/Pendulum-v1_[1-8]/Pendulum-v1.zip", result.stdout)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("dataset:hopper.npz", "hopper.npz"),
        ("dataset:'hopper.npz'", "hopper.npz"),
        ("dataset:data/2024-01.npz", "data/2024-01.npz"),
        ("dataset:bundled:pendulum-mixed-v0", "bundled:pendulum-mixed-v0"),
        ("dataset:minari:mujoco/hopper/medium-v0", "minari:mujoco/hopper/medium-v0"),
        ("learning_rate:lin_0.001", "lin_0.001"),
        ("learning_rate:1e-3", 1e-3),
        ("policy:MlpPolicy", "MlpPolicy"),
        ("policy_kwargs:dict(net_arch=[8])", {"net_arch": [8]}),
        ("baseline:None", None),
        ("use_sde:false", False),
        ("normalize:TRUE", True),
        ("baseline:null", None),
        ("baseline:none", None),
    ],
)
def test_values_on_the_command_line(argument, expected, monkeypatch):
    monkeypatch.setattr(StoreDict, "__call__", StoreDict.__call__)  # restored afterwards
    upstream.take_strings_without_quotes()
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=StoreDict)
    assert parser.parse_args(["-params", argument]).params == {argument.split(":")[0]: expected}


def test_a_gradient_step_counts_as_one_whatever_the_number_of_environments(tmp_path):
    register()
    for algo, expected in (("bc", 1), ("reinforce", 4)):
        manager = Manager(
            argparse.Namespace(), algo, "Pendulum-v1", str(tmp_path), n_timesteps=40, eval_freq=-1, save_freq=20, verbose=0,
            hyperparams={"n_envs": 4},
        )  # fmt: skip
        manager.setup_experiment()
        assert (manager.n_envs, manager.save_freq) == (expected, 20 // expected)


class Broken(gym.Env):
    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return None + 1


def test_errors_of_the_users_environment_keep_their_traceback():
    with pytest.raises(UsageError, match=r"^wrong$"), errors_of_arguments():
        raise ValueError("wrong")
    with pytest.raises(TypeError), errors_of_arguments():
        Broken().reset()


def test_record_training_deletes_no_files_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["record_training", "-o", str(tmp_path)])
    (tmp_path / "training.mp4").touch()
    upstream.keep_other_files()
    (tmp_path / "precious.txt").touch()
    with pytest.raises(UsageError, match=r"would delete .*precious.txt: name a new folder"):
        upstream.keep_other_files()


def test_literal_zoo_command_with_custom_envs(tmp_path):
    (tmp_path / "custom_envs.py").write_text("import sb3_pg_extras.zoo\n\nsb3_pg_extras.zoo.register()\n")
    arguments = [
        "--algo",
        "bear",
        "--env",
        "Pendulum-v1",
        "-n",
        "6",
        "--eval-freq",
        "-1",
        "-conf",
        str(hyperparams_file("bear")),
    ]
    result = fresh(tmp_path, "rl_zoo3.train", *arguments, "-params", *SMALL)
    assert result.returncode == 0, result.stderr


def test_usage_names_the_commands(tmp_path):
    result = fresh(tmp_path, "sb3_pg_extras.zoo", "fly")
    assert result.returncode == 2
    for name in ("train", "enjoy", "record_video", "collect"):
        assert name in result.stderr
    assert "--algo" in command(tmp_path, "train", "--help").stdout


def test_version(tmp_path):
    assert fresh(tmp_path, "sb3_pg_extras.zoo", "--version").stdout == f"sb3-pg-extras {sb3_pg_extras.__version__}\n"


def test_help_waits_for_no_library(tmp_path):
    code = """
import sys
from sb3_pg_extras.zoo import main
sys.argv[1:] = ["--help"]
try:
    main()
finally:
    print({"numpy", "torch", "gymnasium", "stable_baselines3", "rl_zoo3"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


TRAINED_AGENTS = sorted((ROOT / "rl-trained-agents").glob("*/*_1"))


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run, id=f"{run.parent.name}-{run.name}", marks=[] if run.name == "CartPole-v1_1" else pytest.mark.slow)
        for run in TRAINED_AGENTS
    ],
)
def test_enjoy_shows_the_trained_agents_without_training(run):
    env = run.name.removesuffix("_1")
    played = command(ROOT, "enjoy", "--algo", run.parent.name, "--env", env, "--no-render", "-n", "1000")
    assert played.returncode == 0, played.stderr
    assert "Mean reward" in played.stdout


@pytest.mark.parametrize("run", TRAINED_AGENTS, ids=lambda run: f"{run.parent.name}-{run.name}")
def test_trained_agents_load(run):
    model = ALGORITHMS[run.parent.name].load(run / f"{run.name.removesuffix('_1')}.zip", device="cpu")
    assert model.num_timesteps > 0


def test_trained_agents_are_small():
    assert {run.parent.name for run in TRAINED_AGENTS} == set(ALGORITHMS)
    assert sum(path.stat().st_size for run in TRAINED_AGENTS for path in run.rglob("*") if path.is_file()) < 20e6
