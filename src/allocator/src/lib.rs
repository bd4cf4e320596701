//! mimalloc, with the blocks that a thread gave back last in front of it.
//!
//! mimalloc goes through all blocks of a page before it gives one out again, so that each block comes
//! cold: from memory that the processor has not seen since the page was gone through. A gateway takes
//! and gives back the same hundred sizes for every request, and is best served with the block it gave
//! back a moment ago. So each thread keeps a few blocks of each size, last in, first out.
//!
//! The crate `mimalloc` asks for every block by mimalloc's functions for aligned blocks, which take
//! blocks of more than 1 KiB larger than asked, to have room to move them. Hardly anything in Rust is
//! aligned to more than a word, as every block is: here only what is goes that way.

mod kept;

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mimalloc;

use kept::{Class, Kept};

/// The allocator of a program: `#[global_allocator] static ALLOCATOR: Mimalloc = Mimalloc;`.
pub struct Mimalloc;

thread_local! {
    /// Since Rust 1.93 an allocator may have such a variable, also one that is dropped.
    static KEPT: Kept = const { Kept::new() };
}

#[expect(unsafe_code, reason = "the trait is unsafe, and so are mimalloc's functions")]
// SAFETY: mimalloc gives out blocks that nobody else has, of the size and alignment asked for, keeps
// what is in them when it moves them, and does not unwind; it gives null when there is no memory. All
// its functions take each other's blocks. A block that is kept has been given back and is given out
// once; what has a class is asked for with the size of its class, wherever it comes from, and whether
// it has one follows from its layout alone.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = Class::of(layout) else { return other(layout) };
        match KEPT.try_with(|kept| kept.take(class)) {
            Ok(Some(block)) => block.as_ptr(),
            _ => fresh(class),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(class) = Class::of(layout) {
            // SAFETY: the caller says that `block` is one of ours and not given back yet.
            let is_kept = KEPT.try_with(|kept| unsafe { kept.put(class, block) });
            if is_kept == Ok(true) {
                return;
            }
        }
        // SAFETY: as above.
        unsafe { mimalloc::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if Class::of(layout).is_none() {
            // SAFETY: any size will do, and an alignment is a power of two.
            return unsafe { mimalloc::mi_zalloc_aligned(size, align).cast() };
        }
        // SAFETY: what is written lies in the block.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, size);
            }
            block
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        // SAFETY: the caller says that they are a layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, align) };
        let (from, to) = (Class::of(layout), Class::of(new));
        if from.is_some() && from == to {
            return block;
        }
        // SAFETY: as in `alloc` and `dealloc`; the two blocks are not one, and what is copied lies in
        // both.
        unsafe {
            if from.is_none() && to.is_none() {
                return mimalloc::mi_realloc_aligned(block.cast(), size, align).cast();
            }
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// A block of mimalloc's.
#[cold]
#[inline(never)]
#[expect(unsafe_code, reason = "mimalloc's functions are unsafe")]
fn fresh(class: Class) -> *mut u8 {
    // SAFETY: any size will do.
    unsafe { mimalloc::mi_malloc(class.bytes()).cast() }
}

/// A block that has no class.
#[cold]
#[inline(never)]
#[expect(unsafe_code, reason = "mimalloc's functions are unsafe")]
fn other(layout: Layout) -> *mut u8 {
    // SAFETY: any size will do, and an alignment is a power of two.
    unsafe { mimalloc::mi_malloc_aligned(layout.size(), layout.align()).cast() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    #[global_allocator]
    static ALLOCATOR: Mimalloc = Mimalloc;

    /// A block that a test has, filled with a byte of its own.
    struct Block {
        at: *mut u8,
        layout: Layout,
        mark: u8,
    }

    // SAFETY: nobody else has it.
    #[expect(unsafe_code, reason = "a pointer says nothing of whose it is")]
    unsafe impl Send for Block {}

    #[expect(unsafe_code, reason = "an allocator is asked by unsafe functions")]
    impl Block {
        fn new(size: usize, align: usize, is_zeroed: bool, mark: u8) -> Block {
            let layout = Layout::from_size_align(size, align).expect("sane");
            // SAFETY: no size is zero, and what is written lies in the block.
            unsafe {
                let at = match is_zeroed {
                    false => ALLOCATOR.alloc(layout),
                    true => ALLOCATOR.alloc_zeroed(layout),
                };
                assert!(!at.is_null());
                assert!((at as usize).is_multiple_of(align), "{layout:?}");
                if is_zeroed {
                    assert!(std::slice::from_raw_parts(at, size).iter().all(|byte| *byte == 0));
                }
                at.write_bytes(mark, size);
                Block { at, layout, mark }
            }
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: as in `new`; what the smaller of the two sizes has is kept.
            unsafe {
                self.at = ALLOCATOR.realloc(self.at, self.layout, size);
                assert!((self.at as usize).is_multiple_of(self.layout.align()), "{self:?}");
                self.check(self.layout.size().min(size));
                self.at.write_bytes(self.mark, size);
                self.layout = Layout::from_size_align(size, self.layout.align()).expect("sane");
            }
        }

        /// # Safety
        /// The block has so many bytes.
        unsafe fn check(&self, size: usize) {
            // SAFETY: the caller's.
            let bytes = unsafe { std::slice::from_raw_parts(self.at, size) };
            assert!(bytes.iter().all(|byte| *byte == self.mark), "{self:?}: somebody else's");
        }

        fn free(self) {
            // SAFETY: it is given back once.
            unsafe {
                self.check(self.layout.size());
                ALLOCATOR.dealloc(self.at, self.layout);
            }
        }
    }

    impl std::fmt::Debug for Block {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?}, {:?}", self.at, self.layout)
        }
    }

    #[test]
    fn every_block_is_as_large_and_aligned_as_asked_and_nobody_elses() {
        let sizes = (1..=9000).chain([65_536, 100_001, 1 << 20, (1 << 24) + 1]);
        let aligns = [1, 2, 4, 8, 16, 64, 4096];
        // All kept until the end, so that every place of mimalloc's pages is given out; and again,
        // with what the thread has kept.
        for _ in 0..2 {
            let mut blocks: Vec<_> = sizes
                .clone()
                .zip((0_u8..=250).cycle())
                .map(|(size, mark)| Block::new(size, aligns[size % 7], size % 3 == 0, mark))
                .collect();
            for block in &mut blocks {
                let size = block.layout.size();
                block.resize(if size % 2 == 0 { size + size / 2 + 1 } else { size / 2 + 1 });
            }
            blocks.into_iter().for_each(Block::free);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        New {
            size: usize,
            align: usize,
            is_zeroed: bool,
        },
        Resize {
            which: usize,
            size: usize,
        },
        Free {
            which: usize,
        },
        /// To be given back by another thread.
        Hand {
            which: usize,
        },
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![1_usize..200, 1_usize..2000, 1_usize..20_000]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let align = prop_oneof![8 => Just(8), 1 => Just(1), 1 => Just(32)];
        let step = prop_oneof![
            4 => (size(), align, any::<bool>())
                .prop_map(|(size, align, is_zeroed)| Step::New { size, align, is_zeroed }),
            2 => (any::<usize>(), size()).prop_map(|(which, size)| Step::Resize { which, size }),
            2 => any::<usize>().prop_map(|which| Step::Free { which }),
            1 => any::<usize>().prop_map(|which| Step::Hand { which }),
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_in_whatever_order_and_thread(steps in steps()) {
            let (hand, taken) = mpsc::channel::<Block>();
            let other = std::thread::spawn(move || taken.into_iter().for_each(Block::free));
            let mut blocks: Vec<Block> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let some = |which: usize| which % blocks.len();
                match step {
                    Step::New { size, align, is_zeroed } => {
                        blocks.push(Block::new(size, align, is_zeroed, number as u8));
                    }
                    _ if blocks.is_empty() => {}
                    Step::Resize { which, size } => {
                        let which = some(which);
                        blocks[which].resize(size);
                    }
                    Step::Free { which } => {
                        let which = some(which);
                        blocks.swap_remove(which).free();
                    }
                    Step::Hand { which } => {
                        let which = some(which);
                        hand.send(blocks.swap_remove(which)).expect("it takes all");
                    }
                }
            }
            blocks.into_iter().for_each(Block::free);
            drop(hand);
            other.join().expect("it found all its blocks whole");
        }
    }

    #[test]
    fn block_that_was_given_back_last_comes_first() {
        for size in [1, 64, 1000, 4096, 8192] {
            let (one, other) = (Block::new(size, 8, false, 1), Block::new(size, 8, false, 2));
            let (was_one, was_other) = (one.at, other.at);
            one.free();
            other.free();
            let (first, second) = (Block::new(size, 8, false, 3), Block::new(size, 8, false, 4));
            assert_eq!((first.at, second.at), (was_other, was_one), "{size} bytes");
            first.free();
            second.free();
        }
    }

    #[test]
    fn what_a_thread_has_kept_is_given_back_when_it_ends() {
        let keep_all = || {
            let sizes = (1..=8192).step_by(16);
            let blocks = sizes.flat_map(|size| (0..(8192 / size).min(32)).map(move |_| size));
            let blocks: Vec<_> = blocks.map(|size| Block::new(size, 8, false, 1)).collect();
            blocks.into_iter().for_each(Block::free);
        };
        let in_a_thread = || std::thread::spawn(keep_all).join().expect("it ends");
        // The first ones show what a thread takes anyhow.
        (0..3).for_each(|_| in_a_thread());
        let before = resident();
        (0..100).for_each(|_| in_a_thread());
        let more = resident().saturating_sub(before);
        assert!(more < 20 << 20, "{} MB more for threads that have ended", more >> 20);
    }

    /// Bytes of memory that the process has.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("there is one");
        let pages: usize = statm.split(' ').nth(1).expect("a field").parse().expect("a number");
        pages * 4096
    }
}
