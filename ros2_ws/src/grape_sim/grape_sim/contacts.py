"""Who presses on whom: MuJoCo's contacts summed up between named things."""

from __future__ import annotations

from collections.abc import Collection

import mujoco
import numpy as np

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
        self._things = np.array([self._thing(model, geom) for geom in range(model.ngeom)])

    def watch(self, things: Collection[int]) -> np.ndarray:
        """Return which geoms (ngeom,) belong to ``things``, for ``forces``."""
        return np.isin(self._things, list(things))

    def forces(self, data: mujoco.MjData, watched: np.ndarray) -> Forces:
        """Return the normal forces in N between things that press on each other, one of them ``watched``.

        This runs every 20 ms of simulated time: most contacts are those of objects that lie on the table, and
        are passed over before any of them is looked at.
        """
        contact = data.contact
        geoms, address = contact.geom, contact.efc_address
        chosen = np.flatnonzero((watched[geoms[:, 0]] | watched[geoms[:, 1]]) & (address >= 0))
        if not len(chosen):
            return {}
        # The first constraint row of a contact is its normal direction (elliptic friction cones).
        normal = data.efc_force[address[chosen]].tolist()
        pairs = zip(*self._things[geoms[chosen]].T.tolist(), strict=True)
        sums: dict[tuple[int, int], float] = {}
        for pair, force in zip(pairs, normal, strict=True):
            sums[pair] = sums.get(pair, 0.0) + force
        forces: Forces = {}
        for (one, other), force in sums.items():
            if force > 0.0 and one != other:
                total = force + forces.get(one, {}).get(other, 0.0)
                forces.setdefault(one, {})[other] = forces.setdefault(other, {})[one] = total
        return forces

    def _thing(self, model: mujoco.MjModel, geom: int) -> int:
        if model.geom(geom).name == TABLE:
            return self.index[TABLE]
        body = str(model.body(model.geom_bodyid[geom]).name)
        if body.startswith("wx250s/"):
            side = body.removeprefix("wx250s/").removesuffix("_link")
            return self.index[side] if side in (LEFT_FINGER, RIGHT_FINGER) else self.index[ARM]
        return self.index.get(body, self.index[ARM])
