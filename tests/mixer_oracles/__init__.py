"""The float64 oracle of each kind of mixer, a file each, found by its name (``exporter/model/mixers/<kind>.py``)."""
