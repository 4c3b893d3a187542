"""MTA-CLIP semantic segmentation: models, data, metrics and inference. Never imports ROS."""

__version__ = "0.1.0"
