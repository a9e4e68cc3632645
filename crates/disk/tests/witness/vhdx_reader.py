#!/usr/bin/env python3
"""Reads VHDX files, slowly and plainly, to judge those of a faster writer.

Written from a description of the format alone, without a look at the engine it judges: an error
that both share is then one of the description. It is stricter than a reader for users would be:
whatever the format forbids is refused, also where reading could go on.

    vhdx_reader.py [--range START:LENGTH] [--raw] LEAF [PARENT ... BASE]

Prints the sha256 of the virtual disk, or writes its bytes to stdout. The files are a chain, leaf first;
each link of it is verified. A log that was not replayed is replayed in memory: no file is changed.
"""

import argparse
import bisect
import hashlib
import itertools
import os
import struct
import sys
import uuid

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
PAGE = 4096
# No read is larger, and zeros are handed out in such pieces.
STEP = 4 * MIB
ZEROS = bytes(STEP)

BAT_REGION = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA_REGION = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

FILE_PARAMETERS = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
VIRTUAL_DISK_SIZE = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
PAGE_83_DATA = uuid.UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR_SIZE = uuid.UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
KNOWN_ITEMS = {
    FILE_PARAMETERS, VIRTUAL_DISK_SIZE, PAGE_83_DATA, LOGICAL_SECTOR_SIZE, PHYSICAL_SECTOR_SIZE, PARENT_LOCATOR,
}
VHDX_PARENT = uuid.UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")

NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULLY_PRESENT, PARTIALLY_PRESENT = 0, 1, 2, 3, 6, 7


class Bad(Exception):
    """The file is not what the format says."""


def demand(condition, message):
    if not condition:
        raise Bad(message)


def crc32c_table():
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC32C_TABLE = list(crc32c_table())


def is_sealed(record):
    """Whether the CRC-32C at byte 4 of a record is that of the record with zeros in its place."""
    crc = 0xFFFFFFFF
    for byte in itertools.chain(record[:4], bytes(4), record[8:]):
        crc = CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF == struct.unpack_from("<I", record, 4)[0]


def guid(data, at):
    return uuid.UUID(bytes_le=bytes(data[at : at + 16]))


def round_up(number, unit):
    return -(-number // unit) * unit


class File:
    """A file's bytes, with pages of the log laid over them."""

    def __init__(self, path):
        self.path = path
        self.handle = open(path, "rb", buffering=0)
        self.length = os.fstat(self.handle.fileno()).st_size
        self.pages = {}
        self.page_offsets = []

    def lay_over(self, pages, length):
        self.pages = pages
        self.page_offsets = sorted(pages)
        self.length = max(self.length, length)

    def read(self, offset, length):
        demand(offset + length <= self.length, f"{self.path}: ends before {offset + length:#x}")
        data = os.pread(self.handle.fileno(), length, offset)
        while 0 < len(data) < length:
            more = os.pread(self.handle.fileno(), length - len(data), offset + len(data))
            if not more:
                break
            data += more
        first = bisect.bisect_right(self.page_offsets, offset - PAGE)
        last = bisect.bisect_left(self.page_offsets, offset + length)
        if first == last and len(data) == length:
            return data
        data = bytearray(data.ljust(length, b"\0"))
        for page in self.page_offsets[first:last]:
            start, end = max(page, offset), min(page + PAGE, offset + length)
            data[start - offset : end - offset] = self.pages[page][start - page : end - page]
        return bytes(data)


class Header:
    def __init__(self, data):
        self.data = data
        self.is_valid = data[:4] == b"head" and is_sealed(data)
        self.sequence_number = struct.unpack_from("<Q", data, 8)[0]
        self.data_write_guid = guid(data, 32)
        self.log_guid = guid(data, 48)
        self.log_version, self.version, self.log_length, self.log_offset = struct.unpack_from("<HHIQ", data, 64)


def current_header(file):
    """The valid one with the greater number; equal numbers only of equal headers."""
    headers = [Header(file.read(at, PAGE)) for at in (64 * KIB, 128 * KIB)]
    valid = [header for header in headers if header.is_valid]
    demand(valid, "no header is valid")
    if len(valid) == 2 and valid[0].sequence_number == valid[1].sequence_number:
        demand(valid[0].data == valid[1].data, "two headers that differ have one sequence number")
    header = max(valid, key=lambda header: header.sequence_number)
    demand(header.version == 1, f"the version is {header.version}")
    demand(header.log_offset % MIB == 0 and header.log_length % MIB == 0, "the log is not aligned")
    demand(header.log_offset >= MIB, "the log lies in the headers")
    demand(header.log_offset + header.log_length <= file.length, "the log lies past the end of the file")
    return header


class LogEntry:
    """A valid entry of the log."""

    @staticmethod
    def parse(ring, at, log_length, log_guid):
        """The entry at `at`, or `None` where no valid one is."""
        head = ring[at : at + 64]
        if head[:4] != b"loge" or guid(head, 32) != log_guid:
            return None
        entry = LogEntry()
        entry.length, entry.tail, entry.number, count = struct.unpack_from("<IIQI", head, 8)
        entry.flushed_offset, entry.last_offset = struct.unpack_from("<QQ", head, 48)
        if not 0 < entry.length < log_length or entry.length % PAGE or entry.number == 0:
            return None
        if entry.tail >= log_length or entry.tail % PAGE or round_up(64 + 32 * count, PAGE) > entry.length:
            return None
        data = ring[at : at + entry.length]
        return entry if is_sealed(data) and entry.parse_descriptors(data, count) else None

    def parse_descriptors(self, data, count):
        """Fills `changes` with (offset, length, page or None for zeros)."""
        self.changes = []
        sector = round_up(64 + 32 * count, PAGE)
        for at in range(64, 64 + 32 * count, 32):
            kind = data[at : at + 4]
            offset, number = struct.unpack_from("<QQ", data, at + 16)
            if number != self.number or offset % PAGE:
                return False
            if kind == b"zero":
                length = struct.unpack_from("<Q", data, at + 8)[0]
                if length % PAGE:
                    return False
                self.changes.append((offset, length, None))
            elif kind == b"desc":
                page = data[sector : sector + PAGE]
                sector += PAGE
                if len(page) != PAGE or page[:4] != b"data":
                    return False
                high, low = struct.unpack_from("<I", page, 4)[0], struct.unpack_from("<I", page, 4092)[0]
                if high << 32 | low != number:
                    return False
                # The page's first 8 and last 4 bytes are in the descriptor.
                page = data[at + 8 : at + 16] + page[8:4092] + data[at + 4 : at + 8]
                self.changes.append((offset, PAGE, page))
            else:
                return False
        return sector == self.length


def active_sequence(ring, log_length, log_guid):
    """The entries to replay, in order: from the last one's tail to it."""
    entries = {at: LogEntry.parse(ring, at, log_length, log_guid) for at in range(0, log_length, PAGE)}
    best = None
    for start in entries:
        positions, at, total = [], start, 0
        while entries[at] is not None and total + entries[at].length <= log_length:
            if positions and entries[at].number != entries[positions[-1]].number + 1:
                break
            positions.append(at)
            total += entries[at].length
            at = (at + entries[at].length) % log_length
        if not positions or entries[positions[-1]].tail not in positions:
            continue
        sequence = [entries[at] for at in positions[positions.index(entries[positions[-1]].tail) :]]
        if best is None or sequence[-1].number > best[-1].number:
            best = sequence
    demand(best, "the log is in use and holds no valid sequence of entries")
    return best


def replay_log(file, header):
    if header.log_guid.int == 0:
        return
    demand(header.log_version == 0, f"the log's version is {header.log_version}")
    log = range(header.log_offset, header.log_offset + header.log_length)
    sequence = active_sequence(file.read(log.start, len(log)) * 2, len(log), header.log_guid)
    last = sequence[-1]
    demand(file.length >= last.flushed_offset, "the file was truncated after its log was written")
    pages, length = {}, file.length
    for entry in sequence:
        length = max(length, entry.last_offset)
        for offset, size, page in entry.changes:
            demand(offset >= 192 * KIB, "the log writes to the headers")
            demand(offset + size <= log.start or offset >= log.stop, "the log writes to itself")
            demand(offset + size <= round_up(entry.last_offset, MIB), "the log writes past the end it tells")
            for at in range(offset, offset + size, PAGE):
                pages[at] = page or ZEROS[:PAGE]
    file.lay_over(pages, length)


def read_regions(file):
    for at in (192 * KIB, 256 * KIB):
        table = file.read(at, 64 * KIB)
        if table[:4] == b"regi" and is_sealed(table):
            break
    else:
        raise Bad("no region table is valid")
    count = struct.unpack_from("<I", table, 8)[0]
    demand(count <= 2047, f"the region table has {count} entries")
    regions = {}
    for at in range(16, 16 + 32 * count, 32):
        name = guid(table, at)
        offset, length, flags = struct.unpack_from("<QII", table, at + 16)
        demand(name not in regions, f"region {name} is there twice")
        demand(name in (BAT_REGION, METADATA_REGION) or not flags & 1, f"region {name} is required and unknown")
        demand(offset >= MIB and offset % MIB == 0 and length % MIB == 0, f"region {name} is not aligned")
        demand(offset + length <= file.length, f"region {name} lies past the end of the file")
        regions[name] = range(offset, offset + length)
    for name in (BAT_REGION, METADATA_REGION):
        demand(name in regions, f"region {name} is missing")
    return regions


def read_metadata(file, region):
    table = file.read(region.start, 64 * KIB)
    demand(table[:8] == b"metadata", "the metadata table has another signature")
    count = struct.unpack_from("<H", table, 10)[0]
    demand(count <= 2047, f"the metadata table has {count} entries")
    seen, items, places = set(), {}, []
    for at in range(32, 32 + 32 * count, 32):
        name = guid(table, at)
        offset, length, flags = struct.unpack_from("<III", table, at + 16)
        is_user, is_required = flags & 1, flags & 4
        demand((name, is_user) not in seen, f"metadata item {name} is there twice")
        seen.add((name, is_user))
        known = not is_user and name in KNOWN_ITEMS
        demand(known or not is_required, f"metadata item {name} is required and unknown")
        demand(length <= MIB and (length or not offset), f"metadata item {name} has a bad length")
        if length:
            demand(offset >= 64 * KIB and offset + length <= len(region), f"metadata item {name} lies outside")
            places.append((offset, offset + length, f"metadata item {name}"))
        if known:
            items[name] = file.read(region.start + offset, length)
    demand_apart(places)
    return items


def demand_apart(places):
    for (_, end, one), (start, _, other) in itertools.pairwise(sorted(places)):
        demand(end <= start, f"{one} and {other} lie in one place")


def unpack_item(items, name, form):
    demand(name in items, f"metadata item {name} is missing")
    demand(len(items[name]) == struct.calcsize(form), f"metadata item {name} has a bad length")
    return struct.unpack(form, items[name])


def read_locator(item):
    demand(len(item) >= 20 and guid(item, 0) == VHDX_PARENT, "the parent locator is of another type")
    count = struct.unpack_from("<H", item, 18)[0]
    demand(20 + 12 * count <= len(item), "the parent locator is too short")
    pairs = {}
    for at in range(20, 20 + 12 * count, 12):
        key_at, value_at, key_length, value_length = struct.unpack_from("<IIHH", item, at)
        texts = []
        for start, length in ((key_at, key_length), (value_at, value_length)):
            demand(start and length and length % 2 == 0, "a string of the parent locator is empty or odd")
            demand(start + length <= len(item), "a string of the parent locator lies outside")
            texts.append(item[start : start + length].decode("utf-16-le"))
        demand(texts[0] not in pairs, f"the parent locator has {texts[0]} twice")
        pairs[texts[0]] = texts[1]
    demand("parent_linkage" in pairs, "the parent locator has no parent_linkage")
    paths = ("relative_path", "volume_path", "absolute_win32_path")
    demand(any(path in pairs for path in paths), "the parent locator has no path")
    return pairs


class Layer:
    """One file of a chain."""

    def __init__(self, path):
        self.path = path
        self.file = File(path)
        demand(self.file.read(0, 8) == b"vhdxfile", "this is no VHDX file")
        self.header = current_header(self.file)
        replay_log(self.file, self.header)
        regions = read_regions(self.file)
        self.read_parameters(read_metadata(self.file, regions[METADATA_REGION]))
        self.read_bat(regions[BAT_REGION])
        self.demand_sound_bat(regions)

    def read_parameters(self, items):
        self.block_size, flags = unpack_item(items, FILE_PARAMETERS, "<II")
        demand(self.block_size in [MIB << n for n in range(9)], f"the block size is {self.block_size}")
        self.leaves_allocated, self.has_parent = bool(flags & 1), bool(flags & 2)
        (self.size,) = unpack_item(items, VIRTUAL_DISK_SIZE, "<Q")
        (self.sector,) = unpack_item(items, LOGICAL_SECTOR_SIZE, "<I")
        (physical,) = unpack_item(items, PHYSICAL_SECTOR_SIZE, "<I")
        unpack_item(items, PAGE_83_DATA, "<16s")
        demand(self.sector in (512, 4096) and physical in (512, 4096), "a sector size is neither 512 nor 4096")
        demand(0 < self.size <= 64 * TIB and self.size % self.sector == 0, f"the disk's size is {self.size}")
        demand(self.has_parent == (PARENT_LOCATOR in items), "only one of HasParent and parent locator is there")
        self.locator = read_locator(items[PARENT_LOCATOR]) if self.has_parent else {}

    def read_bat(self, region):
        self.chunk_ratio = (self.sector << 23) // self.block_size
        self.block_count = -(-self.size // self.block_size)
        chunk_count = -(-self.block_count // self.chunk_ratio)
        if self.has_parent:
            entry_count = chunk_count * (self.chunk_ratio + 1)
        else:
            entry_count = self.block_count + (self.block_count - 1) // self.chunk_ratio
        demand(entry_count * 8 <= len(region), "the BAT's region is too small")
        pieces = (
            self.file.read(at, min(STEP, region.start + entry_count * 8 - at))
            for at in range(region.start, region.start + entry_count * 8, STEP)
        )
        self.bat = memoryview(b"".join(pieces)).cast("Q")
        demand(sys.byteorder == "little", "this reader is for little-endian machines")

    def demand_sound_bat(self, regions):
        """Every state is one the disk's type may have, and nothing lies where something else does."""
        places = [(region.start, region.stop, f"region {name}") for name, region in regions.items()]
        log = self.header.log_offset
        places.append((log, log + self.header.log_length, "the log"))
        for index, entry in enumerate(self.bat):
            if not entry:
                continue
            state, reserved, offset = entry & 7, entry & 0xFFFF8, entry & ~0xFFFFF
            is_bitmap = index % (self.chunk_ratio + 1) == self.chunk_ratio
            if is_bitmap:
                allowed = (NOT_PRESENT, FULLY_PRESENT) if self.has_parent else (NOT_PRESENT,)
            else:
                allowed = (NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULLY_PRESENT)
                allowed += (PARTIALLY_PRESENT,) if self.has_parent else ()
            demand(state in allowed and not reserved, f"BAT entry {index} is {entry:#x}")
            if state in (FULLY_PRESENT, PARTIALLY_PRESENT):
                end = offset + (MIB if is_bitmap else self.block_size)
                demand(offset >= MIB and end <= self.file.length, f"BAT entry {index} leads outside the file")
                places.append((offset, end, f"what BAT entry {index} tells"))
        demand_apart(places)

    def block(self, number):
        """State and offset of a payload block."""
        entry = self.bat[number + number // self.chunk_ratio]
        return entry & 7, entry & ~0xFFFFF

    def sectors_here(self, block, first, count):
        """For some sectors of a block, one after the other, whether this file holds them."""
        chunk = block // self.chunk_ratio
        entry = self.bat[chunk * (self.chunk_ratio + 1) + self.chunk_ratio]
        demand(entry & 7 == FULLY_PRESENT, f"block {block} is partially present and has no bitmap")
        bit = block % self.chunk_ratio * (self.block_size // self.sector) + first
        data = self.file.read((entry & ~0xFFFFF) + bit // 8, (bit % 8 + count + 7) // 8)
        return [data[(bit % 8 + n) // 8] >> (bit + n) % 8 & 1 for n in range(count)]


def open_layer(path):
    try:
        return Layer(path)
    except (Bad, ValueError) as error:
        raise Bad(f"{path}: {error}") from error


def verify_links(layers):
    for child, parent in zip(layers, layers[1:] + [None]):
        if parent is None:
            demand(not child.has_parent, f"{child.path}: the parent is not given")
            continue
        demand(child.has_parent, f"{child.path}: has no parent, yet {parent.path} is given")
        keys = ("parent_linkage", "parent_linkage2")
        links = [uuid.UUID(child.locator[key]) for key in keys if key in child.locator]
        told = parent.header.data_write_guid
        demand(told in links, f"{child.path}: was made from another version of {parent.path}")
        demand(child.sector == parent.sector, f"{child.path}: the parent has another sector size")
        demand(child.size >= parent.size, f"{child.path}: the parent is larger")


def runs(layers, at, end):
    """Where the bytes of the disk are: (length, file or None for zeros, offset in the file)."""
    if not layers:
        yield end - at, None, 0
        return
    layer, below = layers[0], layers[1:]
    while at < min(end, layer.size):
        block, within = divmod(at, layer.block_size)
        length = min(layer.block_size - within, end - at, layer.size - at)
        state, offset = layer.block(block)
        if state == NOT_PRESENT:
            yield from runs(below, at, at + length)
        elif state == FULLY_PRESENT:
            yield length, layer.file, offset + within
        elif state == PARTIALLY_PRESENT:
            yield from runs_of_sectors(layer, below, block, at, at + length)
        else:
            yield length, None, 0
        at += length
    if at < end:
        yield end - at, None, 0


def runs_of_sectors(layer, below, block, at, end):
    block_start, offset = block * layer.block_size, layer.block(block)[1]
    first, last = at // layer.sector, -(-end // layer.sector)
    here = layer.sectors_here(block, first - block_start // layer.sector, last - first)
    sector = first
    for is_here, group in itertools.groupby(here):
        start = max(at, sector * layer.sector)
        sector += len(list(group))
        stop = min(end, sector * layer.sector)
        if is_here:
            yield stop - start, layer.file, offset + start - block_start
        else:
            yield from runs(below, start, stop)


def read_disk(layers, at, end):
    """The bytes of a range of the disk, piece by piece."""
    for length, file, offset in runs(layers, at, end):
        for done in range(0, length, STEP):
            step = min(STEP, length - done)
            if file:
                yield file.read(offset + done, step)
            else:
                yield ZEROS if step == STEP else ZEROS[:step]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", action="store_true", help="write the bytes to stdout")
    parser.add_argument("--range", metavar="START:LENGTH", help="a part of the disk, in bytes")
    parser.add_argument("paths", nargs="+", metavar="FILE", help="the chain, leaf first")
    arguments = parser.parse_args()
    try:
        layers = [open_layer(path) for path in arguments.paths]
        verify_links(layers)
        at, end = 0, layers[0].size
        if arguments.range:
            at, length = (int(number) for number in arguments.range.split(":"))
            end = at + length
            demand(0 <= at <= end <= layers[0].size, "the range lies past the end of the disk")
        digest = hashlib.sha256()
        for piece in read_disk(layers, at, end):
            sys.stdout.buffer.write(piece) if arguments.raw else digest.update(piece)
        if not arguments.raw:
            print(digest.hexdigest())
    except (Bad, OSError) as error:
        sys.exit(f"vhdx_reader: {error}")


if __name__ == "__main__":
    main()
