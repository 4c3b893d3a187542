"""The node `mtaclip`: camera images in, labels out. Wiring only; the work is in the modules that it joins.

Run without `ros2 launch`:

    python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args
from std_srvs.srv import SetBool

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.runtime.segmenter import Segmenter, load_segmenter
from mtaclip_ros.camera_line import CameraLine
from mtaclip_ros.diagnostics import Diagnostics, Health
from mtaclip_ros.parameters import SPECS, Parameters, declare, misspelt
from mtaclip_ros.transport import prepare_process

NODE_NAME = "mtaclip"
DEFAULT_IMAGE = "/camera/image_raw"
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Transition = Callable[[Any, LifecycleState], TransitionCallbackReturn]


def _explained(transition: Transition) -> Transition:
    """What the user got wrong is a refused transition and one line; a fault is logged, since rclpy would hide it."""

    @functools.wraps(transition)
    def wrapper(node: SegmentNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except UserError as error:
            node.last_error = " ".join(str(error).split())
            node.get_logger().error(node.last_error)
            return FAILURE
        except Exception as error:
            node.last_error = f"{type(error).__name__}: {error}"
            node.get_logger().error(f"{transition.__name__} failed: {node.last_error}")
            raise

    return wrapper


class SegmentNode(LifecycleNode):
    """configure loads the model and makes the publishers, activate listens, deactivate stops, cleanup frees.

    Attributes:
        parameters: the values in use.
        last_error: why the last transition failed, in one line.

    Raises:
        UserError: a parameter override of the wrong type or out of range.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(NODE_NAME, **kwargs)
        self.last_error = ""
        self._phase = "unconfigured"
        self._enabled = True
        self._segmenter: Segmenter | None = None
        self._line: CameraLine | None = None
        self.parameters = declare(self)
        for line in misspelt(self._parameter_overrides):
            self.get_logger().warning(line)
        self.add_on_set_parameters_callback(self._set_parameters)
        self._enable_service = self.create_service(SetBool, "~/enable", self._enable)
        self._diagnostics = Diagnostics(self, self._health, self._current)

    @_explained
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        wanted = self.parameters
        self._release()
        self._segmenter = load_segmenter(
            wanted.model_path,
            wanted.model_backend,
            precision=wanted.model_precision,
            threads=wanted.model_threads or None,
            verify=wanted.model_verify,
        )
        self._line = CameraLine(self, self._current, self._segmenter, wanted.image_topic)
        self.last_error = ""
        self._phase = "inactive"
        model = self._segmenter
        self.get_logger().info(
            f"model {model.name} ({model.model_hash[:12]}), {len(model.space)} classes, "
            f"{model.network_size[0]}x{model.network_size[1]}, {model.backend} {model.precision}"
        )
        return SUCCESS

    @_explained
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._line is not None and self._enabled:
            self._line.start()
        self._phase = "active"
        return super().on_activate(state)

    @_explained
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._line is not None:
            self._line.stop()
        self._phase = "inactive"
        return super().on_deactivate(state)

    @_explained
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    @_explained
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._phase = "finalized"
        return super().on_shutdown(state)

    @_explained
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after a fault, so that the node can be configured again."""
        self._release()
        return SUCCESS

    def bring_up(self) -> bool:
        """Configure and activate. False when one failed: `last_error` says why, and so does the log."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _release(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._segmenter is not None:
            self._segmenter.close()
        self._line = self._segmenter = None
        self._phase = "unconfigured"

    def _current(self) -> Parameters:
        return self.parameters

    def _set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        ours = {p.name: p.value for p in changes if p.name in SPECS}
        try:
            wanted = self.parameters.updated(ours)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        fixed = [name for name in ours if SPECS[name].changes == "unconfigured"]
        if fixed and self._phase != "unconfigured":
            reason = f"'{fixed[0]}' can change only while the node is unconfigured: clean it up first"
            return SetParametersResult(successful=False, reason=reason)
        self.parameters = wanted
        return SetParametersResult(successful=True)

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._line is not None and self._phase == "active" and request.data != self._enabled:
            if request.data:
                self._line.start()
            else:
                self._line.stop()
        self._enabled = request.data
        response.success = True
        response.message = f"{'enabled' if request.data else 'disabled'}, {self._phase}"
        return response

    def _health(self) -> Health:
        line = self._line
        return Health(
            state=self._phase,
            enabled=self._enabled,
            topic=line.input.topic if line else self.parameters.image_topic,
            segmenter=self._segmenter,
            statistics=line.statistics.snapshot() if line else None,
            last_error=line.last_failure if line else self.last_error,
        )


def main(argv: list[str]) -> int | None:
    """Run the node until it is told to stop.

    Returns:
        2 when autostart failed; the log says why.

    Raises:
        UserError: wrong arguments or parameters.
    """
    epilog = "example: python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml\n"
    epilog += "\nparameters (-p NAME:=VALUE):\n"
    epilog += "".join(f"  {s.name:<28}{s.description} [{s.default}]\n" for s in SPECS.values())
    parser = Parser(prog="segment_node", description="Label camera images: the ROS 2 node 'mtaclip'.", epilog=epilog)
    node = None
    try:
        parser.parse_args(remove_ros_args(["segment_node", *argv])[1:])
        prepare_process()
        # the first remap rule that fits wins, so the user's own goes before this default
        rclpy.init(args=["segment_node", *argv, "--ros-args", "-r", f"image:={DEFAULT_IMAGE}"])
        node = SegmentNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.autostart and not node.bring_up():
            return 2
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError as error:  # RCLError
        if node is not None:
            raise
        raise UserError(str(error).splitlines()[0]) from error
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return None


if __name__ == "__main__":
    run(main)
