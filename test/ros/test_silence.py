"""The line on missing images: what it says, which reliability is asked for, what is counted as lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtaclip_ros.loss import LossWatch
from mtaclip_ros.silence import Offer, Situation, explain, wants_reliable
from mtaclip_ros.transport_hint import Machine, discovery_hint, transport_hint

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
RELIABLE, BEST_EFFORT = Offer("/a", IMAGE, True), Offer("/b", IMAGE, False)
FAST, CYCLONE, ZENOH = "rmw_fastrtps_cpp", "rmw_cyclonedds_cpp", "rmw_zenoh_cpp"
ROOMY = Machine(shared_memory=2**34, small_segments=True, receive_buffer=2**26)


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
    ("situation", "words"),
    [
        (
            Situation(IMAGE, False, [], ["/front/image"]),
            ["0 publishers", "is on: /front/image; remap 'image' or set image_topic"],
        ),
        (
            Situation(IMAGE, False, [], setting="camera.left.image", elsewhere=["/b"]),
            ["is on: /b; set camera.left.image"],
        ),
        (Situation(IMAGE, False, []), ["nobody publishes", "start the camera", "ROS_DOMAIN_ID"]),
        (Situation(IMAGE, False, [], sibling="/c/compressed"), ["/c/compressed", "set image_transport to compressed"]),
        (Situation(COMPRESSED, False, [], sibling="/c"), ["/c has a publisher", "set image_transport to raw"]),
        (Situation(IMAGE, False, [Offer("/a", COMPRESSED, True)]), ["/a offers", "image_transport to compressed"]),
        (Situation(COMPRESSED, False, [RELIABLE]), ["/a offers", "set image_transport to raw"]),
        (Situation(IMAGE, True, [BEST_EFFORT]), ["/b offers best effort", "set image_reliability to auto"]),
        (Situation(IMAGE, True, [RELIABLE], connected=0), ["not connected", "same middleware"]),
        (Situation(IMAGE, True, [RELIABLE], connected=1, hint="do it"), ["1 publisher:", "send nothing", "do it"]),
        (
            Situation(IMAGE, False, [RELIABLE, BEST_EFFORT], lost=7, hint="do it"),
            ["2 publishers:", "7 images", "do it"],
        ),
        (Situation(IMAGE, False, [RELIABLE], camera_info=True), ["camera_info arrives"]),
        (
            Situation(IMAGE, False, [Offer("/_NODE_NAME_UNKNOWN_", IMAGE, True)]),
            ["1 publisher: a nameless node offers"],
        ),
    ],
)
def test_silence_names_who_publishes_and_what_to_change(situation: Situation, words: list[str]) -> None:
    line = explain(situation)
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("rmw", "same_host", "image_bytes", "machine", "word"),
    [
        (FAST, True, 10**6, ROOMY, "fastdds_large_images.xml"),
        (FAST, None, None, ROOMY, "fastdds_large_images.xml"),
        (FAST, True, 10**5, ROOMY, ""),  # fits the default segment
        (FAST, True, 10**6, replace(ROOMY, small_segments=False), "large enough"),
        (FAST, True, 10**6, replace(ROOMY, shared_memory=2**26), "/dev/shm has 64 MiB"),
        (FAST, False, 10**6, replace(ROOMY, receive_buffer=212992), "net.core.rmem_max"),
        (FAST, False, 10**6, ROOMY, ""),
        (FAST, True, 10**6, replace(ROOMY, udp_only=True), "unset FASTDDS_BUILTIN_TRANSPORTS"),
        (CYCLONE, None, 10**6, replace(ROOMY, receive_buffer=212992), "net.core.rmem_max"),
        (CYCLONE, None, 10**6, ROOMY, ""),
        (ZENOH, None, 10**6, ROOMY, "ZENOH_CONFIG_OVERRIDE"),
        ("rmw_connextdds", None, 10**6, ROOMY, ""),
    ],
)
def test_the_transport_hint_fits_the_middleware_and_the_machine(
    rmw: str, same_host: bool | None, image_bytes: int | None, machine: Machine, word: str
) -> None:
    hint = transport_hint(rmw, same_host, image_bytes, machine)
    assert word in hint
    assert bool(hint) == bool(word)


def test_an_unseen_camera_is_looked_for_by_domain_and_router() -> None:
    assert "ROS_DOMAIN_ID 7" in discovery_hint(FAST, replace(ROOMY, domain="7"))
    assert "router" not in discovery_hint(FAST, ROOMY)
    assert "rmw_zenohd" in discovery_hint(ZENOH, ROOMY)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(reliable: bool) -> tuple[LossWatch, Clock]:
    clock = Clock()
    loss_watch = LossWatch(clock)
    loss_watch.restart(reliable)
    return loss_watch, clock


def test_a_reliable_publishers_gaps_in_numbers_are_lost_images() -> None:
    losses, clock = watch(reliable=True)
    lost = 0
    for tick in range(100):  # every fourth of each of two publishers arrives
        clock.now += 0.05
        if tick % 4 == 0:
            lost += losses.image(tick, b"left", 40 + tick) + losses.image(tick, b"right", 7 + tick)
    assert lost == 2 * 24 * 3
    estimate = losses.estimate(4.0)
    assert estimate is not None
    assert estimate.share == pytest.approx(0.75)
    assert estimate.source == "sequence numbers"


def test_a_publisher_that_starts_again_has_lost_nothing() -> None:
    losses, clock = watch(reliable=True)
    for number in (998, 999, 1, 2):
        clock.now += 2.0
        assert losses.image(number, b"a", number) == 0
    assert losses.estimate(5.0).share == 0  # type: ignore[union-attr]


def test_best_effort_counts_what_the_middleware_lost_and_not_what_it_replaced() -> None:
    losses, clock = watch(reliable=False)
    for number in range(1, 61, 3):  # the two between were replaced in the queue of a busy process
        clock.now += 0.3
        assert losses.image(number, b"a", number) == 0
    assert losses.estimate(5.0).lost == 0  # type: ignore[union-attr]
    assert losses.event(16) == 16
    estimate = losses.estimate(5.0)
    assert estimate is not None
    assert (estimate.lost, estimate.published, estimate.source) == (16, 33, "the middleware")


def test_without_numbers_camera_info_shows_the_loss() -> None:
    losses, clock = watch(reliable=True)
    for stamp in range(60):
        clock.now += 0.1
        losses.info(stamp)
        if stamp % 3 == 0:
            losses.image(stamp, b"", None)
    estimate = losses.estimate(5.0)
    assert estimate is not None
    assert estimate.share == pytest.approx(2 / 3, abs=0.03)
    assert estimate.source == "camera_info"


def test_camera_info_of_another_clock_shows_no_loss() -> None:
    losses, clock = watch(reliable=True)
    for stamp in range(60):
        clock.now += 0.1
        losses.info(10**9 + stamp)
        losses.image(stamp, b"", None)
    assert losses.estimate(5.0).share == 0  # type: ignore[union-attr]


def test_nothing_is_said_before_the_time_is_over_or_without_images() -> None:
    losses, clock = watch(reliable=True)
    losses.image(0, b"a", 1)
    assert losses.estimate(5.0) is None
    clock.now += 60.0
    assert losses.estimate(5.0) is None
