"""Hypothesis profiles: the same examples at each run, unless HYPOTHESIS_PROFILE=explore asks for new and more ones."""

import os

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=False)
settings.register_profile("explore", deadline=None, max_examples=3000, stateful_step_count=80, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
