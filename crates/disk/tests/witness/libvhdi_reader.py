#!/usr/bin/python3
"""Reads a chain by libvhdi, Debian's python3-libvhdi: LEAF [PARENT ... BASE].

Prints the sha256 of the virtual disk. Valid only where no child has a block that is zero, unmapped or
undefined: libvhdi reads the parent there. It replays no log.
"""

import hashlib
import sys

import pyvhdi

STEP = 1 << 20

layers = []
for path in sys.argv[1:]:
    layer = pyvhdi.file()
    layer.open(path)
    layers.append(layer)
try:
    for child, parent in zip(layers, layers[1:]):
        child.set_parent(parent)
except OSError as error:
    sys.exit(f"libvhdi_reader: {error}")
leaf, digest = layers[0], hashlib.sha256()
for at in range(0, leaf.get_media_size(), STEP):
    digest.update(leaf.read_buffer_at_offset(min(STEP, leaf.get_media_size() - at), at))
print(digest.hexdigest())
