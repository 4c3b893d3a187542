"""One block of the street: what it is made from, what it becomes, and the draft in between."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mtaclip_core.data.synthetic import trees
from mtaclip_core.data.synthetic.actors import Actor, Model, place
from mtaclip_core.data.synthetic.canvas import Texture
from mtaclip_core.data.synthetic.ground import Material, Patch
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.markings import Style, cell
from mtaclip_core.data.synthetic.road import Centreline, Pose, Profile
from mtaclip_core.data.synthetic.stage import Placed, Prop


@dataclass(frozen=True)
class Wardrobe:
    """What a drive's things are made from.

    Attributes:
        crowns: (shape, texture) of street trees.
        cars, large: vehicle models; `large` holds trucks and buses.
        leaf: RGB of hedges.
    """

    crowns: tuple[tuple[str, Texture], ...]
    cars: tuple[Model, ...]
    large: tuple[Model, ...]
    leaf: np.ndarray


@dataclass(frozen=True)
class Habits:
    """How densely a street is furnished.

    Attributes:
        trees, signals, parked: chance of a street tree per 9 m, of lights at a junction, of a car in a parking space.
        lamps: metres between lamp posts.
        bollards, rails: whether there are any along the kerb.
    """

    trees: float
    signals: float
    parked: float
    lamps: float
    bollards: bool
    rails: bool

    @staticmethod
    def random(rng: np.random.Generator) -> Habits:
        return Habits(
            trees=float(rng.uniform(0.1, 0.9)),
            signals=float(rng.uniform(0.3, 0.95)),
            parked=float(rng.uniform(0.6, 0.97)),
            lamps=float(rng.uniform(20, 36)),
            bollards=bool(rng.random() < 0.35),
            rails=bool(rng.random() < 0.3),
        )


@dataclass(frozen=True)
class Street:
    """All that the blocks of one drive have in common."""

    line: Centreline
    profile: Profile
    light: Light
    wardrobe: Wardrobe
    style: Style
    habits: Habits


@dataclass(frozen=True)
class Block:
    """One stretch of the street, up to and including the junction at its end.

    Attributes:
        zebra: s of a crossing, or None.
    """

    ground: tuple[Patch, ...]
    paint: tuple[Patch, ...]
    props: tuple[Placed, ...]
    zebra: float | None


@dataclass
class Draft:
    """A block while it is being filled; s0 to s1 are its metres along the road."""

    street: Street
    rng: np.random.Generator
    s0: float
    s1: float
    ground: list[Patch] = field(default_factory=list)
    paint: list[Patch] = field(default_factory=list)
    props: list[Placed] = field(default_factory=list)

    def add(self, prop: Prop, s: float, d: float) -> None:
        """Put something that stands still at (s, d), s being its far end."""
        self.props.append(Placed(prop, s, abs(d), tuple(prop.shadow(self.street.light))))

    def park(self, actor: Actor, s: float, d: float) -> None:
        """Put an actor that does not move at (s, d)."""
        self.props.append(place(actor, s, d, self.street.light))

    def lay(self, material: Material, s0: float, s1: float, d0: float, d1: float) -> None:
        """Cover a rectangle in road coordinates, under the painted lines."""
        self.ground.append(Patch(cell(self.street.line, s0, s1, d0, d1), material))

    def mark(self, material: Material, s0: float, s1: float, d0: float, d1: float) -> None:
        """Paint a rectangle in road coordinates."""
        self.paint.append(Patch(cell(self.street.line, s0, s1, d0, d1), material))

    def pose(self, s: float, d: float, turn: float = 0.0) -> Pose:
        """A place and a direction relative to the road's."""
        return self.street.line.pose(s, d, turn)

    def point(self, s: float, d: float) -> np.ndarray:
        """(2,) world (x, z) of (s, d)."""
        return self.street.line.points(np.array([s]), np.array([d]))[0]

    def span(self, sign: int, s0: float, s1: float, d: float) -> tuple[np.ndarray, np.ndarray]:
        """The ends of a front at offset d, the left one as seen from the street first."""
        a, b = self.point(s0, d), self.point(s1, d)
        return (b, a) if sign > 0 else (a, b)

    def tree(self, s: float, d: float, scale: float) -> None:
        """Plant a random tree or bush; `scale` 1 for full height."""
        rng = self.rng
        shape, texture = self.street.wardrobe.crowns[rng.integers(len(self.street.wardrobe.crowns))]
        height = float(rng.uniform(5.5, 11.0)) * scale if shape != "bush" else float(rng.uniform(1.2, 2.6))
        width = (
            height
            * {"round": 0.95, "tall": 0.55, "conifer": 0.6, "bush": 1.3, "bare": 0.95}[shape]
            * float(rng.uniform(0.85, 1.15))
        )
        x, z = self.point(s, d)
        self.add(trees.Tree(float(x), float(z), width, height, texture, float(rng.uniform(0.8, 1.1))), s, d)
