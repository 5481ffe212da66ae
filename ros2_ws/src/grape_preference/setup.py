"""Build description of grape_preference."""

from setuptools import find_packages, setup

setup(
    name="grape_preference",
    version="0.1.0",
    description="Keypoints, staged constraints, scores and preference pairs.",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    package_data={
        "": ["*.yaml", "*.json", "stages/*.yaml", "stages/*.json", "stages/templates/*.yaml", "py.typed"]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/grape_preference"]),
        ("share/grape_preference", ["package.xml"]),
    ],
    entry_points={"console_scripts": ["preference_node = grape_preference.node:main"]},
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
