"""ROS 2 side of MTA-CLIP: node, bags and replay evaluation. Never imports torch."""
