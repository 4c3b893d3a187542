"""Other people's Mask2Formers: the same answers from our model and from its bundle as from their own code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra bench")
import helpers_hf as hf
from safetensors.torch import load_file, save_file
from transformers import Mask2FormerImageProcessor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from mtaclip_core.bundle import load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.import_hf import load_hf, main
from mtaclip_core.labels import CITYSCAPES
from mtaclip_core.modeling.hf_config import label_space
from mtaclip_core.runtime.segmenter import load_segmenter

NAMES = ["road", "sky", "car", "traffic light", "unicorn"]


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> Path:
    return hf.save(hf.model("swin", CITYSCAPES.names, shallow=True), tmp_path_factory.mktemp("hf") / "swin")


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    return hf.save(hf.model("resnet_basic", NAMES), tmp_path / "resnet")


@pytest.mark.parametrize("kind", ["swin", "resnet_bottleneck", "resnet_basic"])
def test_class_logits_and_masks_are_theirs(kind: str, tmp_path: Path) -> None:
    theirs = hf.model(kind, NAMES)
    ours, _ = load_hf(hf.save(theirs, tmp_path / kind))
    torch.manual_seed(0)
    # Maps of 24x40, 12x20, 6x10 and 3x5 positions: not whole windows of a Swin.
    images = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        expected = theirs(images)
        pixels = ours.pixel_decoder(ours.backbone(images))
        found = ours.decoder(pixels, None, ours.decoder.initial_tokens(ours.text()), last_only=True)[-1]
        masks = torch.einsum("bqd,bdhw->bqhw", found.mask_embed, pixels.mask_features)
    assert expected.masks_queries_logits.std() > 1 and expected.class_queries_logits.std() > 1
    torch.testing.assert_close(found.class_logits, expected.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(masks, expected.masks_queries_logits, atol=1e-4, rtol=0)


def test_bundle_gives_the_labels_of_their_post_processing(swin: Path, tmp_path: Path) -> None:
    out = tmp_path / "swin"
    # Mask2Former's post-processing resizes masks, to 384x384 whatever the image.
    options = ["--weights", "float32", "--resize", "masks", "--deformable", "grid_sample"]
    assert main([str(swin), "--out", str(out), *options]) == 0
    bundle = load_bundle(out)
    assert bundle.space == CITYSCAPES and bundle.network_size == (384, 384) and bundle.text_source == "none"
    card = (out / "README.md").read_text()
    assert "`swin`, turned into a bundle" in card and "trained by the mtaclip_ros project" not in card

    frame = StreetDrive((384, 384), seed=4).frame(7).image
    theirs = hf.model("swin", CITYSCAPES.names, shallow=True)
    processor = Mask2FormerImageProcessor(**hf.PREPROCESSOR)
    with torch.inference_mode():
        output = theirs(processor(frame, return_tensors="pt")["pixel_values"])
    assert isinstance(output, Mask2FormerForUniversalSegmentationOutput)
    expected = processor.post_process_semantic_segmentation(output, [(384, 384)])[0].numpy()
    assert len(np.unique(expected)) > 2
    with load_segmenter(bundle.path, "openvino", verify=False) as segmenter:
        found = segmenter.segment([frame])[0].label
    assert (found == expected).mean() >= 0.999


def test_shards_give_the_same_model(resnet: Path) -> None:
    whole, _ = load_hf(resnet)
    tensors = load_file(resnet / "model.safetensors")
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, resnet / file)
    (resnet / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (resnet / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded, _ = load_hf(resnet)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, sharded.state_dict()[name]), name


def test_names_of_later_versions_are_understood(swin: Path, tmp_path: Path) -> None:
    tensors = load_file(swin / "model.safetensors")
    later = {}
    for name, tensor in tensors.items():
        for there, here in (
            ("encoder.encoder.", "encoder.swin.encoder."),
            ("encoder.embeddings.", "encoder.swin.embeddings."),
            ("attention.self.query", "attention.q_proj"),
            ("attention.self.key", "attention.k_proj"),
            ("attention.self.value", "attention.v_proj"),
            ("attention.self.relative", "attention.relative_position_bias.relative"),
            ("attention.output.dense", "attention.o_proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        ):
            name = name.replace(there, here)
        later[name] = tensor
    folder = tmp_path / "later"
    folder.mkdir()
    for file in ("config.json", "preprocessor_config.json"):
        (folder / file).write_bytes((swin / file).read_bytes())
    save_file(later, folder / "model.safetensors")
    expected, found = (load_hf(path)[0].state_dict() for path in (swin, folder))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_classes_get_the_colours_of_cityscapes_by_name() -> None:
    shuffled = list(reversed(CITYSCAPES.names))
    space = label_space("any", dict(enumerate(shuffled)))
    assert space.names == shuffled and space.ids == list(reversed(CITYSCAPES.ids))
    mixed = label_space("mine", dict(enumerate(["Unicorn", "traffic_light", "dragon", "dragon"])))
    assert mixed.ids == [0, 1, 2, 3] and mixed.names == ["Unicorn", "traffic_light", "dragon 2", "dragon 3"]
    assert mixed.classes[1].colour == (250, 170, 30)
    assert len({c.colour for c in mixed.classes}) == 4


def test_images_are_normalised_as_the_preprocessor_says(resnet: Path) -> None:
    given = {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [50.0, 51.0, 25.5]}
    (resnet / "preprocessor_config.json").write_text(json.dumps(given))
    model, config = load_hf(resnet, (64, 96))
    pixel = torch.tensor([200.0, 20.0, 60.0])
    found = (pixel / 255 - torch.tensor(model.mean)) / torch.tensor(model.std)
    expected = (pixel - torch.tensor(given["image_mean"])) / torch.tensor(given["image_std"])
    torch.testing.assert_close(found, expected)
    assert config.size == (64, 96)


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')


def truncated(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def odd_image(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_mean": [NaN, 0.5, 0.5], "size": {"height": 1e999}}')


def odd_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("cross_attn.in_proj_weight"))
    save_file({**tensors, name: torch.zeros(1)}, folder / "model.safetensors")


def no_size(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 512, "longest_edge": 2048}}')


# Each number in its bounds, all together 500 GB.
DEEP = {
    **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 8192),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 128),
}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (only_pickle, "pytorch_model.bin alone, a pickle, which is never loaded"),
        (index_outside, "'../../secret.safetensors'; expected safetensors files beside it"),
        (truncated, "is not a readable safetensors file"),
        (no_size, "fixes no image size; give --network-size"),
        (odd_image, "finite number"),
        (odd_shape, "have shapes that no Mask2Former has"),
        (lambda folder: change_config(folder, **DEEP), "do not fit its config.json"),
        (lambda folder: change_config(folder, num_queries=13), "do not fit its config.json: 2 tensors differ"),
        (lambda folder: change_config(folder, dim_feedforward=10**9), "dim_feedforward: Input should be less than"),
        (lambda folder: change_config(folder, pre_norm=True), "pre_norm: Input should be False"),
        (lambda folder: change_config(folder, model_type="maskformer"), "model_type: Input should be 'mask2former'"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), "expected the folder of a Hugging Face Mask2Former"),
    ],
)
def test_what_cannot_be_imported_is_one_line(resnet: Path, tmp_path: Path, damage, message: str) -> None:
    damage(resnet)
    out = tmp_path / "models" / "broken"
    with pytest.raises(UserError) as caught:
        main([str(resnet), "--out", str(out)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and not out.exists()
