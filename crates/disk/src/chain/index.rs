//! Which parent holds which bytes: one answer for all the layers under a leaf.
//!
//! ```text
//!   region 7 (2 MiB)    0 ── 96K ──────── 1M ───────────── 2M
//!                       │ layer 3 │ layer 0 │ absent        │
//! ```
//! Parents never change, so a region is resolved once, when it is first read, from the top layer down.
//! Memory is bounded: regions are forgotten and resolved again. A layer added on top ([`Index::push`],
//! when a leaf is frozen) is laid over what is known, region by region, when next asked.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::Result;
use crate::layer::{Below, Layer, Place, Run};
use crate::number_map::NumberMap;

/// Bytes of the virtual disk in a region: a child's usual block.
const REGION: u64 = 2 << 20;
const SHARDS: usize = 16;
/// Memory for resolved regions of one chain, in bytes.
const MEMORY: usize = 64 << 20;

/// The parents of a chain's leaf, none or more.
pub(crate) struct Index {
    /// Base first, so that a layer keeps its number when another goes on top.
    layers: Vec<Arc<Layer>>,
    shards: Box<[RwLock<Shard>]>,
}

#[derive(Default)]
struct Shard {
    regions: NumberMap<Region>,
    /// Bytes of memory, about.
    cost: usize,
}

/// What is known of one region.
#[derive(Clone, Debug)]
struct Region {
    /// How many layers, from the base up, were asked.
    covered: usize,
    /// In order, without gaps.
    spans: Arc<[Span]>,
}

/// Bytes of a region that lie in one place, packed: a look into a region that is not in the processor's cache costs
/// as much as all the rest of finding a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// Where it ends, in bytes from the region's start; it begins where the one before it ends.
    end: u32,
    /// Number of the layer, or one of [`Span::ZERO`] and [`Span::ABSENT`].
    layer: u32,
    /// In that layer's file, where the first byte lies.
    at: u64,
}

/// A part of a region that is being resolved.
#[derive(Clone, Debug)]
struct Part {
    /// Bytes from the region's start.
    range: Range<u32>,
    source: Source,
}

/// Where the byte lies that was asked for.
struct Found {
    source: Source,
    /// Where bytes begin on the virtual disk that lie elsewhere.
    end: u64,
}

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In this layer's file, at this offset. Layers count from the base up.
    Data {
        layer: u32,
        at: u64,
    },
    Zero,
    Absent,
}

impl Index {
    /// Over `layers`, base first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self { layers, shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// Number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// A layer by its number; `None` for the leaf's.
    pub(super) fn layer(&self, number: u32) -> Option<&Layer> {
        self.layers.get(number as usize).map(|layer| &**layer)
    }

    /// Puts a layer on top.
    pub fn push(&mut self, layer: Layer) {
        self.layers.push(Arc::new(layer));
    }

    /// The source of bytes that the leaf over these layers holds.
    pub(super) fn source_above(&self, at: u64) -> Source {
        Source::Data { layer: self.layers.len() as u32, at }
    }

    /// Calls `visit(offset, length, source)` for each span of a range, until it answers `false`. Returns whether it never did.
    pub(super) fn visit(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, u64, Source) -> Result<bool>,
    ) -> Result<bool> {
        if self.layers.is_empty() {
            return visit(range.start, range.end - range.start, Source::Absent);
        }
        let mut at = range.start;
        while at < range.end {
            let found = self.find(at)?;
            let end = found.end.min(range.end);
            if !visit(at, end - at, found.source)? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    fn find(&self, at: u64) -> Result<Found> {
        let number = at / REGION;
        let shard = &self.shards[number as usize % SHARDS];
        let known = {
            let shard = shard.read();
            match shard.regions.get(&number) {
                Some(region) if region.covered == self.layers.len() => return Ok(region.find(at)),
                known => known.cloned(),
            }
        };
        let region = self.resolve(number, known.as_ref())?;
        let found = region.find(at);
        shard.write().keep(number, region);
        Ok(found)
    }

    /// Asks the layers that are not covered yet, from the top down, for what none above them knew.
    fn resolve(&self, number: u64, known: Option<&Region>) -> Result<Region> {
        let base = number * REGION;
        let covered = known.map_or(0, |region| region.covered);
        let (mut parts, mut runs) = (Vec::new(), Vec::new());
        let mut open: Vec<Range<u32>> = std::iter::once(0..REGION as u32).collect();
        let mut still_open = Vec::new();
        for (layer, file) in self.layers.iter().enumerate().skip(covered).rev() {
            for gap in open.drain(..) {
                runs.clear();
                file.map(base + u64::from(gap.start)..base + u64::from(gap.end), &mut runs)?;
                let mut at = gap.start;
                for Run { length, place } in runs.drain(..) {
                    let range = at..at + length as u32;
                    at = range.end;
                    match place {
                        Place::Here(at) => {
                            let source = Source::Data { layer: layer as u32, at };
                            parts.push(Part { range, source });
                        }
                        Place::Zero => parts.push(Part { range, source: Source::Zero }),
                        Place::Below => still_open.push(range),
                    }
                }
            }
            std::mem::swap(&mut open, &mut still_open);
            if open.is_empty() {
                break;
            }
        }
        for gap in open {
            match known {
                Some(region) => region.clip(&gap, &mut parts),
                None => parts.push(Part { range: gap, source: Source::Absent }),
            }
        }
        parts.sort_unstable_by_key(|part| part.range.start);
        Ok(Region { covered: self.layers.len(), spans: packed(&parts) })
    }
}

impl Below for Index {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        let mut rest = buffer;
        self.visit(offset..end, |_, length, source| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(length as usize);
            match source {
                Source::Data { layer, at } => self.layers[layer as usize].read_here(at, now)?,
                Source::Zero | Source::Absent => now.fill(0),
            }
            rest = later;
            Ok(true)
        })?;
        Ok(())
    }

    fn is_zero(&self, range: Range<u64>) -> Result<bool> {
        let mut zero = true;
        self.visit(range, |_, _, source| {
            zero = !matches!(source, Source::Data { .. });
            Ok(zero)
        })?;
        Ok(zero)
    }
}

impl Region {
    /// Finds the byte at `at` of the virtual disk, which lies in this region.
    fn find(&self, at: u64) -> Found {
        let (start, at) = (at / REGION * REGION, (at % REGION) as u32);
        let part = self.part(self.spans.partition_point(|span| span.end <= at));
        let source = part.source.advanced(at - part.range.start);
        Found { source, end: start + u64::from(part.range.end) }
    }

    fn part(&self, number: usize) -> Part {
        let start = if number == 0 { 0 } else { self.spans[number - 1].end };
        let span = self.spans[number];
        Part { range: start..span.end, source: span.source() }
    }

    /// Appends what is known of a range.
    fn clip(&self, range: &Range<u32>, parts: &mut Vec<Part>) {
        for part in (0..self.spans.len()).map(|number| self.part(number)) {
            let (start, end) = (part.range.start.max(range.start), part.range.end.min(range.end));
            if start < end {
                let source = part.source.advanced(start - part.range.start);
                parts.push(Part { range: start..end, source });
            }
        }
    }

    fn cost(&self) -> usize {
        64 + size_of_val(&*self.spans)
    }
}

impl Span {
    const ZERO: u32 = u32::MAX;
    const ABSENT: u32 = u32::MAX - 1;

    fn new(end: u32, source: Source) -> Self {
        match source {
            Source::Data { layer, at } => Self { end, layer, at },
            Source::Zero => Self { end, layer: Self::ZERO, at: 0 },
            Source::Absent => Self { end, layer: Self::ABSENT, at: 0 },
        }
    }

    fn source(self) -> Source {
        match self.layer {
            Self::ZERO => Source::Zero,
            Self::ABSENT => Source::Absent,
            layer => Source::Data { layer, at: self.at },
        }
    }
}

impl Source {
    fn advanced(self, bytes: u32) -> Self {
        match self {
            Self::Data { layer, at } => Self::Data { layer, at: at + u64::from(bytes) },
            other => other,
        }
    }
}

impl Shard {
    /// Remembers a region; above the memory bound, forgets others, whichever come first.
    fn keep(&mut self, number: u64, region: Region) {
        self.cost += region.cost();
        if let Some(old) = self.regions.insert(number, region) {
            self.cost -= old.cost();
        }
        if self.cost > MEMORY / SHARDS {
            let (limit, cost) = (MEMORY / SHARDS / 4 * 3, &mut self.cost);
            self.regions.retain(|&other, region| {
                let kept = other == number || *cost <= limit;
                *cost -= if kept { 0 } else { region.cost() };
                kept
            });
        }
    }
}

/// Joins neighbours that are one in the file too.
fn packed(parts: &[Part]) -> Arc<[Span]> {
    let mut spans: Vec<Span> = Vec::with_capacity(parts.len());
    // What lies right behind the last span's bytes.
    let mut behind = None;
    for Part { range, source } in parts {
        match spans.last_mut() {
            Some(last) if behind == Some(*source) => last.end = range.end,
            _ => spans.push(Span::new(range.end, *source)),
        }
        behind = Some(source.advanced(range.end - range.start));
    }
    spans.into()
}
