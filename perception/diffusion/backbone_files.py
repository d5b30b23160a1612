"""Which files a frozen backbone is read from: a folder of diffusers, or one file of all weights.

Neither torch nor diffusers is imported: a driver looks at models without loading them.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perception.diffusion.single_file import default_config, read_checkpoint_header
from perception.model_files import find_local_model, find_model_folder
from perception.weight_files import WeightFiles, find_weights
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG_FILES = (
    "vae/config.json",
    "unet/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)
_REQUIRED = (*CONFIG_FILES, "tokenizer/tokenizer_config.json")
WEIGHT_STEMS = {
    "vae": "diffusion_pytorch_model",
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_CONFIG_PATTERNS = ("model_index.json", "*/*config.json", "tokenizer/*")
CHECKPOINT = "checkpoint.safetensors"
"""What one file of all weights is called in digests and copies, whatever its own name is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneFiles:
    """The files of a backbone.

    Attributes:
        folder: Holds configurations, tokenizer and scheduler.
        weights: Files of autoencoder, U-Net and text encoder; empty if there is one for all.
        checkpoint: The one file of all weights.
    """

    folder: Path
    weights: Mapping[str, WeightFiles]
    checkpoint: Path | None

    @property
    def by_name(self) -> dict[str, Path]:
        """All files that decide what the backbone is, in the order in which they are hashed."""
        tokenizer = sorted(path for path in (self.folder / "tokenizer").iterdir() if path.is_file())
        files = [*(self.folder / name for name in CONFIG_FILES), *tokenizer]
        files += [path for each in self.weights.values() for path in each.files]
        named = {path.relative_to(self.folder).as_posix(): path for path in files}
        return named | ({CHECKPOINT: self.checkpoint} if self.checkpoint else {})

    @property
    def indices(self) -> dict[str, Path]:
        """Files that say which of several files holds which weights."""
        found = [each.index for each in self.weights.values() if each.index]
        return {path.relative_to(self.folder).as_posix(): path for path in found}


def find_backbone_files(
    path_or_id: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
) -> BackboneFiles:
    """Find the files of a backbone; of a name on the hub, download what is missing.

    Args:
        path_or_id: As for ``load_backbone``.
        variant: Preferred variant of weights.
        config: Folder or hub name of the configurations of a file of all weights; if None, they
            are looked for beside it, then in Stable Diffusion v1-5 on the hub.

    Raises:
        ConfigError: If files are missing or no safetensors.
    """
    if is_single_file(path_or_id):
        path, config = _checkpoint(path_or_id, config)
        with _explaining(path):
            folder = find_model_folder(
                config,
                required=_REQUIRED,
                patterns=_CONFIG_PATTERNS,
                local_files_only=local_files_only,
                revision=revision,
            )
        return BackboneFiles(folder=folder, weights={}, checkpoint=path)
    find = partial(
        find_model_folder,
        path_or_id,
        required=_REQUIRED,
        local_files_only=local_files_only,
        revision=revision,
    )
    folder = find(patterns=_patterns(variant))
    if not all(any((folder / part).glob("*.safetensors")) for part in WEIGHT_STEMS):
        # Of a name on the hub that has no weights of that name, those that it has are downloaded.
        find(patterns=[*_patterns(None), *_patterns("*")])
    return BackboneFiles(folder=folder, weights=_weights(folder, variant), checkpoint=None)


def find_local_backbone_files(
    path_or_id: str | Path, *, variant: str | None = None, config: str | Path | None = None
) -> BackboneFiles | None:
    """Find the files of a backbone without downloading anything.

    Args:
        path_or_id: As for ``load_backbone``.
        variant: Preferred variant of weights.
        config: As for :func:`find_backbone_files`.

    Returns:
        None for a name on the hub that is not (completely) in the cache and may be downloaded.

    Raises:
        ConfigError: As :func:`find_backbone_files`.
    """
    if not is_single_file(path_or_id):
        folder = find_local_model(path_or_id, required=_REQUIRED, patterns=_patterns(variant))
        if folder is None:
            return None
        return BackboneFiles(folder=folder, weights=_weights(folder, variant), checkpoint=None)
    path, config = _checkpoint(path_or_id, config)
    with _explaining(path):
        folder = find_local_model(config, required=_REQUIRED, patterns=_CONFIG_PATTERNS)
    return BackboneFiles(folder=folder, weights={}, checkpoint=path) if folder else None


def is_single_file(path_or_id: str | Path) -> bool:
    """Whether a model is given as one file rather than as a folder or a name on the hub."""
    path = Path(path_or_id).expanduser()
    return path.exists() and not path.is_dir()


def _checkpoint(path: str | Path, config: str | Path | None) -> tuple[Path, str | Path]:
    """The file of all weights and the folder or hub name of its configurations.

    Raises:
        ConfigError: If it is no such file, or nothing is known of its configurations.
    """
    path = Path(path).expanduser()
    tensors = read_checkpoint_header(path)
    if config is None and (path.parent / CONFIG_FILES[0]).is_file():
        config = path.parent
    config = config or default_config(tensors)
    if config is None:
        raise ConfigError(
            f"{path}: no Stable Diffusion v1; name the folder or hub name of the model that it was "
            "made from in model.diffusion_config: configurations and tokenizer are read from there"
        )
    return path, config


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Say why another model is looked for than the one that was named.

    Raises:
        ConfigError: As it was raised inside.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"{path} holds weights alone; configurations and tokenizer (two megabytes) are read "
            f"from the folder or hub name in model.diffusion_config, or beside it: {error}"
        ) from error


def _weights(folder: Path, variant: str | None) -> dict[str, WeightFiles]:
    return {
        part: find_weights(folder / part, stem, variant=variant)
        for part, stem in WEIGHT_STEMS.items()
    }


def _patterns(variant: str | None) -> list[str]:
    """Name only the files that are read: checkpoints carry several copies of their weights."""
    suffix = f".{variant}" if variant else ""
    patterns = [*_CONFIG_PATTERNS]
    for part, stem in WEIGHT_STEMS.items():
        patterns += [
            f"{part}/{stem}{suffix}.safetensors",
            f"{part}/{stem}{suffix}-*-of-*.safetensors",
        ]
        patterns += [f"{part}/{stem}.safetensors.index{suffix}.json"]
    return patterns
