"""Settings for the whole suite: results must not depend on the machine or on the order of the tests."""

from __future__ import annotations

import hypothesis
import torch

# The workers of pytest-xdist share the cores; one thread each is faster than all of them on all cores.
torch.set_num_threads(1)

# The same examples in every run, and no deadline: the first forward of a model is much slower than the next.
hypothesis.settings.register_profile("bnlint", derandomize=True, deadline=None)
hypothesis.settings.load_profile("bnlint")
