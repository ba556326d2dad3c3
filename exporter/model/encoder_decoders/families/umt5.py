"""UMT5 (Chung et al. 2023): T5 1.1 with a table of distances in each layer."""

from functools import partial

from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families.t5 import IGNORED, read

FAMILY = Family("umt5", "text2text-generation", partial(read, by_layer=True, mlp="gated-gelu"), IGNORED, inner="")
