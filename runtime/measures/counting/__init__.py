"""What a bundle costs on an emulated machine that counts instructions: whole calls, by operator, and bytes beside them.

    from edgepress.runtime.measures.counting import count_bundles
    from edgepress.targets.emulator import setup, setup_system

    [cost] = count_bundles(setup(), setup_system(), ["bundle"], ["cortex-a76"], contexts=[1024], prefill=[128])
    assert cost.calls[0].tokens == 1

Instructions are no time: caches, memory and how many instructions a core issues at once are not in them.
"""

from edgepress.runtime.measures.counting.bundle import BundleCost, CallCost, count_bundles

__all__ = ["BundleCost", "CallCost", "count_bundles"]
