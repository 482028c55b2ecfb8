# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Trustworthy probabilities for Hugging Face classifiers: focal loss and its kin, temperature scaling, metrics.

The public names stand in `__init__.pyi`. Nothing is imported before it is asked for: `import hf_focal` loads neither
torch nor transformers.
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
