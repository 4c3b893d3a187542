"""Image backbones: strides of every kind, CLIP towers equal to open_clip's own, weights and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_clip import register_tiny_clip
from huggingface_hub import constants
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.backbone import STRIDES, ImageBackbone, build_image_backbone
from mtaclip_core.modeling.clip_backbone import ClipResNetBackbone, ClipViTBackbone
from mtaclip_core.modeling.clip_model import build_clip
from mtaclip_core.modeling.text_encoder import build_text_encoder

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
TINY_TIMM = "test_resnet"


@pytest.fixture(scope="module")
def tiny_clip() -> str:
    return register_tiny_clip()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache and no way out, as on a vehicle: what the hub client sees is a dead end."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))


def tiny_resnet() -> ModifiedResNet:
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 2, 1, 1], output_dim=16, heads=4, image_size=64, width=8)
    for module in tower.modules():  # statistics as after training, and no zero-initialised branches
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return tower.eval()


def tiny_vit(layers: int = 4, patch: int = 16) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(64, patch, width=32, layers=layers, heads=2, mlp_ratio=2.0, output_dim=16).eval()


def strides_of(backbone: ImageBackbone, height: int = 64, width: int = 96) -> list[tuple[float, float]]:
    with torch.inference_mode():
        maps = backbone.eval()(torch.randn(2, 3, height, width))
    assert [m.shape[:2] for m in maps] == [(2, c) for c in backbone.channels]
    return [(height / m.shape[2], width / m.shape[3]) for m in maps]


@pytest.mark.parametrize(
    "build",
    [
        lambda: ClipResNetBackbone(tiny_resnet()),
        lambda: ClipViTBackbone(tiny_vit(), taps=(0, 1, 2, 3)),
        lambda: build_image_backbone("timm", "mobilenetv4_conv_small", None),
        lambda: build_image_backbone("timm", "resnet18", None),
        lambda: build_image_backbone("timm", "swin_tiny_patch4_window7_224", None),
        lambda: build_image_backbone("timm", "convnext_atto", None),
    ],
    ids=["clip-resnet", "clip-vit", "mobilenet", "resnet", "swin", "convnext"],
)
def test_every_kind_gives_strides_4_to_32(build) -> None:
    assert strides_of(build()) == [(s, s) for s in STRIDES]


def test_the_clip_resnet_equals_the_stages_of_open_clip() -> None:
    tower = tiny_resnet()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = tower.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
        maps = ClipResNetBackbone(tower)(images)
    torch.testing.assert_close(maps, expected["image_intermediates"])


def test_the_clip_vit_equals_the_blocks_of_open_clip_on_its_own_grid() -> None:
    """Equal tokens at every tap; an embedding that is added twice, or not at all, would show."""
    tower = tiny_vit()
    images = torch.randn(2, 3, 64, 64)
    backbone = ClipViTBackbone(tower, taps=(0, 1, 2, 3))
    backbone.pyramid = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    with torch.inference_mode():
        expected = tower.forward_intermediates(images, indices=[0, 1, 2, 3], intermediates_only=True)
        maps = backbone(images)
    torch.testing.assert_close(maps, expected["image_intermediates"], atol=1e-5, rtol=1e-5)


def test_the_position_embedding_follows_the_grid_of_the_image() -> None:
    backbone = ClipViTBackbone(tiny_vit(), taps=(0, 1, 2, 3))
    trained = backbone.position_embedding.detach()
    with torch.no_grad():
        table = backbone.positions((8, 12))
    assert table.shape == (1 + 96, 32)
    torch.testing.assert_close(table[0], trained[0])
    # The mean over the image stays: the same embedding, stretched.
    torch.testing.assert_close(table[1:].mean(0), trained[1:].mean(0), atol=0.1, rtol=0)
    # Left stays left, top stays top.
    grid = table[1:].reshape(8, 12, 32)
    corner = torch.nn.functional.cosine_similarity(grid[0, 0], trained[1], dim=0)
    assert corner > 0.8


def test_every_parameter_of_a_clip_backbone_learns() -> None:
    """Fully fine-tuned: no parameter is left over (two processes would wait for it) and none is frozen."""
    for backbone in (ClipResNetBackbone(tiny_resnet()), ClipViTBackbone(tiny_vit(), taps=(0, 1, 2, 3))):
        sum(m.square().sum() for m in backbone.train()(torch.randn(2, 3, 64, 64))).backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_images_are_normalised_as_the_weights_expect() -> None:
    assert ClipResNetBackbone(tiny_resnet()).mean == CLIP_MEAN
    assert ClipViTBackbone(tiny_vit(), taps=(0, 1, 2, 3)).mean == CLIP_MEAN
    assert build_image_backbone("timm", "resnet18", None).std == (0.229, 0.224, 0.225)
    assert build_image_backbone("timm", TINY_TIMM, None).std == (0.5, 0.5, 0.5)


def test_a_checkpoint_keeps_activation_and_statistics_of_its_pretrained_tag() -> None:
    """Nothing is downloaded; OpenAI's tags mean QuickGELU, and a timm tag may have statistics of its own."""
    assert build_image_backbone("timm", "mobilenetv4_conv_small", "e3600_r256_in1k", load=False).mean == (0.5, 0.5, 0.5)
    text = build_text_encoder("RN50", "openai", load=False)
    assert any(isinstance(module, QuickGELU) for module in text.modules())
    assert not any(isinstance(module, torch.nn.GELU) for module in text.modules())


def test_a_size_that_is_no_multiple_of_32_is_named_with_a_better_one() -> None:
    with pytest.raises(ValueError, match=r"360x480 is not a multiple of 32.*384x480"):
        ClipResNetBackbone(tiny_resnet())(torch.zeros(1, 3, 360, 480))


def test_clip_rn50_has_its_published_channels() -> None:
    backbone = build_image_backbone("clip", "RN50", None)
    assert backbone.channels == (256, 512, 1024, 2048)
    assert sum(p.numel() for p in backbone.parameters()) == 23_527_264  # ResNet-50-D without its classifier


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_clip_weights_load_from_a_local_file(tmp_path: Path, tiny_clip: str, suffix: str) -> None:
    torch.manual_seed(1)
    saved = build_clip(tiny_clip, None).model
    path = tmp_path / f"clip{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": saved.state_dict()}, path)
    else:
        save_file(saved.state_dict(), path)
    torch.manual_seed(2)
    backbone = build_image_backbone("clip", tiny_clip, str(path))
    expected = ClipResNetBackbone(saved.visual)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.eval()(images), expected.eval()(images))


def test_a_pickle_with_code_is_refused(tmp_path: Path, tiny_clip: str) -> None:
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "clip.pt"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(UserError, match="not a plain file of tensors"):
        build_image_backbone("clip", tiny_clip, str(path))
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path, tiny_clip: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match="do not fit"):
        build_image_backbone("clip", tiny_clip, str(path))
    with pytest.raises(UserError, match=r"do not fit timm's test_resnet: .* tensors are missing"):
        build_image_backbone("timm", TINY_TIMM, str(path))


def test_timm_weights_load_from_a_local_file(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    whole = timm.create_model(TINY_TIMM)
    path = tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    backbone = build_image_backbone("timm", TINY_TIMM, str(path))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.eval()(images)[-1], whole.eval().forward_features(images))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("kind", "name", "tag"), [("clip", "RN50", "openai"), ("timm", "resnet18", "true")])
def test_a_tag_that_cannot_be_downloaded_is_one_clear_line(kind: str, name: str, tag: str) -> None:
    with pytest.raises(UserError, match="cannot be downloaded from here") as error:
        build_image_backbone(kind, name, tag)
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    assert "where there is network" in message


@pytest.mark.parametrize(
    ("kind", "name", "pretrained", "message"),
    [
        ("clip", "RN5", None, "did you mean RN50"),
        ("clip", "ViT-B-32", None, "patches of 16 pixels"),
        ("clip", "coca_ViT-B-32", None, "other towers"),
        ("clip", "RN50", "opanai", "its tags: openai"),
        ("clip", "RN50", "missing.safetensors", "do not exist"),
        ("timm", "resnet1", None, "did you mean resnet1"),
        ("timm", "vit_tiny_patch16_224", None, "strides"),
        ("timm", "resnet18", "missing.safetensors", "existing .safetensors file"),
        ("timm", "resnet18", "no_such_tag", "no_such_tag"),
    ],
)
def test_what_the_user_got_wrong_is_named(kind: str, name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_image_backbone(kind, name, pretrained)
