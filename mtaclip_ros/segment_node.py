"""The node `mtaclip`: camera images in, labels out. Wiring only; the work is in the modules that it joins.

Run without `ros2 launch`:

    python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args
from std_srvs.srv import SetBool

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.runtime.segmenter import Segmenter
from mtaclip_ros.camera_set import CameraSet
from mtaclip_ros.diagnostics import Diagnostics, Health
from mtaclip_ros.engine import Engine, describe_model, load_wanted
from mtaclip_ros.parameter_declaration import declare, declare_cameras
from mtaclip_ros.parameters import SPECS, Parameters, misspelt
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

    Args:
        load: loads the model; called again when it broke.

    Attributes:
        parameters: the values in use.
        last_error: why the last transition failed, in one line.

    Raises:
        UserError: a parameter override of the wrong type or out of range.
    """

    def __init__(self, load: Callable[[Parameters], Segmenter] = load_wanted, **kwargs: Any) -> None:
        super().__init__(NODE_NAME, **kwargs)
        self.last_error = ""
        self._load = load
        self._phase = "unconfigured"
        self._enabled = True
        self._engine: Engine | None = None
        self._cameras: CameraSet | None = None
        self.parameters = declare(self)
        for line in misspelt(self._parameter_overrides, self.parameters.cameras):
            self._warn(line)
        self.add_on_set_parameters_callback(self._set_parameters)
        self._enable_service = self.create_service(SetBool, "~/enable", self._enable)
        self._diagnostics = Diagnostics(self, self._health, self._current)

    @_explained
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        wanted = self.parameters = declare_cameras(self, self.parameters)
        engine = Engine(lambda: self._load(wanted), self._warn)
        model = engine.open()
        try:
            self._cameras = CameraSet(self, self._current, engine, model.space)
        except Exception:
            engine.close()
            raise
        self._engine = engine
        self.last_error = ""
        self._phase = "inactive"
        self.get_logger().info(f"model {describe_model(model)}")
        return SUCCESS

    @_explained
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._cameras is not None and self._enabled:
            self._cameras.start()
        self._phase = "active"
        return super().on_activate(state)

    @_explained
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._cameras is not None:
            self._cameras.stop()
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

    def build(self) -> bool:
        """Load the model, building its engine where the backend has one, and say what it is. False as `bring_up`."""
        start = time.monotonic()
        if self.trigger_configure() != SUCCESS or self._engine is None:
            return False
        model = self._engine.state.segmenter
        assert model is not None
        print(f"built {describe_model(model)} in {time.monotonic() - start:.1f} s")
        return True

    def destroy_node(self) -> None:
        self._release()
        super().destroy_node()

    def _release(self) -> None:
        if self._cameras is not None:
            self._cameras.close()
        if self._engine is not None:
            self._engine.close()
        self._cameras = self._engine = None
        self._phase = "unconfigured"

    def _warn(self, line: str) -> None:
        self.get_logger().warning(line)

    def _current(self) -> Parameters:
        return self.parameters

    def _set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        specs = self.parameters.specs
        ours = {p.name: p.value for p in changes if p.name in specs}
        try:
            wanted = self.parameters.updated(ours)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        fixed = [name for name in ours if specs[name].changes == "unconfigured"]
        if fixed and self._phase != "unconfigured":
            reason = f"'{fixed[0]}' can change only while the node is unconfigured: clean it up first"
            return SetParametersResult(successful=False, reason=reason)
        self.parameters = wanted
        return SetParametersResult(successful=True)

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._cameras is not None and self._phase == "active" and request.data != self._enabled:
            try:
                self._cameras.start() if request.data else self._cameras.stop()
            except UserError as error:
                response.success, response.message = False, " ".join(str(error).split())
                return response
        self._enabled = request.data
        response.success = True
        response.message = f"{'enabled' if request.data else 'disabled'}, {self._phase}"
        return response

    def _health(self) -> Health:
        return Health(
            state=self._phase,
            enabled=self._enabled,
            last_error=self.last_error,
            engine=None if self._engine is None else self._engine.state,
            cameras=() if self._cameras is None else tuple(line.health for line in self._cameras.lines),
        )


def main(argv: list[str], load: Callable[[Parameters], Segmenter] = load_wanted) -> int | None:
    """Run the node until it is told to stop; with `build_only` until the model is built.

    Returns:
        2 when autostart or the build failed; the log says why.

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
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also while the model is loaded
        # the first remap rule that fits wins, so the user's own goes before this default
        rclpy.init(args=["segment_node", *argv, "--ros-args", "-r", f"image:={DEFAULT_IMAGE}"])
        node = SegmentNode(load)
        if node.parameters.build_only:
            return 0 if node.build() else 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.autostart and not node.bring_up():
            return 2
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (RuntimeError, ParameterException) as error:  # RCLError; use_sim_time of the wrong type
        if node is not None:
            raise
        raise UserError(str(error.args[0]).splitlines()[0]) from error
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # some launchers send a second one while the first is obeyed
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return None


if __name__ == "__main__":
    run(main)
