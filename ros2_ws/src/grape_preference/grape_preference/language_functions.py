"""The constraint language's functions and variables: one table for implementation, types and documentation.

Every function is vectorised over the frames of an episode: points come in as (T, 3) arrays, numbers as (T,)
or scalars, and a (T,) array goes out. Nothing else can be called from an expression.
"""

from __future__ import annotations

import numpy as np

from grape_preference.gripper import end_effector_axes, gripper_spheres
from grape_preference.language_types import (
    BOOLEAN,
    METRE,
    ONE,
    POINT,
    RADIAN,
    SAME,
    SECOND,
    Context,
    Function,
    Point,
    Variable,
)
from grape_preference.obstacles import FAR, box_gap, sphere_gap

GRASP_REACH = 0.03  # m, from the end effector to the surface of a grasped object's box
GRASP_CLOSED = 0.85  # share of the opening below which the gripper counts as closed on something
GRASP_EMPTY = 0.05  # share of the opening below which the fingers meet: there is nothing between them
LET_GO = 0.03  # share of the opening by which the fingers must have widened around a held object to let it go
REST_TOLERANCE = 0.02  # m, vertical slack of on_top_of()
EDGE_TOLERANCE = 0.005  # m, horizontal slack of on_top_of(): what rests beside the edge would fall off
FALLEN = 0.4  # share of an object's height below which its centre says that it has fallen over
UP = np.array([0.0, 0.0, 1.0])


def _norm(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    ax, ay, az = np.moveaxis(a, -1, 0)
    bx, by, bz = np.moveaxis(b, -1, 0)
    cross = np.sqrt((ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2)
    return np.arctan2(cross, ax * bx + ay * by + az * bz)


def _distance(_: Context, a: Point, b: Point) -> np.ndarray:
    return _norm(a.positions - b.positions)


def _horizontal_distance(_: Context, a: Point, b: Point) -> np.ndarray:
    return _norm((a.positions - b.positions)[:, :2])


def _height(_: Context, a: Point) -> np.ndarray:
    return a.positions[:, 2].copy()


def _lift(_: Context, a: Point) -> np.ndarray:
    return a.positions[:, 2] - a.positions[0, 2]


def _height_above(_: Context, a: Point, b: Point) -> np.ndarray:
    return a.positions[:, 2] - b.positions[:, 2]


def _clearance(_: Context, a: Point, b: Point) -> np.ndarray:
    gap = np.abs(a.positions - b.positions) - (a.extent + b.extent) / 2
    return _norm(np.maximum(gap, 0.0)) + np.minimum(gap.max(axis=-1), 0.0)


def _alignment(_: Context, a: Point, b: Point) -> np.ndarray:
    return _angle(a.positions - b.positions, UP)


def _approach_axes(context: Context) -> np.ndarray:
    axes = context.once("axes", lambda: end_effector_axes(context.tracks.end_effector_quaternions))
    return axes[:, 0]


def _approach_direction(context: Context, a: Point) -> np.ndarray:
    return _angle(_approach_axes(context), a.positions - context.tracks.end_effector_positions)


def _gripper_tilt(context: Context) -> np.ndarray:
    return _angle(_approach_axes(context), -UP)


def _since_before(values: np.ndarray, first: np.ndarray | float) -> np.ndarray:
    """Return the differences from the frame before; ``first`` at the first frame."""
    steps = np.empty_like(values)
    steps[0] = first
    np.subtract(values[1:], values[:-1], out=steps[1:])
    return steps


def _steps(context: Context, a: Point) -> np.ndarray:
    return context.once(("steps", id(a)), lambda: _since_before(a.positions, 0.0))


def _path_length(context: Context, a: Point) -> np.ndarray:
    travelled = np.cumsum(_norm(_steps(context, a)))
    return np.maximum(travelled - travelled[context.stage_start], 0.0)


def _displacement(context: Context, a: Point) -> np.ndarray:
    return _norm(a.positions - a.positions[context.stage_start])


def _periods(context: Context) -> np.ndarray:
    return context.once("periods", lambda: _since_before(context.tracks.times, 1.0))


def _speed(context: Context, a: Point) -> np.ndarray:
    return _norm(_steps(context, a)) / _periods(context)


def _smoothness(context: Context, a: Point) -> np.ndarray:
    velocity = _steps(context, a) / _periods(context)[:, None]
    return _norm(_since_before(velocity, 0.0)) / _periods(context)


def _grasped(context: Context, a: Point) -> np.ndarray:
    gap = np.abs(a.positions - context.tracks.end_effector_positions) - a.extent / 2
    opening = context.tracks.gripper
    around = (_norm(np.maximum(gap, 0.0)) <= GRASP_REACH) & (opening < GRASP_CLOSED) & (opening > GRASP_EMPTY)
    return around & (opening <= _narrowest_so_far(around, opening) + LET_GO)


def _narrowest_so_far(around: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Return the least opening (T,) since the fingers closed around the object; fingers can jam half open."""
    times_left = 2.0 * np.cumsum(
        ~around
    )  # puts every grasp below those before it: openings differ by 1 at most
    return np.minimum.accumulate(np.where(around, opening, 1.0) - times_left) + times_left


def _above_footprint(a: Point, b: Point, slack: float = 0.0) -> np.ndarray:
    offset = np.abs(a.positions - b.positions)[:, :2]
    return (offset <= b.extent[:2] / 2 + slack).all(axis=-1)


def _above(_: Context, a: Point, b: Point) -> np.ndarray:
    return _above_footprint(a, b) & (a.positions[:, 2] > b.positions[:, 2])


def _inside(_: Context, a: Point, b: Point) -> np.ndarray:
    return (np.abs(a.positions - b.positions) <= b.extent / 2).all(axis=-1)


def _on_top_of(_: Context, a: Point, b: Point) -> np.ndarray:
    gap = a.positions[:, 2] - b.positions[:, 2] - (a.extent[2] + b.extent[2]) / 2
    return _above_footprint(a, b, EDGE_TOLERANCE) & (np.abs(gap) <= REST_TOLERANCE)


def _obstacle_clearance(context: Context, a: Point) -> np.ndarray:
    return box_gap(context.tracks.obstacles, a.positions, a.extent)


def _gripper_clearance(context: Context) -> np.ndarray:
    tracks = context.tracks
    if len(tracks.obstacles) == 0:
        return np.full(len(tracks), FAR)
    return sphere_gap(tracks.obstacles, *gripper_spheres(tracks))


def _obstacle_change(context: Context) -> np.ndarray:
    gone = context.tracks.obstacles_gone
    return np.maximum(gone - gone[context.stage_start], 0.0)


def _fallen(_: Context, a: Point) -> np.ndarray:
    return a.positions[:, 2] < FALLEN * a.extent[2]


def _minimum(_: Context, *values: np.ndarray) -> np.ndarray:
    return np.minimum.reduce(np.broadcast_arrays(*values))


def _maximum(_: Context, *values: np.ndarray) -> np.ndarray:
    return np.maximum.reduce(np.broadcast_arrays(*values))


_A, _AB = (("a", POINT),), (("a", POINT), ("b", POINT))
_TABLE = (
    Function("distance", _AB, METRE, "Straight distance between the two centres.", _distance),
    Function(
        "horizontal_distance", _AB, METRE, "Distance seen from above, heights ignored.", _horizontal_distance
    ),
    Function("height", _A, METRE, "Height of the centre above the table top.", _height),
    Function("lift", _A, METRE, "Height gained since the episode's first frame.", _lift),
    Function(
        "height_above", _AB, METRE, "Height of a's centre over b's centre; negative below it.", _height_above
    ),
    Function(
        "clearance",
        _AB,
        METRE,
        "Gap between the two bounding boxes; negative is the overlap's depth.",
        _clearance,
    ),
    Function(
        "alignment",
        _AB,
        RADIAN,
        "Angle of the line from b to a off the vertical; 0: a is straight above b.",
        _alignment,
    ),
    Function(
        "approach_direction",
        _A,
        RADIAN,
        "Angle between the gripper's approach axis and the line to a.",
        _approach_direction,
    ),
    Function(
        "gripper_tilt",
        (),
        RADIAN,
        "Angle between the gripper's approach axis and straight down.",
        _gripper_tilt,
    ),
    Function(
        "path_length",
        _A,
        METRE,
        "Way travelled by a since the stage began.",
        _path_length,
        since_stage_start=True,
    ),
    Function(
        "displacement",
        _A,
        METRE,
        "Straight distance of a from where it was when the stage began.",
        _displacement,
        since_stage_start=True,
    ),
    Function("speed", _A, METRE / SECOND, "Speed of a, from the frame before.", _speed),
    Function(
        "smoothness",
        _A,
        METRE / (SECOND * SECOND),
        "Size of a's change of velocity per second; 0: smooth.",
        _smoothness,
    ),
    Function(
        "grasped",
        _A,
        BOOLEAN,
        f"The gripper is {GRASP_EMPTY:.0%} to {GRASP_CLOSED:.0%} open, at most {GRASP_REACH * 100:g} cm from "
        f"a's box, and has not opened by {LET_GO:.0%} since it closed there.",
        _grasped,
    ),
    Function("above", _AB, BOOLEAN, "a's centre is over b's footprint and higher than b's centre.", _above),
    Function("inside", _AB, BOOLEAN, "a's centre lies in b's box.", _inside),
    Function(
        "on_top_of",
        _AB,
        BOOLEAN,
        f"a's centre is over b's footprint, or {EDGE_TOLERANCE * 1000:g} mm beside it, and a's bottom "
        f"within {REST_TOLERANCE * 100:g} cm of b's top.",
        _on_top_of,
    ),
    Function(
        "fallen",
        _A,
        BOOLEAN,
        f"a's centre is lower than {FALLEN:g} of the height that a had when it was first seen whole.",
        _fallen,
    ),
    Function(
        "obstacle_clearance",
        _A,
        METRE,
        f"Gap between a's box and the nearest obstacle; {FAR:g} without one, negative when in it.",
        _obstacle_clearance,
    ),
    Function(
        "gripper_clearance",
        (),
        METRE,
        f"Gap between fingers and palm and the nearest obstacle; {FAR:g} without one, negative when in it.",
        _gripper_clearance,
    ),
    Function(
        "obstacle_change",
        (),
        ONE,
        "Share of the most disturbed obstacle's surface that left its place since the stage began.",
        _obstacle_change,
        since_stage_start=True,
    ),
    Function("abs", (("x", SAME),), SAME, "Absolute value.", lambda _, x: np.abs(x)),
    Function(
        "min",
        (("x", SAME), ("y", SAME)),
        SAME,
        "The smallest argument, frame by frame.",
        _minimum,
        variadic=True,
    ),
    Function(
        "max",
        (("x", SAME), ("y", SAME)),
        SAME,
        "The largest argument, frame by frame.",
        _maximum,
        variadic=True,
    ),
)
FUNCTIONS: dict[str, Function] = {function.name: function for function in _TABLE}


VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable("gripper", ONE, "Opening of the gripper, 0 closed to 1 open.", lambda c: c.tracks.gripper),
        Variable("time", SECOND, "Time since the episode's first frame.", lambda c: c.tracks.times),
        Variable(
            "stage_time",
            SECOND,
            "Time since the stage began.",
            lambda c: c.tracks.times - c.tracks.times[c.stage_start],
        ),
    )
}
BUILT_IN_POINTS = {"end_effector": "The point between the finger tips, from the joint states."}
