"""The images of a unit: made from real ones, or stored by an earlier unit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perception.diffusion.moments import MomentsCache
from pipeline.make.creators import create_images
from pipeline.make.drain import UnitGivenBackError
from pipeline.make.isolate import Failure
from pipeline.make.partial import PartialImages, write_partial
from pipeline.make.real import RealImages, UnlabelledPool
from pipeline.make.rows import Draft, failed_row, made_with, true_labels_of, with_true_labels
from pipeline.make.steps import with_these
from schemas.sample import CREATOR_MEMBERS, IMAGE_MEMBER, LABEL_MEMBERS
from storage.manifests.table import read_unit
from storage.samples.codecs import decode_image, decode_label, encode_creator_maps
from storage.samples.shards import load_shard, read_tar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from pipeline.make.attempt import Attempt
    from pipeline.make.creators import LearnedCreator
    from pipeline.make.steps import BeforeBatch, Steps
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from schemas.weights import WeightsManifest
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore


class ImageMaker:
    """Makes the images of ``synthesize`` units; remembers captions and encoded real images.

    Args:
        store: The run; holds the captions.
        learned: Makes the images; None: the creator of the configuration, which does not learn.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        store: RunStore,
        source: LabelledSource,
        backbone: DiffusionBackbone,
        learned: LearnedCreator | None = None,
    ) -> None:
        self._creator = config.creator
        self._learned = learned
        self._store = store
        self._backbone = backbone
        self._moments = MomentsCache()
        self._real: RealImages | UnlabelledPool
        if config.creator.kind == "unlabelled":
            self._real = UnlabelledPool(config, source)
        else:
            self._real = RealImages(config, store=store, source=source, backbone=backbone)

    def make(
        self,
        unit: Unit,
        attempt: Attempt,
        steps: Steps,
        *,
        before_batch: BeforeBatch,
        weights: WeightsManifest | None = None,
    ) -> list[Draft]:
        """Make the images of a unit, but for those that earlier attempts have stored.

        Args:
            unit: A ``synthesize`` unit.
            before_batch: See :meth:`pipeline.make.steps.Steps.batches`.
            weights: Those that a creator which learns has taken.

        Returns:
            The planned samples, keys outermost.

        Raises:
            SourceError: If the source has no such shard.
            DamagedShardError: If the source's shard is damaged.
            UnitGivenBackError: If ``before_batch`` raised it; the images made so far are stored.
        """
        planned = self._real.planned(unit, attempt=attempt.name)
        drafts = steps.spare(replace(draft, row=made_with(draft.row, weights)) for draft in planned)
        drafts = steps.run(
            drafts, self._real.read, batch_size=len(drafts), together=self._real.together
        )
        stored = PartialImages(self._store, attempt.history.partials)
        drafts = [stored.take_over(draft) for draft in drafts]
        made: list[Draft] = []
        try:
            for batch in steps.batches(
                [draft for draft in drafts if draft.order is not None],
                self.create,
                batch_size=self._creator.batch_size,
                before_batch=before_batch,
            ):
                made += batch
        except UnitGivenBackError as error:
            # Stored images have no labels: those of a creator would be lost.
            kept = [draft for draft in made if draft.is_in and not draft.labels]
            partial = write_partial(self._store, unit, attempt.name, kept)
            error.keep(partial, kept=len(kept) if partial else 0)
            raise
        return with_these(drafts, made)

    def create(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Make the images of some samples."""
        orders = [draft.order for draft in drafts if draft.order is not None]
        create = create_images if self._learned is None else self._learned
        made = create(self._backbone, orders, settings=self._creator, moments=self._moments)
        found = []
        for index, (draft, image) in enumerate(zip(drafts, made.images, strict=True)):
            known = {task: maps[index] for task, maps in made.labels.items()}
            labels = {task: label for task, label in known.items() if label is not None}
            row = with_true_labels(draft.row, labels)
            # As bytes: whoever reads them later, in a tar or here, reads the same.
            maps = {task: each[index] for task, each in made.maps.items()}
            members = encode_creator_maps(maps, image.shape[:2])
            with_maps = replace(draft, row=row, labels=labels, members=members)
            found.append(with_maps.with_image(image))
        return found


def stored_images(store: RunStore, unit: Unit, *, attempt: str) -> list[Draft]:
    """Read the images of a ``relabel`` unit's parent, not decoded yet.

    Args:
        unit: A ``relabel`` unit of round 1 or later.
        attempt: Name of the attempt at ``unit``.

    Returns:
        A sample for each row of the parent, in its order; those without an image are out, with the
        parent's reason.

    Raises:
        FileNotFoundError: If the parent is not committed.
        DamagedShardError: If its manifest or tar is damaged.
    """
    parent = read_unit(store, 0, unit.parent_unit_id, has_own_file=True)
    good = next((row for row in parent.rows if row.status == "ok"), None)
    stored: dict[str, dict[str, bytes]] = {}
    if good is not None:
        stored = dict(read_tar(load_shard(store, good.tar_uri, good.tar_sha256)))
    return [_stored(_row(row, unit, attempt), stored.get(row.key)) for row in parent.rows]


def decode_stored(drafts: Sequence[Draft]) -> list[Draft]:
    """Decode stored images, and their labels that were not predicted.

    Raises:
        SampleError: If one is damaged.
    """
    return [
        replace(
            draft,
            image=decode_image(draft.image_png or b""),
            labels={
                task: decode_label(draft.members.get(LABEL_MEMBERS[task], b""), task)
                for task in true_labels_of(draft.row)
            },
        )
        for draft in drafts
    ]


def _stored(row: ManifestRow, members: Mapping[str, bytes] | None) -> Draft:
    if row.status == "ok" and members is None:
        failure = Failure("image_missing", "not in the tar of the parent unit")
        return Draft(row=failed_row(row, failure))
    if members is None:
        return Draft(row=row)
    true_labels = (LABEL_MEMBERS[task] for task in true_labels_of(row))
    names = (*true_labels, *CREATOR_MEMBERS.values())
    kept = {name: members[name] for name in names if name in members}
    return Draft(row=row, image_png=members.get(IMAGE_MEMBER, b""), members=kept)


def _row(row: ManifestRow, unit: Unit, attempt: str) -> ManifestRow:
    return replace(
        row,
        round=unit.round,
        unit_id=unit.unit_id,
        unit_kind=unit.kind,
        parent_unit_id=unit.parent_unit_id,
        attempt=attempt,
        tar_uri="",
        tar_offset=-1,
        tar_size=-1,
        tar_sha256="",
        creation_version=-1,
        creation_step=0,
        head_hash="",
        label_origin="creation",
        label_stats="{}",
        quality="{}",
        gen_seconds=0.0,
        created_at="",
    )
