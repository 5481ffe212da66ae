"""Build description of grape_policy."""

from glob import glob

from setuptools import find_packages, setup

setup(
    name="grape_policy",
    version="0.1.0",
    description="VLA policy, arm control and the nodes of the GRAPE stack.",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    package_data={"": ["*.yaml", "*.json", "*.html", "*.xml", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/grape_policy"]),
        ("share/grape_policy", ["package.xml"]),
        ("share/grape_policy/launch", glob("launch/*.launch.py")),
    ],
    entry_points={
        "console_scripts": [
            "arm_node = grape_policy.nodes.arm_node:main",
            "camera_node = grape_policy.nodes.camera_node:main",
            "collect_node = grape_policy.nodes.collect_node:main",
            "episode_manager_node = grape_policy.nodes.episode_manager_node:main",
            "keypoint_judge_node = grape_policy.nodes.keypoint_judge_node:main",
            "lifecycle_manager_node = grape_policy.nodes.lifecycle_manager_node:main",
            "policy_node = grape_policy.nodes.policy_node:main",
            "recorder_node = grape_policy.nodes.recorder_node:main",
        ]
    },
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
