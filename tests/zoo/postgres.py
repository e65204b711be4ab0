"""A PostgreSQL server for a test: on a temporary folder and a free port, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """:return: The folder of PostgreSQL's programs, None if it is not installed. Debian keeps ``initdb`` out of the PATH."""
    found = shutil.which("pg_ctl")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3].split(".")[0]))
    paths = [*debian[::-1], *([Path(found)] if found else [])]
    return next((path.parent for path in paths if (path.parent / "initdb").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """
    Run a server for the length of the block.

    :return: The URL of an empty database.
    :raises RuntimeError: when PostgreSQL is not installed or does not start.
    """
    folder = programs()
    if folder is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    # It refuses to run as root.
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        if user:
            os.chown(name, nobody.pw_uid, nobody.pw_gid)

        def run(program: str, *arguments: str) -> None:
            # Its output goes to a file: the server would hold a pipe open.
            with open(f"{name}/{program}.log", "ab") as log:
                done = subprocess.run(
                    [str(folder / program), "-D", f"{name}/data", *arguments],
                    cwd=name, stdout=log, stderr=log, timeout=120, check=False, **user,
                )  # fmt: skip
            if done.returncode != 0:
                raise RuntimeError(f"{program} failed: {Path(log.name).read_text()}")

        run("initdb", "--username=test", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "start", "--wait", "-o", f"-p {port} -k {name} -c listen_addresses=127.0.0.1 -c fsync=off")
        try:
            yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
