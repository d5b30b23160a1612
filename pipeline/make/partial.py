"""Images of a unit that was given back: stored by who had to leave, taken over by who is next.

With each goes what its creator made beside it. Images do not depend on the creation weights, so a
later attempt may label them: a unit still has one version. Each carries what it was made from, and
is taken only where the plan, and the creator's own weights, say the same.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.make.rows import pixels_sha256
from schemas.digest import sha256_of
from schemas.errors import DamagedShardError, SampleError
from schemas.run_layout import partial_path
from schemas.sample import IMAGE_MEMBER, JSON_MEMBER
from storage.samples.codecs import decode_image, encode_image_png
from storage.samples.shards import pack_tar, read_tar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.make.rows import Draft
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

_MAKING = (
    "source_sha256",
    "variant",
    "caption",
    "creator",
    "seed",
    "t_start",
    "steps",
    "guidance",
    "scheduler",
    "diffusion_base_hash",
    "creator_hash",
)
"""Columns that decide what an image looks like."""


def write_partial(store: RunStore, unit: Unit, attempt: str, drafts: Sequence[Draft]) -> str:
    """Store the images that an attempt has made.

    Args:
        drafts: Its samples that have an image, not labelled.

    Returns:
        Path of the file; "" if there is nothing to keep, or the store does not take it.
    """
    if not drafts:
        return ""
    path = partial_path(unit.unit_id, attempt)
    packed = pack_tar((draft.row.key, _members(draft)) for draft in drafts)
    try:
        store.write_bytes(path, packed.data)
    except OSError as error:
        logger.warning("partial_not_stored path=%s: %s", path, error)
        return ""
    return path


class PartialImages:
    """The images that earlier attempts at a unit have stored.

    A file that is missing or damaged is told in the log, and its images are made anew.
    """

    def __init__(self, store: RunStore, paths: Sequence[str]) -> None:
        self._members: dict[str, dict[str, bytes]] = {}
        for path in paths:
            try:
                self._members |= dict(read_tar(store.read_bytes(path)))
            except (OSError, DamagedShardError) as error:
                logger.warning("partial_ignored path=%s: %s", path, error)

    def take_over(self, draft: Draft) -> Draft:
        """Give a sample its stored image; the same sample if it has to be made.

        Args:
            draft: The sample as it is planned now.
        """
        found = self._found(draft.row) if draft.order is not None else None
        if found is None:
            return draft
        image, maps = found
        return replace(draft, members=maps).with_image(image, is_taken_over=True)

    def _found(self, row: ManifestRow) -> tuple[NDArray[np.uint8], dict[str, bytes]] | None:
        """The image of a sample, and its creator's maps as stored; None if it has to be made."""
        members = self._members.get(row.key)
        if members is None:
            return None
        try:
            note = json.loads(members[JSON_MEMBER])
            if note["making"] != _making(row):
                return None
            image = decode_image(members[IMAGE_MEMBER])
            maps = {name: members[name] for name in note["maps"]}
            if note["pixels_sha256"] == pixels_sha256(image) and note["maps"] == _digests(maps):
                return image, maps
            reason = "wanted the pixels and maps that were stored, found others"
        except (SampleError, ValueError, LookupError, TypeError) as error:
            reason = str(error)
        logger.warning("partial_image_ignored key=%s: %s", row.key, reason)
        return None


def _members(draft: Draft) -> dict[str, bytes]:
    maps = draft.members
    note = {
        "making": _making(draft.row),
        "pixels_sha256": pixels_sha256(draft.image),
        "maps": _digests(maps),
    }
    image = encode_image_png(draft.image)
    return {IMAGE_MEMBER: image, **maps, JSON_MEMBER: json.dumps(note).encode()}


def _digests(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256_of(data) for name, data in members.items()}


def _making(row: ManifestRow) -> Mapping[str, object]:
    return {name: getattr(row, name) for name in _MAKING}
