"""Names of processor designs by what their identification register says (implementer, part number).

Sources: util-linux, ``sys-utils/lscpu-arm.c``; Linux, ``arch/arm64/include/asm/cputype.h``.
"""

_ARM, _QUALCOMM, _APPLE, _SAMSUNG, _AMPERE = 0x41, 0x51, 0x61, 0x53, 0xC0
DESIGNS = {
    (_ARM, 0xD03): "Cortex-A53",
    (_ARM, 0xD04): "Cortex-A35",
    (_ARM, 0xD05): "Cortex-A55",
    (_ARM, 0xD07): "Cortex-A57",
    (_ARM, 0xD08): "Cortex-A72",
    (_ARM, 0xD09): "Cortex-A73",
    (_ARM, 0xD0A): "Cortex-A75",
    (_ARM, 0xD0B): "Cortex-A76",
    (_ARM, 0xD0C): "Neoverse-N1",
    (_ARM, 0xD0D): "Cortex-A77",
    (_ARM, 0xD0E): "Cortex-A76AE",
    (_ARM, 0xD40): "Neoverse-V1",
    (_ARM, 0xD41): "Cortex-A78",
    (_ARM, 0xD42): "Cortex-A78AE",
    (_ARM, 0xD44): "Cortex-X1",
    (_ARM, 0xD46): "Cortex-A510",
    (_ARM, 0xD47): "Cortex-A710",
    (_ARM, 0xD48): "Cortex-X2",
    (_ARM, 0xD49): "Neoverse-N2",
    (_ARM, 0xD4B): "Cortex-A78C",
    (_ARM, 0xD4C): "Cortex-X1C",
    (_ARM, 0xD4D): "Cortex-A715",
    (_ARM, 0xD4E): "Cortex-X3",
    (_ARM, 0xD4F): "Neoverse-V2",
    (_ARM, 0xD80): "Cortex-A520",
    (_ARM, 0xD81): "Cortex-A720",
    (_ARM, 0xD82): "Cortex-X4",
    (_ARM, 0xD85): "Cortex-X925",
    (_ARM, 0xD87): "Cortex-A725",
    (_QUALCOMM, 0x001): "Oryon",
    (_QUALCOMM, 0x800): "Kryo 2xx Gold",
    (_QUALCOMM, 0x801): "Kryo 2xx Silver",
    (_QUALCOMM, 0x802): "Kryo 3xx Gold",
    (_QUALCOMM, 0x803): "Kryo 3xx Silver",
    (_QUALCOMM, 0x804): "Kryo 4xx Gold",
    (_QUALCOMM, 0x805): "Kryo 4xx Silver",
    (_SAMSUNG, 0x001): "Exynos M1",
    (_SAMSUNG, 0x002): "Exynos M3",
    (_SAMSUNG, 0x003): "Exynos M4",
    (_SAMSUNG, 0x004): "Exynos M5",
    (_APPLE, 0x022): "Icestorm",
    (_APPLE, 0x023): "Firestorm",
    (_AMPERE, 0xAC3): "Ampere-1",
}


def design(midr: int) -> str | None:
    """The name of a design by its whole MIDR_EL1: implementer in bits 24 to 31, part number in bits 4 to 15."""
    return DESIGNS.get((midr >> 24 & 0xFF, midr >> 4 & 0xFFF))
