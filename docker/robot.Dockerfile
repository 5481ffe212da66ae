# The robot's image: a real ROS 2 Jazzy with the RealSense driver; `ros2 launch grape_policy run.launch.py` inside.
# Build from the repository's root:  docker compose -f docker/compose.yaml build robot
FROM ros:jazzy

RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ros-jazzy-realsense2-camera \
        libegl1 libgl1 libgl1-mesa-dri libusb-1.0-0 \
        cmake g++ make ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/grape
COPY . .
# The set-up sees the sourced ROS 2 and builds the workspace on it, with its Python.
RUN . /opt/ros/jazzy/setup.sh && ./scripts/setup.sh

ENTRYPOINT ["/opt/grape/docker/entrypoint.sh"]
CMD ["ros2", "launch", "grape_policy", "run.launch.py"]
