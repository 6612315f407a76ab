"""Answers that are given again: kept in memory, in Redis, on disk, for one tenant and one revision of a model.

    request ─▶ `rules.plan` ─▶ kept? ─▶ the answer again
                  │ not kept       └▶ the same request is under way? ─▶ its answer, as it comes
                  │ bypass                └▶ an engine answers; a whole 200 is kept
                  └▶ an engine answers

Read `rules` (what may be kept, and under which key), `answers` (a request's way), `flight` (identical requests at
once), then the tiers behind `guard`, which makes a slow or dead one cost misses and nothing else.
"""
