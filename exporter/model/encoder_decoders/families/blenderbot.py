"""Blenderbot (Roller et al. 2021): norms before the mixers, learned positions from row 0 on."""

from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import SHARED_COPIES, Bart, read_bart
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """See :func:`read_bart`."""
    kind = Bart(norm_first=True, first_norm=False, positions="learned")
    return read_bart(config, checkpoint, kind)


FAMILY = Family("blenderbot", "text2text-generation", read, SHARED_COPIES)
