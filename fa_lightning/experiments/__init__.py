"""Run it: an experiment folder's stages in order, each resumed or skipped."""
