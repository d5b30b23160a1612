"""Captions by any image-to-text model of transformers: BLIP, GIT, ViT-GPT2 and their like."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from perception.captioner import expect_captions, expect_limits, write_captions
from perception.model_files import digest_files, find_model_folder, read_json
from perception.model_loading import load_network, loading
from perception.weight_files import find_weights
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")
_CONVERSATION_FILES = ("chat_template.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToTextCaptioner:
    """A model that writes about an image unasked, greedy decoding, no text prompt.

    Attributes:
        model: A generating model of transformers in eval mode.
        image_processor: Resizes and normalises.
        tokenizer: Turns generated tokens into text.
        model_id: Kind of the model (``blip``, ``git``, ...) and the digest of its files.
        max_new_tokens: Longest caption, in tokens.
        batch_size: Images a network call; memory bounds it, results do not depend on it.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    model_id: str
    max_new_tokens: int = 32
    batch_size: int = 16

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_new_tokens: int = 32,
        batch_size: int = 16,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> ImageToTextCaptioner:
        """Load an image-to-text model.

        Args:
            path_or_id: A folder with model, image processor and tokenizer in ``save_pretrained``
                form, or a Hugging Face id such as ``Salesforce/blip-image-captioning-base``.
            revision: Branch, tag or commit of a Hugging Face id.

        Raises:
            ConfigError: If files are missing, transformers does not count the model among its
                image-to-text models, it only answers questions, a limit is not positive, or
                it cannot caption.
        """
        expect_limits(max_new_tokens=max_new_tokens, batch_size=batch_size)
        folder = find_model_folder(
            path_or_id,
            required=("config.json", "tokenizer_config.json"),
            patterns=_PATTERNS,
            local_files_only=local_files_only,
            revision=revision,
        )
        kind = _expect_captioning_model(folder)
        files = [*sorted(folder.glob("*.json")), *find_weights(folder, "model").files]
        reading: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        model = load_network(AutoModelForImageTextToText, folder, dtype=dtype, **reading)
        with loading(folder):
            # The Pillow backend by name: the default one needs torchvision.
            image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **reading)
            tokenizer = AutoTokenizer.from_pretrained(folder, **reading)
        captioner = cls(
            model=model.to(device).eval().requires_grad_(requires_grad=False),
            image_processor=image_processor,
            tokenizer=tokenizer,
            model_id=f"{kind}:" + digest_files({path.name: path for path in files}),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        expect_captions(replace(captioner, max_new_tokens=1).caption, folder)
        logger.info("captioner_loaded", extra={"path": str(folder), "model_id": captioner.model_id})
        return captioner

    def caption(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        keys: Sequence[str] | None = None,  # noqa: ARG002  the protocol's lookup key
    ) -> list[str]:
        """Describe images; see ``Captioner.caption``.

        Raises:
            ShapeError: If an image is not uint8 RGB [H, W, 3].
        """
        return write_captions(self, images)


def _expect_captioning_model(folder: Path) -> str:
    """Return the kind of the model; how a model has to be asked depends on it.

    Raises:
        ConfigError: If it is none that this captioner can run.
    """
    kind = str(read_json(folder / "config.json").get("model_type", "unknown"))
    if kind == "blip-2":
        raise ConfigError(f"captioner {folder}: wanted another model than BLIP-2; use blip2 for it")
    talks = [name for name in _CONVERSATION_FILES if (folder / name).is_file()]
    if talks:
        raise ConfigError(
            f"captioner {folder}: wanted a model that captions without being asked, found a "
            f"conversational {kind} ({talks[0]}); caption with it elsewhere and use captioner file"
        )
    known = {each.model_type for each in AutoModelForImageTextToText._model_mapping}
    if kind not in known:
        raise ConfigError(
            f"captioner {folder}: wanted an image-to-text model of transformers, found a {kind}; "
            "name another model, or use captioner file"
        )
    return kind
