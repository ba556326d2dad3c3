"""MVP (Tang et al. 2023): BART, without the prompts of its layers."""

from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import SHARED_COPIES, Bart, read_bart
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config


def read(config: Config, checkpoint: Checkpoint) -> EncoderDecoder:
    """See :func:`read_bart`."""
    if config.flag("use_prompt", False):
        raise config.refuse("use_prompt", "prompts of its layers are not implemented")
    config.without_effect("prompt_length", "prompt_mid_dim")
    kind = Bart(norm_first=False, first_norm=True, positions="learned", first_position=2)
    return read_bart(config, checkpoint, kind)


FAMILY = Family("mvp", "text2text-generation", read, SHARED_COPIES)
