"""The street itself, block by block, each generated when it is first seen."""

from __future__ import annotations

import numpy as np

from mtaclip_core.data.synthetic import markings
from mtaclip_core.data.synthetic.actors import Vehicle
from mtaclip_core.data.synthetic.block import Block, Draft, Street
from mtaclip_core.data.synthetic.ground import Material
from mtaclip_core.data.synthetic.kerbside import add_signals, fill_kerbside
from mtaclip_core.data.synthetic.lots import fill_lots

_STREET = 8.0
"""Width of a side street in metres."""
_KEPT = 8
"""Blocks that are remembered."""


class Layout:
    """All blocks of one drive."""

    def __init__(self, seed: int, street: Street) -> None:
        self._seed, self._street = seed, street
        self._blocks: dict[int, Block] = {}

    def blocks(self, s0: float, s1: float) -> list[Block]:
        """The blocks that touch the stretch from s0 to s1."""
        length = self._street.profile.junction
        return [self._block(k) for k in range(int(s0 // length), int(s1 // length) + 1)]

    def _block(self, k: int) -> Block:
        if k not in self._blocks:
            while len(self._blocks) >= _KEPT:
                del self._blocks[next(iter(self._blocks))]
            length = self._street.profile.junction
            rng = np.random.default_rng([self._seed, 12, k + 1_000_000])
            self._blocks[k] = _fill(Draft(self._street, rng, k * length, (k + 1) * length))
        return self._blocks[k]


def _fill(draft: Draft) -> Block:
    rng, line, profile = draft.rng, draft.street.line, draft.street.profile
    streets = {sign: rng.random() < 0.55 for sign in (-1, 1)}
    mouth = draft.s1 - _STREET
    for sign in (-1, 1):
        fill_lots(draft, sign, draft.s0 + 1.0, mouth - 2.5 if streets[sign] else draft.s1 + 1.0)
        fill_kerbside(draft, sign, draft.s0 + 3, mouth - 3)
        if streets[sign]:
            _side_street(draft, sign, mouth)
    if rng.random() < draft.street.habits.signals:
        add_signals(draft, mouth - 6.0, draft.s1 + 2.0)
    _wear(draft, mouth)
    zebra = mouth - 5.0 if rng.random() < 0.45 else None
    clear = [(mouth - 1, draft.s1 + 0.5)] if any(streets.values()) else []
    if zebra is not None:
        clear.append((zebra - 0.6, zebra + 3.6))
        draft.paint += markings.zebra(line, profile, zebra)
    draft.paint += markings.lines(line, profile, draft.street.style, draft.s0, draft.s1, clear)
    if any(streets.values()) and rng.random() < 0.3:
        draft.mark(Material.MARKING, mouth - 6.6, mouth - 6.2, 0.0, profile.lane_centre(1, 0) * 2 * profile.lanes)
    for direction in (-1, 1):
        for lane in range(profile.lanes):
            if rng.random() < 0.3:
                s = float(rng.uniform(draft.s0 + 10, mouth - 12))
                draft.paint += markings.arrow(line, s, profile.lane_centre(direction, lane), direction > 0)
    return Block(tuple(draft.ground), tuple(draft.paint), tuple(draft.props), zebra)


def _wear(draft: Draft, mouth: float) -> None:
    """Manhole covers and patches of newer asphalt."""
    rng, profile = draft.rng, draft.street.profile
    for _ in range(int(rng.integers(1, 5))):
        s, d = rng.uniform(draft.s0, mouth), rng.uniform(profile.kerb(-1) + 1, profile.kerb(1) - 1)
        if rng.random() < 0.5:
            draft.lay(Material.IRON, s, s + 0.6, d, d + 0.6)
        else:
            edge = min(d + rng.uniform(0.5, 1.6), profile.kerb(1) - 0.3)
            draft.lay(Material.PATCH, s, s + rng.uniform(1, 8), d, edge)


def _side_street(draft: Draft, sign: int, mouth: float) -> None:
    rng, cars = draft.rng, draft.street.wardrobe.cars
    kerb, front = draft.street.profile.kerb(sign), draft.street.profile.front(sign)
    end = mouth + _STREET
    for low, high in ((mouth - 2.2, mouth), (end, end + 1.0)):
        draft.lay(Material.PAVING, low, high, front, front + sign * 70)
    draft.lay(Material.ASPHALT, mouth, end, kerb - sign * 0.35, kerb + sign * 75)
    middle = (mouth + end) / 2
    for d in np.arange(3.0, 26, 5):
        draft.mark(Material.MARKING, middle - 0.07, middle + 0.07, kerb + sign * d, kerb + sign * (d + 2.5))
    for distance in np.arange(7.0, 40, 6.5):
        if rng.random() < 0.4:
            far = bool(rng.random() < 0.5)
            s, d = (end - 1.2 if far else mouth + 1.2), kerb + sign * distance
            pose = draft.pose(s, d, sign * np.pi / 2 * (1 if far else -1))
            draft.park(Vehicle(cars[rng.integers(len(cars))], pose), s, d)
