# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What the scripts have in common."""
