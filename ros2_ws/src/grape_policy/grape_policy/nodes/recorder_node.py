"""The recorder: writes every recorded topic of the contract into one folder per episode.

Messages are written as they arrive, serialised; only actions are decoded, to count the steps. Subscriptions
live as long as the node, so that starting an episode takes no discovery and latched messages are at hand.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from grape_episodes import contract
from grape_episodes.bag import FLUSH_SECONDS
from grape_episodes.calibration import load_extrinsics
from grape_episodes.catalogue import Catalogue
from grape_episodes.manifest import PART_SUFFIX, read_manifest, start_manifest
from grape_episodes.messages import header_stamp_ns
from grape_episodes.quarantine import quarantine
from grape_episodes.recovery import recover
from grape_episodes.stop_reasons import StopReason
from grape_episodes.types import OUTCOMES, EpisodeError
from grape_episodes.writer import EpisodeWriter
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy

from grape_policy.nodes import base
from grape_policy.nodes.messages import interface_type
from grape_policy.nodes.parameters import Parameter
from grape_policy.nodes.peers import PEER_RATE_HZ, Peers
from grape_policy.nodes.waiting import Waiter

PARAMETERS = (
    Parameter("episodes_folder", "runs/episodes", "folder of all episodes and of their catalogue.sqlite"),
    Parameter(
        "calibration", "", "file of `grape calibrate`: where the camera is; empty: the contract's pose"
    ),
    Parameter("minimum_free_gigabytes", 1.0, "refuse to record with less free disk space", 0.0, 1e6, "GB"),
    Parameter(
        "start_timeout_seconds", 5.0, "wait this long for the first message of each sensor", 0.1, 60.0, "s"
    ),
    Parameter("stop_timeout_seconds", 2.0, "wait this long for what is still on its way", 0.0, 60.0, "s"),
)
CATALOGUE_NAME = "catalogue.sqlite"
OPTIONAL = ("action_chunk",)  # only a policy that predicts chunks publishes it
QUEUE_DEPTH = 50  # a slow disk may hold up writing for this many messages of a topic
# An episode has begun when one message of each of these is in the file.
IMAGES = ("color_image", "depth_image")  # the reader wants both of the last moment
OBSERVATIONS = ("color_image", "depth_image", "camera_info", "joint_states", "end_effector_pose")


class RecorderNode(base.ManagedNode):
    """Serves start and stop of recordings; one episode at a time."""

    def __init__(self) -> None:
        super().__init__("recorder", PARAMETERS)
        self._root = Path(self.parameters.episodes_folder).expanduser().absolute()

    def configure(self) -> None:
        """Take the folder and recover what an earlier recorder left unfinished in it."""
        calibration = self.parameters.calibration
        self._extrinsics = load_extrinsics(Path(calibration).expanduser()) if calibration else None
        self._lock = _lock(self._root)
        self._catalogue = Catalogue(self._root / CATALOGUE_NAME)
        self._catalogue.rebuild(self._root)  # a kill may have come between an episode's end and its entry
        self._recover_unfinished()

    def activate(self) -> None:
        """Listen to all recorded topics and serve recordings."""
        self._writer: EpisodeWriter | None = None
        self._untidy = False  # whether an episode could not be closed or listed
        self._failure = ""  # why the open episode can no longer be written
        self._seen: set[str] = set()
        self._image_ns = dict.fromkeys(IMAGES, 0)  # stamps of the latest images in the file
        self._latched: dict[str, bytes] = {}
        recorded = {key: topic for key, topic in contract.topics().items() if topic.recorded}
        self._inputs = {key: self._subscribe(key, topic) for key, topic in recorded.items()}
        waiting = ReentrantCallbackGroup()  # messages go on arriving while a service waits for them
        self._waiter = Waiter(self, waiting)
        base.service(self, "start_recording", self._start, callback_group=waiting)
        base.service(self, "stop_recording", self._stop, callback_group=waiting)
        self.create_timer(FLUSH_SECONDS, self._flush)
        base.heartbeat(self, "recorder", PEER_RATE_HZ)
        Peers(self, ("episode_manager",), self._on_lost)
        self.get_logger().info(f"recording to {self._root}")

    def _on_lost(self, name: str) -> None:
        """Close an episode that nobody runs any more."""
        if self._writer is not None:
            self._abort(f"the {name} node has ended or hangs; its log says why")

    def deactivate(self) -> None:
        """Close an open episode as aborted."""
        if self._writer is not None:
            self._abort("the recorder was shut down")
        with suppress(EpisodeError):
            self._tidy()

    def cleanup(self) -> None:
        """Release the folder."""
        self._lock.close()

    def _subscribe(self, key: str, topic: contract.Topic) -> Any:
        profile = base.qos_profile(key)
        latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        profile.depth = max(profile.depth, QUEUE_DEPTH)
        callback = self._callback(key, topic, latched)
        if key == "camera_info":  # drivers that are not ours do not latch it: they repeat it
            profile.durability = DurabilityPolicy.VOLATILE
            self.create_subscription(interface_type(topic.type), topic.name, callback, profile, raw=True)
            profile = base.qos_profile(key)
        return self.create_subscription(interface_type(topic.type), topic.name, callback, profile, raw=True)

    def _callback(self, key: str, topic: contract.Topic, latched: bool) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            if latched:
                self._latched[key] = data
            if self._writer is not None:
                self._write(key, topic, data)

        return receive

    def _write(self, key: str, topic: contract.Topic, data: bytes) -> None:
        assert self._writer is not None
        if self._failure:
            return
        try:
            self._writer.write_raw(topic.name, topic.type, data, time.time_ns())
            self._seen.add(key)
            if key in self._image_ns:
                self._image_ns[key] = header_stamp_ns(data)
        except EpisodeError as error:
            self._fail(error)

    def _flush(self) -> None:
        if self._writer is None or self._failure:
            return
        try:
            self._writer.flush()
        except EpisodeError as error:
            self._fail(error)

    def _fail(self, error: EpisodeError) -> None:
        self._failure = str(error)
        self.get_logger().error(self._failure)

    async def _start(self, request: Any, response: Any) -> Any:
        """Open an episode; answer when the first message of every sensor is in it."""
        writer = None
        try:
            writer = self._open(request)
            seconds = self.parameters.start_timeout_seconds
            await self._waiter.until(lambda: bool(self._failure) or not self._missing(), seconds)
            missing = self._missing()
            if self._failure or missing or self._writer is not writer:
                problem = self._failure or missing or "the recording was stopped while it started"
                raise EpisodeError(f"Cannot record: {problem}", writer.part, "Check that all nodes run.")
        except EpisodeError as error:
            self._drop(writer)
            response.success, response.message = False, str(error)
            return response
        response.success, response.path = True, str(writer.folder)
        return response

    def _open(self, request: Any) -> EpisodeWriter:
        if self._writer is not None:
            self._abort("another recording was started")
        self._tidy()
        free = shutil.disk_usage(self._root).free / 1e9
        if free < self.parameters.minimum_free_gigabytes:
            needed = self.parameters.minimum_free_gigabytes
            what = f"Only {free:.2f} GB of disk space is free, {needed} GB are needed"
            raise EpisodeError(what, self._root, "Delete old episodes or choose another episodes_folder.")
        names = (
            "episode_id",
            "task",
            "instruction",
            "initial_state_id",
            "policy_version",
            "temperature",
            "seed",
        )
        fields = {name: getattr(request, name) for name in names}
        manifest = start_manifest(**fields, source="ros", extrinsics=self._extrinsics)
        self._writer = EpisodeWriter(self._root, manifest)
        self._failure, self._seen, self._image_ns = "", set(), dict.fromkeys(IMAGES, 0)
        for key, data in self._latched.items():
            self._write(key, contract.topics()[key], data)
        return self._writer

    def _missing(self) -> str:
        needed = {key: entry for key, entry in self._inputs.items() if key not in OPTIONAL}
        unmatched = [key for key, entry in needed.items() if entry.get_publisher_count() == 0]
        silent = [key for key in OBSERVATIONS if key not in self._seen and key not in unmatched]
        parts = []
        if unmatched:
            parts.append(f"nothing publishes {', '.join(contract.topics()[key].name for key in unmatched)}")
        if silent:
            parts.append(f"no message arrives on {', '.join(contract.topics()[key].name for key in silent)}")
        return "; ".join(parts)

    def _seen_since(self, stamp_ns: int) -> bool:
        return min(self._image_ns.values()) > stamp_ns

    def _drop(self, writer: EpisodeWriter | None) -> None:
        """Delete an episode that never began."""
        if writer is None or writer is not self._writer:
            return
        self._writer = None
        writer.discard()

    async def _stop(self, request: Any, response: Any) -> Any:
        """Close the episode; answer when it is on disk.

        Images taken after the request say that all messages sent before them have been written.
        """
        writer, asked_ns = self._writer, time.time_ns()
        if request.outcome not in OUTCOMES:
            response.success = False
            response.message = f"outcome {request.outcome!r} is not one of {', '.join(OUTCOMES)}"
            return response
        await self._waiter.until(
            lambda: self._seen_since(asked_ns) or bool(self._failure) or self._writer is not writer,
            self.parameters.stop_timeout_seconds if writer is not None else 0.0,
        )
        if writer is None or self._writer is not writer:
            response.success, response.message = False, "no episode is being recorded"
            return response
        self._writer = None
        response.steps = writer.steps
        try:
            if self._failure:
                raise EpisodeError(self._failure, writer.part, "What was written can be recovered.")
            names = ("outcome", "success", "grasped", "collisions", "reason", "stop_reason")
            folder = writer.finish(**{name: getattr(request, name) for name in names})
            self._list(folder)
        except EpisodeError as error:
            self._untidy = True
            response.success, response.message = False, str(error)
            return response
        response.success, response.path = True, str(folder)
        return response

    def _abort(self, reason: str) -> None:
        writer, self._writer = self._writer, None
        assert writer is not None
        self._untidy = True
        self.get_logger().warning(f"episode {writer.manifest.episode_id} aborted: {reason}")
        if self._failure:
            return  # the disk refused: what is there stays for recovery
        try:
            self._list(writer.abort(reason))
        except EpisodeError as error:
            self.get_logger().error(str(error))

    def _list(self, folder: Path) -> None:
        self._catalogue.add(read_manifest(folder), folder)

    def _tidy(self) -> None:
        """Close and list what a full disk refused, now that there may be room again."""
        if self._untidy:
            self._recover_unfinished()
            self._catalogue.rebuild(self._root)
            self._untidy = False

    def _recover_unfinished(self) -> None:
        """Recover what a crash or a full disk left behind; what holds no whole message is set aside."""
        for part in sorted(self._root.glob(f"*{PART_SUFFIX}")):
            try:
                folder = recover(part)
                self._list(folder)
                self.get_logger().warning(f"recovered the unfinished episode {folder}")
            except EpisodeError as error:
                self.get_logger().warning(str(error))
                self._set_aside(part, str(error))
            except OSError as error:
                self.get_logger().error(f"{part} cannot be recovered yet: {error}")

    def _set_aside(self, part: Path, problem: str) -> None:
        try:
            quarantine(part, StopReason.CUT_OFF, problem)
        except EpisodeError as error:
            self.get_logger().error(str(error))


def _lock(root: Path) -> IO[str]:
    """Return the locked lock file of the folder: two recorders would recover each other's open episodes.

    Raises:
        OSError: Another recorder uses the folder, or it cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    handle = (root / ".recorder.lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        message = f"another recorder writes to {root}; stop it or set another episodes_folder"
        raise OSError(message) from error
    return handle


def main() -> int:
    """Run the recorder node."""
    return base.spin(RecorderNode)


if __name__ == "__main__":
    raise SystemExit(main())
