"""Build description of grape_policy."""

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
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
