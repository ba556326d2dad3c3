"""What an emulator is made of: the one list of what is downloaded.

Debian packages come from one suite of a Debian mirror. A mirror keeps only the newest version of each, so what pins
them is the suite (a stable one: fixes only) and the archive's signature, which apt checks against
``debian-archive-keyring``; each file is then held against the SHA-256 of the signed index. The versions that came are
in ``installed.json`` and in every report.

x86-64 processors are emulated on x86-64 machines only: there the host's own Python, onnxruntime and libraries run.

Wheels are those of the *host's own* versions of onnxruntime, numpy, tokenizers and msgspec, so that a comparison
differs in the processor and in nothing else. pip checks them against the SHA-256 of the index.

To move to a new Debian release: change ``SUITE`` and ``PYTHON``, run ``edgepress emulator setup`` and the tests of
``tests/targets/test_emulator*.py``; a missing library shows in the setup's own trial run, by name. The lists are part
of the cache's key, so old and new live side by side.
"""

SUITE = "trixie"
PYTHON = "3.13"  # of that suite, and what wheels are chosen for
LEAST_QEMU = (10, 0)  # 7.2 crashes in cpuinfo and lets onnxruntime see an SME that is not there
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# The emulators of programs, statically linked: of the host's own architecture. The package has one for each processor.
USER_EMULATOR = "qemu-user"
ARM_EMULATOR, X86_EMULATOR = "usr/bin/qemu-aarch64", "usr/bin/qemu-x86_64"
USER_EMULATOR_FILES = (ARM_EMULATOR, X86_EMULATOR)

# The emulated system: Python, and what it and the wheels are linked to.
ROOT = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libgomp1",
    "libffi8",
    "libssl3t64",
    "libzstd1",
    "libbz2-1.0",
    "liblzma5",
    "libexpat1",
    "zlib1g",
)
ROOT_UNUSED = ("usr/share", "usr/lib/aarch64-linux-gnu/gconv")  # documentation, character sets
X86_ROOT_UNUSED = ("usr/share", "usr/lib/x86_64-linux-gnu/gconv")

# The emulator of a whole machine, which counts instructions: its libraries are those that the loader lists
# (``ld-linux --list``), of the host's own architecture. The kernel's package depends on the one of the day.
SYSTEM_EMULATOR = "qemu-system-arm"
SYSTEM_EMULATOR_FILE = "usr/bin/qemu-system-aarch64"
SYSTEM_LIBRARIES = (
    *("libaio1t64", "libatomic1", "libblkid1", "libbpf1", "libc6", "libcap2", "libcapstone5", "libdaxctl1"),
    *("libelf1t64", "libfdt1", "libffi8", "libfuse3-4", "libgcc-s1", "libglib2.0-0t64", "libgmp10", "libgnutls30t64"),
    *("libhogweed6t64", "libibverbs1", "libidn2-0", "libjpeg62-turbo", "libkmod2", "libmount1", "libndctl6"),
    *("libnettle8t64", "libnl-3-200", "libnl-route-3-200", "libnuma1", "libp11-kit0", "libpcre2-8-0", "libpixman-1-0"),
    *("libpmem1", "libpng16-16t64", "librdmacm1t64", "libsasl2-2", "libseccomp2", "libselinux1", "libslirp0"),
    *("libssl3t64", "libtasn1-6", "libudev1", "libunistring5", "liburing2", "libuuid1", "libvdeplug2t64", "libzstd1"),
    "zlib1g",
)
KERNEL = "linux-image-cloud-arm64"

# What that machine does without: it all has to fit into its memory.
UNUSED_SUFFIXES = frozenset({".a", ".h", ".pyi", ".md", ".pxd"})
UNUSED_FOLDERS = frozenset(
    {"tests", "test", "testing", "f2py", "transformers", "quantization", "tools", "idlelib", "engines-3", "pydoc_data"}
)

WHEELS = ("onnxruntime", "numpy", "tokenizers", "msgspec")
WHEEL_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")  # of any architecture

# What ``-cpu`` takes is the emulator's list; these are the ones worth asking for, oldest instruction set first.
CPUS = {
    "cortex-a53": "Armv8.0: NEON only (Raspberry Pi 3, the small cores of phones until 2017)",
    "cortex-a72": "Armv8.0: NEON only (Raspberry Pi 4)",
    "cortex-a76": "Armv8.2: dot products of int8, float16 (Raspberry Pi 5, phones from 2019)",
    "neoverse-n1": "Armv8.2: dot products of int8, float16 (servers)",
    "neoverse-v1": "Armv8.4: matrix products of int8, bfloat16, SVE of 256 bits (servers)",
    "cortex-a710": "Armv9.0: matrix products of int8, bfloat16, SVE2 of 128 bits (phones from 2022)",
    "neoverse-n2": "Armv9.0: matrix products of int8, bfloat16, SVE2 of 128 bits (servers)",
    "Haswell-noTSX": "x86-64: AVX2 and no VNNI: sums of uint8 by int8 saturate (Intel from 2013, AMD Zen to Zen 3)",
}
