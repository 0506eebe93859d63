//! Longest-prefix match for IPv4 and IPv6: a trie of 8-bit strides whose nodes hold runs.
//!
//! ```text
//! fewer than 32,768 routes: 8-8-8-8-…        from there on: 16-8-8-…, its root a plain array
//! node: 256-bit map, bit i set where slot i differs from slot i-1 │ values: one word a run
//!       slot i → values[base + (set bits in 0..=i) - 1]           → child, or (prefix length, target)
//! ```
//! Routes are pushed down to the slots they win, so a lookup keeps no best match: it ends at the answer. A leaf
//! remembers the length of its prefix; with it and the next shorter prefix (which [`crate::routes`] knows) one
//! route is put in or taken out by repainting the slots it covers, and nothing is ever rebuilt: the root changes its
//! shape by copying 2^16 words, and free room between runs is squeezed out a few runs at each change.

use crate::key::Key;
use values::Values;

mod values;

/// What a lookup gives: a target and the length of the prefix that led there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    pub len: u8,
    pub target: u32,
}

/// Targets are numbered below this.
pub const MAX_TARGETS: u32 = 1 << TARGET_BITS;
const TARGET_BITS: u32 = 23;

/// From how many routes on the root is an array of 2^16, and below how many it is a node again.
const WIDE_FROM: usize = 32_768;
const NARROW_BELOW: usize = 16_384;

/// A slot's value: 0 no route; top bit a child's number; else prefix length + 1 (8 bits), target (23 bits).
type Word = u32;
const CHILD: Word = 1 << 31;
const NONE: Word = 0;

fn word(leaf: Leaf) -> Word {
    (u32::from(leaf.len) + 1) << TARGET_BITS | leaf.target & (MAX_TARGETS - 1)
}

fn leaf(w: Word) -> Option<Leaf> {
    let len = u8::try_from(w >> TARGET_BITS & 0xff).unwrap_or(0);
    (w != NONE).then(|| Leaf { len: len.wrapping_sub(1), target: w & (MAX_TARGETS - 1) })
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    map: [u64; 4],
    base: u32,
    /// Set bits in the words of `map` before each.
    before: [u8; 4],
}

impl Node {
    fn position(&self, slot: u8) -> usize {
        let w = usize::from(slot >> 6);
        // Bits 0..=slot of its word; bit 0 of a node is always set, so the sum is at least 1.
        let upto = self.map[w] << (63 - (slot & 63));
        self.base as usize + usize::from(self.before[w]) + upto.count_ones() as usize - 1
    }
    fn runs(&self) -> usize {
        self.map.iter().map(|w| w.count_ones() as usize).sum()
    }
}

/// Which leaves a repaint replaces: those of prefixes no longer than the new one, or those of the one that goes.
#[derive(Debug, Clone, Copy)]
struct Paint<K> {
    address: K,
    len: u8,
    shortest: u32,
    new: Word,
}

impl<K> Paint<K> {
    fn over(&self, w: Word) -> Word {
        let len_plus_1 = w >> TARGET_BITS;
        if len_plus_1 >= self.shortest && len_plus_1 <= u32::from(self.len) + 1 { self.new } else { w }
    }
}

/// A node unpacked: where its runs begin, ascending from 0, and their words.
#[derive(Debug)]
struct Runs {
    starts: [u8; 256],
    words: [Word; 256],
    count: usize,
}

impl Default for Runs {
    fn default() -> Self {
        Self { starts: [0; 256], words: [NONE; 256], count: 0 }
    }
}

impl Runs {
    fn append(&mut self, start: usize, word: Word) {
        // Starts ascend below 256, so there is room.
        self.starts[self.count] = u8::try_from(start).unwrap_or(u8::MAX);
        self.words[self.count] = word;
        self.count += 1;
    }
    /// Appends a run unless it only goes on with the last one.
    fn push(&mut self, start: usize, word: Word) {
        if self.count == 0 || self.words[self.count - 1] != word {
            self.append(start, word);
        }
    }
    fn end(&self, i: usize) -> usize {
        if i + 1 < self.count { usize::from(self.starts[i + 1]) } else { 256 }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Trie {
    /// The root while there are few routes.
    top: Word,
    /// The root once there are many: one word for each /16.
    wide: Option<Box<[Word]>>,
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    values: Values,
}

impl Trie {
    pub fn lookup<K: Key>(&self, address: K) -> Option<Leaf> {
        let (mut w, mut depth) = self.start(address);
        while w & CHILD != 0 {
            w = self.step(w, address, depth);
            depth = depth.wrapping_add(8);
        }
        leaf(w)
    }

    /// [`Trie::lookup`] of each address, one level at a time so that their cache misses overlap.
    /// Stops at the shorter of the two slices.
    pub fn lookup_burst<K: Key>(&self, addresses: &[K], out: &mut [Option<Leaf>]) {
        for (addresses, out) in addresses.chunks(32).zip(out.chunks_mut(32)) {
            let mut words = [NONE; 32];
            let mut depth = 0u8;
            let mut pending = false;
            for (w, a) in words.iter_mut().zip(addresses) {
                (*w, depth) = self.start(*a);
                pending |= *w & CHILD != 0;
            }
            while pending {
                pending = false;
                for (w, a) in words.iter_mut().zip(addresses) {
                    if *w & CHILD != 0 {
                        *w = self.step(*w, *a, depth);
                        pending |= *w & CHILD != 0;
                    }
                }
                depth = depth.wrapping_add(8);
            }
            for (o, w) in out.iter_mut().zip(words) {
                *o = leaf(w);
            }
        }
    }

    /// The root's word, and how many bits it has used up.
    fn start<K: Key>(&self, address: K) -> (Word, u8) {
        match &self.wide {
            Some(wide) => (wide.get(place(address)).copied().unwrap_or(NONE), 16),
            None => (self.top, 0),
        }
    }

    fn step<K: Key>(&self, w: Word, address: K, depth: u8) -> Word {
        let Some(node) = self.nodes.get((w & !CHILD) as usize) else { return NONE };
        self.values.words.get(node.position(address.octet(depth))).copied().unwrap_or(NONE)
    }

    /// Puts a route in, or changes its target. `address` has no bits beyond `leaf.len`.
    pub fn insert<K: Key>(&mut self, address: K, leaf: Leaf) {
        self.repaint(Paint { address, len: leaf.len, shortest: 0, new: word(leaf) });
    }

    /// Takes the route of this length out; `parent` is the longest shorter prefix over it.
    pub fn remove<K: Key>(&mut self, address: K, len: u8, parent: Option<Leaf>) {
        let new = parent.map_or(NONE, word);
        self.repaint(Paint { address, len, shortest: u32::from(len) + 1, new });
    }

    /// Gives the root the shape for this number of routes. A change costs 2^16 words whatever their number.
    pub fn reshape(&mut self, routes: usize) {
        match self.wide.take() {
            Some(wide) if routes < NARROW_BELOW => self.narrow(&wide),
            None if routes >= WIDE_FROM => self.wide = Some(self.widen()),
            as_it_is => self.wide = as_it_is,
        }
    }

    /// The first two levels as an array; their nodes are given back.
    fn widen(&mut self) -> Box<[Word]> {
        let mut wide = Vec::with_capacity(1 << 16);
        let top = self.unpack(self.top);
        for i in 0..top.count {
            let (start, word) = (usize::from(top.starts[i]), top.words[i]);
            if word & CHILD == 0 {
                wide.resize(top.end(i) << 8, word);
                continue;
            }
            // Two slots never share a child.
            let second = self.unpack(word);
            for j in 0..second.count {
                wide.resize((start << 8) + second.end(j), second.words[j]);
            }
            self.free(word & !CHILD);
        }
        if self.top & CHILD != 0 {
            self.free(self.top & !CHILD);
        }
        self.top = NONE;
        wide.into_boxed_slice()
    }

    fn narrow(&mut self, wide: &[Word]) {
        let mut top = Runs::default();
        for (start, words) in wide.chunks(256).enumerate() {
            let mut second = Runs::default();
            words.iter().enumerate().for_each(|(i, w)| second.push(i, *w));
            top.push(start, self.store(None, &second));
        }
        self.top = self.store(None, &top);
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        self.wide.as_ref().map_or(0, |w| w.len() * 4)
            + self.nodes.capacity() * size_of::<Node>()
            + self.free_nodes.capacity() * 4
            + self.values.bytes()
    }

    fn repaint<K: Key>(&mut self, p: Paint<K>) {
        if let Some(mut wide) = self.wide.take() {
            let first = place(p.address);
            let last = if p.len >= 16 { first } else { first | (0xffff >> p.len) };
            for w in wide.get_mut(first..=last).unwrap_or_default() {
                *w = self.paint(*w, 16, p);
            }
            self.wide = Some(wide);
        } else {
            self.top = self.paint(self.top, 0, p);
        }
        self.values.tidy(&mut self.nodes);
    }

    /// Repaints what lies behind `w`, which stands for the `depth` bits it shares with the painted prefix
    /// or, once those are all of the prefix, lies wholly under it. Returns what must stand in its place.
    fn paint<K: Key>(&mut self, w: Word, depth: u8, p: Paint<K>) -> Word {
        let below = p.len <= depth;
        if below && w & CHILD == 0 {
            return p.over(w);
        }
        let node = (w & CHILD != 0).then_some(w & !CHILD);
        let old = self.unpack(w);
        // Under the prefix all slots are repainted; at its level those it covers; above it the one on its path.
        let (first, last) = if below {
            (0, 255)
        } else {
            let at = usize::from(p.address.octet(depth));
            let rest = (depth + 8).saturating_sub(p.len);
            (at, at | ((1usize << rest) - 1))
        };
        let mut new = Runs::default();
        let mut changed = false;
        for i in 0..old.count {
            let (start, end, word) = (usize::from(old.starts[i]), old.end(i), old.words[i]);
            if end <= first || start > last {
                new.push(start, word);
                continue;
            }
            if start < first {
                new.push(start, word);
            }
            let painted = self.paint(word, depth + 8, p);
            changed |= painted != word;
            new.push(start.max(first), painted);
            if end > last + 1 {
                new.push(last + 1, word);
            }
        }
        if changed { self.store(node, &new) } else { w }
    }

    /// The runs of the node that `w` names, or the leaf `w` as one run.
    fn unpack(&self, w: Word) -> Runs {
        let mut runs = Runs::default();
        let Some(n) = self.nodes.get((w & !CHILD) as usize).filter(|_| w & CHILD != 0) else {
            runs.push(0, w);
            return runs;
        };
        let words = self.values.of(n);
        for (w, bits) in n.map.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let word = words.get(runs.count).copied().unwrap_or(NONE);
                runs.append(w * 64 + bits.trailing_zeros() as usize, word);
                bits &= bits - 1;
            }
        }
        runs
    }

    fn free(&mut self, n: u32) {
        self.values.give_back(&self.nodes[n as usize]);
        self.nodes[n as usize] = Node::default();
        self.free_nodes.push(n);
        if self.free_nodes.len() == self.nodes.len() {
            (self.nodes, self.free_nodes) = (Vec::new(), Vec::new());
        }
    }

    /// Writes runs into `node` (a new one if `None`); gives it back to the free ones when all are one leaf.
    fn store(&mut self, node: Option<u32>, runs: &Runs) -> Word {
        if runs.count == 1 && runs.words[0] & CHILD == 0 {
            if let Some(n) = node {
                self.free(n);
            }
            return runs.words[0];
        }
        let mut map = [0u64; 4];
        for start in &runs.starts[..runs.count] {
            map[usize::from(start >> 6)] |= 1 << (start & 63);
        }
        let mut before = [0u8; 4];
        for i in 1..4 {
            // At most 192 bits lie before the last word.
            before[i] = before[i - 1] + u8::try_from(map[i - 1].count_ones()).unwrap_or(0);
        }
        let n = match node {
            Some(n) => {
                self.values.give_back(&self.nodes[n as usize]);
                n
            }
            None => self.free_nodes.pop().unwrap_or_else(|| {
                grow_by_an_eighth(&mut self.nodes, 1);
                self.nodes.push(Node::default());
                // A node covers at least one route's 2^8 addresses: their number stays far below 2^31.
                u32::try_from(self.nodes.len() - 1).unwrap_or(0)
            }),
        };
        let base = self.values.take(n, &runs.words[..runs.count]);
        self.nodes[n as usize] = Node { map, base, before };
        n | CHILD
    }
}

/// Of an address in the wide root.
fn place<K: Key>(address: K) -> usize {
    usize::from(u16::from_be_bytes([address.octet(0), address.octet(8)]))
}

/// Vec doubles when it is full; a FIB of a million routes should not carry half its size as reserve.
fn grow_by_an_eighth<T>(v: &mut Vec<T>, more: usize) {
    if v.capacity() - v.len() < more {
        v.reserve_exact((v.len() / 8).max(more));
    }
}
