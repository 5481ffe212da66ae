"""Build description of grape_sim."""

from setuptools import find_packages, setup

setup(
    name="grape_sim",
    version="0.1.0",
    description="MuJoCo WidowX 250 with an RGB-D camera: tasks, expert and node.",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    package_data={"": ["*.yaml", "*.json", "*.html", "*.xml", "suites/*.yaml", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/grape_sim"]),
        ("share/grape_sim", ["package.xml"]),
    ],
    entry_points={"console_scripts": ["sim_node = grape_sim.node:main"]},
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
