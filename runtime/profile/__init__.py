"""Profiles: everything that can be measured of a bundle on a device, with its circumstances, resumable and comparable.

    from edgepress.runtime.profile.profiling import profile
    from edgepress.runtime.profile.summary import format_summary

    print(format_summary(profile("bundle", out="profile.jsonl", device="ssh:board")))

``passes/`` has a file for each thing that is measured apart; ``records.py`` is the form on disk; ``summary.py`` makes
figures of it, ``statistics.py`` their intervals.
"""
