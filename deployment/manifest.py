"""``export.json``: what an exported folder holds, beside the files that every run has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from schemas.sample import Task
    from storage.files.stores import RunStore

EXPORT_FILE = "export.json"
FORMAT = 1


def read_export_manifest(store: RunStore) -> ExportManifest | None:
    """Read ``export.json``; None if the folder is a run of its own.

    Raises:
        ConfigError: If it is damaged or of a newer format.
    """
    if not store.exists(EXPORT_FILE):
        return None
    try:
        content = json.loads(store.read_bytes(EXPORT_FILE))
        manifest = ExportManifest(**{**content, "image_size": tuple(content["image_size"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{store.uri(EXPORT_FILE)}: not what jobs/export.py writes ({error}); export the run "
            "again, or read it with the version of the project that wrote it"
        ) from error
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportManifest:
    """Content of ``export.json``; written last, so its presence says that the rest is there.

    Attributes:
        format: Version of these fields.
        source_run: URL of the run.
        tasks: What it predicts.
        image_size: Height and width of the images it was trained on.
        weights_version: Version of the creation weights.
        weights_sha256: Digest of the safetensors file.
        backbone: ``model.diffusion`` of the run: a folder or hub name.
        backbone_digest: Digest of the backbone's files, by which it is recognised.
        backbone_folder: Where a copy lies in the exported folder: a folder, or the one file of all
            weights, with the configurations beside it; None if there is none.
        encoder: ``method.encoder`` of the run: a folder or hub name; None if it reads none.
        encoder_folder: Where a copy lies in the exported folder; None if there is none.
        code_version: Version of the project that wrote it.
        creator_version: Version of the weights of the run's creator; -1 if it does not learn.
        creator_sha256: Digest of their safetensors file; empty if there is none.
    """

    format: int
    source_run: str
    tasks: tuple[Task, ...]
    image_size: tuple[int, int]
    weights_version: int
    weights_sha256: str
    backbone: str
    backbone_digest: str
    backbone_folder: str | None
    encoder: str | None
    encoder_folder: str | None
    code_version: str
    creator_version: int = -1
    creator_sha256: str = ""

    def to_json(self) -> str:
        """Serialise all fields; without those of a creator's weights if there are none."""
        content = asdict(self)
        if self.creator_version < 0:
            del content["creator_version"], content["creator_sha256"]
        return json.dumps(content, indent=1) + "\n"
