"""What is known of model folders before anything is loaded."""

from __future__ import annotations

import json
import shutil
import struct
from fnmatch import fnmatch

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from perception.diffusion.backbone_files import find_backbone_files
from perception.diffusion.headers import read_diffusion_headers
from perception.model_headers import read_captioner_headers, read_encoder_headers
from schemas.errors import ConfigError
from tests.kit.models.folders import WEIGHTS, with_shards, with_variant
from tests.kit.tiny_models import tiny_captioner_folder, tiny_diffusion_folder

UNET = "unet/diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3438167534\n"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_diffusion_folder(), tmp_path / "model")


def test_headers_tell_types_shapes_and_sizes(folder):
    found = read_diffusion_headers(folder)
    assert list(found) == ["vae", "unet", "text_encoder"]
    unet = found["unet"]
    assert unet.tensors["conv_in.weight"].shape == (8, 4, 3, 3)
    assert unet.dtypes == ("F32",)
    assert unet.num_bytes == (folder / UNET).stat().st_size
    assert unet.config["cross_attention_dim"] == 16
    assert unet.variant is None


def test_the_only_variant_is_found_in_every_part(folder):
    for name in WEIGHTS:
        with_variant(folder / name, "fp16")
    found = read_diffusion_headers(folder)
    assert {each.variant for each in found.values()} == {"fp16"}
    assert read_diffusion_headers(folder, variant="fp16") == found


def test_plain_weights_come_before_a_variant_that_nobody_named(folder):
    with_variant(folder / UNET, "fp16", keep=True)
    assert read_diffusion_headers(folder)["unet"].variant is None
    found = read_diffusion_headers(folder, variant="fp16")
    assert [each.variant for each in found.values()] == [None, "fp16", None]


def test_a_choice_of_variants_is_left_to_the_user(folder):
    with_variant(folder / UNET, "ema", keep=True)
    with_variant(folder / UNET, "fp16")
    with pytest.raises(ConfigError, match=r"variants ema, fp16 .* name one in model\.variant"):
        read_diffusion_headers(folder)
    assert read_diffusion_headers(folder, variant="ema")["unet"].variant == "ema"
    with pytest.raises(ConfigError, match="wanted weights of the variant 'bf16', found ema, fp16"):
        read_diffusion_headers(folder, variant="bf16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_read_by_their_index(folder, variant):
    whole = read_diffusion_headers(folder)["unet"].tensors
    with_shards(folder / "unet", variant)
    found = read_diffusion_headers(folder)["unet"]
    assert found.variant == variant
    assert found.tensors == whole
    second = sorted((folder / "unet").glob("*-00002-of-*"))[0]
    second.rename(folder / "kept")
    with pytest.raises(ConfigError, match=rf"1 of the files .* missing, first {second.name}"):
        read_diffusion_headers(folder)
    (folder / "kept").rename(second)
    next((folder / "unet").glob("*.index*.json")).unlink()
    with pytest.raises(ConfigError, match=r"no .*index.*copy the whole folder"):
        read_diffusion_headers(folder)


@pytest.mark.parametrize("name", [UNET, "tokenizer/tokenizer_config.json", "vae/config.json"])
def test_a_pointer_of_git_lfs_is_named_with_the_command_that_fetches_the_file(folder, name):
    (folder / name).write_text(POINTER)
    with pytest.raises(ConfigError, match=rf"{name}: .*pointer of git-lfs.* lfs pull"):
        read_diffusion_headers(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot have 0 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "cannot have 9223372036854775808 bytes"),
        (struct.pack("<Q", 2) + b"[]", "its header is damaged"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "its header is damaged"),
        (struct.pack("<Q", 50_000) + b"[" * 50_000, "its header is damaged"),
        (struct.pack("<Q", 2) + b"{}rest", "tells of 10 bytes, the file has 14"),
    ],
)
def test_a_damaged_header_is_refused(folder, content, message):
    (folder / UNET).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_diffusion_headers(folder)


def test_weights_cut_off_are_refused(folder):
    content = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(content[:-10])
    with pytest.raises(ConfigError, match=f"tells of {len(content)} bytes, the file has"):
        read_diffusion_headers(folder)


def test_other_weights_are_named_with_the_command_that_converts_them(folder):
    (folder / UNET).rename((folder / UNET).with_suffix(".bin"))
    with pytest.raises(ConfigError) as caught:
        read_diffusion_headers(folder)
    assert "found diffusion_pytorch_model.bin; only safetensors are read" in str(caught.value)
    part = folder / "unet"
    assert (
        'python -c "from diffusers import UNet2DConditionModel as M; '
        f"M.from_pretrained('{part}').save_pretrained('{part}')\"" in str(caught.value)
    )


def test_parts_that_do_not_fit_are_refused(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "cross_attention_dim": 2048}))
    with pytest.raises(ConfigError, match=r"cross_attention_dim 16 .*found 2048.*no SDXL"):
        read_diffusion_headers(folder)


def test_a_folder_of_another_pipeline_is_named(folder):
    shutil.rmtree(folder / "unet")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ConfigError, match=r"missing unet/config\.json .*says FluxPipeline"):
        read_diffusion_headers(folder)


def test_a_captioner_needs_its_processor_and_is_of_the_named_kind(tmp_path):
    folder = shutil.copytree(tiny_captioner_folder(), tmp_path / "captioner")
    assert read_captioner_headers(folder, is_blip2=True).config["model_type"] == "blip-2"
    with pytest.raises(ConfigError, match=r"found a blip-2; use model\.captioner blip2"):
        read_captioner_headers(folder, is_blip2=False)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"wanted preprocessor_config.* or processor_config"):
        read_captioner_headers(folder, is_blip2=True)


def test_an_encoder_is_a_configuration_and_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert read_encoder_headers(tmp_path).tensors["a"].shape == (2,)


def test_a_model_that_may_be_downloaded_later_is_left_to_the_loader(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert read_diffusion_headers("nobody/nothing") is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*hf download nobody/nothing"):
        read_diffusion_headers("nobody/nothing")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_of_a_hub_name_no_more_weights_are_downloaded_than_are_read(tmp_path, monkeypatch, variant):
    """The hub is a folder here, and its cache another: what the patterns name is copied."""
    hub = shutil.copytree(tiny_diffusion_folder(), tmp_path / "hub")
    for name in WEIGHTS:
        with_variant(hub / name, "fp16", keep=name != UNET)
    (hub / "unet/diffusion_pytorch_model.bin").touch()

    def download(model_id, *, allow_patterns, **_):
        for path in (path for path in hub.rglob("*") if path.is_file()):
            name = path.relative_to(hub).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr("perception.model_files.snapshot_download", download)
    found = find_backbone_files("owner/name", variant=variant)
    assert found.weights["unet"].variant == "fp16"
    assert {each.variant for each in found.weights.values()} == {variant, "fp16"}
    copied = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "diffusion_pytorch_model.bin" not in copied
    if variant:
        assert "model.safetensors" not in copied
