"""The caption pass on Ray Data: once for each source shard, finite, resumable."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray
import torch

from pipeline.make.build import open_captioner
from pipeline.make.caption import caption_shard, shards_without_captions
from schemas.errors import RunFailedError, UserError
from schemas.systematic import FailureTally
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.captions import write_captions

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.config import RunConfig

PASS_CPUS = 1


def caption_source_on_ray(
    config: RunConfig, store_url: str, *, on_done: Callable[[int, int], None] | None = None
) -> int:
    """Caption all shards of the train split that have no captions yet.

    A Dataset made of items is not resumed by Ray Data's own checkpoints, so the shards that are
    done are left out here, and each shard's captions are committed as they are made.

    Args:
        on_done: Is told how many images of these shards are done, and of how many.

    Returns:
        The number of shards done.

    Raises:
        RunFailedError: If (nearly) all images fail the same way: the rest is not tried.
        UserError: If source or captioner are not as the configuration says.
        OSError: If the source cannot be read or captions cannot be written now; those of other
            shards are there.
    """
    store = open_store(store_url)
    missing = shards_without_captions(store, open_run_source(config).shards("train"))
    if not missing:
        return 0
    actors = min(len(missing), config.generation.num_generators)
    threads = str(PASS_CPUS)
    sizes = {shard.name: len(shard.keys) for shard in missing}
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = ray.data.from_items(
        [{"shard": shard.name} for shard in missing], override_num_blocks=len(missing)
    )
    done = items.map_batches(
        CaptionShards,
        fn_constructor_args=(config, store.url, sum(sizes.values())),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=PASS_CPUS,
        num_gpus=config.generation.gpus_per_generator or None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
    )
    images, problem = 0, None
    tell = on_done or (lambda _done, _total: None)
    tell(0, sum(sizes.values()))
    for row in done.iter_rows():
        if row["is_systematic"]:
            raise RunFailedError(str(row["problem"]))
        if row["problem"]:
            # The others go on to their end: what they have captioned stays.
            problem = problem or row
        images += sizes[str(row["shard"])]
        tell(images, sum(sizes.values()))
    if problem is not None:
        raise (OSError if problem["is_passing"] else UserError)(str(problem["problem"]))
    return len(missing)


class CaptionShards:
    """Captions the shards it is given and commits their captions.

    Args:
        num_images: Of the whole pass.
    """

    def __init__(self, config: RunConfig, store_url: str, num_images: int) -> None:
        torch.set_num_threads(PASS_CPUS)
        self._tally = FailureTally(total=num_images)
        self._config = config
        self._store = open_store(store_url)
        self._unusable: UserError | None = None

    @cached_property
    def _source(self) -> Any:
        return open_run_source(self._config)

    @cached_property
    def _captioner(self) -> Any:
        if self._unusable is not None:
            # Loading may take minutes, and would fail for each shard alike.
            raise self._unusable
        try:
            return open_captioner(self._config)
        except UserError as error:
            self._unusable = error
            raise

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Caption a batch of shards, given by name.

        Returns:
            Number of captions of each shard; what was in the way, else ""; whether that may pass
            without a change by the user; and whether it is in the way of all images.
        """
        names = [str(name) for name in batch["shard"]]
        columns: dict[str, list[Any]] = {
            "captions": [],
            "problem": [],
            "is_passing": [],
            "is_systematic": [],
        }
        for name in names:
            count, problem = 0, None
            try:
                count = self._caption(name)
            except (UserError, OSError, RunFailedError) as error:
                # A value, not an error: Ray Data would wrap it in pages of its own.
                problem = error
            columns["captions"].append(count)
            columns["problem"].append("" if problem is None else str(problem))
            columns["is_passing"].append(isinstance(problem, OSError))
            columns["is_systematic"].append(isinstance(problem, RunFailedError))
        return {"shard": names, **columns}

    def _caption(self, name: str) -> int:
        shard = next(s for s in self._source.shards("train") if s.name == name)
        rows = caption_shard(self._source, shard, self._captioner, tally=self._tally)
        write_captions(self._store, name, rows)
        return len(rows)
