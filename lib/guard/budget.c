/*
 * The budget: how much of the processor's time page guards may take.
 *
 * A bucket of nanoseconds (token bucket): it fills by a share of the time that goes by, up to a burst, and each guard
 * takes out what it costs. So the first blocks of a program are guarded all, and a program that allocates a
 * hundred thousand a second pays the share and no more. Whoever takes pays microseconds, so the clock is read
 * each time.
 */
#include "guard/thread.h"
#include "os/sys.h"

static struct {
    _Atomic int64_t left;
    _Atomic uint64_t filled_ns;
} bucket;

struct rate {
    unsigned share; /* 1 / 1024ths of the time */
    int64_t burst;  /* ns */
};

/* Fast: 1 % and 1 ms; hardened: 2 % and 10 ms; debug: a quarter and 100 ms. */
static struct rate rate(void)
{
    static const struct rate rates[] = {
        [FH_MODE_FAST] = {10, 1000000},
        [FH_MODE_HARDENED] = {20, 10000000},
        [FH_MODE_DEBUG] = {256, 100000000},
    };
    return rates[fh_guard_settings.mode];
}

static void fill(void)
{
    const struct rate now_rate = rate();
    const uint64_t now = fh_os_now_ns();
    uint64_t before = atomic_load_explicit(&bucket.filled_ns, memory_order_relaxed);
    /* Relaxed: who loses the exchange lets the winner fill. A little more or less does no harm. */
    if (now <= before ||
        !atomic_compare_exchange_strong_explicit(&bucket.filled_ns, &before, now,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    const int64_t more =
        before == 0 ? now_rate.burst : (int64_t)((now - before) >> 10) * now_rate.share;
    const int64_t left = atomic_fetch_add_explicit(&bucket.left, more, memory_order_relaxed) + more;
    if (left > now_rate.burst)
        atomic_fetch_sub_explicit(&bucket.left, left - now_rate.burst, memory_order_relaxed);
}

bool fh_budget_take(uint32_t ns)
{
    if (fh_guard_settings.guard == 1)
        return true;
    if (atomic_load_explicit(&bucket.left, memory_order_relaxed) < (int64_t)ns)
        fill();
    if (atomic_load_explicit(&bucket.left, memory_order_relaxed) < (int64_t)ns)
        return false;
    atomic_fetch_sub_explicit(&bucket.left, ns, memory_order_relaxed);
    return true;
}
