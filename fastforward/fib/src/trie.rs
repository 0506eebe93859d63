//! Longest-prefix match for IPv4: a trie of 8-bit strides whose nodes hold runs.
//!
//! ```text
//! fewer than 32,768 routes: 8-8-8-8          from there on: 16-8-8, its root a plain array
//! node: 256-bit map, bit i set where slot i differs from slot i-1 │ values: one word a run
//!       slot i → values[base + (set bits in 0..=i) - 1]           → child, or (prefix length, target)
//! ```
//! Routes are pushed down to the slots they win, so a lookup keeps no best match: it ends at the answer. A leaf
//! remembers the length of its prefix; with it and the next shorter prefix (which [`crate::routes`] knows) one
//! route is put in or taken out by repainting the slots it covers, and nothing else is rebuilt.

/// What a lookup gives: a target and the length of the prefix that led there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    pub len: u8,
    pub target: u32,
}

/// Targets are numbered below this.
pub const MAX_TARGETS: u32 = 1 << 25;

/// From how many routes on the root is an array of 2^16, and below how many it is a node again.
const WIDE_FROM: usize = 32_768;
const NARROW_BELOW: usize = 16_384;

/// A slot's value: 0 no route; top bit a child's number; else prefix length + 1 (6 bits), target (25 bits).
type Word = u32;
const CHILD: Word = 1 << 31;
const NONE: Word = 0;

fn word(leaf: Leaf) -> Word {
    (u32::from(leaf.len) + 1) << 25 | leaf.target & (MAX_TARGETS - 1)
}

fn leaf(w: Word) -> Option<Leaf> {
    let len = u8::try_from(w >> 25 & 0x3f).unwrap_or(0);
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
struct Paint {
    address: u32,
    len: u8,
    shortest: u32,
    new: Word,
}

impl Paint {
    fn over(&self, w: Word) -> Word {
        let len_plus_1 = w >> 25;
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
    pub fn lookup(&self, address: u32) -> Option<Leaf> {
        let (mut w, mut shift) = self.start(address);
        while w & CHILD != 0 {
            w = self.step(w, address, shift);
            shift = shift.wrapping_sub(8);
        }
        leaf(w)
    }

    /// [`Trie::lookup`] of each address, one level at a time so that their cache misses overlap.
    /// Stops at the shorter of the two slices.
    pub fn lookup_burst(&self, addresses: &[u32], out: &mut [Option<Leaf>]) {
        for (addresses, out) in addresses.chunks(32).zip(out.chunks_mut(32)) {
            let mut words = [NONE; 32];
            let mut shift = 0;
            let mut pending = false;
            for (w, a) in words.iter_mut().zip(addresses) {
                (*w, shift) = self.start(*a);
                pending |= *w & CHILD != 0;
            }
            while pending {
                pending = false;
                for (w, a) in words.iter_mut().zip(addresses) {
                    if *w & CHILD != 0 {
                        *w = self.step(*w, *a, shift);
                        pending |= *w & CHILD != 0;
                    }
                }
                shift = shift.wrapping_sub(8);
            }
            for (o, w) in out.iter_mut().zip(words) {
                *o = leaf(w);
            }
        }
    }

    fn start(&self, address: u32) -> (Word, u32) {
        match &self.wide {
            Some(wide) => (wide.get((address >> 16) as usize).copied().unwrap_or(NONE), 8),
            None => (self.top, 24),
        }
    }

    fn step(&self, w: Word, address: u32, shift: u32) -> Word {
        let Some(node) = self.nodes.get((w & !CHILD) as usize) else { return NONE };
        self.values.words.get(node.position(slot(address, shift))).copied().unwrap_or(NONE)
    }

    /// Puts a route in, or changes its target. `address` has no bits beyond `leaf.len`.
    pub fn insert(&mut self, address: u32, leaf: Leaf) {
        self.repaint(Paint { address, len: leaf.len, shortest: 0, new: word(leaf) });
    }

    /// Takes the route of this length out; `parent` is the longest shorter prefix over it.
    pub fn remove(&mut self, address: u32, len: u8, parent: Option<Leaf>) {
        let new = parent.map_or(NONE, word);
        self.repaint(Paint { address, len, shortest: u32::from(len) + 1, new });
    }

    /// Whether the shape of the root should change for this number of routes; the caller then rebuilds.
    pub fn wants_rebuild(&self, routes: usize) -> bool {
        if self.wide.is_some() { routes < NARROW_BELOW } else { routes >= WIDE_FROM }
    }

    /// An empty trie shaped for this number of routes.
    pub fn shaped_for(routes: usize) -> Self {
        let wide = (routes >= WIDE_FROM).then(|| vec![NONE; 1 << 16].into_boxed_slice());
        Self { wide, ..Self::default() }
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        self.wide.as_ref().map_or(0, |w| w.len() * 4)
            + self.nodes.capacity() * size_of::<Node>()
            + self.free_nodes.capacity() * 4
            + self.values.bytes()
    }

    fn repaint(&mut self, p: Paint) {
        if let Some(mut wide) = self.wide.take() {
            let first = (p.address >> 16) as usize;
            let last = if p.len >= 16 { first } else { first | (0xffff >> p.len) };
            for w in wide.get_mut(first..=last).unwrap_or_default() {
                *w = self.paint(*w, 16, p);
            }
            self.wide = Some(wide);
        } else {
            self.top = self.paint(self.top, 0, p);
        }
        if self.values.mostly_free() {
            self.values.compact(&mut self.nodes, &self.free_nodes);
        }
    }

    /// Repaints what lies behind `w`, which stands for the `depth` bits it shares with the painted prefix
    /// or, once those are all of the prefix, lies wholly under it. Returns what must stand in its place.
    fn paint(&mut self, w: Word, depth: u8, p: Paint) -> Word {
        let below = p.len <= depth;
        if below && w & CHILD == 0 {
            return p.over(w);
        }
        let node = (w & CHILD != 0).then_some(w & !CHILD);
        let mut old = Runs::default();
        match node {
            Some(n) => self.read(n, &mut old),
            None => old.push(0, w),
        }
        // Under the prefix all slots are repainted; at its level those it covers; above it the one on its path.
        let (first, last) = if below {
            (0, 255)
        } else {
            let at = usize::from(slot(p.address, 24 - u32::from(depth)));
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

    fn read(&self, node: u32, runs: &mut Runs) {
        let Some(n) = self.nodes.get(node as usize) else { return };
        let words = self.values.words.get(n.base as usize..).unwrap_or_default();
        for (w, bits) in n.map.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let word = words.get(runs.count).copied().unwrap_or(NONE);
                runs.append(w * 64 + bits.trailing_zeros() as usize, word);
                bits &= bits - 1;
            }
        }
    }

    /// Writes runs into `node` (a new one if `None`); gives it back to the free ones when all are one leaf.
    fn store(&mut self, node: Option<u32>, runs: &Runs) -> Word {
        let only = (runs.count == 1 && runs.words[0] & CHILD == 0).then_some(runs.words[0]);
        if let Some(n) = node {
            let old = self.nodes[n as usize];
            self.values.give_back(old.base, old.runs());
            if let Some(leaf) = only {
                self.free_nodes.push(n);
                self.nodes[n as usize] = Node::default();
                return leaf;
            }
        } else if let Some(leaf) = only {
            return leaf;
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
        let base = self.values.take(&runs.words[..runs.count]);
        let new = Node { map, base, before };
        let n = match node.or_else(|| self.free_nodes.pop()) {
            Some(n) => {
                self.nodes[n as usize] = new;
                n
            }
            None => {
                grow_by_an_eighth(&mut self.nodes, 1);
                self.nodes.push(new);
                // A node covers at least one route's 2^8 addresses: their number stays far below 2^31.
                u32::try_from(self.nodes.len() - 1).unwrap_or(0)
            }
        };
        n | CHILD
    }
}

fn slot(address: u32, shift: u32) -> u8 {
    address.wrapping_shr(shift).to_be_bytes()[3]
}

/// Vec doubles when it is full; a FIB of a million routes should not carry half its size as reserve.
fn grow_by_an_eighth<T>(v: &mut Vec<T>, more: usize) {
    if v.capacity() - v.len() < more {
        v.reserve_exact((v.len() / 8).max(more));
    }
}

/// The runs of all nodes in one array; free pieces are kept by size and given out again.
#[derive(Debug, Clone, Default)]
struct Values {
    words: Vec<Word>,
    /// By class of size: where free pieces begin.
    free: Vec<Vec<u32>>,
    free_words: usize,
}

/// Sizes come in steps of an eighth or so: what a growing node leaves behind then fits the next one.
fn rounded(n: usize) -> usize {
    match n {
        0..=16 => n.next_multiple_of(2),
        17..=64 => n.next_multiple_of(8),
        _ => n.next_multiple_of(16),
    }
}

impl Values {
    fn take(&mut self, runs: &[Word]) -> u32 {
        let size = rounded(runs.len());
        let base = match self.free.get_mut(size / 2).and_then(Vec::pop) {
            Some(base) => {
                self.free_words -= size;
                base as usize
            }
            None => {
                let base = self.words.len();
                grow_by_an_eighth(&mut self.words, size);
                self.words.resize(base + size, NONE);
                base
            }
        };
        self.words[base..base + runs.len()].copy_from_slice(runs);
        // 2^32 words would be 16 GB; routes are limited far below that.
        u32::try_from(base).unwrap_or(0)
    }

    fn give_back(&mut self, base: u32, runs: usize) {
        let size = rounded(runs);
        if self.free.len() <= size / 2 {
            self.free.resize(size / 2 + 1, Vec::new());
        }
        self.free[size / 2].push(base);
        self.free_words += size;
    }

    fn mostly_free(&self) -> bool {
        self.free_words > 1024 && self.free_words > self.words.len() / 4
    }

    /// Moves all runs together, in the order of the nodes.
    fn compact(&mut self, nodes: &mut [Node], free_nodes: &[u32]) {
        let mut words = Vec::with_capacity(self.words.len() - self.free_words);
        for n in nodes.iter_mut() {
            let runs = n.runs();
            if runs == 0 {
                continue; // free
            }
            let base = words.len();
            words.extend_from_slice(&self.words[n.base as usize..n.base as usize + runs]);
            words.resize(base + rounded(runs), NONE);
            n.base = u32::try_from(base).unwrap_or(0);
        }
        debug_assert_eq!(free_nodes.len(), nodes.iter().filter(|n| n.runs() == 0).count());
        *self = Self { words, free: Vec::new(), free_words: 0 };
    }

    fn bytes(&self) -> usize {
        self.words.capacity() * 4 + self.free.iter().map(|f| f.capacity() * 4 + size_of::<Vec<u32>>()).sum::<usize>()
    }
}
