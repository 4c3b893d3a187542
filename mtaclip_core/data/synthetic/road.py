"""The street's centre line and its cross section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Centreline:
    """A gently winding curve, parametrised by its length s (metres); d is the offset to the right of it."""

    def __init__(self, rng: np.random.Generator) -> None:
        straight = rng.random() < 0.45
        amplitude = rng.uniform(0.0, 0.03, 3) if straight else rng.uniform(0.04, 0.16, 3)
        self._waves = np.stack([amplitude, rng.uniform(160, 520, 3), rng.uniform(0, 2 * np.pi, 3)], 1)
        self._table = np.zeros((0, 2))
        self._extend(2000)

    def heading(self, s: np.ndarray | float) -> np.ndarray:
        """Radians to the right of +z."""
        a, length, phase = self._waves.T
        return (a * np.sin(2 * np.pi * np.asarray(s)[..., None] / length + phase)).sum(-1)

    def _extend(self, last: int) -> None:
        angle = self.heading(np.arange(last + 2) - 199.5)
        self._table = np.cumsum(np.stack([np.sin(angle), np.cos(angle)], 1), 0)

    def points(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """(n,) lengths >= -199 and (n,) offsets -> (n, 2) world (x, z)."""
        s = np.asarray(s, float)
        if s.max() + 202 >= len(self._table):
            self._extend(2 * int(s.max() + 202))
        cell = np.clip(np.floor(s).astype(int) + 199, 0, len(self._table) - 2)
        part = (s + 199 - cell)[:, None]
        base = self._table[cell] * (1 - part) + self._table[cell + 1] * part
        angle = self.heading(s)
        return base + np.asarray(d, float)[:, None] * np.stack([np.cos(angle), -np.sin(angle)], 1)

    def pose(self, s: float, d: float, turn: float = 0.0) -> Pose:
        """Where something at (s, d) stands, looking along the road turned by `turn` radians."""
        x, z = self.points(np.array([s]), np.array([d]))[0]
        return Pose(float(x), float(z), float(self.heading(s)) + turn)


@dataclass(frozen=True)
class Pose:
    """A place on the ground and a direction (radians to the right of +z)."""

    x: float
    z: float
    heading: float

    def world(self, local: np.ndarray) -> np.ndarray:
        """(n, 3) local (right, up, forward) -> (n, 3) world."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        out = local @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        out[:, 0] += self.x
        out[:, 2] += self.z
        return out

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """(n, 3) local directions -> (n, 3) world directions."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        return vectors @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


@dataclass(frozen=True)
class Side:
    """One side of the cross section; widths in metres, outwards from the kerb."""

    parking: bool
    verge: float
    sidewalk: float


@dataclass(frozen=True)
class Profile:
    """The cross section of a street, constant along a drive.

    Attributes:
        handed: +1 where one drives on the right, -1 on the left.
        lane: width of a lane; `lanes` per direction.
        left, right: what lies beyond the lanes.
        junction: metres from one junction to the next.
        district: `centre`, `residential`, `suburb` or `park`.
    """

    handed: int
    lane: float
    lanes: int
    left: Side
    right: Side
    junction: float
    district: str

    @staticmethod
    def random(rng: np.random.Generator) -> Profile:
        district = str(rng.choice(["centre", "residential", "suburb", "park"], p=[0.4, 0.33, 0.18, 0.09]))

        def side() -> Side:
            parking = bool(rng.random() < {"centre": 0.42, "residential": 0.6, "suburb": 0.35, "park": 0.3}[district])
            verge = rng.uniform(1.0, 2.6) if rng.random() < {"centre": 0.1}.get(district, 0.4) else 0.0
            return Side(parking, float(verge), float(rng.uniform(2.8, 6.0 if district == "centre" else 4.6)))

        lanes = 2 if rng.random() < 0.14 else 1
        return Profile(
            handed=1 if rng.random() < 0.5 else -1,
            lane=float(rng.uniform(2.9, 3.6)),
            lanes=lanes,
            left=side(),
            right=side(),
            junction=float(rng.uniform(55, 110)),
            district=district,
        )

    def side(self, sign: int) -> Side:
        return self.right if sign > 0 else self.left

    def kerb(self, sign: int) -> float:
        """Offset d of the kerb on the right (+1) or left (-1): signed."""
        return sign * (self.lanes * self.lane + (2.2 if self.side(sign).parking else 0.3))

    def front(self, sign: int) -> float:
        """Offset d where the lots begin: signed."""
        side = self.side(sign)
        return self.kerb(sign) + sign * (side.verge + side.sidewalk)

    def lane_centre(self, direction: int, index: int) -> float:
        """Offset d of a lane: direction +1 with the ego vehicle, -1 against it; index 0 is next to the centre line."""
        return self.handed * direction * (index + 0.5) * self.lane
