"""Between the kerb and the lots: lamps, signs, lights, trees, parked cars and cycles."""

from __future__ import annotations

import numpy as np

from mtaclip_core.data.synthetic import furniture, sheets, structures
from mtaclip_core.data.synthetic.actors import Cycle, Vehicle
from mtaclip_core.data.synthetic.block import Draft


def fill_kerbside(draft: Draft, sign: int, s0: float, s1: float) -> None:
    """Furnish one side (sign +1 right, -1 left) from s0 to s1."""
    rng, profile = draft.rng, draft.street.profile
    side, kerb, front = profile.side(sign), profile.kerb(sign), profile.front(sign)
    inner = kerb + sign * 0.55
    for s in np.arange(s0 + rng.uniform(0, 8), s1, draft.street.habits.lamps):
        draft.add(furniture.lamp_post(rng, draft.pose(s, inner), -sign * 1.6), s, inner)
    for s in np.arange(s0, s1, 9.0):
        if rng.random() < 0.45:
            at = float(s + rng.uniform(0, 8))
            turn = 0.0 if rng.random() < (0.75 if sign == profile.handed else 0.4) else np.pi
            pose = draft.pose(at, inner + sign * 0.2, turn + float(rng.normal(0, 0.12)))
            draft.add(furniture.sign(rng, pose, float(rng.uniform(0.9, 1.4))), at, inner)
        if rng.random() < draft.street.habits.trees and (side.verge > 0 or side.sidewalk > 2.2):
            at = float(s + rng.uniform(0, 4))
            draft.tree(at, kerb + sign * max(0.8, side.verge / 2), 0.85)
        if rng.random() < 0.24:
            at, d = float(s), front - sign * 0.45
            motor = rng.random() < 0.45
            for k in range(int(rng.integers(1, 5))):
                turn = float(np.pi / 2 + rng.normal(0, 0.15)) if motor else float(rng.normal(0, 0.2))
                colour = rng.uniform(20, 200, 3)
                spot = at + 0.7 * k
                draft.park(Cycle(bool(motor), colour, draft.pose(spot, d, turn)), spot, d)
    if draft.street.habits.bollards:
        for s in np.arange(s0, s1, 2.4):
            if rng.random() < 0.6:
                draft.add(furniture.bollard(rng, draft.pose(s, kerb + sign * 0.3)), s, kerb + sign * 0.3)
    if draft.street.habits.rails and rng.random() < 0.6:
        _rail(draft, sign, s1 - float(rng.uniform(8, 25)), s1)
    if side.parking:
        _parked(draft, sign, s0, s1 - 4)


def _rail(draft: Draft, sign: int, s0: float, s1: float) -> None:
    d = draft.street.profile.kerb(sign) + sign * 0.3
    texture = sheets.fence(draft.rng, 3.0, 1.05)
    for s in np.arange(s0, s1 - 3, 3.0):
        a, b = draft.span(sign, s, s + 3, d)
        draft.add(structures.panel(texture, structures.FENCE, a, b, 1.05), s + 3, d)


def _parked(draft: Draft, sign: int, s0: float, s1: float) -> None:
    rng, profile, wardrobe = draft.rng, draft.street.profile, draft.street.wardrobe
    d, s = profile.kerb(sign) - sign * 1.1, s0
    while s < s1:
        if rng.random() < draft.street.habits.parked:
            pool = wardrobe.large if rng.random() < 0.03 else wardrobe.cars
            model = pool[rng.integers(len(pool))]
            s += model.size[2] / 2
            turn = (0.0 if sign == profile.handed else np.pi) + rng.normal(0, 0.02) + np.pi * (rng.random() < 0.12)
            dd = d + float(rng.normal(0, 0.06))
            draft.park(Vehicle(model, draft.pose(s, dd, float(turn))), s, dd)
            s += model.size[2] / 2 + float(rng.uniform(0.6, 1.8))
        else:
            s += float(rng.uniform(3, 9))


def add_signals(draft: Draft, near: float, far: float) -> None:
    """Traffic lights before a junction, s = `near`, and some behind it, s = `far`."""
    rng, profile = draft.rng, draft.street.profile
    for sign in (-1, 1):
        d = profile.kerb(sign) + sign * 0.4
        over = -sign * 3.0 if rng.random() < 0.35 else 0.0
        ahead = sign == profile.handed
        s = near if ahead or rng.random() < 0.5 else far
        turn = 0.0 if ahead or rng.random() < 0.5 else np.pi
        pose = draft.pose(s, d, turn)
        draft.add(furniture.traffic_light(rng, pose, over if turn == 0 else -over), s, d)
        if ahead and rng.random() < 0.6:
            draft.add(furniture.traffic_light(rng, draft.pose(far, d), over), far, d)
