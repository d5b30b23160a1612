"""Tokenizers over the closed vocabulary of room captions, in the classes the real models use."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PAD, BEGIN, STOP, IMAGE, UNKNOWN = "<pad>", "<s>", "</s>", "<image>", "<unk>"
CAPTION_SPECIALS = (PAD, BEGIN, STOP, IMAGE, UNKNOWN)


def make_clip_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Build a byte-level BPE tokenizer in which every given word is a single token.

    Words outside the vocabulary are spelled in bytes, so any prompt can be encoded.

    Returns:
        A tokenizer that pads with its end token to `MAX_TOKENS`, as Stable Diffusion's does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(words)
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that turn every word into one token (Sennrich et al. 2016).

    The most frequent pair goes first, the first in the alphabet among equals: the same words give
    the same merges in every process, which the library's own trainer does not promise.
    """
    spellings = [[*word[:-1], word[-1] + WORD_END] for word in sorted(set(words))]
    merges = []
    while pairs := Counter(pair for spelling in spellings for pair in pairwise(spelling)):
        merged = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(merged)
        spellings = [_merge(spelling, merged) for spelling in spellings]
    return merges


def make_caption_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build the captioner's word-level tokenizer; special tokens take ids 0 to 4."""
    vocabulary = {word: i for i, word in enumerate([*CAPTION_SPECIALS, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=STOP,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )


def _merge(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in spelling:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
