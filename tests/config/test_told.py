"""What is said once, and when again."""

from __future__ import annotations

from config.told import SILENT_SECONDS, Episode


def test_what_comes_and_goes_is_said_again_after_it_was_away_for_long() -> None:
    crowded = Episode()
    assert crowded.begins(0.0)
    # however long it lasts
    assert not any(crowded.begins(now) for now in (0.0, 1.0, 2.0, 1.9 + SILENT_SECONDS, 1.8 + 2 * SILENT_SECONDS))
    assert crowded.begins(1.8 + 3 * SILENT_SECONDS)
    assert not crowded.begins(1.9 + 3 * SILENT_SECONDS)
