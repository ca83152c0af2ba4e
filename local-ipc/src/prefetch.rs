//! Hints to the processor about lines that are needed soon. They change when something happens, and
//! nothing else: no value, no order, no fault.
//!
//! Stores leave a core in order, so two lines that are stored to one after the other are also asked for
//! one after the other; and the first load of a line takes the whole way to who wrote it. Between
//! cores that share a cache that is about 50 ns, between others 250.
#![expect(unsafe_code, reason = "the instructions have no safe form")]

/// The smallest line of the machines we run on, in bytes.
pub(crate) const LINE: usize = 64;

/// We are about to store to the line in which this lies: asks for it, alone.
///
/// Not for a line at which the other side still looks: it is taken away there.
#[inline(always)]
pub(crate) fn claim<T>(at: &T) {
    let address = std::ptr::from_ref(at);
    // SAFETY: a hint. It reads and writes nothing that a program can see and faults at no address
    // (AMD64 Architecture Programmer's Manual, volume 3, PREFETCHW); processors without it do nothing.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    // SAFETY: likewise (Arm Architecture Reference Manual, PRFM).
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    let _ = address;
}

/// We are about to load from the line in which this lies.
#[inline(always)]
pub(crate) fn fetch<T>(at: &T) {
    let address = std::ptr::from_ref(at);
    // SAFETY: as in `claim` (PREFETCHlevel).
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    // SAFETY: likewise (PRFM).
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_changes_nothing() {
        let words = [7u64; 32];
        words.iter().for_each(claim);
        words.iter().for_each(fetch);
        assert_eq!(words, [7; 32]);
    }
}
