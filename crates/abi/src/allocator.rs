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
