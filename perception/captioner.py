"""Captions: what a real image shows, in the words its synthetic versions are made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from transformers import AutoTokenizer, Blip2ForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from perception.model_files import digest_files, find_model_folder
from perception.model_loading import load_network, loading
from perception.shapes import ShapeError, expect_shape
from perception.weight_files import find_weights
from schemas.errors import ConfigError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_BLIP2_FILES = ("config.json", "tokenizer_config.json")
MAX_CAPTION_CHARS = 1 << 16
_BLIP2_PATTERNS = ("*.json", "*.txt", "model*.safetensors")


class Captioner(Protocol):
    """Describes images."""

    @property
    def model_id(self) -> str:
        """Name of the captioner and its weights, for manifests."""
        ...

    def caption(
        self, images: Sequence[NDArray[np.uint8]], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """Describe a batch of images.

        Args:
            images: B images, uint8 RGB [H, W, 3]; sizes may differ.
            keys: Their sample keys; only captioners that look captions up need them.

        Returns:
            B captions without surrounding blanks.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Blip2Captioner:
    """BLIP-2 (Li et al. 2023), greedy decoding, no text prompt.

    Attributes:
        model: ``Blip2ForConditionalGeneration`` in eval mode.
        image_processor: Resizes and normalises.
        tokenizer: Turns generated tokens into text.
        model_id: ``blip2:`` and the digest of the model's files.
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
    ) -> Blip2Captioner:
        """Load a BLIP-2 model.

        Args:
            path_or_id: A folder with model and processor in ``save_pretrained`` form, or a Hugging
                Face id such as ``Salesforce/blip2-opt-2.7b``.
            revision: Branch, tag or commit of a Hugging Face id.

        Raises:
            ConfigError: If files are missing, a limit is not positive, or it cannot caption.
        """
        expect_limits(max_new_tokens=max_new_tokens, batch_size=batch_size)
        folder = find_model_folder(
            path_or_id,
            required=_BLIP2_FILES,
            patterns=_BLIP2_PATTERNS,
            local_files_only=local_files_only,
            revision=revision,
        )
        files = [*sorted(folder.glob("*.json")), *find_weights(folder, "model").files]
        model = load_network(
            Blip2ForConditionalGeneration, folder, dtype=dtype, local_files_only=True
        )
        with loading(folder):
            # The Pillow backend by name: the default one needs torchvision.
            image_processor = BlipImageProcessorPil.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        if model.config.image_token_index is None:
            model.config.image_token_index = _image_token(model, tokenizer)
        captioner = cls(
            model=model.to(device).eval().requires_grad_(requires_grad=False),
            image_processor=image_processor,
            tokenizer=tokenizer,
            model_id="blip2:" + digest_files({path.name: path for path in files}),
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
        config = self.model.config
        # Decoder-only models repeat their prompt: the image tokens and the start token.
        is_repeated = config.use_decoder_only_language_model
        return write_captions(self, images, skip=config.num_query_tokens + 1 if is_repeated else 0)


def _image_token(model: Any, tokenizer: Any) -> int:
    """Choose the token that stands where the image is, for a folder that names none.

    Releases of transformers before 4.46 wrote no ``image_token_index``. The token's embedding is
    replaced by the image's, so that any token that has one serves, but the start token.
    """
    candidates = (
        tokenizer.get_vocab().get("<image>"),
        len(tokenizer),
        model.config.text_config.pad_token_id,
        0,
        1,
    )
    rows = model.get_input_embeddings().num_embeddings
    start = model.config.text_config.bos_token_id
    return next(int(each) for each in candidates if each not in {None, start} and each < rows)


class GeneratingCaptioner(Protocol):
    """What the captioners have that generate with transformers."""

    @property
    def model(self) -> Any:
        """A generating model in eval mode."""

    @property
    def image_processor(self) -> Any:
        """Resizes and normalises."""

    @property
    def tokenizer(self) -> Any:
        """Turns generated tokens into text."""

    @property
    def max_new_tokens(self) -> int:
        """Longest caption, in tokens."""

    @property
    def batch_size(self) -> int:
        """Images a network call."""


def expect_limits(*, max_new_tokens: int, batch_size: int) -> None:
    """Check the limits of a generating captioner.

    Raises:
        ConfigError: If one is not positive.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ConfigError(
            "captioner max_new_tokens and batch_size: wanted at least 1, found "
            f"{max_new_tokens} and {batch_size}"
        )


def expect_captions(
    caption: Callable[[Sequence[NDArray[np.uint8]]], list[str]], folder: Path
) -> None:
    """Caption a grey image, so that a model that cannot is refused before any image is read.

    Args:
        caption: Of a captioner with few new tokens: it is called once for each process.
        folder: Named in the message.

    Raises:
        ConfigError: With what the model raised.
    """
    grey = np.full((64, 64, 3), 127, dtype=np.uint8)
    try:
        caption([grey])
    except Exception as error:
        raise ConfigError(
            f"model.captioner_path: {folder} was loaded, but cannot caption a grey image: "
            f"{type(error).__name__}: {first_line(error)}; save model and processor anew with this "
            "version of transformers, or choose another captioner, model.dtype or model.device"
        ) from error


def write_captions(
    captioner: GeneratingCaptioner, images: Sequence[NDArray[np.uint8]], *, skip: int = 0
) -> list[str]:
    """Generate a caption for each image, greedily and without a text prompt, batch by batch.

    Args:
        images: uint8 RGB [H, W, 3].
        skip: Tokens at the start of the model's answer that are no text.

    Raises:
        ShapeError: If an image is not uint8 RGB [H, W, 3].
    """
    for image in images:
        expect_rgb(image)
    size = captioner.batch_size
    return [
        text
        for first in range(0, len(images), size)
        for text in _write_batch(captioner, images[first : first + size], skip=skip)
    ]


@torch.no_grad()
def _write_batch(
    captioner: GeneratingCaptioner, images: Sequence[NDArray[np.uint8]], *, skip: int
) -> list[str]:
    model = captioner.model
    pixels = captioner.image_processor(
        images=list(images), return_tensors="pt", input_data_format="channels_last"
    ).pixel_values
    tokens = model.generate(
        pixel_values=pixels.to(device=model.device, dtype=model.dtype),
        max_new_tokens=captioner.max_new_tokens,
        do_sample=False,
        num_beams=1,
    )
    texts = captioner.tokenizer.batch_decode(tokens[:, skip:], skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


@dataclass(frozen=True)
class NoCaptions:
    """The empty prompt for every image."""

    model_id: str = "none"

    def caption(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        keys: Sequence[str] | None = None,  # noqa: ARG002  the protocol's lookup key
    ) -> list[str]:
        """Return an empty caption per image."""
        return [""] * len(images)


def expect_rgb(image: NDArray[np.uint8]) -> None:
    """Check what a captioner reads.

    Raises:
        ShapeError: If the image is not uint8 RGB [H, W, 3].
    """
    expect_shape(image, "H W 3", name="image")
    if image.dtype != np.uint8:
        raise ShapeError(f"image: wanted uint8 values, found {image.dtype}")
