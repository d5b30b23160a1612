"""The columns of a unit's Parquet manifest: one row per sample, failed and filtered ones too.

Columns are only ever added, never renamed or removed; ``SCHEMA_VERSION`` rises with each addition
and is in the Parquet metadata.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

SCHEMA_VERSION = 3

METADATA_SCHEMA_VERSION = b"schema_version"
METADATA_UNIT = b"unit"
METADATA_SUMMARY = b"summary"
METADATA_UNITS = b"units"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One sample of a unit: where it lies, what made it, what became of it.

    ``status`` is ``ok`` (in the tar), ``filtered`` (dropped by screening; ``error_class`` is the
    reason), ``failed`` (could not be made; ``error_class`` and ``error_msg`` say why) or
    ``collected`` (was ``ok``; newer labels replaced it and its bytes were removed).
    ``tar_offset`` and ``tar_size`` bound the sample's members within the tar, in bytes; -1 if it
    is not there. ``label_stats``, ``quality`` and ``extra`` are JSON objects.

    Columns that are called otherwise than where their value comes from: ``creator`` is
    ``creator.kind`` of the configuration, ``steps`` its ``num_steps``, ``guidance`` its
    ``guidance_scale``, ``scheduler`` its ``sampler``; ``creation_version`` is the ``version`` of
    the weights that labelled, ``creation_step`` their ``step``, ``head_hash`` their ``sha256``, and
    ``diffusion_base_hash`` their ``base_model_hash``; ``creator_version`` and ``creator_hash`` are
    ``version`` and ``sha256`` of the creator's own weights that made the image, -1 and empty for a
    creator that does not learn.

    ``label_kind`` is ``pseudo`` where all labels are predicted; ``mixed`` where those of the tasks
    in ``true_labels`` of ``extra`` are the real image's, and the others predicted.
    ``label_origin`` is a :data:`schemas.sample.LabelOrigin`, of all labels but those.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    round: int
    unit_id: str
    unit_kind: str
    parent_unit_id: str = ""
    attempt: str
    key: str
    tar_uri: str = ""
    tar_offset: int = -1
    tar_size: int = -1
    tar_sha256: str = ""
    status: str
    error_class: str = ""
    error_msg: str = ""
    source_uri: str = ""
    source_shard: str
    source_key: str
    source_sha256: str = ""
    variant: int = 0
    caption: str = ""
    caption_model: str = ""
    creator: str = ""
    seed: int = 0
    t_start: int = 0
    steps: int = 0
    guidance: float = 1.0
    scheduler: str = ""
    diffusion_base_hash: str = ""
    creation_version: int
    creation_step: int = 0
    head_hash: str = ""
    label_kind: str = "pseudo"
    label_stats: str = "{}"
    quality: str = "{}"
    width: int = 0
    height: int = 0
    gen_seconds: float = 0.0
    device: str = ""
    node_id: str = ""
    created_at: str = ""
    code_version: str = ""
    extra: str = "{}"
    revision: int = 0
    creator_version: int = -1
    creator_hash: str = ""
    label_origin: str = "creation"


COLUMN_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(ManifestRow)}
"""Column name to ``int``, ``float`` or ``str``, in order; storage turns it into an Arrow schema."""
