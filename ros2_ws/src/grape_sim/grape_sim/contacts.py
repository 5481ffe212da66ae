"""Who presses on whom: MuJoCo's contacts summed up between named things."""

from __future__ import annotations

from collections.abc import Collection

import mujoco

from grape_sim.scene import TABLE

ARM, LEFT_FINGER, RIGHT_FINGER = "arm", "left_finger", "right_finger"
_FIRST = (TABLE, ARM, LEFT_FINGER, RIGHT_FINGER)
INDEX = {name: index for index, name in enumerate(_FIRST)}
FINGERS = [INDEX[LEFT_FINGER], INDEX[RIGHT_FINGER]]
ROBOT = [INDEX[ARM], *FINGERS]
Forces = dict[int, dict[int, float]]  # thing -> the things it presses on -> N, both ways


class ContactReader:
    """Reads the present contacts of one model, whose objects are called ``objects``.

    index: row of each thing (table, arm, fingers, objects) in the matrix of forces.
    """

    def __init__(self, model: mujoco.MjModel, objects: tuple[str, ...]) -> None:
        self.index = INDEX | {name: len(INDEX) + number for number, name in enumerate(objects)}
        self._things = [self._thing(model, geom) for geom in range(model.ngeom)]

    def watch(self, things: Collection[int]) -> list[bool]:
        """Return for each geom whether it belongs to ``things``, for ``forces``."""
        return [thing in things for thing in self._things]

    def forces(self, data: mujoco.MjData, watched: list[bool]) -> Forces:
        """Return the normal forces in N between things that press on each other, one of them ``watched``.

        This runs every 20 ms of simulated time: most contacts are those of objects that lie on the table, and
        are passed over before any of them is looked at. Plain numbers are faster than arrays this small.
        """
        contact, things = data.contact, self._things
        pressing = data.efc_force
        sums: dict[tuple[int, int], float] = {}
        for (one, other), row in zip(contact.geom.tolist(), contact.efc_address.tolist(), strict=True):
            if row >= 0 and (watched[one] or watched[other]):
                pair = (things[one], things[other])
                # The first constraint row of a contact is its normal direction (elliptic friction cones).
                sums[pair] = sums.get(pair, 0.0) + float(pressing[row])
        forces: Forces = {}
        for (first, second), force in sums.items():
            if force > 0.0 and first != second:
                total = force + forces.get(first, {}).get(second, 0.0)
                forces.setdefault(first, {})[second] = forces.setdefault(second, {})[first] = total
        return forces

    def _thing(self, model: mujoco.MjModel, geom: int) -> int:
        if model.geom(geom).name == TABLE:
            return self.index[TABLE]
        body = str(model.body(model.geom_bodyid[geom]).name)
        if body.startswith("wx250s/"):
            side = body.removeprefix("wx250s/").removesuffix("_link")
            return self.index[side] if side in (LEFT_FINGER, RIGHT_FINGER) else self.index[ARM]
        return self.index.get(body, self.index[ARM])
