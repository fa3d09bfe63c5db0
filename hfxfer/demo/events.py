"""How events of the app are run: which wait for which, and which belong to the page alone."""

MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 32}
"""So many are read, wait for the model and are computed together: twice served.CHUNK, so that some are read while others are computed."""

BATCH_QUEUE = {"concurrency_id": "batch", "concurrency_limit": 1}
"""Beside the queue of single inputs, which go in between two chunks of a batch."""

WHY_QUEUE = {"concurrency_id": "why", "concurrency_limit": 1}

OWN = {"api_visibility": "private", "show_progress": "minimal"}
"""Of the page itself: no client calls them."""

AT_ONCE = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
"""Of the page itself, and nothing is asked of the model."""
