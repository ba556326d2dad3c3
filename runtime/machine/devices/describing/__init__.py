"""What a device is: read as text (``record.py``), understood from that text alone (``linux.py``, ``android.py``)."""
