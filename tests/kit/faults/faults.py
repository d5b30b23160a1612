"""Generators that a test holds, breaks or kills at a chosen sample.

What happens is told by files in a folder beside the run, so that it works across processes and is
the same however fast the machine is.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.make.generator import Generator
from pipeline.make.rows import Draft
from pipeline.on_ray.generator import ActorStarter, GeneratorActor, start_generator
from schemas.config import RunConfig

HOLD_POLL_S = 0.02

LOADING = "models"
"""Stands for the key of a sample: what is to happen while a generator loads its models."""


class Faults:
    """What is to happen to a run's samples, by the key of their real image.

    Args:
        run_url: The run directory, a folder.
    """

    def __init__(self, run_url: str) -> None:
        self._folder = Path(f"{run_url}.faults")
        self._folder.mkdir(parents=True, exist_ok=True)

    def hold(self, key: str) -> None:
        """Whoever makes this image waits before it until :meth:`release`."""
        self._mark("hold", key).touch()

    def release(self) -> None:
        """Let all that wait go on, and hold nobody any more."""
        for path in self._folder.glob("hold.*"):
            path.unlink()

    def break_model(self, key: str) -> None:
        """The model raises an error at this image."""
        self._mark("raise", key).touch()

    def kill_maker(self, key: str) -> None:
        """The process that makes this image is killed by it."""
        self._mark("kill", key).touch()

    def held(self) -> list[int]:
        """Processes that have waited at a sample, whether or not any more."""
        return [int(path.name.rpartition(".")[2]) for path in self._seen("held")]

    def deaths(self) -> int:
        """How many processes were killed."""
        return len(self._seen("dead"))

    def meet(self, key: str) -> None:
        """Let the chosen fault happen to this process."""
        if self._mark("kill", key).exists():
            self._mark("dead", f"{key}.{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._mark("hold", key).exists():
            self._mark("held", f"{key}.{os.getpid()}").touch()
        while self._mark("hold", key).exists():
            time.sleep(HOLD_POLL_S)
        if self._mark("raise", key).exists():
            raise RuntimeError(f"poisoned by {key}")

    def _mark(self, kind: str, key: str) -> Path:
        return self._folder / f"{kind}.{key}"

    def _seen(self, kind: str) -> list[Path]:
        return sorted(self._folder.glob(f"{kind}.*"))


class FaultyGeneratorActor(GeneratorActor):
    """A generator actor to whose samples the faults of its run happen."""

    def _loaded(self) -> Generator:
        is_new = self._generator is None
        generator = super()._loaded()
        if is_new:
            faults, images = Faults(self._config.run.url), generator._images
            faults.meet(LOADING)
            create = images.create

            def create_with_faults(drafts: Sequence[Draft]) -> list[Draft]:
                for draft in drafts:
                    faults.meet(draft.row.source_key)
                return create(drafts)

            images.create = create_with_faults  # type: ignore[method-assign]
        return generator


class FaultyStarter(ActorStarter):
    """Starts generators to whose samples the faults of their run happen."""

    def start(self) -> Any:
        """Start an actor."""
        return start_faulty_generator(self._config, self._pinned)


def start_faulty_generator(config: RunConfig, pinned_version: int | None = None) -> Any:
    """Start a generator actor to whose samples faults happen."""
    return start_generator(
        config,
        config.run.url,
        pinned_version=pinned_version,
        actor_class=FaultyGeneratorActor,
    )
