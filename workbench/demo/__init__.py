"""The small models that ship inside the package, and the scripts that made them.

``demo:vlm`` is a LLaVA of 2.77 million parameters that reads digits and words, names colours and shapes, counts,
reads a bar chart, adds two numbers and answers by letter, all on 64 x 64 pictures.  It exists so that every tool of
the workbench can be tried end to end, with real (small) scores, without a download.

    >>> from workbench.demo import vlm_folder
    >>> AutoModelForImageTextToText.from_pretrained(vlm_folder())
"""

from pathlib import Path

from workbench import locate

__all__ = ["vlm_folder"]


def vlm_folder() -> Path:
    """Folder of the bundled vision-language model, in the layout of the Hugging Face hub.

    Raises:
        FileNotFoundError: the weights are missing, for example in a checkout made without large files.
    """
    folder = locate.demo_model("vlm")
    if folder is None:
        raise FileNotFoundError("the bundled model is missing; train it with: python -m workbench.demo.train --out DIR")
    return folder
