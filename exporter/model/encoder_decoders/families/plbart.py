"""PLBART (Ahmad et al. 2021): BART for code and what is said of it, with scaled embeddings."""

from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import SHARED_COPIES, Bart, read_bart
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """See :func:`read_bart`."""
    kind = Bart(norm_first=False, first_norm=True, positions="learned", first_position=2, scaled=True)
    return read_bart(config, checkpoint, kind)


FAMILY = Family("plbart", "text2text-generation", read, SHARED_COPIES)
