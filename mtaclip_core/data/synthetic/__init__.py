"""A procedural street: drives with exact labels, generated from a seed.

drive = StreetDrive(size=(360, 480), seed=7, fps=15.0)
sample = drive.frame(30)        # image RGB, label in Cityscapes train ids
"""

from __future__ import annotations

from mtaclip_core.data.synthetic.drive import Frame, StreetDrive

__all__ = ["Frame", "StreetDrive"]
