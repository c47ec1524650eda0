"""Depth for datasets that have none: estimated or recorded, added as a feature, and checked."""

from fathom.annotation.annotate import Annotation, annotate
from fathom.annotation.check import Check, check_depth

__all__ = ["Annotation", "Check", "annotate", "check_depth"]
