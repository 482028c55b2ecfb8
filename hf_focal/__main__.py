# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`python -m hf_focal`, which `accelerate launch -m hf_focal` starts: the same as `hf-focal`."""

from hf_focal.cli.main import main


if __name__ == "__main__":
    main()
