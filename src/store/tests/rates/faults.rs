//! Redis that is slow, away, emptied or comes and goes.
