"""
One command of ours against a Hugging Face hub that is a folder: ``python fake_hub.py FOLDER push_to_hub --algo ...``

It stands in for the four calls that the zoo makes, with the errors of the real ones; anything else would meet no network.
"""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
from huggingface_hub.errors import RemoteEntryNotFoundError

from sb3_pg_extras.zoo import main

HUB = Path(sys.argv.pop(1))


def create_repo(api: Any, repo_id: str, **_: Any) -> str:
    (HUB / repo_id).mkdir(parents=True, exist_ok=True)
    return f"https://huggingface.co/{repo_id}"


def snapshot_download(api: Any, repo_id: str, local_dir: Path) -> str:
    return str(shutil.copytree(HUB / repo_id, local_dir, dirs_exist_ok=True))


def upload_folder(api: Any, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
    shutil.copytree(folder_path, HUB / repo_id, dirs_exist_ok=True)


def hf_hub_download(repo_id: str, filename: str, **_: Any) -> str:
    path = HUB / repo_id / filename
    if not path.is_file():
        raise RemoteEntryNotFoundError(f"404 for {path}", response=SimpleNamespace(headers={}, request=None))
    return str(path)


for function in (create_repo, snapshot_download, upload_folder):
    setattr(huggingface_hub.HfApi, function.__name__, function)
huggingface_hub.hf_hub_download = hf_hub_download

if __name__ == "__main__":
    main()
