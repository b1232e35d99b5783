"""Made-up results, for the tests of this room."""

from made_up_results import bare_results, lab, lab_results, named_results, results

__all__ = ["bare_results", "lab", "lab_results", "named_results", "results"]
