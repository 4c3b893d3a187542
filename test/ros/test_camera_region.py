"""Region of interest and mask: what the model sees, and where its labels land."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import Segmentation
from mtaclip_ros.camera_region import Region
from mtaclip_ros.frame import BadImage, Frame

H, W = 20, 30
RANDOM = np.random.default_rng(0)


def frame(height: int = H, width: int = W) -> Frame:
    return Frame(RANDOM.integers(0, 256, (height, width, 3), np.uint8), "bgr")


def segmented(seen: Frame) -> Segmentation:
    """Labels below 11 and confidences above 0, made of the pixels themselves."""
    return Segmentation(seen.pixels[..., 0] % 11, np.maximum(seen.pixels[..., 1], 1))


def hood(folder: Path, pixels: np.ndarray, name: str = "hood.png") -> str:
    cv2.imwrite(str(folder / name), pixels)
    return str(folder / name)


def through(region: Region, whole: Frame) -> Segmentation:
    return region.restore(segmented(region.cut(whole)), *whole.pixels.shape[:2])


def test_without_region_and_mask_nothing_is_copied() -> None:
    region, whole = Region.load([], ""), frame()
    found = segmented(whole)
    assert region.trivial
    assert region.cut(whole) is whole
    assert region.restore(found, H, W) is found


@pytest.mark.parametrize(
    "roi", [[0, 0, W, H], [0, 0, 1, 1], [W - 1, H - 1, 1, 1], [3, 5, 10, 7], [0, 5, W, 9], [7, 0, 4, H]]
)
@pytest.mark.parametrize("masked", [False, True])
def test_labels_land_on_the_pixels_they_are_of_and_nowhere_else(tmp_path: Path, roi: list[int], masked: bool) -> None:
    x, y, width, height = roi
    wanted = np.zeros((H, W), bool)
    wanted[y : y + height, x : x + width] = True
    mask = ""
    if masked:
        keep = RANDOM.integers(0, 2, (H, W), np.uint8)
        keep[y, x] = 1
        mask = hood(tmp_path, keep * 255)
        wanted &= keep == 1
    region, whole = Region.load(roi, mask), frame()
    assert not region.trivial
    seen = region.cut(whole)
    assert seen.pixels.shape == (height, width, 3) and seen.channel_order == "bgr"
    assert np.shares_memory(seen.pixels, whole.pixels)
    found, everywhere = through(region, whole), segmented(whole)
    np.testing.assert_array_equal(found.label, np.where(wanted, everywhere.label, 255))
    np.testing.assert_array_equal(found.confidence, np.where(wanted, everywhere.confidence, 0))
    for result in (found.label, found.confidence):
        assert result.dtype == np.uint8 and result.flags.c_contiguous


def test_the_result_of_the_model_is_not_written_into(tmp_path: Path) -> None:
    region = Region.load([], hood(tmp_path, np.eye(H, W, dtype=np.uint8)))
    found = segmented(frame())
    before = found.label.copy()
    region.restore(found, H, W)
    np.testing.assert_array_equal(found.label, before)


def test_masks_may_be_grey_colour_transparent_16_bit_or_of_any_value(tmp_path: Path) -> None:
    keep = RANDOM.integers(0, 2, (H, W), np.uint8)
    blue = np.stack([keep, 0 * keep, 0 * keep], axis=-1)  # 0 as grey, but not black
    clear = np.dstack([blue, np.full_like(keep, 255)])
    whole = frame()
    expected = np.where(keep, segmented(whole).label, 255)
    for i, pixels in enumerate((keep, keep * 200, blue, clear, keep.astype(np.uint16) * 256)):
        found = through(Region.load([], hood(tmp_path, pixels, f"{i}.png")), whole)
        np.testing.assert_array_equal(found.label, expected)


@pytest.mark.parametrize("size", [(H - 1, W), (H, W + 1), (1, 1)])
def test_a_camera_that_changes_its_size_is_told_apart_from_its_mask(tmp_path: Path, size: tuple[int, int]) -> None:
    region = Region.load([1, 1, 2, 2], hood(tmp_path, np.ones((H, W), np.uint8)))
    with pytest.raises(BadImage, match=rf"{size[0]}x{size[1]}.*{H}x{W}") as caught:
        region.cut(frame(*size))
    assert caught.value.reason == "size"


def test_a_frame_that_is_too_small_for_the_region_is_refused() -> None:
    region = Region.load([5, 5, 20, 10], "")
    assert region.cut(frame(15, 25)).pixels.shape == (10, 20, 3)
    for size in ((14, 25), (15, 24)):
        with pytest.raises(BadImage, match=r"roi \[5, 5, 20, 10\]") as caught:
            region.cut(frame(*size))
        assert caught.value.reason == "size"


@pytest.mark.parametrize("roi", [[1], [0, 0, 5], [0, 0, 5, 5, 5], [-1, 0, 5, 5], [0, 0, 0, 5], [0, 0, 5, -5]])
def test_a_roi_that_is_none_is_refused_in_one_line(roi: list[int]) -> None:
    with pytest.raises(UserError, match="roi must be") as caught:
        Region.load(roi, "")
    assert str(roi) in str(caught.value) and "\n" not in str(caught.value)


def test_a_mask_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    good = hood(tmp_path, np.ones((H, W), np.uint8))
    half = tmp_path / "half.png"
    half.write_bytes(Path(good).read_bytes()[:-20])
    (tmp_path / "text.png").write_text("no picture")
    cases = {
        str(tmp_path / "absent.png"): "cannot read mask",
        str(tmp_path): "cannot read mask",
        str(half): "cut off",
        str(tmp_path / "text.png"): "neither JPEG nor PNG",
        hood(tmp_path, np.zeros((H, W), np.uint8), "black.png"): "leaves no pixel",
    }
    for path, words in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            Region.load([], path)
        assert path in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="reaches out of the mask"):
        Region.load([0, 0, W + 1, 5], good)
