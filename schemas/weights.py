"""What a published set of weights says about itself, and the series that such sets form."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

Series = Literal["creation", "creator"]
"""Versions of what: of the creation weights, or of the weights of a creator that learns."""

SERIES: tuple[Series, ...] = get_args(Series)

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_MANIFEST = "manifest.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsManifest:
    """Content of a version's ``manifest.json``; its presence is the commit.

    Attributes:
        version: Within its series; from 0 (warm-up weights), rising by one.
        step: Optimiser steps of the self-improving stage behind it (0 for warm-up weights).
        seen_images: Images the exploitation weights had learnt from in the self-improving
            stage, over all ranks.
        ema_decay: α of Eq. 8.
        sha256: Digest of ``model.safetensors``.
        size_bytes: Its size.
        keys_hash: Digest of tensor names, shapes and dtypes.
        base_model_hash: The frozen backbone it belongs to.
        parent: The version before it; -1 for the first.
        created_at: UTC, ISO 8601.
        stage: Of training that ended in it or goes on: ``warm_up``, ``self_improve``, ….
    """

    version: int
    step: int
    seen_images: int
    ema_decay: float
    sha256: str
    size_bytes: int
    keys_hash: str
    base_model_hash: str
    parent: int
    created_at: str
    stage: str

    def to_json(self) -> str:
        """Serialise all fields, sorted by name."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @staticmethod
    def from_json(text: str) -> WeightsManifest:
        """Parse what :meth:`to_json` wrote.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
            ValueError: If it is not JSON, or the digest is none.
        """
        manifest = WeightsManifest(**json.loads(text))
        kinds = {"int": (int,), "float": (int, float), "str": (str,)}
        for each in fields(manifest):
            value = getattr(manifest, each.name)
            if not isinstance(value, kinds[str(each.type)]):
                raise TypeError(f"{each.name}: wanted {each.type}, found {value!r:.40}")
        if not _SHA256.fullmatch(manifest.sha256):
            raise ValueError(f"sha256: wanted 64 hexadecimal digits, found {manifest.sha256!r:.80}")
        return manifest
