"""Sun, sky light and haze of one drive, and what they do to a colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MIDDLE_GREY = 112.0
"""Albedo of a typical road: the exposure of a drive brings it to a plausible brightness."""


@dataclass(frozen=True)
class Light:
    """Weather of a drive. Colours are RGB, 0-255 display values; gains are factors on them.

    Attributes:
        weather: `sunny`, `bright`, `overcast` or `dusk`.
        sun: (3,) unit vector towards the sun.
        ambient: (3,) gain of a surface in shadow.
        direct: (3,) gain that full sun adds.
        zenith, horizon: (3,) sky colours.
        cloud: 0 (clear) to 1 (covered).
        haze: (3,) colour that distance turns everything to.
        visibility: metres after which 63% is haze.
        lamps: whether the lamps of vehicles and lamp posts shine.
    """

    weather: str
    sun: np.ndarray
    ambient: np.ndarray
    direct: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: float
    haze: np.ndarray
    visibility: float
    lamps: bool

    @staticmethod
    def random(rng: np.random.Generator) -> Light:
        weather = str(rng.choice(["sunny", "bright", "overcast", "dusk"], p=[0.34, 0.3, 0.22, 0.14]))
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(15, 55))
        sun = np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
        warm, cool = np.array([1.06, 1.0, 0.9]), np.array([0.92, 0.98, 1.08])
        white = np.array([1.0, 1.0, 1.0])
        if weather == "sunny":
            ambient, direct = rng.uniform(0.36, 0.6) * cool, rng.uniform(0.6, 0.95) * warm
            zenith = np.array([92, 140, 202]) * rng.uniform(0.8, 1.3)
            horizon, cloud = np.array([214, 228, 240]) * rng.uniform(0.95, 1.15), rng.uniform(0.0, 0.6)
            visibility = rng.uniform(350, 900)
        elif weather == "bright":
            ambient, direct = rng.uniform(0.45, 0.75) * white, rng.uniform(0.15, 0.5) * warm
            zenith = np.array([238, 242, 247]) * rng.uniform(0.94, 1.1)
            horizon, cloud = np.array([248, 249, 250]), rng.uniform(0.1, 0.8)
            visibility = rng.uniform(150, 500)
        elif weather == "overcast":
            ambient, direct = rng.uniform(0.5, 0.95) * cool, 0.04 * white
            zenith = np.array([186, 192, 200]) * rng.uniform(0.8, 1.35)
            horizon, cloud = np.array([218, 221, 224]) * rng.uniform(0.85, 1.2), rng.uniform(0.6, 1.0)
            visibility = rng.uniform(130, 500)
        else:
            ambient, direct = rng.uniform(0.14, 0.34) * np.array([0.97, 0.98, 1.05]), 0.02 * white
            zenith = np.array([112, 122, 138]) * rng.uniform(0.6, 1.5)
            horizon = np.array([178, 176, 172]) * rng.uniform(0.7, 1.3)
            cloud, visibility = rng.uniform(0.3, 1.0), rng.uniform(200, 700)
        bright = {"sunny": (82, 138), "bright": (85, 140), "overcast": (78, 130), "dusk": (32, 66)}[weather]
        scale = rng.uniform(*bright) / (_MIDDLE_GREY * float((ambient + direct * sun[1]).mean()))
        ambient, direct = ambient * scale, direct * scale
        zenith, horizon = np.clip(zenith, 0, 255), np.clip(horizon, 0, 255)
        haze = np.clip(horizon * rng.uniform(0.78, 0.95), 0, 255)
        if weather == "dusk":
            haze = horizon * 0.45
        return Light(
            weather, sun, ambient, direct, zenith, horizon, float(cloud), haze, float(visibility), weather == "dusk"
        )

    def gain(self, normal: np.ndarray, sunlit: float = 1.0) -> np.ndarray:
        """What the light does to surfaces: (..., 3) unit normals -> (..., 3) factors."""
        facing = np.maximum(normal @ self.sun, 0.0)[..., None] * sunlit
        sky = (0.84 + 0.16 * normal[..., 1])[..., None]
        return self.ambient * sky + self.direct * facing

    def veil(self, distance: float | np.ndarray) -> float | np.ndarray:
        """Share of haze at a distance in metres, 0-1."""
        return 1.0 - np.exp(distance * (-1.0 / self.visibility))

    def seen(self, colour: np.ndarray, distance: float) -> np.ndarray:
        """A lit RGB colour (..., 3) through the haze."""
        veil = self.veil(distance)
        return np.minimum(colour * (1 - veil) + self.haze * veil, 255)

    @property
    def shadow_strength(self) -> float:
        """How much darker the ground is in shadow: 0 (no shadow) to 1 (black)."""
        lit = float((self.ambient + self.direct * self.sun[1]).mean())
        return float(1.0 - self.ambient.mean() / lit)

    @property
    def shadow_offset(self) -> np.ndarray:
        """(2,) metres in (x, z) by which the shadow of a point moves per metre of its height."""
        return -self.sun[[0, 2]] / max(float(self.sun[1]), 0.25)
