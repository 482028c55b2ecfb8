# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pictures, drawn with matplotlib (imported on use) and no global state: each call returns a Figure."""
