"""Datasets of other formats become LeRobot v3.0, episode by episode: LIBERO and robomimic HDF5, RLDS, LeRobot v2.1."""
