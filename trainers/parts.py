"""What the loop of a stage works with, made from a run's configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from perception.diffusion.moments import MomentsCache
from sources.live_shards import LiveShardList
from sources.mixture import Mixture
from sources.open import open_run_source
from sources.streams import RealStream, SyntheticStream
from storage.files.stores import open_store
from storage.records.captions import read_captions
from storage.records.events import EventWriter
from trainers.progress import OnProgress, Progress
from trainers.publish import OnVersion, WeightsPublisher
from trainers.ranks import Ranks, SingleRank
from trainers.validation import CreatorValidator, Validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig
    from sources.batches import Batch
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock
    from trainers.checkpoint import Checkpoints
    from trainers.settings import StageSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the process offers that trains: alone, or one of a group.

    Attributes:
        lock: The driver's hold on the run; None if it took none.
        ranks: The group.
        checkpoints: Where the state is kept; None: nowhere.
        device: Where the networks run.
        on_version: Told about published versions.
        on_progress: Told about progress, on rank 0.
        after_publish: Called between two steps, each time a version is committed; training stands
            still meanwhile. A process that generates too does it here.
    """

    lock: RunLock | None = None
    ranks: Ranks = field(default_factory=SingleRank)
    checkpoints: Checkpoints | None = None
    device: torch.device | str = "cpu"
    on_version: OnVersion | None = None
    on_progress: OnProgress | None = None
    after_publish: Callable[[], None] | None = None


class BatchStream(Protocol):
    """Endless batches of this rank, with a position that can be restored."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""

    def __next__(self) -> Batch:
        """The next batch, on the CPU."""

    def state(self) -> dict[str, Any]:
        """Position as a JSON object."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a position."""


@dataclass(frozen=True, kw_only=True)
class TrainParts:
    """What the loop works with; a single process and a group get different ones.

    Attributes:
        batches: This rank's part of every batch.
        backbone: The frozen model.
        moments: Remembers the images that come back.
        ranks: The group.
        progress: Tells how far it is.
        checkpoints: Where the state is kept; None: nowhere.
        publisher: Rank 0 of a stage that publishes; else None.
        validator: Rank 0; else None.
        live: The list of synthetic shards behind ``batches``; None if they are all real.
        after_publish: As in :class:`Environment`.
    """

    batches: BatchStream
    backbone: DiffusionBackbone
    moments: MomentsCache
    ranks: Ranks
    progress: Progress
    checkpoints: Checkpoints | None = None
    publisher: WeightsPublisher | None = None
    validator: Validator | CreatorValidator | None = None
    live: LiveShardList | None = None
    after_publish: Callable[[], None] | None = None


def make_parts(
    config: RunConfig,
    settings: StageSettings,
    store: RunStore,
    backbone: DiffusionBackbone,
    environment: Environment,
) -> TrainParts:
    """Make everything that the loop of a stage works with, on one rank."""
    is_first = environment.ranks.rank == 0
    source = open_run_source(config)
    captions = _captions_of(store) if settings.stage == "creator" else {}
    publisher = None
    if is_first and settings.publish_every_images is not None:
        publisher = WeightsPublisher(
            store,
            base_model_hash=backbone.model_id,
            ema_decay=settings.ema_decay,
            stage=settings.stage,
            on_version=environment.on_version,
            lock=environment.lock,
        )
    batches = make_batches(config, settings, store, source, environment.ranks, captions=captions)
    return TrainParts(
        batches=batches,
        backbone=backbone,
        moments=MomentsCache(),
        ranks=environment.ranks,
        progress=Progress(
            settings.stage,
            steps=settings.optimisation.steps,
            events=_event_writer(store, settings.stage, environment.lock) if is_first else None,
            on_progress=environment.on_progress if is_first else None,
        ),
        checkpoints=environment.checkpoints,
        publisher=publisher,
        validator=_validator(config, settings, source, backbone, captions) if is_first else None,
        live=batches.synthetic.live if batches.synthetic else None,
        after_publish=environment.after_publish,
    )


def _validator(
    config: RunConfig,
    settings: StageSettings,
    source: LabelledSource,
    backbone: DiffusionBackbone,
    captions: Mapping[str, str],
) -> Validator | CreatorValidator:
    method = config.method
    if settings.stage == "creator":
        return CreatorValidator(source, backbone, tasks=method.tasks, captions=captions)
    return Validator(source, backbone, tasks=method.tasks, num_classes=method.num_classes)


def _captions_of(store: RunStore) -> dict[str, str]:
    """The run's captions by key; with a warning if it has none."""
    found = {key: row.caption for (_, key), row in read_captions(store).items()}
    if not found:
        logger.warning(
            "%s: no captions yet: the creator learns under the empty prompt alone", store.url
        )
    return found


def _event_writer(store: RunStore, stage: str, lock: RunLock | None) -> EventWriter:
    return EventWriter(store, f"trainer-{stage}", epoch=lock.epoch if lock else 0)


def make_batches(
    config: RunConfig,
    settings: StageSettings,
    store: RunStore,
    source: LabelledSource,
    ranks: Ranks,
    *,
    captions: Mapping[str, str] | None = None,
) -> Mixture:
    """Make this rank's part of the stage's batches: synthetic ones only in ``self_improve``.

    Args:
        captions: Key to text; None: batches have no captions.
    """
    training, seed = settings.training, settings.seed
    synthetic = None
    if settings.stage == "self_improve":
        donor = open_store(training.synthetic_run) if training.synthetic_run else store
        live = LiveShardList.from_config(donor, training, seed=seed, rank=ranks.rank)
        synthetic = SyntheticStream(
            donor,
            live,
            seed=seed,
            rank=ranks.rank,
            with_reliability=training.pixel_weights == "confidence",
        )
    return Mixture(
        RealStream(source, seed=seed, rank=ranks.rank, world=ranks.world, captions=captions),
        synthetic,
        real_fraction=training.real_fraction if synthetic else 1.0,
        batch_size=settings.optimisation.batch_size // ranks.world,
        tasks=config.method.tasks,
        hflip=training.hflip,
        augmentation=training.augmentation,
        seed=seed * 1_000_003 + ranks.rank,
    )
