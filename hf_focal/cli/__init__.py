# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The commands, one a file, and what they have in common."""
