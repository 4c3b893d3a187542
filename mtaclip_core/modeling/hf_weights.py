"""The weights of a Hugging Face Mask2Former under the names of our modules; safetensors only, no pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtaclip_core.cli import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 16 * 1024**2

_UNUSED = re.compile(r"^criterion\.|\.relative_position_index$|\.encoder\.(swin\.|model\.)?layernorm\.")

_QKV = {"q": "query", "k": "key", "v": "value"}

Renaming = tuple[str, str | Callable[[re.Match[str]], str]]

# Applied one after the other. A backbone's names have changed with the versions of the package; each form is here.
_SWIN: tuple[Renaming, ...] = (
    (r"^(?:swin\.|model\.)?embeddings\.patch_embeddings\.projection\.", "model.patch_embed.proj."),
    (r"^(?:swin\.|model\.)?embeddings\.norm\.", "model.patch_embed.norm."),
    (
        r"^(?:swin\.|model\.)?encoder\.layers\.(\d+)\.downsample\.",
        lambda m: f"model.layers_{int(m[1]) + 1}.downsample.",
    ),
    (r"^(?:swin\.|model\.)?encoder\.layers\.(\d+)\.", r"model.layers_\1."),
    (r"^hidden_states_norms\.(?:stage)?(\d+)\.", lambda m: f"norms.{int(m[1]) - 1}."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:self\.|relative_position_bias\.)(relative_position_bias_table)$", r".attn.\1"),
    (r"\.attention\.(?:self\.)?(query|key|value|[qkv]_proj)\.", lambda m: f".attn.qkv.{m[1][0]}."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_RESNET: tuple[Renaming, ...] = (
    (r"^embedder\.embedder\.", "model.stem."),
    (
        r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.",
        lambda m: f"model.layer{int(m[1]) + 1}.{m[2]}.{int(m[3]) + 1}.",
    ),
    (
        r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.",
        lambda m: f"model.layer{int(m[1]) + 1}.{m[2]}.downsample.",
    ),
    (r"\.downsample\.convolution\.", ".downsample.0."),
    (r"\.downsample\.normalization\.", ".downsample.1."),
    (r"\.stem\.convolution\.", ".conv1."),
    (r"\.stem\.normalization\.", ".bn1."),
    (r"\.(\d+)\.convolution\.", r".conv\1."),
    (r"\.(\d+)\.normalization\.", r".bn\1."),
)
_PIXEL_DECODER: tuple[Renaming, ...] = (
    (r"^encoder\.", ""),
    (r"\.self_attn\.value_proj\.", ".attention.value_projection."),
    (r"\.self_attn\.output_proj\.", ".attention.output_projection."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.final_layer_norm\.", ".feedforward_norm."),
    (r"\.fc1\.", ".feedforward.0."),
    (r"\.fc2\.", ".feedforward.2."),
    (r"^adapter_1\.", "lateral."),
    (r"^layer_1\.", "smooth."),
    (r"^mask_projection\.", "mask_features."),
)
_DECODER: tuple[Renaming, ...] = (
    (r"^queries_features\.weight$", "query_features"),
    (r"^queries_embedder\.weight$", "position"),
    (r"^level_embed\.weight$", "level_embed"),
    (r"^decoder\.layernorm\.", "output_norm."),
    (r"^decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", lambda m: f"mask_head.{2 * int(m[1])}."),
    (r"^decoder\.layers\.", "layers."),
    (r"\.cross_attn\.out_proj\.", ".cross_attention.out."),
    (r"\.cross_attn\.in_proj_(weight|bias)$", r".cross_attention.split.\1"),
    (r"\.cross_attn_layer_norm\.", ".cross_norm."),
    (r"\.self_attn\.(q|k|v)_proj\.", lambda m: f".self_attention.{_QKV[m[1]]}."),
    (r"\.self_attn\.out_proj\.", ".self_attention.out."),
    (r"\.self_attn_layer_norm\.", ".self_norm."),
    (r"\.fc1\.", ".feedforward.0."),
    (r"\.fc2\.", ".feedforward.2."),
    (r"\.final_layer_norm\.", ".feedforward_norm."),
)
_PARTS: tuple[tuple[str, str, tuple[Renaming, ...]], ...] = (
    ("model.pixel_level_module.encoder.", "backbone.", _SWIN + _RESNET),
    ("model.pixel_level_module.decoder.", "pixel_decoder.", _PIXEL_DECODER),
    ("model.transformer_module.", "decoder.", _DECODER),
    ("class_predictor.", "decoder.class_head.", ()),
)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, float32, by our names.

    Raises:
        UserError: no safetensors there, files that cannot be read, names that no Mask2Former has.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    if not _UNUSED.search(name):
                        tensors[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"'{file}' is not a readable safetensors file ({error}); is it complete?") from error
    try:
        return translate(tensors)
    except (RuntimeError, ValueError) as error:  # of cutting and joining matrices
        raise UserError(f"the weights in '{folder}' have shapes that no Mask2Former has ({error})") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, one or the shards that its index names.

    Raises:
        UserError: none, only pickles, an index that names a file outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = _shards(folder / INDEX)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UserError(f"'{folder}' lacks {missing[0]}, one of {len(names)} files that {INDEX} names")
        return [folder / name for name in names]
    if pickles := sorted(path.name for path in folder.glob("*.bin")):
        raise UserError(
            f"'{folder}' holds {pickles[0]} alone, a pickle, which is never loaded: loading one runs whatever code is "
            f"in it; convert it to safetensors where you trust it, or take the repository's {WEIGHTS}"
        )
    raise UserError(f"'{folder}' holds neither {WEIGHTS} nor {INDEX}")


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names there -> by our names, as float32 (counters stay integers).

    Raises:
        UserError: a name that is not one of a Mask2Former.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found[_renamed(name)] = tensor.float() if tensor.is_floating_point() else tensor
    result: dict[str, Tensor] = {}
    for name, tensor in found.items():
        stem, query, kind = name.rpartition(".q.")
        if ".split." in name:  # one matrix there, three here
            for part, piece in zip(_QKV.values(), tensor.chunk(3), strict=True):
                result[name.replace(".split.", f".{part}.")] = piece
        elif query and stem.endswith(".qkv"):  # three there, one here
            parts = [found.get(f"{stem}.{letter}.{kind}") for letter in _QKV]
            result[f"{stem}.{kind}"] = torch.cat([part for part in parts if part is not None])
        elif not re.search(r"\.qkv\.[kv]\.", name):
            result[name] = tensor
    return result


def _renamed(name: str) -> str:
    for there, here, renamings in _PARTS:
        if name.startswith(there):
            rest = name.removeprefix(there)
            for pattern, replacement in renamings:
                rest = re.sub(pattern, replacement, rest)
            return here + rest
    raise UserError(f"the weights hold '{name}', which a Mask2Former for segmentation does not have")


def _shards(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise UserError(f"'{path}' is larger than {_MAX_INDEX_BYTES} bytes: no index of weights")
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' is not an index of weights ({type(error).__name__}: {error})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != ".safetensors":
            raise UserError(f"'{path}' names '{name}'; expected safetensors files beside it")
    return names
