"""The one line on silence, the choice of reliability, and the process settings for large images."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mtaclip_ros.silence import Offer, explain, wants_reliable
from mtaclip_ros.transport import share_directory, transport_environment

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
RELIABLE, BEST_EFFORT = Offer("/a", IMAGE, True), Offer("/b", IMAGE, False)


@pytest.mark.parametrize(
    ("setting", "offers", "reliable"),
    [
        ("auto", [], False),
        ("auto", [RELIABLE], True),
        ("auto", [RELIABLE, RELIABLE], True),
        ("auto", [RELIABLE, BEST_EFFORT], False),
        ("auto", [RELIABLE, Offer("/c", COMPRESSED, False)], True),
        ("reliable", [BEST_EFFORT], True),
        ("best_effort", [RELIABLE], False),
    ],
)
def test_auto_asks_for_reliable_when_all_publishers_of_the_type_offer_it(
    setting: str, offers: list[Offer], reliable: bool
) -> None:
    assert wants_reliable(setting, offers, IMAGE) is reliable


@pytest.mark.parametrize(
    ("reliable", "offers", "elsewhere", "rmw", "words"),
    [
        (False, [], ["/front/image"], "rmw_fastrtps_cpp", ["0 publishers", "/front/image", "set image_topic"]),
        (False, [], [], "rmw_fastrtps_cpp", ["nobody publishes", "ROS_DOMAIN_ID"]),
        (False, [Offer("/a", COMPRESSED, True)], [], "rmw_fastrtps_cpp", ["/a offers", "set image_transport"]),
        (True, [BEST_EFFORT], [], "rmw_fastrtps_cpp", ["/b offers best effort", "set image_reliability to auto"]),
        (True, [RELIABLE], [], "rmw_fastrtps_cpp", ["1 publisher:", "0.5 MiB", "fastdds_large_images.xml"]),
        (False, [RELIABLE, BEST_EFFORT], [], "rmw_cyclonedds_cpp", ["2 publishers:", "rmem_max"]),
    ],
)
def test_silence_names_who_publishes_and_what_to_change(
    reliable: bool, offers: list[Offer], elsewhere: list[str], rmw: str, words: list[str]
) -> None:
    line = explain(IMAGE, reliable, offers, elsewhere, rmw)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_transport_settings_are_added_unless_the_user_chose_his_own() -> None:
    added = transport_environment({})
    assert set(added) == {"FASTDDS_DEFAULT_PROFILES_FILE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    profile = Path(added["FASTDDS_DEFAULT_PROFILES_FILE"])
    assert profile.parent.parent == share_directory()
    sizes = [e.text for e in ElementTree.parse(profile).iter() if e.tag.endswith("segment_size")]
    assert sizes == [str(64 * 2**20)]
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        assert "FASTDDS_DEFAULT_PROFILES_FILE" not in transport_environment({name: "own"})
    assert set(transport_environment({"MALLOC_TRIM_THRESHOLD_": "1"})) == {"FASTDDS_DEFAULT_PROFILES_FILE"}
    assert transport_environment(added) == {}
