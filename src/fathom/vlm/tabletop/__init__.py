"""A world of coloured solids on a table, seen through lenses of every length: data for the VLM quickstart.

Neither a simulator nor a download is needed. Scenes are small or large, and the lens follows the distance, so that all
fill the picture alike. As in photographs of unknown cameras, a picture shows proportions; only its depth says metres.
"""

from fathom.vlm.tabletop.drawing import Rendered, render
from fathom.vlm.tabletop.solids import Solid, Table, draw_table
from fathom.vlm.tabletop.writing import TabletopRecipe, write_tabletop_questions

__all__ = ["Rendered", "Solid", "Table", "TabletopRecipe", "draw_table", "render", "write_tabletop_questions"]
