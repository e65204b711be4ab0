"""
A Python that has imported what the zoo's commands need, and forks for each: a test pays for its command, not for imports.

A command runs in a process, a folder and an environment of its own, as after ``python -m``; only the libraries are there
already. ``python warm_python.py`` is the process that forks, of which :class:`WarmPython` is the client.
"""

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any

# Seconds until a command is ended.
TIMEOUT = 600


class WarmPython:
    """:param env: The environment of the process, its ``PYTHONPATH`` among others."""

    def __init__(self, env: dict[str, str]) -> None:
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(
        self, program: str, *arguments: str, folder: Path, timeout: int = TIMEOUT, **env: str
    ) -> subprocess.CompletedProcess:
        """
        :param program: A module, or the path of a script.
        :param arguments: Its arguments.
        :param folder: Where it runs.
        :param timeout: Seconds until it is ended.
        :param env: Variables that are added to the environment.
        :return: What ``subprocess.run`` returns.
        """
        with tempfile.TemporaryDirectory() as outputs:
            files = [os.path.join(outputs, name) for name in ("stdout", "stderr")]
            request = {"program": program, "arguments": arguments, "folder": str(folder), "files": files, "env": env}
            request["timeout"] = timeout
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            return subprocess.CompletedProcess([program, *arguments], code, *(Path(file).read_text() for file in files))


@cache
def this_environment() -> WarmPython:
    """:return: The one for whatever runs in the environment of the tests."""
    return WarmPython(dict(os.environ))


def wait_for_request() -> dict[str, Any] | None:
    """:return: In a new process its request; None when there are no more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    import huggingface_sb3  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import rl_zoo3.exp_manager  # noqa: F401
    import torch._dynamo  # noqa: F401  (PyTorch imports it with the first optimiser)

    import sb3_pg_extras.zoo

    assert sb3_pg_extras.zoo.ALGORITHMS
    request = wait_for_request()
    if request is not None:
        signal.alarm(request["timeout"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(request["files"], start=1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.chdir(request["folder"])
        os.environ.update(request["env"])
        sys.path[0] = ""
        sys.argv = [request["program"], *request["arguments"]]
        try:
            if request["program"].endswith(".py"):
                runpy.run_path(request["program"], run_name="__main__")
            else:
                runpy.run_module(request["program"], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        # An exit that frees all that has been imported takes a second.
        os._exit(code)
