"""Make, read and steer alignment-faking language models with PyTorch Lightning."""

__version__ = "0.1.0"
