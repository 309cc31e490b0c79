"""mlx-vlm 0.7.10 resizes SAM's relative place embeddings by another rule than the published DeepSeek-OCR.

For views of 640 px the tables of the globally attending layers shrink from 127 to 79 entries. torch's linear resizing puts samples at the
centres of their cells, the port at the cells' left edges: every table comes out shifted and no longer symmetric. Documents large enough to be cut
into smaller views are seen with displaced attention; small ones, which have one view, are not affected.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def centred(model):
    from mlx import core
    from mlx_vlm.models.deepseekocr import sam

    whole = sam.get_rel_pos

    def resized(q_size, k_size, table):
        entries, wanted = table.shape[0], 2 * max(q_size, k_size) - 1
        if entries != wanted:
            place = core.clip((core.arange(wanted) + 0.5) * (entries / wanted) - 0.5, 0, entries - 1)
            below = core.floor(place).astype(core.int32)
            above = core.minimum(below + 1, entries - 1)
            part = (place - below)[:, None]
            table = table[below] * (1 - part) + table[above] * part
        return whole(q_size, k_size, table)

    return patch.object(sam, "get_rel_pos", resized)


FINDING = Finding(
    "deepseekocr-relative-places",
    ("deepseekocr",),
    "port",
    "relative place embeddings of SAM are resized from the cells' edges; the patch resizes them from the cells' centres, as torch does",
    "mlx_vlm/models/deepseekocr/sam.py: get_rel_pos",
    centred,
)
