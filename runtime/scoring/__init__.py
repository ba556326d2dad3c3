"""How well a bundle does its task: metrics, one file each, with intervals, beside the float model's."""
