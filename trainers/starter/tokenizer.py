"""Tokenizers over the closed vocabulary of room captions, in the classes the real models use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
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

    Args:
        words: The words captions are made of.

    Returns:
        A tokenizer that pads with its end token to `MAX_TOKENS`, as Stable Diffusion's does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, end_of_word_suffix=WORD_END, min_frequency=1, show_progress=False
    )
    trained.train_from_iterator([" ".join(sorted(set(words)))], trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def make_caption_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build the captioner's word-level tokenizer; special tokens take ids 0 to 4.

    Args:
        words: The words captions are made of.
    """
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
