"""The picture of a finished study: python docs/images/study.py STUDY TITLE docs/images/STUDY.png FOLDER [FOLDER ...].

A folder of a stage for each chain, whose pictures stand below one another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imsave

from fa_lightning.studies.birth.figures import answers_figure
from fa_lightning.studies.half_life.figures import curves_figure
from fa_lightning.studies.registry import STUDIES
from fa_lightning.studies.transfer.figures import transfer_figure
from fa_lightning.studies.unmask.figures import unmask_figure

FIGURES: dict[str, Callable[[Any, str], Any]] = {
    "birth": answers_figure,
    "half_life": curves_figure,
    "transfer": transfer_figure,
    "unmask": unmask_figure,
}


def drawn(study: str, title: str, folder: str) -> Any:
    """The picture of one folder's result, (height, width, 4)."""
    result = STUDIES[study].read(Path(folder))
    if result is None:
        raise SystemExit(f"{folder} holds no result of {study}")
    figure = FIGURES[study](result, title)
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())


if __name__ == "__main__":
    study, title, target, *folders = sys.argv[1:]
    titles = [title] if len(folders) == 1 else [f"{title}, chain {number}" for number in range(len(folders))]
    pictures = [drawn(study, one, folder) for one, folder in zip(titles, folders, strict=True)]
    imsave(target, numpy.concatenate(pictures))
