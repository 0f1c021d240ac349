//! The VM's allocator: libc's, with a few freed blocks of each small size in front of it.
//!
//! A request allocates the same few sizes as the request before it. Taking a block from a list costs a fifth of the instructions of
//! `malloc` and `free`, which search for a block and join it with its neighbours. Each list is short, so all of them hold less than
//! 300 KB.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

unsafe extern "C" {
    /// The number of bytes that a block of `malloc` has, which is at least the number that was requested.
    fn malloc_usable_size(block: *mut Block) -> usize;
}

/// The allocator of a module. [`plugin!`](crate::plugin) declares it.
pub struct Allocator;

/// The lists of free blocks.
struct Lists([Blocks; SIZES]);

static LISTS: Lists = Lists([const { Blocks { first: Cell::new(null_mut()), number: Cell::new(0) } }; SIZES]);

/// The sizes of the lists differ by this. It is libc's unit, of which it uses [`OVERHEAD`] bytes itself.
const UNIT: usize = 16;
const OVERHEAD: usize = 4;

/// The number of lists. Larger blocks are not kept.
const SIZES: usize = 65;

/// The alignment of all blocks of `malloc`.
const ALIGNMENT: usize = 8;

/// The maximum number of free blocks in a list.
const MOST: u32 = 8;

/// The free blocks that have at least the size of their list, linked to each other.
struct Blocks {
    first: Cell<*mut Block>,
    number: Cell<u32>,
}

/// The start of a free block.
#[repr(C)]
struct Block {
    next: *mut Self,
}

// SAFETY: a VM has one thread.
unsafe impl Sync for Lists {}

/// Takes a block of at least this size from its list, or else from libc. It is not inlined: the module has thousands of allocations.
#[inline(never)]
fn take(size: usize) -> *mut u8 {
    // An allocation's size is at most `isize::MAX`.
    let units = size.wrapping_add(OVERHEAD + UNIT - 1) / UNIT;
    let Some(blocks) = LISTS.0.get(units).filter(|blocks| !blocks.first.get().is_null()) else {
        // SAFETY: an allocation's size is not zero.
        return unsafe { System.alloc(Layout::from_size_align_unchecked(size, ALIGNMENT)) };
    };
    let block = blocks.first.get();
    // SAFETY: `give_back` wrote a `Block` there, and nobody else has the pointer.
    blocks.first.set(unsafe { (*block).next });
    blocks.number.set(blocks.number.get().wrapping_sub(1));
    block.cast()
}

/// Puts a block of libc into its list, or gives it back to libc.
///
/// # Safety
/// The block is libc's, and is not used any more.
#[inline(never)]
unsafe fn give_back(block: *mut Block) {
    // SAFETY: the caller's contract.
    let units = unsafe { malloc_usable_size(block) }.wrapping_add(OVERHEAD) / UNIT;
    match LISTS.0.get(units) {
        Some(blocks) if blocks.number.get() < MOST => {
            // SAFETY: the smallest block of libc is large enough for a `Block`, and aligned.
            unsafe { block.write(Block { next: blocks.first.get() }) };
            blocks.first.set(block);
            blocks.number.set(blocks.number.get().wrapping_add(1));
        }
        // SAFETY: the caller's contract. `System` ignores the layout.
        _ => unsafe { System.dealloc(block.cast(), Layout::new::<Block>()) },
    }
}

// SAFETY: all blocks are `System`'s, and a block is in a list only while it is free. The list with the number n has blocks of at least
// `n * UNIT - OVERHEAD` bytes: `give_back` rounds a block's size down, and `take` rounds the requested size up.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGNMENT {
            return take(layout.size());
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        // SAFETY: the caller's contract; the block is `System`'s.
        unsafe { give_back(pointer.cast()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract; the block is `System`'s.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::handle_alloc_error;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// One use of the allocator. `block` selects one of the blocks in use.
    #[derive(Clone, Debug)]
    enum Step {
        Allocate { size: usize, alignment: u32, zeroed: bool },
        Resize { block: usize, size: usize },
        Free { block: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Most blocks of a request are small; the largest that is kept has about 1 KB.
        let size = || prop_oneof![3 => 1..200_usize, 1 => 1..3000_usize];
        let allocate = (size(), 0..8_u32, any::<bool>()).prop_map(|(size, alignment, zeroed)| Step::Allocate {
            size,
            alignment,
            zeroed,
        });
        let resize = (any::<usize>(), size()).prop_map(|(block, size)| Step::Resize { block, size });
        let free = any::<usize>().prop_map(|block| Step::Free { block });
        vec(prop_oneof![4 => allocate, 1 => resize, 3 => free], 1..200)
    }

    /// A block in use, all of whose bytes are `content`.
    struct Used {
        start: *mut u8,
        layout: Layout,
        content: u8,
    }

    impl Used {
        /// Checks a block of the allocator against all others, and writes all its bytes.
        fn new(start: *mut u8, layout: Layout, content: u8, others: &[Self]) -> Self {
            if start.is_null() {
                handle_alloc_error(layout);
            }
            let range = |start: *mut u8, layout: Layout| start.addr()..start.addr() + layout.size();
            let own = range(start, layout);
            assert_eq!(own.start % layout.align(), 0, "{layout:?} is not aligned");
            for other in others {
                let other = range(other.start, other.layout);
                assert!(own.end <= other.start || other.end <= own.start, "{own:?} overlaps {other:?}");
            }
            // SAFETY: the allocator gave this block.
            unsafe { start.write_bytes(content, layout.size()) };
            Self { start, layout, content }
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: `new` has written all bytes.
            unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
        }

        fn assert_kept(&self, length: usize) {
            assert!(
                self.bytes()[..length].iter().all(|byte| *byte == self.content),
                "{:?} was overwritten",
                self.layout
            );
        }
    }

    /// Takes the steps one after the other, and frees all blocks in the end.
    fn take_all(steps: Vec<Step>) {
        let mut used: Vec<Used> = Vec::new();
        for (step, content) in steps.into_iter().zip((1..=u8::MAX).cycle()) {
            match step {
                Step::Allocate { size, alignment, zeroed } => {
                    let layout = Layout::from_size_align(size, 1 << alignment).unwrap();
                    // SAFETY: the size is not zero.
                    let start =
                        unsafe { if zeroed { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) } };
                    if zeroed && !start.is_null() {
                        // SAFETY: the allocator gave this block, and has written it.
                        assert!(unsafe { std::slice::from_raw_parts(start, size) }.iter().all(|byte| *byte == 0));
                    }
                    let block = Used::new(start, layout, content, &used);
                    used.push(block);
                }
                Step::Resize { block, size } if !used.is_empty() => {
                    let old = used.swap_remove(block % used.len());
                    old.assert_kept(old.layout.size());
                    // SAFETY: the block is in use, and the size is not zero.
                    let start = unsafe { Allocator.realloc(old.start, old.layout, size) };
                    let layout = Layout::from_size_align(size, old.layout.align()).unwrap();
                    Used { start, layout, content: old.content }.assert_kept(size.min(old.layout.size()));
                    let block = Used::new(start, layout, content, &used);
                    used.push(block);
                }
                Step::Free { block } if !used.is_empty() => free(used.swap_remove(block % used.len())),
                Step::Resize { .. } | Step::Free { .. } => {}
            }
        }
        used.into_iter().for_each(free);
    }

    fn free(block: Used) {
        block.assert_kept(block.layout.size());
        // SAFETY: the block is in use, and is not used any more.
        unsafe { Allocator.dealloc(block.start, block.layout) };
    }

    /// The sizes of the free blocks of a list.
    fn kept(blocks: &Blocks) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut next = blocks.first.get();
        while !next.is_null() {
            // SAFETY: a list contains free blocks only.
            let (size, after) = unsafe { (malloc_usable_size(next), (*next).next) };
            sizes.push(size);
            next = after;
        }
        sizes
    }

    proptest! {
        // The lists belong to one thread, so this is the only test that uses them.
        #[test]
        fn blocks_are_aligned_and_apart_and_keep_their_bytes_and_few_are_kept_when_they_are_free(steps in steps()) {
            take_all(steps);
            for (units, blocks) in LISTS.0.iter().enumerate() {
                let sizes = kept(blocks);
                prop_assert_eq!(sizes.len(), blocks.number.get() as usize);
                prop_assert!(sizes.len() <= MOST as usize);
                let promised = (units * UNIT).saturating_sub(OVERHEAD);
                prop_assert!(sizes.iter().all(|size| *size >= promised), "list {} has {:?}", units, sizes);
            }
        }
    }
}
