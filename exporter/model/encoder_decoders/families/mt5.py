"""mT5 (Xue et al. 2021): T5 1.1 in many languages."""

from functools import partial

from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families.t5 import IGNORED, read

FAMILY = Family("mt5", "text2text-generation", partial(read, mlp="gated-gelu", never_scaled=True), IGNORED, inner="")
