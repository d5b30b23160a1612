"""Jobs run as a user runs them: each a tree of processes, told apart from others and cleaned up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAIT_S = 600
"""Long enough for a machine that does much else; an idle one needs a twentieth."""

_GONE = (FileNotFoundError, ProcessLookupError)

# Labels are kept whatever they are, and training waits for all images: so the second round is
# labelled by a newer version on any machine, and what a run makes does not depend on its speed.
FEW_STEPS = (
    "creator.num_steps=3",
    "plan.rounds=2",
    "plan.variants=1",
    "labelling.max_pixel_error_deg=180",
    "screening.max_expected_error_deg=180",
    "screening.min_pixel_std=0",
    "training.warm_up.steps=6",
    "training.warm_up.lr_warm_up_steps=2",
    "training.self_improve.steps=10",
    "training.publish_every_images=40",
)
FEW_ROOMS = (
    "source.num_labelled=8",
    "source.num_validation=8",
    "source.num_test=16",
    "plan.unit_size=4",
    "training.min_synthetic_samples=8",
    *FEW_STEPS,
)


def arguments_of(config: str, run: Path, *changes: str) -> list[str]:
    """Command-line arguments of a job."""
    return ["--config", config, *_set(f"run.url={run}", *changes)]


def _set(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def environment(ray_folder: Path, **more: str) -> dict[str, str]:
    """The tests' environment, with a folder of its own for Ray and no cluster to join."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    mine = {
        "RAY_TMPDIR": str(ray_folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }
    return {**inherited, **mine, **more}


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's sessions; its path is short, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    environment: dict[str, str],
    limit: Callable[[], None] | None = None,
) -> Iterator[ProcessTree]:
    """Start a command from the project's root; nothing of it outlives the ``with`` block.

    ``limit`` is called in the new process first.
    """

    def prepare() -> None:
        _heed_ctrl_c()
        if limit is not None:
            limit()

    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  it takes no lock
        )
    tree = ProcessTree(process, log)
    try:
        yield tree
    finally:
        tree.end()


def _heed_ctrl_c() -> None:
    # Tests started in the background of a shell ignore it, and so would their children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running_job(
    job: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: dict[str, str],
    limit: Callable[[], None] | None = None,
) -> Iterator[ProcessTree]:
    """Start one of the files in ``jobs/``."""
    command = [sys.executable, f"jobs/{job}.py", *arguments]
    with running(command, log=log, environment=environment, limit=limit) as tree:
        yield tree


def finish_job(
    job: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: dict[str, str],
    limit: Callable[[], None] | None = None,
) -> Ended:
    """Run a job to its end."""
    with running_job(job, arguments, log=log, environment=environment, limit=limit) as tree:
        return tree.wait()


class Ended:
    """How a process ended, what it said, how long it took and what outlived it."""

    def __init__(self, code: int, output: str, seconds: float, survivors: list[str]) -> None:
        self.code = code
        self.output = output
        self.seconds = seconds
        self.survivors = survivors


class ProcessTree:
    """A process and all that it has started: they share a session, as after a login."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._started_s = time.monotonic()

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code of the process; None while it runs."""
        return self._process.poll()

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that the process does; fails if it ends before, or takes too long."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            code = self._process.poll()
            assert code is None, f"{what}: the process ended with {code} before:\n{self.output}"
            assert time.monotonic() < deadline, f"{what}: not within {WAIT_S} s:\n{self.output}"
            time.sleep(0.02)

    def signal(self, number: int) -> Ended:
        """Signal the process group, as a terminal does, and wait for the end of the tree."""
        self._started_s = time.monotonic()
        os.killpg(self._process.pid, number)
        return self.wait()

    def wait(self, limit_s: float = WAIT_S) -> Ended:
        """Wait for the end of the process, then a little for the end of what it started."""
        code = self._process.wait(limit_s)
        seconds = time.monotonic() - self._started_s
        deadline = time.monotonic() + 60
        while self._members() and time.monotonic() < deadline:
            time.sleep(0.1)
        return Ended(code, self.output, seconds, [_name(pid) for pid in self._members()])

    def end(self) -> None:
        """Kill what is left."""
        while members := self._members():
            for pid in members:
                with suppress(*_GONE):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.05)
        self._process.wait()

    def _members(self) -> list[int]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if session_of_living(pid) == self._process.pid]


def session_of_living(pid: int) -> int | None:
    """Return the session of a process; None if it has ended, even if nobody took note of that."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except _GONE:
        return None
    return None if status[0] in "ZX" else int(status[3])


def _name(pid: int) -> str:
    with suppress(*_GONE):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return f"{pid} {command.decode(errors='replace'):.200}"
    return str(pid)


def start_python(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A Python of its own that sees this checkout."""
    # The tests' own module path, so that packages installed for a single test are found.
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
