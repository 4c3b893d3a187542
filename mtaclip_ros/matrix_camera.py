"""A camera for `transport_matrix`: publishes images of one size at one rate, from a process of its own.

Writes two lines of JSON to stdout: `{"sending": true}` when a subscriber has settled and the first image leaves, and
`{"sent": N, "refused": N, "seconds": S}` at the end.
"""

from __future__ import annotations

import json
import time

from mtaclip_core.cli import Parser, run, size
from mtaclip_ros.bag_player import wait_for_subscribers
from mtaclip_ros.processes import die_with_parent, exit_on_sigterm

_DEPTH = 5  # what camera drivers have
_WAIT_FOR_SUBSCRIBER = 30.0


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.matrix_camera",
        description="Publish grey images for a transport measurement; does not touch the transport settings.",
        epilog="example:\n  python -m mtaclip_ros.matrix_camera --topic /t --size 480x640 --rate 30 "
        "--reliability reliable",
    )
    parser.add_argument("--topic", required=True)
    parser.add_argument("--size", type=size, required=True, metavar="HxW", help="of the bgr8 image")
    parser.add_argument("--rate", type=float, required=True, help="images a second")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), required=True)
    parser.add_argument("--seconds", type=float, default=7.0, help="how long to publish (default 7)")
    args = parser.parse_args(argv)
    die_with_parent()
    exit_on_sigterm()
    send(args.topic, args.size, args.rate, args.reliability == "reliable", args.seconds)
    return None


def send(topic: str, image_size: tuple[int, int], rate: float, reliable: bool, seconds: float) -> None:
    """Publish `seconds * rate` images at `rate`, stamped when they leave.

    Raises:
        UserError: nobody subscribes within 30 s.
    """
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("matrix_camera")
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    publisher = node.create_publisher(Image, topic, QoSProfile(depth=_DEPTH, reliability=reliability))
    height, width = image_size
    message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    message.data.frombytes(bytes([128]) * (3 * width * height))
    wait_for_subscribers(node, [topic], 1, _WAIT_FOR_SUBSCRIBER)
    print(json.dumps({"sending": True}), flush=True)
    refused, count = 0, round(seconds * rate)
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        try:
            publisher.publish(message)
        except RuntimeError:  # RCLError: the queue of a reliable publisher is full
            refused += 1
    took = time.monotonic() - start
    time.sleep(0.5)  # for what is on the way
    print(json.dumps({"sent": count, "refused": refused, "seconds": round(took, 2)}), flush=True)
    rclpy.try_shutdown()


if __name__ == "__main__":
    run(main)
