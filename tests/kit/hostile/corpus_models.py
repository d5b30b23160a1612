"""Hostile model folders and captions of the user's own making, with the outcome of each."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from perception.captioner import Blip2Captioner
from perception.captioner_image_to_text import ImageToTextCaptioner
from perception.diffusion.backbone import load_backbone
from perception.file_captions import FileCaptions
from perception.model_loading import load_encoder
from schemas.errors import ConfigError
from tests.kit.hostile.outcomes import PICKLE, Accepted, Item, Refused
from tests.kit.tiny_models import tiny_captioner_folder, tiny_diffusion_folder

Edit = Callable[[Path], object]

CODE = """
open(__import__("os").environ["CANARY_PATH"], "w").close()

class Evil:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()
"""
"""What a model folder brings along as code of its own."""

UNET = "unet/diffusion_pytorch_model.safetensors"


def put(name: str, content: bytes) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return edit


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def configure(name: str, **changes: Any) -> Edit:
    """Change fields of a JSON file; those that are None are taken out."""

    def edit(folder: Path) -> None:
        found = {**json.loads((folder / name).read_text()), **changes}
        kept = {field: value for field, value in found.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return edit


def pickled(name: str) -> Edit:
    """Weights as a pickle, and no others."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.with_suffix(".bin").write_bytes(PICKLE)
        path.with_name("pytorch_model.bin").write_bytes(PICKLE)
        path.with_suffix(".ckpt").write_bytes(PICKLE)
        path.unlink()

    return edit


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def edit(folder: Path) -> None:
        found = dict(load_file(folder / name))
        change(found)
        save_file(found, folder / name, metadata={"format": "pt"})

    return edit


def _lose_one(found: dict[str, torch.Tensor]) -> None:
    del found["conv_in.weight"]


def _reshape_one(found: dict[str, torch.Tensor]) -> None:
    found["conv_in.weight"] = torch.zeros(3, 4, 3, 3)


def _cut(name: str) -> Edit:
    def edit(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return edit


def _with_code(folder: Path) -> None:
    """A folder whose parts ask for classes of their own."""
    for part, config in (
        ("unet", "config.json"),
        ("text_encoder", "config.json"),
        ("tokenizer", "tokenizer_config.json"),
    ):
        (folder / part / "evil.py").write_text(CODE)
        asked = {"AutoTokenizer": ["evil.Evil", None], "AutoModel": "evil.Evil"}
        configure(
            f"{part}/{config}",
            auto_map=asked,
            _class_name=None,
            tokenizer_class="Evil",
            custom_pipelines={"x": {"impl": "evil.Evil"}},
        )(folder)


def _leads_away(folder: Path) -> None:
    """Weights that are a link to a file elsewhere that is no model."""
    secret = folder.parent / "secret"
    secret.write_bytes(b"root:x:0:0")
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(secret)


def _endless(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    (folder / UNET).unlink()
    os.mkfifo(folder / UNET)


def _loop(folder: Path) -> None:
    (folder / "unet/config.json").unlink()
    (folder / "unet/config.json").symlink_to("config.json")


def diffusion(name: str, edit: Edit, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        copy = shutil.copytree(tiny_diffusion_folder(), folder / "model")
        edit(copy)
        return load_backbone(copy, local_files_only=True)

    return Item(f"diffusion folder: {name}", read, outcome)


def single_file(name: str, content: bytes, outcome: Any) -> Item:
    """One file of all weights, its configurations being whole."""

    def read(folder: Path) -> Any:
        (folder / "model.safetensors").write_bytes(content)
        return load_backbone(folder / "model.safetensors", config=tiny_diffusion_folder())

    return Item(f"diffusion in one file: {name}", read, outcome)


def header(**tensors: Any) -> bytes:
    """A file of weights without the weights."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def blip2(name: str, edit: Edit, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        copy = shutil.copytree(tiny_captioner_folder(), folder / "model")
        edit(copy)
        return Blip2Captioner.load(copy, local_files_only=True)

    return Item(f"captioner folder: {name}", read, outcome)


def other(name: str, config: dict[str, Any], outcome: Any) -> Item:
    """A folder of another image-to-text model, whose configuration brings code along."""

    def read(folder: Path) -> Any:
        copy = folder / "model"
        copy.mkdir()
        (copy / "evil.py").write_text(CODE)
        for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
            (copy / file).write_text(json.dumps(config))
        (copy / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
        return ImageToTextCaptioner.load(copy, local_files_only=True)

    return Item(f"captioner folder: {name}", read, outcome)


def encoder(name: str, edit: Edit, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        from transformers import ViTConfig, ViTModel

        small = ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=16,
        )
        ViTModel(small).save_pretrained(folder / "model")
        edit(folder / "model")
        return load_encoder(ViTModel, folder / "model")

    return Item(f"encoder folder: {name}", read, outcome)


NO_WEIGHTS = Refused(ConfigError, "wanted a safetensors file, but")
PARTS = ("model.diffusion_model.a", "first_stage_model.a", "cond_stage_model.a")
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

LOADED = Accepted(lambda found: found is not None)
MISSING = Refused(ConfigError, "missing")
ONLY_SAFETENSORS = Refused(ConfigError, "only safetensors are read")
NOT_JSON = Refused(ConfigError, "model folder|wanted JSON|wanted a JSON object")
NO_MODEL = Refused(ConfigError, "model folder .*wanted a model as save_pretrained writes it")
INCOMPLETE = Refused(ConfigError, "are missing or of another shape|wanted a model as")

MODELS = [
    diffusion("plain", lambda _: None, LOADED),
    diffusion("empty", lambda folder: [shutil.rmtree(p) for p in folder.glob("*/")], MISSING),
    diffusion("U-Net weights are a pickle", pickled(UNET), ONLY_SAFETENSORS),
    diffusion(
        "text encoder weights are a pickle",
        pickled("text_encoder/model.safetensors"),
        ONLY_SAFETENSORS,
    ),
    diffusion("a pickle beside the weights", put("unet/pytorch_model.bin", PICKLE), LOADED),
    diffusion("a pickle under the weights' name", put(UNET, PICKLE), NO_MODEL),
    diffusion("no configuration of the U-Net", remove("unet/config.json"), MISSING),
    diffusion("no scheduler", remove("scheduler/scheduler_config.json"), MISSING),
    diffusion("weights cut off", _cut(UNET), NO_MODEL),
    diffusion("weights of no bytes", put(UNET, b""), NO_MODEL),
    diffusion("a header of exabytes", put(UNET, struct.pack("<Q", 2**63) + b"{}"), NO_MODEL),
    diffusion(
        "a header that lies about places",
        put(
            UNET,
            struct.pack("<Q", 72)
            + b'{"conv_in.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,999]}}   ',
        ),
        NO_MODEL,
    ),
    diffusion("a tensor is missing", tensors(UNET, _lose_one), INCOMPLETE),
    diffusion("a tensor of another shape", tensors(UNET, _reshape_one), INCOMPLETE),
    diffusion("configuration of no bytes", put("unet/config.json", b""), NOT_JSON),
    diffusion("configuration is a list", put("unet/config.json", b"[]"), NOT_JSON),
    diffusion("configuration is a pickle", put("vae/config.json", PICKLE), NOT_JSON),
    diffusion("configuration of brackets", put("vae/config.json", b"[" * 50_000), NOT_JSON),
    diffusion(
        "scheduler of brackets",
        put("scheduler/scheduler_config.json", b"[" * 50_000),
        NOT_JSON,
    ),
    diffusion("a text for a number", configure("unet/config.json", in_channels="four"), NO_MODEL),
    diffusion("a number for a list", configure("unet/config.json", block_out_channels=8), NO_MODEL),
    diffusion("negative channels", configure("vae/config.json", latent_channels=-4), NO_MODEL),
    diffusion("no heads", configure("text_encoder/config.json", num_attention_heads=0), NO_MODEL),
    diffusion(
        "blocks that are code",
        configure("unet/config.json", down_block_types=["__import__('os').abort()"] * 4),
        NO_MODEL,
    ),
    diffusion(
        "a schedule of a billion steps",
        configure("scheduler/scheduler_config.json", num_train_timesteps=10**9),
        Refused(ConfigError, "num_train_timesteps|model folder"),
    ),
    diffusion(
        "a schedule of texts",
        configure("scheduler/scheduler_config.json", beta_start="a", beta_end=[1]),
        Refused(ConfigError, "model folder|beta"),
    ),
    diffusion("code of its own in every part", _with_code, Refused(ConfigError, "model folder")),
    diffusion("weights link to another file", _leads_away, NO_MODEL),
    diffusion("weights link to an endless device", _endless, ONLY_SAFETENSORS),
    diffusion("weights are a pipe", _pipe, ONLY_SAFETENSORS),
    diffusion("configuration links to itself", _loop, MISSING),
    single_file("a pickle", PICKLE, NO_WEIGHTS),
    single_file("a header of exabytes", struct.pack("<Q", 2**63) + b"{}", NO_WEIGHTS),
    single_file("a header of brackets", struct.pack("<Q", 50_000) + b"[" * 50_000, NO_WEIGHTS),
    single_file(
        "places out of the file", header(a={**EMPTY, "data_offsets": [0, 999]}), NO_WEIGHTS
    ),
    single_file("no places", header(**{key: {"dtype": "F32"} for key in PARTS}), NO_WEIGHTS),
    single_file("names of all parts alone", header(**dict.fromkeys(PARTS, EMPTY)), NO_MODEL),
    blip2("plain", lambda _: None, LOADED),
    blip2("weights are a pickle", pickled("model.safetensors"), ONLY_SAFETENSORS),
    blip2("weights cut off", _cut("model.safetensors"), NO_MODEL),
    blip2("tokenizer is a pickle", put("tokenizer.json", PICKLE), NO_MODEL),
    blip2(
        "tokenizer with code of its own",
        lambda folder: (
            (folder / "evil.py").write_text(CODE),
            configure(
                "tokenizer_config.json",
                auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
                tokenizer_class="Evil",
            )(folder),
        ),
        Accepted(lambda captioner: type(captioner.tokenizer).__module__.startswith("transformers")),
    ),
    blip2("configuration of wrong types", configure("config.json", text_config=5), NO_MODEL),
    blip2("processor of no bytes", put("processor_config.json", b""), NO_MODEL),
    other(
        "a model type of its own",
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}},
        Refused(ConfigError, "wanted an image-to-text model"),
    ),
    other(
        "a known type with code of its own",
        {
            "model_type": "blip",
            "auto_map": {"AutoModelForImageTextToText": "evil.Evil", "AutoConfig": "evil.Evil"},
        },
        Refused(ConfigError, "model folder"),
    ),
    encoder("plain", lambda _: None, LOADED),
    encoder("weights are a pickle", pickled("model.safetensors"), ONLY_SAFETENSORS),
    encoder("weights cut off", _cut("model.safetensors"), NO_MODEL),
    encoder("configuration of wrong types", configure("config.json", patch_size="a"), NO_MODEL),
]


def captions(name: str, files: dict[str, bytes], outcome: Any, *, path: str = "") -> Item:
    def read(folder: Path) -> Any:
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return FileCaptions.load(folder / path).captions

    return Item(f"caption files: {name}", read, outcome)


def become(**wanted: str) -> Accepted:
    return Accepted(lambda found: found == wanted)


NO_CAPTION = Refused(ConfigError, "wanted a text for each key")
NO_UTF8 = Refused(ConfigError, "a.txt: wanted UTF-8")

CAPTION_FILES = [
    captions("plain", {"a.txt": " a  röom\n".encode()}, become(a="a röom")),
    captions("latin-1", {"a.txt": b"caf\xe9"}, NO_UTF8),
    captions("UTF-16", {"a.txt": "a room".encode("utf-16")}, become(a="a room")),
    captions("UTF-16 without a mark", {"a.txt": "a room".encode("utf-16-le")}, become(a="a room")),
    captions("a mark of the byte order", {"a.txt": b"\xef\xbb\xbfa room"}, become(a="a room")),
    captions("a zero byte", {"a.txt": b"a\0b"}, NO_CAPTION),
    captions("signs that steer a terminal", {"a.txt": b"a\x1b[2Jb"}, NO_CAPTION),
    captions(
        "one line of 80 MB", {"a.txt": b"a " * (40 << 20)}, Refused(ConfigError, "wanted a caption")
    ),
    captions("half a sign at the end", {"a.txt": "röö".encode()[:-1]}, NO_UTF8),
    captions("a pickle", {"a.txt": PICKLE}, Refused(ConfigError, "wanted")),
    captions("an empty folder", {"a.md": b"x"}, NO_CAPTION),
    captions("JSON", {"c.json": b'{"a": "a room"}'}, become(a="a room"), path="c.json"),
    captions("JSON of numbers", {"c.json": b'{"a": 5}'}, NO_CAPTION, path="c.json"),
    captions("JSON of lists", {"c.json": b'{"a": ["b"]}'}, NO_CAPTION, path="c.json"),
    captions(
        "JSON list", {"c.json": b"[]"}, Refused(ConfigError, "wanted a JSON object"), path="c.json"
    ),
    captions(
        "JSON of brackets",
        {"c.json": b"[" * 100_000},
        Refused(ConfigError, "wanted JSON"),
        path="c.json",
    ),
    captions(
        "JSON in latin-1",
        {"c.json": b'{"a": "caf\xe9"}'},
        Refused(ConfigError, "wanted JSON"),
        path="c.json",
    ),
    captions("JSON with half a pair", {"c.json": b'{"a": "\\ud800"}'}, NO_CAPTION, path="c.json"),
    captions(
        "a JSON pickle", {"c.json": PICKLE}, Refused(ConfigError, "wanted JSON"), path="c.json"
    ),
    captions("nothing", {}, Refused(ConfigError, "found nothing"), path="none"),
]
