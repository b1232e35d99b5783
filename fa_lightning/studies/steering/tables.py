"""The tables of the main job, which are those of any experiment that steers."""

from __future__ import annotations

from fa_lightning.reports.results_tables import results_tables as tables

__all__ = ["tables"]
