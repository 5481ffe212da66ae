# The trainer's image: no ROS; torch's default build, which brings its own CUDA libraries.
# Build from the repository's root:  docker compose -f docker/compose.yaml build trainer
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri libusb-1.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/grape
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt

COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e training
ENV PYTHONPATH=/opt/grape/ros2_ws/src/grape_episodes:/opt/grape/ros2_ws/src/grape_policy:/opt/grape/ros2_ws/src/grape_preference:/opt/grape/ros2_ws/src/grape_sim \
    MUJOCO_GL=egl \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics

ENTRYPOINT ["grape"]
CMD ["--help"]
