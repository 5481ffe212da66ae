"""Build description of grape_episodes."""

from setuptools import find_packages, setup

setup(
    name="grape_episodes",
    version="0.1.0",
    description="Episodes: write, read, recover, catalogue, export; no ROS needed.",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    package_data={"": ["*.yaml", "*.msg", "*.json", "*.html", "*.xml", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/grape_episodes"]),
        ("share/grape_episodes", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
