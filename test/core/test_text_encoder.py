"""Text sources: the frozen encoder against open_clip's own, prompts and their gradients, tables without CLIP."""

from __future__ import annotations

import open_clip
import pytest
import torch
from helpers_clip import register_tiny_clip

from mtaclip_core.cli import UserError
from mtaclip_core.labels import CAMVID
from mtaclip_core.modeling.clip_model import build_clip
from mtaclip_core.modeling.prompts import ClipPromptText, build_text, readable
from mtaclip_core.modeling.text_encoder import TextEncoder, build_text_encoder

TEXTS = ["road", "traffic light", "none", "a photo of a very long vehicle, with wheels", ""]


@pytest.fixture(scope="module")
def tiny_clip() -> str:
    return register_tiny_clip()


@pytest.fixture
def encoder(tiny_clip: str) -> TextEncoder:
    torch.manual_seed(0)
    encoder = build_text_encoder(tiny_clip, None)
    for parameter in encoder.parameters():  # CLIP's own initial values would hide a position that is left out
        torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def padded(encoder: TextEncoder, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = encoder.tokenize(TEXTS)
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return tokens, torch.tensor([len(row) - 1 for row in rows])


def test_the_encoder_equals_open_clip_on_plain_texts(tiny_clip: str) -> None:
    torch.manual_seed(0)
    model = build_clip(tiny_clip, None).model.eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = open_clip.get_tokenizer(tiny_clip)
    encoder = TextEncoder(model, tokenizer)
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(TEXTS))
        tokens, eot_index = padded(encoder, encoder.length)
        assert torch.equal(tokens, tokenizer(TEXTS))
        torch.testing.assert_close(encoder(encoder.embed(tokens), eot_index), expected, atol=1e-5, rtol=1e-4)


def test_padding_after_the_end_changes_nothing(encoder: TextEncoder) -> None:
    """Why short sequences may be encoded for a fraction of the price of 77 tokens."""
    longest = max(len(row) for row in encoder.tokenize(TEXTS))
    with torch.inference_mode():
        short, full = (
            encoder(encoder.embed(tokens), eot_index)
            for tokens, eot_index in (padded(encoder, longest), padded(encoder, encoder.length))
        )
    torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-4)


def test_the_prompt_is_start_eight_learned_class_end(encoder: TextEncoder) -> None:
    """Written out by hand for one context and one class, and encoded as one sequence of 77."""
    text = ClipPromptText(encoder, ["Road", "TrafficLight"], contexts=2)
    start, *name, end = encoder.tokenize(["traffic light"])[0]
    with torch.inference_mode():
        one = torch.cat(
            [
                encoder.embed(torch.tensor([start])),
                text.prompts[1],
                encoder.embed(torch.tensor([*name, end] + [0] * (encoder.length - 10 - len(name)))),
            ]
        )
        assert len(one) == encoder.length
        expected = encoder(one[None], torch.tensor([9 + len(name)]))[0]
        torch.testing.assert_close(text()[1, 1], expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_contexts_and_nothing_of_the_tower(encoder: TextEncoder) -> None:
    text = ClipPromptText(encoder, ["road", "car"], contexts=3)
    assert [n for n, p in text.named_parameters() if p.requires_grad] == ["prompts"]
    text().square().sum().backward()
    assert (text.prompts.grad.abs().sum((1, 2)) > 0).all()
    assert all(p.grad is None for p in encoder.parameters())


def test_the_tower_is_never_updated_even_in_training_mode(encoder: TextEncoder) -> None:
    text = ClipPromptText(encoder, ["road", "car"], contexts=1).train()
    assert text.training
    assert not any(module.training for module in encoder.modules())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimiser = torch.optim.AdamW(text.parameters(), lr=0.1, weight_decay=0.5)
    first = text()
    first.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not torch.equal(text(), first)


def test_fresh_prompts_are_small_seeded_and_differ_between_contexts(encoder: TextEncoder) -> None:
    prompts = ClipPromptText(encoder, ["road"], contexts=3, seed=5).prompts.detach()
    assert prompts.shape == (3, 8, encoder.token_width)
    assert abs(float(prompts.std()) - 0.02) < 0.003
    assert not torch.equal(prompts[0], prompts[1])
    assert torch.equal(prompts, ClipPromptText(encoder, ["road"], contexts=3, seed=5).prompts)
    assert not torch.equal(prompts, ClipPromptText(encoder, ["road"], contexts=3, seed=6).prompts)


def test_a_class_name_that_is_too_long_is_named(encoder: TextEncoder) -> None:
    with pytest.raises(UserError, match=r"class name 'lorem .* has \d+ tokens"):
        ClipPromptText(encoder, ["road", "lorem ipsum " * 35], contexts=1)


def test_class_names_become_english() -> None:
    names = {
        "SignSymbol": "sign symbol",
        "traffic light": "traffic light",
        "road_marking": "road marking",
        "Bicyclist": "bicyclist",
        "SUVPickupTruck": "suv pickup truck",
        "void": "void",
    }
    assert {name: readable(name) for name in names} == names


@pytest.mark.parametrize("source", ["learned", "random_orthogonal", "clip"])
def test_every_source_gives_a_table_of_all_classes_and_none(source: str, tiny_clip: str) -> None:
    text = build_text(source, CAMVID.names, 3, tiny_clip, None, width=24, seed=1)
    table = text()
    assert table.shape == (3, len(CAMVID) + 1, text.width)
    assert table.dtype == torch.float32
    again = build_text(source, CAMVID.names, 3, tiny_clip, None, width=24, seed=1)
    again.load_state_dict(text.state_dict())
    assert torch.equal(again(), table)
    assert table.requires_grad == (source != "random_orthogonal")


def test_seeds_decide_the_tables_without_clip() -> None:
    for source in ("learned", "random_orthogonal"):
        tables = [build_text(source, ["road"], 2, "", None, width=16, seed=seed)() for seed in (1, 1, 2)]
        assert torch.equal(tables[0], tables[1])
        assert not torch.equal(tables[0], tables[2])


@pytest.mark.parametrize(("contexts", "width"), [(3, 64), (3, 40), (2, 7)])
def test_random_texts_are_orthogonal_as_far_as_the_width_allows(contexts: int, width: int) -> None:
    """12 texts a context: all 36 rows; whole contexts; runs of `width` rows."""
    table = build_text("random_orthogonal", CAMVID.names, contexts, "", None, width=width)()
    rows = table.reshape(-1, width)
    block = 36 if width >= 36 else 12 if width >= 12 else width
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        torch.testing.assert_close(part @ part.T, torch.eye(len(part)), atol=1e-5, rtol=0)


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match="text source 'bert'"):
        build_text("bert", ["road"], 1, "", None, width=8)
