"""Independent readers (rosbags, mcap) read what we write, with no help from our code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from episode_factory import make_episode
from grape_episodes import contract, messages
from grape_episodes.types import Episode
from grape_episodes.writer import write_episode
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

IMAGE, ACTION = "/camera/camera/color/image_raw", "/grape/policy/action"
WITHOUT_MESSAGES = ("safety_state", "episode_event", "action_chunk", "action_started")  # of these arrays


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Episode, Path]:
    episode = make_episode(steps=4)
    return episode, write_episode(tmp_path_factory.mktemp("episodes"), episode)


def test_rosbags_reads_images_and_our_own_messages(written: tuple[Episode, Path]) -> None:
    episode, folder = written
    with AnyReader([folder]) as reader:
        connections = [entry for entry in reader.connections if entry.topic in (IMAGE, ACTION)]
        decoded = [
            (connection.topic, reader.deserialize(data, connection.msgtype))
            for connection, _, data in reader.messages(connections)
        ]
        assert {entry.topic for entry in reader.connections} == {
            topic.name
            for key, topic in contract.topics().items()
            if topic.recorded and key not in WITHOUT_MESSAGES
        }
    images = [message.data.reshape(240, 320, 3) for topic, message in decoded if topic == IMAGE]
    actions = [message for topic, message in decoded if topic == ACTION]
    np.testing.assert_array_equal(images, episode.images)
    np.testing.assert_array_equal([message.action for message in actions], episode.actions)
    np.testing.assert_array_equal([message.token_ids for message in actions], episode.token_ids)
    assert [message.step for message in actions] == [0, 1, 2, 3]


def test_mcap_reads_it_from_the_embedded_definitions(written: tuple[Episode, Path]) -> None:
    episode, folder = written
    (path,) = folder.glob("*.mcap")
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        actions = [entry.decoded_message for entry in reader.iter_decoded_messages(topics=[ACTION])]
        counts = reader.get_summary().statistics.message_count
    stamps = [message.observation_stamp for message in actions]
    assert [time.sec * 10**9 + time.nanosec for time in stamps] == episode.stamps_ns[:-1].tolist()
    np.testing.assert_array_equal(
        [message.log_probabilities for message in actions], episode.log_probabilities
    )
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert (metadata["version"], metadata["storage_identifier"]) == (9, "mcap")
    assert (
        metadata["message_count"]
        == counts
        == sum(entry["message_count"] for entry in metadata["topics_with_message_count"])
    )


@pytest.mark.parametrize("name", ["ActionDelta", "SafetyState", "EpisodeEvent"])
def test_bytes_are_those_of_ros(name: str) -> None:
    """What ROS serialises we decode, and what we serialise ROS decodes to the same message."""
    generated = pytest.importorskip("grape_msgs.msg")
    serialization = pytest.importorskip("rclpy.serialization")
    kind = getattr(generated, name)
    sent = kind(**({"message": "why"} if name == "SafetyState" else {"episode_id": "which"}))
    decoded = messages.deserialize(serialization.serialize_message(sent), f"grape_msgs/msg/{name}")
    assert set(kind.get_fields_and_field_types()) <= set(vars(decoded))
    assert serialization.deserialize_message(messages.serialize(decoded), kind) == sent


@pytest.mark.parametrize("topic", [topic for topic in contract.topics().values() if topic.recorded])
def test_type_hashes_are_those_of_ros(topic: contract.Topic) -> None:
    """The REP-2016 hash in ``metadata.yaml`` is the one that ROS's own generator computed."""
    packages = pytest.importorskip("ament_index_python.packages")
    package, kind, name = topic.type.split("/")
    description = Path(packages.get_package_share_directory(package)) / kind / f"{name}.json"
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(description.read_text())["type_hashes"]
    }
    assert messages.definition(topic.type)[1] == hashes[topic.type]
