"""Make the twins: one module that fits either variant."""
