//! Which parent holds which bytes: one answer for all the layers under a leaf.
//!
//! ```text
//!   region 7 (2 MiB)    0 ── 96K ──────── 1M ───────────── 2M
//!                       │ layer 3 │ layer 0 │ absent        │
//! ```
//! Parents never change, so a region is resolved once, when it is first read, from the top layer down.
//! Memory is bounded: regions are forgotten and resolved again. A layer added on top ([`Index::push`],
//! when a leaf is frozen) is laid over what is known, region by region, when next asked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::Result;
use crate::layer::{Below, Layer, Place, Run};

/// Bytes of the virtual disk in a region: a child's usual block.
const REGION: u64 = 2 << 20;
const SHARDS: usize = 64;
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
    regions: HashMap<u64, Arc<Region>>,
    /// Bytes of memory, about.
    cost: usize,
}

/// What is known of one region.
#[derive(Debug)]
struct Region {
    /// How many layers, from the base up, were asked.
    covered: usize,
    /// In order, without gaps.
    spans: Vec<Span>,
}

/// Bytes of a region that lie in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    /// Bytes from the region's start.
    range: Range<u32>,
    source: Source,
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
            let number = at / REGION;
            let region = self.region(number)?;
            let (start, end) = (number * REGION, range.end.min((number + 1) * REGION));
            let first =
                region.spans.partition_point(|span| u64::from(span.range.end) <= at - start);
            for span in &region.spans[first..] {
                if at >= end {
                    break;
                }
                let within = (at - start) as u32 - span.range.start;
                let span_end = end.min(start + u64::from(span.range.end));
                let source = span.source.advanced(within);
                if !visit(at, span_end - at, source)? {
                    return Ok(false);
                }
                at = span_end;
            }
        }
        Ok(true)
    }

    fn region(&self, number: u64) -> Result<Arc<Region>> {
        let shard = &self.shards[number as usize % SHARDS];
        let known = shard.read().regions.get(&number).cloned();
        if let Some(region) = &known
            && region.covered == self.layers.len()
        {
            return Ok(region.clone());
        }
        let region = Arc::new(self.resolve(number, known.as_deref())?);
        shard.write().keep(number, region.clone());
        Ok(region)
    }

    /// Asks the layers that are not covered yet, from the top down, for what none above them knew.
    fn resolve(&self, number: u64, known: Option<&Region>) -> Result<Region> {
        let base = number * REGION;
        let covered = known.map_or(0, |region| region.covered);
        let (mut spans, mut runs) = (Vec::new(), Vec::new());
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
                            spans.push(Span { range, source });
                        }
                        Place::Zero => spans.push(Span { range, source: Source::Zero }),
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
                Some(region) => region.clip(&gap, &mut spans),
                None => spans.push(Span { range: gap, source: Source::Absent }),
            }
        }
        spans.sort_unstable_by_key(|span| span.range.start);
        Ok(Region { covered: self.layers.len(), spans: merged(spans) })
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
    /// Appends what is known of a range.
    fn clip(&self, range: &Range<u32>, spans: &mut Vec<Span>) {
        for span in &self.spans {
            let (start, end) = (span.range.start.max(range.start), span.range.end.min(range.end));
            if start < end {
                let source = span.source.advanced(start - span.range.start);
                spans.push(Span { range: start..end, source });
            }
        }
    }

    fn cost(&self) -> usize {
        128 + self.spans.capacity() * size_of::<Span>()
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
    fn keep(&mut self, number: u64, region: Arc<Region>) {
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
fn merged(spans: Vec<Span>) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len().min(4));
    for span in spans {
        match merged.last_mut() {
            Some(last)
                if last.source.advanced(last.range.end - last.range.start) == span.source =>
            {
                last.range.end = span.range.end;
            }
            _ => merged.push(span),
        }
    }
    merged.shrink_to_fit();
    merged
}
