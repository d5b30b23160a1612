"""Text conditions: prompts to embeddings, each prompt encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class PromptEncoder:
    """Encodes prompts with a frozen CLIP text encoder and remembers the most recent ones.

    Args:
        text_encoder: A ``CLIPTextModel`` in eval mode.
        max_cached: How many prompts to remember; the least recently used is forgotten first.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, *, max_cached: int = 256) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._max_cached = max_cached
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()
        # Tokenizers saved without a length report an astronomically large one.
        self._num_tokens = min(
            int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings)
        )

    @property
    def num_cached(self) -> int:
        """Number of prompts remembered now."""
        return len(self._cache)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts; longer ones are cut at the encoder's length.

        Args:
            prompts: B texts; the empty text is the unconditional prompt.

        Returns:
            Last hidden states [B, L, C] in the encoder's dtype on its device, without gradient.

        Raises:
            ValueError: If there is no prompt.
        """
        if not prompts:
            raise ValueError("prompts: wanted at least one text, found none")
        with self._lock:
            known = {text: self._cache[text] for text in prompts if text in self._cache}
            known.update(self._encode([t for t in dict.fromkeys(prompts) if t not in known]))
            for text in prompts:
                self._cache[text] = known[text]
                self._cache.move_to_end(text)
            while len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
        return torch.stack([known[text] for text in prompts])

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        if not prompts:
            return {}
        tokens = self._tokenizer(
            prompts,
            padding="max_length",
            max_length=self._num_tokens,
            truncation=True,
            return_tensors="pt",
        )
        hidden = self._text_encoder(tokens.input_ids.to(self._text_encoder.device))[0]
        # A row of its own: keeping a view would keep the whole batch alive.
        return {text: hidden[i].clone() for i, text in enumerate(prompts)}
