"""A dataset as a pickled replay buffer of SB3's own."""

import io
import os
import pathlib
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pg_extras.common.files import open_to_save
from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.layout import to_replay_buffer


class SavedBuffer:
    """Writes a dataset, which does not change, once; later files are hard links to the first."""

    def __init__(self) -> None:
        self.path: pathlib.Path | None = None

    def save(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        path: str | pathlib.Path | io.BufferedIOBase,
        verbose: int = 0,
    ) -> None:
        """
        :param dataset: The dataset.
        :param observation_space: The model's observation space.
        :param action_space: The model's action space.
        :param path: Path of the file (``.pkl`` is added where no suffix is), written whole or not at all; or a file object.
        :param verbose: As in SB3.
        """
        if isinstance(path, (str, pathlib.Path)):
            path = pathlib.Path(path)
            path = path if path.suffix else pathlib.Path(f"{path}.pkl")
            if self._link(path):
                return
        buffer_class: Any = DictReplayBuffer if isinstance(observation_space, spaces.Dict) else ReplayBuffer
        buffer = buffer_class(len(dataset), observation_space, action_space, "cpu")
        to_replay_buffer(dataset, buffer)
        with open_to_save(path, ".pkl") as file:
            save_to_pkl(file, buffer, verbose)
        if isinstance(path, pathlib.Path) and path.is_file():
            self.path, self.stat = path.resolve(), path.stat()

    def _link(self, path: pathlib.Path) -> bool:
        try:
            if self.path is None or path.exists():
                return False
            now, then = self.path.stat(), self.stat
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (then.st_ino, then.st_mtime_ns, then.st_size):
                return False
            os.link(self.path, path)
            return True
        except OSError:  # gone, or a file system without links
            return False
