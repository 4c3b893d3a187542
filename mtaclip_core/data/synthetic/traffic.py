"""Everything that moves, as a function of time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtaclip_core.data.synthetic.actors import Actor, Cycle, Vehicle, Walker, place
from mtaclip_core.data.synthetic.block import Street
from mtaclip_core.data.synthetic.people import Look
from mtaclip_core.data.synthetic.road import Profile
from mtaclip_core.data.synthetic.stage import Placed

Put = Callable[[Actor, float, float], None]
_BACK, _AHEAD = -6.0, 120.0


class Ego:
    """The ego vehicle's way along the street."""

    def __init__(self, rng: np.random.Generator, profile: Profile) -> None:
        self.speed = float(rng.uniform(4.0, 13.0))
        self._start = float(rng.uniform(0, 200))
        self._sway, self._period = float(rng.uniform(0, 0.25)), float(rng.uniform(5, 12))
        self._d = profile.lane_centre(1, int(rng.integers(profile.lanes)))

    def s(self, time: float) -> float:
        """Metres along the road; the speed varies by up to 40%."""
        w = 2 * np.pi / 17.0
        return self._start + self.speed * (time + 0.4 / w * np.sin(w * time))

    def d(self, time: float) -> float:
        """Metres off the centre line."""
        return self._d + self._sway * float(np.sin(2 * np.pi * time / self._period))

    def when(self, s: float) -> float:
        """Roughly the second at which it reaches s."""
        time = (s - self._start) / self.speed
        for _ in range(8):
            time -= (self.s(time) - s) / self.speed
        return time


class Traffic:
    """Streams of vehicles, cyclists and pedestrians; the k-th of a stream is always the same one."""

    def __init__(self, seed: int, street: Street, ego: Ego) -> None:
        self._seed, self._ego = seed, ego
        self._line, self._profile, self._light = street.line, street.profile, street.light
        self._wardrobe = street.wardrobe
        rng = np.random.default_rng([seed, 21])
        self._spacing = {key: float(rng.uniform(*limits)) for key, limits in (
            ("own", (16, 60)), ("next", (18, 60)), ("against", (13, 42)), ("cycle", (26, 90)),
            ("walk-1", (5, 26)), ("walk1", (5, 26)),
        )}  # fmt: skip
        self._lead = float(rng.uniform(7, 34))
        self._pace = {
            "next": ego.speed * float(rng.uniform(0.6, 1.3)),
            "against": float(rng.uniform(5, 13)),
            "cycle": float(rng.uniform(3.2, 5.5)),
        }
        self._large = float(rng.uniform(0.02, 0.13))
        self._motor = float(rng.uniform(0.12, 0.24))

    def props(self, time: float, zebras: list[float]) -> list[Placed]:
        """Everyone who is near the ego vehicle at `time`; zebras: s of the crossings ahead."""
        s0 = self._ego.s(time)
        found: list[Placed] = []

        def put(actor: Actor, s: float, d: float) -> None:
            found.append(place(actor, s, d, self._light))

        self._vehicles(put, time, s0)
        self._cyclists(put, time, s0)
        for sign in (-1, 1):
            self._walkers(put, time, s0, sign)
        for s in zebras:
            self._crossing(put, time, s0, s)
        return found

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *(k + 1_000_000 for k in key)])

    def _stream(self, key: str, s0: float, moved: float, start: float = _BACK) -> list[tuple[int, float]]:
        """(k, s) of the members of a stream that has moved by `moved` metres."""
        gap = self._spacing[key]
        first, last = int((s0 + start - moved) // gap), int((s0 + _AHEAD - moved) // gap)
        return [(k, k * gap + moved) for k in range(first, last + 1)]

    def _vehicles(self, put: Put, time: float, s0: float) -> None:
        profile = self._profile
        ego_lane = min(range(profile.lanes), key=lambda i: abs(profile.lane_centre(1, i) - self._ego.d(time)))
        for lane in range(profile.lanes):
            d = profile.lane_centre(1, lane)
            if lane == ego_lane:
                rows = [(k, s0 + self._lead + 3.0 + k * self._spacing["own"]) for k in range(4)]
            else:
                rows = self._stream("next", s0, self._pace["next"] * time)
            self._column(put, rows, d, 0.0, 100 + lane, time, steady=lane == ego_lane)
        for lane in range(profile.lanes):
            rows = self._stream("against", s0, -self._pace["against"] * time + 7.0 * lane)
            self._column(put, rows, profile.lane_centre(-1, lane), np.pi, 200 + lane, time, steady=False)

    def _column(
        self, put: Put, rows: list[tuple[int, float]], d: float, turn: float, tag: int, time: float, steady: bool
    ) -> None:
        cars, large = self._wardrobe.cars, self._wardrobe.large
        for k, s in rows:
            rng = self._rng(tag, k)
            if rng.random() > 0.76:
                continue
            jitter = float(rng.uniform(-0.22, 0.22)) * 18
            s += 0.4 * abs(jitter) * (1 + np.sin(0.3 * time + k)) if steady else jitter
            kind = rng.random()
            dd = d + float(rng.normal(0, 0.15))
            if kind < self._motor:
                helmet = rng.uniform(20, 230, 3)
                put(Cycle(True, rng.uniform(20, 200, 3), self._line.pose(s, dd, turn), Look.random(rng), helmet), s, dd)
            else:
                pool = large if kind < self._motor + self._large else cars
                put(Vehicle(pool[rng.integers(len(pool))], self._line.pose(s, dd, turn)), s, dd)

    def _cyclists(self, put: Put, time: float, s0: float) -> None:
        profile = self._profile
        for direction in (1, -1):
            edge = profile.handed * direction * (profile.lanes * profile.lane - 0.35)
            for k, s in self._stream("cycle", s0, direction * self._pace["cycle"] * time, 2.0):
                rng = self._rng(300 + direction, k)
                if rng.random() > 0.7:
                    continue
                s += float(rng.uniform(-8, 8))
                look, phase = Look.random(rng), 2 * np.pi * (1.1 * time + rng.random())
                helmet = rng.uniform(60, 240, 3) if rng.random() < 0.5 else None
                pose = self._line.pose(s, edge, 0.0 if direction > 0 else np.pi)
                put(Cycle(False, rng.uniform(10, 200, 3), pose, look, helmet, phase), s, edge)

    def _walkers(self, put: Put, time: float, s0: float, sign: int) -> None:
        low, high = (
            self._profile.kerb(sign) + sign * (self._profile.side(sign).verge + 0.9),
            self._profile.front(sign) - sign * 0.4,
        )
        for direction in (-1, 1):
            pace = 1.3 * direction
            for k, s in self._stream(f"walk{sign}", s0, pace * time, 1.5):
                rng = self._rng(400 + sign, 10 + direction, k)
                if rng.random() > 0.6:
                    continue
                d, s = low + (high - low) * float(rng.random()), s + float(rng.uniform(-4, 4))
                for friend in range(2 if rng.random() < 0.3 else 1):
                    look, phase = Look.random(rng), 2 * np.pi * (0.95 * time + rng.random())
                    dd = d + friend * 0.6 * float(rng.choice([-1, 1]))
                    put(Walker(look, self._line.pose(s, dd, 0.0 if direction > 0 else np.pi), phase), s, dd)

    def _crossing(self, put: Put, time: float, s0: float, s: float) -> None:
        """Pedestrians who have crossed before the ego vehicle arrives, and those who wait."""
        if not s0 + 2 < s < s0 + 70:
            return
        left, right = self._profile.kerb(-1) - 0.6, self._profile.kerb(1) + 0.6
        arrival = self._ego.when(s)
        rng = self._rng(500, round(s * 10))
        for k in range(int(rng.integers(0, 5))):
            look, sign, at = Look.random(rng), int(rng.choice([-1, 1])), s + float(rng.uniform(0.4, 2.6))
            duration = (right - left) / 1.4
            begin = arrival - duration - float(rng.uniform(1.0, 5.0))
            done = np.clip((time - begin) / duration, 0, 1)
            d = left + (right - left) * (done if sign > 0 else 1 - done)
            moving = 0 < done < 1
            phase = 2 * np.pi * (time + k / 3)
            put(Walker(look, self._line.pose(at, d, sign * np.pi / 2), phase, 1.0 if moving else 0.0), at, d)
