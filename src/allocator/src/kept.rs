//! What a thread keeps of the blocks that it gave back.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use libmimalloc_sys as mimalloc;

/// What every block is aligned to, whatever its size: mimalloc's sizes are whole words, and its pages
/// begin at multiples of 16 bytes (`MI_PAGE_MIN_START_BLOCK_ALIGN` in its `types.h`, version 3).
const WORD: usize = size_of::<usize>();

/// To this size classes are this far apart, …
const FINE: usize = 1024;
const FINE_STEP: usize = 16;
/// … and from there to the largest block that is kept, so far. No step is longer than those between
/// mimalloc's own sizes (an eighth to a quarter), so that rounding up costs no memory.
const COARSE: usize = 8192;
const COARSE_STEP: usize = 256;
const CLASSES: usize = FINE / FINE_STEP + (COARSE - FINE) / COARSE_STEP;

/// Of each class a thread keeps blocks of this many bytes together, …
const KEPT_BYTES: usize = 8192;
/// … but never less or more blocks than so many: a megabyte, if it had blocks of every class.
const KEPT_MIN: usize = 4;
const KEPT_MAX: usize = 32;

/// Blocks of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(usize);

impl Class {
    /// The class of what is asked for; `None` if such blocks are not kept.
    #[inline]
    pub(crate) fn of(layout: Layout) -> Option<Class> {
        let size = layout.size();
        if size > COARSE || size == 0 || layout.align() > WORD {
            None
        } else if size <= FINE {
            Some(Class((size - 1) / FINE_STEP))
        } else {
            Some(Class(FINE / FINE_STEP + (size - FINE - 1) / COARSE_STEP))
        }
    }

    /// How large its blocks are.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        match self.0.checked_sub(FINE / FINE_STEP) {
            None => (self.0 + 1) * FINE_STEP,
            Some(coarse) => FINE + (coarse + 1) * COARSE_STEP,
        }
    }

    /// How many a thread keeps of them.
    const fn room(self) -> u32 {
        let blocks = KEPT_BYTES / self.bytes();
        match blocks {
            0..KEPT_MIN => KEPT_MIN as u32,
            KEPT_MAX.. => KEPT_MAX as u32,
            _ => blocks as u32,
        }
    }
}

/// The blocks of one class, as a list: each begins with where the next one is.
struct Shelf {
    last: Cell<Option<NonNull<Link>>>,
    /// How many more are kept.
    room: Cell<u32>,
}

struct Link {
    next: Option<NonNull<Link>>,
}

/// The blocks of a thread.
pub(crate) struct Kept {
    shelves: [Shelf; CLASSES],
}

#[expect(unsafe_code, reason = "a block that nobody has holds where the next one is")]
impl Kept {
    pub(crate) const fn new() -> Kept {
        let mut shelves = [const { Shelf { last: Cell::new(None), room: Cell::new(0) } }; CLASSES];
        let mut class = 0;
        while class < CLASSES {
            shelves[class].room = Cell::new(Class(class).room());
            class += 1;
        }
        Kept { shelves }
    }

    /// The block of a class that was given back last.
    #[inline]
    pub(crate) fn take(&self, class: Class) -> Option<NonNull<u8>> {
        let shelf = &self.shelves[class.0];
        let block = shelf.last.get()?;
        // SAFETY: `put` has written it, and nobody has had the block since.
        shelf.last.set(unsafe { block.as_ref() }.next);
        shelf.room.set(shelf.room.get() + 1);
        Some(block.cast())
    }

    /// Keeps a block of a class; false if there are enough of it already.
    ///
    /// # Safety
    /// The block is mimalloc's, as large as the class says, and nobody uses it any more.
    #[inline]
    pub(crate) unsafe fn put(&self, class: Class, block: *mut u8) -> bool {
        let shelf = &self.shelves[class.0];
        let (room, Some(block)) = (shelf.room.get(), NonNull::new(block.cast::<Link>())) else {
            return false;
        };
        if room == 0 {
            return false;
        }
        // SAFETY: a block has room for it and is aligned to a word.
        unsafe { block.write(Link { next: shelf.last.get() }) };
        shelf.last.set(Some(block));
        shelf.room.set(room - 1);
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for class in (0..CLASSES).map(Class) {
            while let Some(block) = self.take(class) {
                #[expect(unsafe_code, reason = "mimalloc's functions are unsafe")]
                // SAFETY: it is one of mimalloc's, and nobody else has it.
                unsafe {
                    mimalloc::mi_free(block.as_ptr().cast());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(size: usize, align: usize) -> Option<Class> {
        Class::of(Layout::from_size_align(size, align).expect("sane"))
    }

    #[test]
    fn class_is_the_smallest_that_has_room() {
        for size in 1..=COARSE {
            let class = class(size, 1).expect("has one");
            let smaller = class.0.checked_sub(1).map_or(0, |smaller| Class(smaller).bytes());
            assert!(smaller < size && size <= class.bytes(), "{size}: {class:?}");
        }
        assert_eq!(class(COARSE, 1), Some(Class(CLASSES - 1)));
        assert_eq!([class(0, 1), class(COARSE + 1, 1), class(64, 16)], [None; 3]);
    }

    #[test]
    fn so_much_is_kept_and_no_more() {
        #[expect(unsafe_code, reason = "blocks are mimalloc's")]
        for class in (0..CLASSES).map(Class) {
            let kept = Kept::new();
            // SAFETY: they are as large as the class says, and each is put or given back once.
            let count = (0..100)
                .filter(|_| unsafe {
                    let block = mimalloc::mi_malloc(class.bytes());
                    let is_kept = kept.put(class, block.cast());
                    if !is_kept {
                        mimalloc::mi_free(block);
                    }
                    is_kept
                })
                .count();
            assert_eq!(count as u32, class.room(), "{class:?}");
            assert!((KEPT_MIN..=KEPT_MAX).contains(&count), "{class:?}");
            assert_eq!(std::iter::from_fn(|| kept.take(class)).map(free).count(), count);
        }
        let most = (0..CLASSES).map(Class).map(|class| class.bytes() * class.room() as usize);
        assert!(most.sum::<usize>() < 1 << 20);
    }

    #[expect(unsafe_code, reason = "blocks are mimalloc's")]
    fn free(block: NonNull<u8>) {
        // SAFETY: nobody else has it.
        unsafe { mimalloc::mi_free(block.as_ptr().cast()) };
    }
}
