"""ManiSkill's files for the Bridge twins: models, robot, photographs. Nothing here loads a simulator."""

import os
from pathlib import Path

from fathom.errors import UserError
from fathom.simulation.archives import assets_from

SETTING = "FATHOM_MANISKILL_ASSETS"
DOWNLOAD = "python -m mani_skill.utils.download_asset bridge_v2_real2sim widowx250s -y"
"""ManiSkill's own download."""

STAND_INS = (
    "Measured with offline assets for ManiSkill's Bridge twins: the table and the eggplant's mesh are stand-ins; "
    "layouts, robot, the other objects and the photographs are official."
)
"""To be said beside every number that was measured with them."""

_BRIDGE = Path("data", "tasks", "bridge_v2_real2sim_dataset")
_NEEDED = (
    Path("data", "robots", "widowx", "wx250s.urdf"),
    _BRIDGE / "custom" / "info_bridge_custom_v0.json",
    _BRIDGE / "custom" / "models" / "eggplant" / "textured.obj",
    _BRIDGE / "real_inpainting" / "bridge_sink.png",
    _BRIDGE / "stages" / "bridge_table_1_v1.glb",
)
_STAGE_BYTES = 100_000  # the official table is a scan of megabytes, the stand-in a box


def assets() -> Path:
    """ManiSkill's asset folder, the one that holds ``data``; this process and its children are told where it is.

    ``FATHOM_MANISKILL_ASSETS`` says where: a folder, or an archive, which is unpacked once. Where it is not set, they
    are looked for where ManiSkill keeps its downloads. ManiSkill itself would ask on the terminal what to do: it never
    gets to, since this is called first.

    Raises:
        UserError: they are not there.
    """
    named = assets_from(SETTING)
    root = named or Path(os.environ.get("MS_ASSET_DIR") or "~/.maniskill").expanduser()
    for folder in (root, root / "ms_assets", root.parent):
        if all((folder / part).exists() for part in _NEEDED):
            os.environ["MS_ASSET_DIR"] = str(folder)
            return folder
    if named is not None:
        raise UserError(f"{SETTING}={os.environ[SETTING]}: no {_NEEDED[1]} in it; these are not ManiSkill's assets.")
    raise UserError(
        f"ManiSkill's assets for the Bridge tasks are not in {root}: `{DOWNLOAD}` fetches them, or set {SETTING} to a "
        "folder or .tar.xz that holds them."
    )


def are_stand_ins(folder: Path) -> bool:
    """Whether some visuals are stand-ins, see :data:`STAND_INS`."""
    return (folder / _NEEDED[-1]).stat().st_size < _STAGE_BYTES
