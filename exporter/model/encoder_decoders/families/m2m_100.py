"""M2M-100 (Fan et al. 2021) and NLLB (2022): norms before the mixers, sinusoids from behind the padding on."""

from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import SHARED_COPIES, Bart, read_bart
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """See :func:`read_bart`."""
    kind = Bart(norm_first=True, first_norm=False, positions="tensor2tensor", scaled=True, activation="relu")
    return read_bart(config, checkpoint, kind)


FAMILY = Family("m2m_100", "translation", read, SHARED_COPIES)
