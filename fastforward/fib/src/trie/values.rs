//! The runs of all nodes in one array, in pieces; free ones are kept by size and given out again.
//!
//! ```text
//! ┌──────┬──────────────┐┌──────┬──────┐        while a slide goes on:
//! │node 7│ runs of 7    ││free 8│      │…        squeezed │ hole │ not yet looked at │
//! └──────┴──────────────┘└──────┴──────┘                  write  read
//! ```
//! When a quarter is free, the pieces slide down over the free ones, a few at each change of the trie. Every node
//! knows where its piece is at every moment, so lookups notice nothing.

use super::{CHILD, NONE, Node, Word, grow_by_an_eighth};

/// Pieces that one [`Values::tidy`] moves, at most.
const PIECES: usize = 16;
/// In the first word of a piece: free, the rest is its size. Otherwise it is the number of the node that owns it.
const FREE: Word = CHILD;

#[derive(Debug, Clone, Default)]
pub(super) struct Values {
    pub(super) words: Vec<Word>,
    /// By class of size: where free pieces begin. Those that a slide has still before it are not here.
    free: Vec<Vec<u32>>,
    free_words: usize,
    slide: Option<Slide>,
}

/// Pieces before `write` are squeezed; up to `read` there is nothing.
#[derive(Debug, Clone, Copy)]
struct Slide {
    read: usize,
    write: usize,
}

/// Words of a piece for so many runs. Sizes come in steps of an eighth or so: what a growing node leaves behind then
/// fits the next one.
fn size(runs: usize) -> usize {
    match runs + 1 {
        n @ 0..=16 => n.next_multiple_of(2),
        n @ 17..=64 => n.next_multiple_of(8),
        n => n.next_multiple_of(16),
    }
}

/// The array stays below 2^32 words: that would be 16 GB, and routes are limited far below.
fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

impl Values {
    /// The words from a node's runs on.
    pub(super) fn of(&self, node: &Node) -> &[Word] {
        self.words.get(node.base as usize..).unwrap_or_default()
    }

    /// A piece for these runs of this node; returns where they begin.
    pub(super) fn take(&mut self, node: u32, runs: &[Word]) -> u32 {
        let size = size(runs.len());
        let start = match self.free.get_mut(size / 2).and_then(Vec::pop) {
            Some(start) => {
                self.free_words -= size;
                start as usize
            }
            None => {
                let start = self.words.len();
                grow_by_an_eighth(&mut self.words, size);
                self.words.resize(start + size, NONE);
                start
            }
        };
        self.words[start] = node;
        self.words[start + 1..=start + runs.len()].copy_from_slice(runs);
        narrow(start + 1)
    }

    /// Frees the piece of a node.
    pub(super) fn give_back(&mut self, node: &Node) {
        let (start, size) = (node.base as usize - 1, size(node.runs()));
        self.words[start] = FREE | narrow(size);
        self.free_words += size;
        if self.slide.is_some_and(|s| start >= s.read) {
            return; // the slide will pass over it
        }
        if self.free.len() <= size / 2 {
            self.free.resize(size / 2 + 1, Vec::new());
        }
        self.free[size / 2].push(narrow(start));
    }

    /// Goes on with a slide, or begins one when much is free. Moves at most [`PIECES`] pieces.
    pub(super) fn tidy(&mut self, nodes: &mut [Node]) {
        let slide = match self.slide.take() {
            Some(s) => s,
            None if self.free_words > 1024 && self.free_words > self.words.len() / 4 => {
                self.free = Vec::new();
                Slide { read: 0, write: 0 }
            }
            None => return,
        };
        let Slide { mut read, mut write } = slide;
        for _ in 0..PIECES {
            let Some(&owner) = self.words.get(read) else {
                self.free_words -= self.words.len() - write;
                self.words.truncate(write);
                self.words.shrink_to(write + write / 8);
                return;
            };
            if owner & FREE != 0 {
                read += (owner & !FREE) as usize;
                continue;
            }
            // Only nodes own pieces.
            let node = &mut nodes[owner as usize];
            let size = size(node.runs());
            self.words.copy_within(read..read + size, write);
            node.base = narrow(write + 1);
            read += size;
            write += size;
        }
        self.slide = Some(Slide { read, write });
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * 4 + self.free.iter().map(|f| f.capacity() * 4 + size_of::<Vec<u32>>()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn node(runs: usize, base: u32) -> Node {
        let mut n = Node { base, ..Node::default() };
        (0..runs).for_each(|i| n.map[i / 64] |= 1 << (i % 64));
        n
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever comes and goes, every node keeps its words at every step, no call moves more than it may, and
        /// what is free stays a part of the whole.
        #[test]
        fn slides_keep_every_piece(ops in vec((0u32..300, 0usize..200), 1..3000)) {
            let mut v = Values::default();
            let mut nodes = vec![Node::default(); 300];
            let words = |n: u32, runs: usize| (0..runs).map(|i| n << 8 | narrow(i)).collect::<Vec<_>>();
            for (step, (n, runs)) in ops.into_iter().enumerate() {
                let at = n as usize;
                if nodes[at].runs() > 0 {
                    v.give_back(&nodes[at]);
                    nodes[at] = Node::default();
                }
                if runs > 0 {
                    nodes[at] = node(runs, v.take(n, &words(n, runs)));
                }
                let bases: Vec<_> = nodes.iter().map(|n| n.base).collect();
                v.tidy(&mut nodes);
                let moved = nodes.iter().zip(bases).filter(|(n, b)| n.base != *b).count();
                prop_assert!(moved <= PIECES);
                if step % 16 == 0 {
                    for (i, n) in nodes.iter().enumerate().filter(|(_, n)| n.runs() > 0) {
                        prop_assert_eq!(&v.of(n)[..n.runs()], words(narrow(i), n.runs()));
                    }
                }
            }
            let used: usize = nodes.iter().map(Node::runs).filter(|r| *r > 0).map(size).sum();
            prop_assert_eq!(used + v.free_words, v.words.len());
            for n in nodes.iter_mut().filter(|n| n.runs() > 0) {
                v.give_back(n);
                *n = Node::default();
            }
            while v.words.len() > 1024 {
                v.tidy(&mut nodes);
            }
            prop_assert_eq!(v.free_words, v.words.len());
        }
    }
}
