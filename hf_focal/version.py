"""The version of hf_focal."""

__version__ = "0.1.0"
