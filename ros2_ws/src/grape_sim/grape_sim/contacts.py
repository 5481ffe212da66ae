"""Who presses on whom: MuJoCo's contacts summed up between named things."""

from __future__ import annotations

import mujoco
import numpy as np

from grape_sim.scene import TABLE

ARM, LEFT_FINGER, RIGHT_FINGER = "arm", "left_finger", "right_finger"
_FIRST = (TABLE, ARM, LEFT_FINGER, RIGHT_FINGER)
INDEX = {name: index for index, name in enumerate(_FIRST)}
FINGERS = [INDEX[LEFT_FINGER], INDEX[RIGHT_FINGER]]
ROBOT = [INDEX[ARM], *FINGERS]


class ContactReader:
    """Reads the present contacts of one model, whose objects are called ``objects``.

    index: row of each thing (table, arm, fingers, objects) in the matrix of forces.
    """

    def __init__(self, model: mujoco.MjModel, objects: tuple[str, ...]) -> None:
        self.index = INDEX | {name: len(INDEX) + number for number, name in enumerate(objects)}
        self._things = np.array([self._thing(model, geom) for geom in range(model.ngeom)])

    def forces(self, data: mujoco.MjData) -> np.ndarray:
        """Return the symmetric matrix of normal forces in N between things; 0 where nothing presses."""
        matrix = np.zeros((len(self.index), len(self.index)))
        contact = data.contact
        active = contact.efc_address >= 0
        if not active.any():
            return matrix
        first, second = self._things[contact.geom[active]].T
        # The first constraint row of a contact is its normal direction (elliptic friction cones).
        normal = data.efc_force[contact.efc_address[active]]
        np.add.at(matrix, (first, second), normal)
        matrix += matrix.T
        np.fill_diagonal(matrix, 0.0)
        return matrix

    def _thing(self, model: mujoco.MjModel, geom: int) -> int:
        if model.geom(geom).name == TABLE:
            return self.index[TABLE]
        body = str(model.body(model.geom_bodyid[geom]).name)
        if body.startswith("wx250s/"):
            side = body.removeprefix("wx250s/").removesuffix("_link")
            return self.index[side] if side in (LEFT_FINGER, RIGHT_FINGER) else self.index[ARM]
        return self.index.get(body, self.index[ARM])
